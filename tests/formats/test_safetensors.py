import json
import os
from itertools import pairwise

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_video.errors import CheckpointError
from mlx_video.files import file_bytes
from mlx_video.formats.safetensors import SafetensorsFile, SafetensorsWriter, order, read_header
from mlx_video.formats.tensor_source import DTYPES, TensorInfo
from tests.formats.stored_arrays import WRITABLE, bits, infos, random_words, to_mlx


def write(path, arrays, metadata=None):
    """Write whole tensors given as {name: (dtype, words)}."""
    plan = [TensorInfo(name, words.shape, dtype) for name, (dtype, words) in arrays.items()]
    with SafetensorsWriter(path, plan, metadata) as writer:
        for name, (dtype, words) in arrays.items():
            writer.write(name, to_mlx(words, dtype))
    return path


def one_of_each_dtype():
    return {
        name.lower(): (name, random_words(TensorInfo(name, (3, 5), name), seed))
        for seed, name in enumerate(WRITABLE)
    }


@settings(deadline=None, max_examples=25)
@given(plan=infos(), data=st.data())
def test_tensors_written_in_any_order_and_in_row_slices_read_back_bit_for_bit(tmp_path_factory, plan, data):
    path = tmp_path_factory.mktemp("round_trip") / "x.safetensors"
    words = {info.name: random_words(info, seed) for seed, info in enumerate(plan)}
    with SafetensorsWriter(path, plan) as writer:
        for info in data.draw(st.permutations(plan)):
            array = to_mlx(words[info.name], info.dtype)
            rows = info.shape[0] if info.shape else 0
            cuts = [0, *sorted(data.draw(st.lists(st.integers(0, rows), max_size=3))), rows]
            parts = [array[a:b] for a, b in pairwise(cuts)] if info.shape else [array]
            for part in parts:
                writer.write(info.name, part)
    with SafetensorsFile(path) as source:
        assert dict(source.infos) == {info.name: info for info in plan}
        for info in plan:
            array = source.read(info.name)
            assert (array.shape, array.dtype) == (info.shape, DTYPES[info.dtype].mlx)
            assert bits(array) == words[info.name].tobytes()


@settings(deadline=None, max_examples=25)
@given(plan=infos(), data=st.data())
def test_a_row_slice_is_that_slice_of_the_whole(tmp_path_factory, plan, data):
    path = tmp_path_factory.mktemp("rows") / "x.safetensors"
    words = {info.name: random_words(info, seed) for seed, info in enumerate(plan)}
    write(path, {info.name: (info.dtype, words[info.name]) for info in plan})
    bound = st.one_of(st.none(), st.integers(-6, 6))
    with SafetensorsFile(path) as source:
        for info in (info for info in plan if info.shape):
            rows = slice(data.draw(bound), data.draw(bound))
            part = source.read(info.name, rows)
            assert part.shape == words[info.name][rows].shape
            assert bits(part) == words[info.name][rows].tobytes()


def test_the_safetensors_package_reads_what_we_write(tmp_path):
    numpy_reader = pytest.importorskip("safetensors")
    arrays = {name: (dtype, words) for name, (dtype, words) in one_of_each_dtype().items() if dtype != "BF16"}
    path = write(tmp_path / "x.safetensors", arrays, {"format": "mlx"})
    with numpy_reader.safe_open(path, framework="np") as theirs:
        assert theirs.metadata() == {"format": "mlx"}
        assert set(theirs.keys()) == set(arrays)
        for name, (_, words) in arrays.items():
            np.testing.assert_array_equal(theirs.get_tensor(name), words)


def test_we_read_what_the_safetensors_package_writes(tmp_path):
    numpy_writer = pytest.importorskip("safetensors.numpy")
    arrays = {name: words for name, (dtype, words) in one_of_each_dtype().items() if dtype != "BF16"}
    numpy_writer.save_file(arrays, tmp_path / "x.safetensors", {"made": "elsewhere"})
    with SafetensorsFile(tmp_path / "x.safetensors") as source:
        assert source.metadata == {"made": "elsewhere"}
        assert {name: bits(source.read(name)) for name in source.infos} == {
            name: words.tobytes() for name, words in arrays.items()
        }


def test_mlx_reads_what_we_write_bfloat16_included(tmp_path):
    arrays = one_of_each_dtype()
    path = write(tmp_path / "x.safetensors", arrays)
    loaded = mx.load(str(path))
    assert {name: bits(array) for name, array in loaded.items()} == {
        name: words.tobytes() for name, (_, words) in arrays.items()
    }
    assert {name: array.dtype for name, array in loaded.items()} == {
        name: DTYPES[dtype].mlx for name, (dtype, _) in arrays.items()
    }


def test_we_read_what_mlx_writes_with_and_without_metadata(tmp_path):
    arrays = {"b": mx.arange(6, dtype=mx.bfloat16).reshape(2, 3), "a": mx.array(7, dtype=mx.int64)}
    for metadata in (None, {"kind": "test"}):
        mx.save_safetensors(str(tmp_path / "x.safetensors"), arrays, metadata)
        with SafetensorsFile(tmp_path / "x.safetensors") as source:
            assert source.metadata == (metadata or {})
            assert source.infos["a"].shape == ()
            assert {name: bits(source.read(name)) for name in arrays} == {
                n: bits(a) for n, a in arrays.items()
            }


def test_float64_comes_as_float32(tmp_path):
    numpy_writer = pytest.importorskip("safetensors.numpy")
    values = np.array([[1.0, 1e-3], [np.pi, -2.5]])
    numpy_writer.save_file({"x": values}, tmp_path / "x.safetensors")
    with SafetensorsFile(tmp_path / "x.safetensors") as source:
        assert source.infos["x"].dtype == "F64"
        assert source.read("x").dtype == mx.float32
        np.testing.assert_array_equal(source.read("x", slice(1, 2)), values[1:].astype(np.float32))


def test_data_begins_on_a_multiple_of_64_bytes_wide_elements_first(tmp_path):
    path = write(tmp_path / "x.safetensors", one_of_each_dtype())
    header = read_header(path)
    assert header.data_start % 64 == 0
    assert [header.offsets[name][0] % DTYPES[info.dtype].size for name, info in header.infos.items()] == [
        0
    ] * len(header.infos)
    assert list(header.infos) == [info.name for info in order(header.infos.values())]


def test_order_is_by_decreasing_element_size_then_name():
    plan = [TensorInfo(n, (2,), d) for n, d in (("z", "F32"), ("b", "BF16"), ("a", "BF16"), ("c", "I64"))]
    assert [info.name for info in order(plan)] == ["c", "z", "a", "b"]


def test_strided_arrays_are_written_row_after_row(tmp_path):
    array = mx.arange(12, dtype=mx.bfloat16).reshape(3, 4)
    with SafetensorsWriter(tmp_path / "x.safetensors", [TensorInfo("x", (4, 3), "BF16")]) as writer:
        writer.write("x", array.T)
    with SafetensorsFile(tmp_path / "x.safetensors") as source:
        assert mx.array_equal(source.read("x"), array.T)


def test_an_empty_plan_makes_a_valid_file(tmp_path):
    assert not read_header(write(tmp_path / "x.safetensors", {})).infos


def test_the_file_appears_under_its_name_only_when_complete(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"older")
    with SafetensorsWriter(path, [TensorInfo("x", (2,), "F32")]) as writer:
        writer.write("x", mx.zeros(2))
        assert path.read_bytes() == b"older"
    assert os.listdir(tmp_path) == ["x.safetensors"]
    assert list(read_header(path).infos) == ["x"]


def fail_while_writing(path, error):
    with SafetensorsWriter(path, [TensorInfo("x", (2,), "F32")]) as writer:
        writer.write("x", mx.zeros(2))
        raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, GeneratorExit])
def test_an_exception_leaves_no_file(tmp_path, error):
    with pytest.raises(error):
        fail_while_writing(tmp_path / "x.safetensors", error)
    assert not os.listdir(tmp_path)


def test_an_incomplete_tensor_is_named_and_no_file_is_left(tmp_path):
    plan = [TensorInfo("done", (2,), "F32"), TensorInfo("half", (4, 3), "F32")]

    def write_half():
        with SafetensorsWriter(tmp_path / "x.safetensors", plan) as writer:
            writer.write("done", mx.zeros(2))
            writer.write("half", mx.zeros((3, 3)))

    with pytest.raises(ValueError, match=r"half \[4, 3\] is incomplete, 36 of 48 bytes"):
        write_half()
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("y", mx.zeros(3), "y is not in the plan"),
        ("x", mx.zeros((4, 3), dtype=mx.float16), "x: planned as F32, got mlx.core.float16"),
        ("x", mx.zeros((4, 2)), r"x: planned as \[4, 3\], got \[4, 2\]"),
        ("x", mx.zeros(3), r"x: planned as \[4, 3\], got \[3\]"),
        ("x", mx.zeros((5, 3)), r"x: planned as \[4, 3\], got \[5, 3\] after 0 rows"),
    ],
)
def test_a_write_that_differs_from_the_plan_is_refused(tmp_path, name, array, message):
    with SafetensorsWriter(tmp_path / "x.safetensors", [TensorInfo("x", (4, 3), "F32")]) as writer:
        with pytest.raises(ValueError, match=message):
            writer.write(name, array)
        writer.write("x", mx.zeros((3, 3)))
        with pytest.raises(ValueError, match="after 3 rows"):
            writer.write("x", mx.zeros((2, 3)))
        writer.write("x", mx.zeros((1, 3)))


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ([TensorInfo("x", (1,), "F32")] * 2, r"must differ: \['x'\]"),
        ([TensorInfo("__metadata__", (1,), "F32")], "__metadata__ is reserved"),
        ([TensorInfo("x", (1,), "F8_E4M3")], "x: MLX has no dtype F8_E4M3"),
    ],
)
def test_an_impossible_plan_is_refused(tmp_path, plan, message):
    with pytest.raises(ValueError, match=message):
        SafetensorsWriter(tmp_path / "x.safetensors", plan)
    assert not os.listdir(tmp_path)


def test_a_full_disk_is_reported_with_the_file_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(file_bytes.os, "pwrite", full)
    with pytest.raises(CheckpointError, match=r"x\.safetensors: the disk is full at byte 0"):
        SafetensorsWriter(tmp_path / "x.safetensors", [TensorInfo("x", (1,), "F32")])
    assert not os.listdir(tmp_path)


def test_a_disk_that_fails_at_the_last_flush_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(file_bytes.os, "fsync", fail)
    with (
        pytest.raises(CheckpointError, match=r"x\.safetensors: cannot be written \(Input/output error\)"),
        SafetensorsWriter(tmp_path / "x.safetensors", [TensorInfo("x", (1,), "F32")]) as writer,
    ):
        writer.write("x", mx.zeros(1))
    assert not os.listdir(tmp_path)


def test_a_missing_folder_is_reported(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be written"):
        SafetensorsWriter(tmp_path / "absent" / "x.safetensors", [])


def test_metadata_of_any_text_survives(tmp_path):
    path = write(tmp_path / "x.safetensors", {}, {"prompt": '红色 "square"\n\\ \u2028'})
    assert read_header(path).metadata == {"prompt": '红色 "square"\n\\ \u2028'}
    size = int.from_bytes(path.read_bytes()[:8], "little")
    assert json.loads(path.read_bytes()[8 : 8 + size])["__metadata__"]["prompt"].startswith("红色")
