import mlx.core as mx
import numpy as np
import pytest

from mlx_video.errors import CheckpointError
from mlx_video.formats.tensor_source import DTYPES, TensorInfo, dtype_name, open_tensors
from tests.formats.stored_arrays import entry, write_raw
from tests.formats.torch_archive import whole_tensor, write_archive


def shard(path, first, *names):
    """A file of one-element tensors that count up from `first`."""
    header = {name: entry(index, 1, dtype="U8") for index, name in enumerate(names)}
    return write_raw(path, header, bytes(range(first, first + len(names))))


def test_shards_read_as_one_set_of_tensors(tmp_path):
    paths = [shard(tmp_path / "1.safetensors", 0, "a", "b"), shard(tmp_path / "2.safetensors", 7, "c")]
    with open_tensors(paths) as source:
        assert list(source.infos) == ["a", "b", "c"]
        assert [source.read(name).item() for name in source.infos] == [0, 1, 7]
        assert source.file_of("b") == paths[0]
        assert source.file_of("c") == paths[1]
        assert source.label == "1.safetensors and 1 more"
        assert source.read("c", slice(0, 0)).shape == (0,)
        with pytest.raises(KeyError, match="has no tensor 'd'"):
            source.read("d")


def test_shards_may_be_of_different_formats(tmp_path):
    archive = write_archive(tmp_path / "2.bin", {"b": whole_tensor("0", "F32", np.float32([1.5]))})
    with open_tensors([shard(tmp_path / "1.safetensors", 3, "a"), archive]) as source:
        assert [source.read(name).item() for name in ("a", "b")] == [3, 1.5]


def test_the_reader_follows_the_content_not_the_name(tmp_path):
    misnamed = write_archive(tmp_path / "x.safetensors", {"w": whole_tensor("0", "F32", np.float32([2]))})
    with open_tensors(misnamed) as source:
        assert source.read("w").item() == 2
    with open_tensors(shard(tmp_path / "y.pth", 9, "v")) as source:
        assert source.read("v").item() == 9


def test_a_tensor_in_two_shards_is_an_error_that_names_both_files(tmp_path):
    paths = [shard(tmp_path / "1.safetensors", 0, "a"), shard(tmp_path / "2.safetensors", 0, "b", "a")]
    with pytest.raises(CheckpointError, match=r"^a is in .*1\.safetensors and in .*2\.safetensors"):
        open_tensors(paths)


def test_a_bad_second_shard_is_refused(tmp_path):
    (tmp_path / "2.safetensors").write_bytes(b"<html>")
    with pytest.raises(CheckpointError, match=r"2\.safetensors: is an HTML page"):
        open_tensors([shard(tmp_path / "1.safetensors", 0, "a"), tmp_path / "2.safetensors"])


def test_one_path_in_a_list_is_that_file(tmp_path):
    path = shard(tmp_path / "1.safetensors", 0, "a")
    with open_tensors([path]) as source:
        assert source.label == "1.safetensors"


def test_no_path_at_all_is_a_wrong_call():
    with pytest.raises(ValueError, match="no files"):
        open_tensors([])


def test_dtype_names_and_mlx_dtypes_belong_together():
    for name, stored in DTYPES.items():
        if stored.mlx is not None:
            assert dtype_name(stored.mlx) == name
            assert stored.mlx.size == stored.size
    with pytest.raises(ValueError, match="complex64"):
        dtype_name(mx.complex64)


def test_sizes_count_every_element_and_a_scalar_has_one():
    assert TensorInfo("x", (3, 5), "BF16").nbytes == 30
    assert TensorInfo("x", (), "I64").nbytes == 8
    assert TensorInfo("x", (3, 0), "F32").nbytes == 0


def test_an_unknown_dtype_or_negative_length_is_a_wrong_call():
    with pytest.raises(ValueError, match="unknown dtype 'bfloat16'"):
        TensorInfo("x", (1,), "bfloat16")
    with pytest.raises(ValueError, match="negative length"):
        TensorInfo("x", (-1,), "F32")
