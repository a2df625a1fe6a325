from __future__ import annotations

import tempfile
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_video.errors import MediaError
from mlx_video.files.scratch import ScratchFile


def test_arrays_come_back_as_they_were_in_any_order(tmp_path):
    arrays = [mx.random.normal(shape, key=mx.random.key(1)) for shape in [(2, 3), (4,), (1, 2, 5)]]
    views = [*arrays, mx.arange(12.0).reshape(3, 4).T]
    with ScratchFile(tmp_path) as scratch:
        stored = [scratch.put(array) for array in views]
        for index in (2, 0, 3, 1, 0):
            assert mx.array_equal(scratch.get(stored[index]), views[index])


def test_nothing_is_left_behind_and_nothing_ever_has_a_name(tmp_path):
    with ScratchFile(tmp_path) as scratch:
        scratch.put(mx.zeros((1000,)))
        assert list(tmp_path.iterdir()) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_told_with_its_folder_and_a_way_out(tmp_path, monkeypatch):
    full = open("/dev/full", "r+b", buffering=0)  # noqa: SIM115 (closed with the scratch file)
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: full)
    message = rf"{tmp_path}: .*No space left on device\). Free space, or set TMPDIR"
    with ScratchFile(tmp_path) as scratch, pytest.raises(MediaError, match=message):
        scratch.put(mx.zeros((10,)))


def test_a_folder_that_takes_no_files_is_named(tmp_path):
    with pytest.raises(MediaError, match="absent"):
        ScratchFile(tmp_path / "absent")
