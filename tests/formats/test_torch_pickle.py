import zipfile

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_video.errors import CheckpointError
from mlx_video.formats.tensor_source import DTYPES, TensorInfo, open_tensors
from mlx_video.formats.torch_pickle import TorchArchive
from tests.formats.stored_arrays import bits, random_words
from tests.formats.torch_archive import (
    STORAGES,
    Storage,
    members_of,
    tensor,
    whole_tensor,
    write_archive,
    write_zip,
)


def small_model():
    return {
        "a.weight": whole_tensor("0", "F32", np.arange(6, dtype=np.float32).reshape(2, 3)),
        "b.bias": whole_tensor("1", "BF16", np.array([0x3F80, 0x4000], dtype=np.uint16)),
    }


def read_all(path):
    with open_tensors(path) as source:
        return {name: source.read(name) for name in source.infos}


def changed(content, **changes):
    """Archive members with some replaced, or removed by None."""
    members = members_of(content)
    for name, data in changes.items():
        members[f"archive/{name.replace('__', '/').replace('_pkl', '.pkl')}"] = data
    return {name: data for name, data in members.items() if data is not None}


def test_tensors_have_the_names_shapes_dtypes_and_values_of_the_archive(tmp_path):
    with open_tensors(write_archive(tmp_path / "x.pth", small_model())) as source:
        assert list(source.infos.values()) == [
            TensorInfo("a.weight", (2, 3), "F32"),
            TensorInfo("b.bias", (2,), "BF16"),
        ]
        assert source.read("a.weight", slice(1, 2)).tolist() == [[3, 4, 5]]
        assert source.read("b.bias").dtype == mx.bfloat16
        assert source.read("b.bias").tolist() == [1, 2]
        assert source.label == "x.pth"


@pytest.mark.parametrize("dtype", [name for name in STORAGES if name != "F64"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 5), (0, 4)])
def test_every_storage_type_keeps_its_bits(tmp_path, dtype, shape):
    words = random_words(TensorInfo("x", shape, dtype))
    array = read_all(write_archive(tmp_path / "x.pth", {"x": whole_tensor("0", dtype, words)}))["x"]
    assert (array.shape, array.dtype, bits(array)) == (shape, DTYPES[dtype].mlx, words.tobytes())


def test_doubles_come_as_float32(tmp_path):
    words = np.array([1.0, np.pi, -1e-3])
    array = read_all(write_archive(tmp_path / "x.pth", {"x": whole_tensor("0", "F64", words)}))["x"]
    np.testing.assert_array_equal(array, words.astype(np.float32))


@st.composite
def views(draw):
    """A view of a storage of 60 numbers: any offset, strides, overlap."""
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
    strides = tuple(draw(st.integers(0, 5)) for _ in shape)
    return shape, strides, draw(st.integers(0, 5))


@settings(deadline=None, max_examples=50)
@given(view=views(), rows=st.slices(4).filter(lambda rows: rows.step in (None, 1)))
def test_views_honour_offset_and_strides(tmp_path_factory, view, rows):
    shape, strides, offset = view
    words = np.arange(60, dtype=np.float32)
    path = tmp_path_factory.mktemp("view") / "x.pth"
    write_archive(path, {"x": tensor(Storage("0", "F32", words), shape, strides, offset)})
    expected = np.lib.stride_tricks.as_strided(words[offset:], shape, [4 * s for s in strides])
    with open_tensors(path) as source:
        np.testing.assert_array_equal(source.read("x"), expected)
        if shape:
            np.testing.assert_array_equal(source.read("x", rows), expected[rows])


def test_tensors_may_share_a_storage(tmp_path):
    storage = Storage("0", "I64", np.arange(10))
    content = {"x": tensor(storage, (5,)), "y": tensor(storage, (5,), offset=5), "z": tensor(storage, (2, 5))}
    arrays = read_all(write_archive(tmp_path / "x.pth", content))
    assert arrays["y"].tolist() == [5, 6, 7, 8, 9]
    assert arrays["z"].tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_an_archive_truncated_anywhere_is_refused(tmp_path_factory, data):
    path = write_archive(tmp_path_factory.mktemp("cut") / "x.pth", small_model())
    content = path.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(CheckpointError, match="Download it again"):
        open_tensors(path)


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_a_changed_byte_never_crashes_the_reader(tmp_path_factory, data):
    path = write_archive(tmp_path_factory.mktemp("flip") / "x.pth", small_model())
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        arrays = read_all(path)
    except CheckpointError:
        return
    assert arrays


def test_a_truncated_archive_says_that_the_download_is_incomplete(tmp_path):
    path = write_archive(tmp_path / "x.pth", small_model())
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(CheckpointError, match=r"x\.pth: \d+ bytes, zip directory missing: .*incomplete"):
        open_tensors(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__0": None}, r"storage data/0 of a\.weight is absent, 24 bytes are promised"),
        ({"data__0": bytes(20)}, r"storage data/0 of a\.weight has 20 bytes, 24 bytes are promised"),
        ({"data_pkl": None}, r"without data\.pkl, so torch\.save did not make it"),
        ({"byteorder": b"big"}, "big-endian machine"),
        ({"data_pkl": b"\x80\x02}q\x00."}, "holds no dictionary of tensors but a dict of 0"),
        ({"data_pkl": b"\x80\x02"}, "data.pkl is damaged"),
        ({"data_pkl": b""}, "data.pkl is damaged"),
    ],
)
def test_a_damaged_archive_says_what_is_wrong(tmp_path, changes, message):
    path = write_zip(tmp_path / "x.pth", changed(small_model(), **changes))
    with pytest.raises(CheckpointError, match=message) as refused:
        open_tensors(path)
    assert str(path) in str(refused.value)


def test_older_archives_without_a_byte_order_are_little_endian(tmp_path):
    path = write_zip(tmp_path / "x.pth", changed(small_model(), byteorder=None))
    assert read_all(path)["b.bias"].tolist() == [1, 2]


def test_a_compressed_archive_is_refused_with_a_cure(tmp_path):
    path = write_zip(tmp_path / "x.pth", members_of(small_model()), zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match=r"is compressed or encrypted.* save it again with torch\.save"):
        open_tensors(path)


def test_old_and_bare_pickles_have_their_own_messages(tmp_path):
    (tmp_path / "old.pth").write_bytes(bytes.fromhex("80028a0a6cfc9c46f9206aa85019") + b"." * 60)
    (tmp_path / "bare.pth").write_bytes(b"\x80\x04" + b"." * 60)
    with pytest.raises(CheckpointError, match=r"before 1\.6.* save it again with torch\.save"):
        open_tensors(tmp_path / "old.pth")
    with pytest.raises(CheckpointError, match="bare Python pickle, not a torch archive; refused"):
        open_tensors(tmp_path / "bare.pth")


def test_another_file_given_as_an_archive_is_called_by_its_name(tmp_path):
    (tmp_path / "x.pth").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CheckpointError, match="Git LFS pointer"):
        TorchArchive(tmp_path / "x.pth")


def save(torch, path, content, **options):
    torch.save(content, path, **options)
    return path


@pytest.mark.parity
def test_every_dtype_saved_by_torch_reads_bit_for_bit(tmp_path):
    torch = pytest.importorskip("torch")
    names = ("float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
    saved = {name: (torch.randn(3, 5) * 9).to(getattr(torch, name)) for name in names}
    arrays = read_all(save(torch, tmp_path / "x.pth", saved))
    for name, value in saved.items():
        words = value.view(torch.int16) if name == "bfloat16" else value
        assert bits(arrays[name]) == words.numpy().tobytes()
        assert str(arrays[name].dtype).removeprefix("mlx.core.") == name.replace("bool", "bool_").strip("_")


@pytest.mark.parity
def test_float8_saved_by_torch_reads_as_the_numbers_it_stands_for(tmp_path):
    torch = pytest.importorskip("torch")
    codes = torch.arange(256, dtype=torch.uint8).reshape(16, 16)
    names = ("float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu")
    saved = {name: codes.view(getattr(torch, name)) for name in names}
    saved |= {f"{name}.view": values.T[3:7] for name, values in saved.items()}
    arrays = read_all(save(torch, tmp_path / "x.pth", saved))
    for name, values in saved.items():
        np.testing.assert_array_equal(np.array(arrays[name]), values.float().numpy(), err_msg=name)


@pytest.mark.parity
def test_two_byte_types_without_a_storage_of_their_own_are_refused(tmp_path):
    torch = pytest.importorskip("torch")
    path = save(torch, tmp_path / "x.pth", {"x": torch.ones(2, dtype=torch.uint16)})
    with pytest.raises(CheckpointError, match=r"contains Python objects \(torch\.uint16\)"):
        open_tensors(path)


@pytest.mark.parity
def test_views_saved_by_torch_read_as_torch_sees_them(tmp_path):
    torch = pytest.importorskip("torch")
    base = torch.arange(60, dtype=torch.float32).reshape(3, 4, 5)
    views = {
        "transposed": base.transpose(0, 2),
        "narrow": base[1:, ::2, 1:4],
        "expanded": base[0, 0].expand(6, 5),
        "scalar": base[2, 3, 4],
        "empty": base[:0],
        "channels_last": base[None].to(memory_format=torch.channels_last),
        "parameter": torch.nn.Parameter(base[1]),
    }
    arrays = read_all(save(torch, tmp_path / "x.pth", views))
    for name, view in views.items():
        np.testing.assert_array_equal(arrays[name], view.detach().numpy(), err_msg=name)


@pytest.mark.parity
def test_a_state_dict_of_a_torch_module_reads_whole(tmp_path):
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    path = save(torch, tmp_path / "x.ckpt", {"state_dict": module.state_dict(), "epoch": 3})
    with open_tensors(path) as source:
        assert {name: info.shape for name, info in source.infos.items()} == {
            name: tuple(value.shape) for name, value in module.state_dict().items()
        }
        np.testing.assert_array_equal(source.read("0.weight"), module[0].weight.detach().numpy())


@pytest.mark.parity
def test_what_torch_saves_beyond_plain_tensors_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    whole = save(torch, tmp_path / "module.pth", torch.nn.Linear(2, 2))
    with pytest.raises(CheckpointError, match=r"Python objects \(torch\.nn\.modules\.linear\.Linear\)"):
        open_tensors(whole)
    legacy = save(torch, tmp_path / "old.pth", {"x": torch.ones(2)}, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"before 1\.6"):
        open_tensors(legacy)
    complex_numbers = save(torch, tmp_path / "c.pth", {"x": torch.ones(2, dtype=torch.complex64)})
    with pytest.raises(CheckpointError, match=r"torch\.ComplexFloatStorage"):
        open_tensors(complex_numbers)
