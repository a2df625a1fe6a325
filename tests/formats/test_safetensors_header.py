import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_video.errors import CheckpointError
from mlx_video.formats.safetensors import read_header
from tests.formats.stored_arrays import entry, raw_safetensors, write_raw

GOOD = {"a": entry(0, 2, 3), "b": entry(24, dtype="I64"), "__metadata__": None}
GOOD_DATA = bytes(range(32))


def test_a_header_tells_names_shapes_dtypes_and_places(tmp_path):
    header = read_header(write_raw(tmp_path / "x.safetensors", GOOD, GOOD_DATA))
    assert [(i.name, i.shape, i.dtype, i.nbytes) for i in header.infos.values()] == [
        ("a", (2, 3), "F32", 24),
        ("b", (), "I64", 8),
    ]
    assert header.offsets == {"a": (0, 24), "b": (24, 32)}
    assert header.data_start == (tmp_path / "x.safetensors").stat().st_size - 32


@settings(deadline=None, max_examples=100)
@given(length=st.integers(0, len(raw_safetensors(GOOD, GOOD_DATA)) - 1))
def test_a_file_truncated_anywhere_is_refused(tmp_path_factory, length):
    path = tmp_path_factory.mktemp("cut") / "x.safetensors"
    path.write_bytes(raw_safetensors(GOOD, GOOD_DATA)[:length])
    with pytest.raises(CheckpointError, match="Download it again"):
        read_header(path)


@settings(deadline=None, max_examples=200)
@given(position=st.integers(0, len(raw_safetensors(GOOD)) - 1), value=st.integers(0, 255))
def test_a_changed_header_byte_never_crashes_the_reader(tmp_path_factory, position, value):
    path = tmp_path_factory.mktemp("flip") / "x.safetensors"
    content = bytearray(raw_safetensors(GOOD, GOOD_DATA))
    content[position] = value
    path.write_bytes(content)
    try:
        header = read_header(path)
    except CheckpointError:
        return
    assert sum(info.nbytes for info in header.infos.values()) == len(GOOD_DATA)


@settings(deadline=None, max_examples=50)
@given(
    header=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    )
)
def test_any_json_is_read_or_refused(tmp_path_factory, header):
    path = write_raw(tmp_path_factory.mktemp("json") / "x.safetensors", header, b"1234")
    with pytest.raises(CheckpointError):
        read_header(path)


def test_truncation_names_both_sizes(tmp_path):
    path = write_raw(tmp_path / "x.safetensors", {"a": entry(0, 1_500_000_000)})
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size + 4_000_000_000)
    with pytest.raises(CheckpointError) as refused:
        read_header(path)
    assert str(refused.value) == f"{path}: 4.00 GB on disk, header promises 6.00 GB. Download it again."


def test_sizes_that_round_to_the_same_text_are_given_to_the_byte(tmp_path):
    path = write_raw(tmp_path / "x.safetensors", {"a": entry(0, 500_000_000)})
    size = path.stat().st_size + 2_000_000_000
    with open(path, "r+b") as file:
        file.truncate(size - 1)
    with pytest.raises(CheckpointError, match=f"{size - 1:,} bytes on disk, header promises {size:,} bytes"):
        read_header(path)


def test_an_over_long_file_is_refused(tmp_path):
    path = write_raw(tmp_path / "x.safetensors", GOOD, GOOD_DATA + b"\0\0\0")
    with pytest.raises(CheckpointError, match=r"3 bytes at the end belong to no tensor .*promises 32"):
        read_header(path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            {"a": entry(0, 2), "b": entry(12, 2)},
            "b begins at byte 12 of the data instead of 8 and leaves a hole",
        ),
        ({"a": entry(0, 2), "b": entry(4, 2)}, "b begins at byte 4 of the data instead of 8 and overlaps"),
        ({"a": entry(4, 2)}, "a begins at byte 4 of the data instead of 0"),
        ({"a": entry(0, 2) | {"shape": [3]}}, r"a F32 \[3\] takes 12 bytes, not 8"),
        ({"a": entry(0, 2) | {"dtype": "F4"}}, "a has dtype F4, which this version does not know"),
        ({"a": entry(0, 2) | {"shape": [-2]}}, r"a has shape \[-2\]"),
        ({"a": entry(0, 2) | {"shape": [True, 2]}}, r"a has shape \[True, 2\]"),
        ({"a": entry(0, 2) | {"data_offsets": [0]}}, r"data_offsets \[0\]"),
        ({"a": 3}, "a is not described"),
        ({"__metadata__": {"x": 1}}, "__metadata__ holds something else than texts"),
        (b'{"a": ', "no valid JSON"),
        (b'{"\xff": 1}', "no valid JSON"),
        (b'{"a": 1, "a": 2}', "'a' occurs twice"),
    ],
)
def test_a_damaged_header_says_what_is_wrong(tmp_path, header, message):
    path = write_raw(tmp_path / "x.safetensors", header, bytes(16))
    with pytest.raises(CheckpointError, match=message):
        read_header(path)


def test_json_nested_too_deep_is_refused(tmp_path):
    path = write_raw(tmp_path / "x.safetensors", b'{"a":' * 100_000)
    with pytest.raises(CheckpointError, match="no valid JSON"):
        read_header(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9940000000\n",
            r"this is a Git LFS pointer \(\d+ bytes\), not weights. Run git lfs pull",
        ),
        (b"\n<!DOCTYPE html><html>Sign in</html>", "is an HTML page .*needs a login or an accepted licence"),
        (b"<html><head>", "is an HTML page"),
        (b"PK\x03\x04" + bytes(60), "is a zip archive.* Give it a .pth name"),
        (b'{"error": "not found"}', "is JSON text"),
        (b"GGUF" + bytes(60), "is a GGUF file, not safetensors. Give it a .gguf name"),
        (b"", "is empty. Download it again"),
        (bytes(100), "begins with 00 00 00 00"),
        (
            (100_000_001).to_bytes(8, "little") + b"{" + bytes(60),
            "is neither safetensors, GGUF nor a torch archive",
        ),
    ],
    ids=["lfs", "doctype", "html", "zip", "json", "gguf", "empty", "zeros", "huge header"],
)
def test_a_file_that_is_something_else_is_called_by_its_name(tmp_path, content, message):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as refused:
        read_header(path)
    assert str(path) in str(refused.value)


def test_a_missing_file_and_a_folder_have_their_own_messages(tmp_path):
    with pytest.raises(CheckpointError, match=r"y\.safetensors: not found"):
        read_header(tmp_path / "y.safetensors")
    with pytest.raises(CheckpointError, match="is a folder"):
        read_header(tmp_path)
