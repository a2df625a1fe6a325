"""Only the bytes asked for are read, and only they stay in memory."""

import json
import os
import subprocess
import sys

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.errors import CheckpointError
from mlx_video.files import file_bytes
from mlx_video.formats.tensor_source import open_tensors
from tests.formats.stored_arrays import entry, write_raw
from tests.formats.torch_archive import Storage, tensor, write_archive

MIB = 2**20


def sparse_file(path, header, data_bytes):
    """A file of zeros that takes no room on the disk."""
    write_raw(path, header)
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size + data_bytes)
    return path


@pytest.fixture
def large(tmp_path):
    """4 GiB of weights around one tensor of 64 MiB."""
    header = {
        "before": entry(0, 1024, MIB, dtype="BF16"),
        "middle": entry(2048 * MIB, 64, MIB, dtype="U8"),
        "after": entry(2112 * MIB, 1024, MIB, dtype="BF16"),
    }
    return sparse_file(tmp_path / "large.safetensors", header, 4160 * MIB)


@pytest.fixture
def bytes_read(monkeypatch):
    """Counts what is asked of the system."""
    counts = []

    def counted(descriptor, buffers, offset, real=os.preadv):
        counts.append(sum(buffer.nbytes for buffer in buffers))
        return real(descriptor, buffers, offset)

    monkeypatch.setattr(file_bytes.os, "preadv", counted)
    return counts


def test_reading_rows_reads_their_bytes_and_no_others(large, bytes_read):
    with open_tensors(large) as source:
        bytes_read.clear()
        rows = source.read("after", slice(1000, 1003))
        assert rows.shape == (3, MIB)
        assert sum(bytes_read) == 3 * 2 * MIB
        bytes_read.clear()
        source.read("middle")
        assert sum(bytes_read) == 64 * MIB


def test_rows_of_a_torch_view_read_their_bytes_and_no_others(tmp_path, bytes_read):
    storage = Storage("0", "F32", np.arange(4000, dtype=np.float32))
    write_archive(tmp_path / "x.pth", {"x": tensor(storage, (30, 100), offset=1000)})
    with open_tensors(tmp_path / "x.pth") as source:
        bytes_read.clear()
        assert source.read("x", slice(10, 12))[0, 0].item() == 2000
        assert sum(bytes_read) == 2 * 100 * 4


def test_a_read_in_several_calls_gives_the_same_bytes(tmp_path, monkeypatch):
    """A system may hand over fewer bytes than asked for; macOS refuses 2 GiB at once."""
    path = write_raw(tmp_path / "x.safetensors", {"x": entry(0, 100, dtype="U8")}, bytes(range(100)))
    monkeypatch.setattr(file_bytes, "_LARGEST_CALL_BYTES", 7)
    with open_tensors(path) as source:
        assert source.read("x").tolist() == list(range(100))


def test_a_file_cut_while_open_is_an_error(tmp_path):
    path = write_raw(tmp_path / "x.safetensors", {"x": entry(0, 100, dtype="U8")}, bytes(100))
    with open_tensors(path) as source:
        os.truncate(path, path.stat().st_size - 10)
        with pytest.raises(CheckpointError, match="10 bytes too early"):
            source.read("x")


@pytest.mark.parametrize("call_bytes", [7, 1000])
def test_a_tensor_can_be_read_into_memory_that_is_there(tmp_path, monkeypatch, call_bytes):
    monkeypatch.setattr(file_bytes, "_LARGEST_CALL_BYTES", call_bytes)
    header = {"a": entry(0, 5, 4, dtype="U8"), "b": entry(20, 3, dtype="F32")}
    path = write_raw(tmp_path / "x.safetensors", header, bytes(range(32)))
    memory = np.zeros(40, np.uint8)
    with open_tensors(path) as source:
        source.read_into("a", memory[10:30].data)
        assert memory.tolist() == [0] * 10 + list(range(20)) + [0] * 10
        with pytest.raises(ValueError, match="b has 12 bytes, not 40"):
            source.read_into("b", memory.data)
        with pytest.raises(KeyError, match="has no tensor 'c'"):
            source.read_into("c", memory.data)
        os.truncate(path, path.stat().st_size - 4)
        with pytest.raises(CheckpointError, match=r"x.safetensors: ends at byte .* 4 bytes too early"):
            source.read_into("b", memory[:12].data)


def test_a_view_that_lies_scattered_is_not_read_into_memory(tmp_path):
    storage = Storage("0", "F32", np.arange(6, dtype=np.float32))
    write_archive(tmp_path / "x.pth", {"t": tensor(storage, (3, 2), strides=(1, 3))})
    with (
        open_tensors(tmp_path / "x.pth") as source,
        pytest.raises(ValueError, match="not stored row after row"),
    ):
        source.read_into("t", np.zeros(24, np.uint8).data)


PEAK_SCRIPT = """
import json, resource, sys
from pathlib import Path
import mlx.core as mx
from mlx_video.formats.tensor_source import open_tensors

def peak():
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else 1024 * used

with open_tensors(Path(sys.argv[1])) as source:
    mx.eval(source.read("after", slice(0, 1)))
    before = peak()
    array = source.read("middle")
    mx.eval(array)
    print(json.dumps([peak() - before, array.nbytes]))
"""


@pytest.mark.slow
def test_the_peak_of_a_read_is_about_twice_the_tensor(large):
    run = subprocess.run(
        [sys.executable, "-c", PEAK_SCRIPT, str(large)], capture_output=True, text=True, check=True
    )
    grown, nbytes = json.loads(run.stdout)
    # One buffer and one array; 8 MiB allow for the allocators' own pages.
    assert nbytes == 64 * MIB
    assert grown <= 2 * nbytes + 8 * MIB


def test_wrong_calls_are_refused(tmp_path):
    header = {"x": entry(0, 4, dtype="U8"), "s": entry(4, dtype="U8")}
    with open_tensors(write_raw(tmp_path / "x.safetensors", header, bytes(5))) as source:
        with pytest.raises(KeyError, match="has no tensor 'y'"):
            source.read("y")
        with pytest.raises(KeyError, match="has no tensor 'y'"):
            source.file_of("y")
        with pytest.raises(ValueError, match="must be consecutive, not every 2"):
            source.read("x", slice(0, 4, 2))
        with pytest.raises(ValueError, match="s is a scalar"):
            source.read("s", slice(0, 1))


def test_arrays_outlive_their_file(tmp_path):
    path = write_raw(tmp_path / "x.safetensors", {"x": entry(0, 4, dtype="BF16")}, b"\x80\x3f" * 4)
    with open_tensors(path) as source:
        array = source.read("x")
    path.unlink()
    assert mx.array_equal(array, mx.ones(4, dtype=mx.bfloat16))
