"""Fingerprints: equal for copies, different for other weights."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_video.errors import CheckpointError
from mlx_video.formats import fingerprint
from mlx_video.formats.fingerprint import fingerprint_weights, stamp_files

TENSORS = {
    f"blocks.{index}.weight": mx.random.normal((64, 64), key=mx.random.key(index)) for index in range(3)
}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    mx.save_safetensors(str(path), TENSORS)
    return path


@pytest.fixture(params=["read whole", "sampled"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "sampled":
        monkeypatch.setattr(fingerprint, "WHOLE_BYTES", 100)
        monkeypatch.setattr(fingerprint, "SAMPLE_BYTES", 256)
    return request.param


def test_copies_have_the_same_fingerprint_whatever_their_name_and_date(weights: Path, tmp_path: Path):
    copy = shutil.copy(weights, tmp_path / "other.safetensors")
    assert fingerprint_weights(Path(copy)) == fingerprint_weights(weights)


@pytest.mark.parametrize("name", TENSORS)
def test_a_change_of_any_tensor_changes_it(weights: Path, tmp_path: Path, name: str):
    other = tmp_path / "other.safetensors"
    mx.save_safetensors(str(other), TENSORS | {name: TENSORS[name] + 0.001})
    assert fingerprint_weights(other) != fingerprint_weights(weights)


def test_another_name_of_a_tensor_changes_it(weights: Path, tmp_path: Path):
    other = tmp_path / "other.safetensors"
    mx.save_safetensors(str(other), {name.replace("blocks", "layers"): a for name, a in TENSORS.items()})
    assert fingerprint_weights(other) != fingerprint_weights(weights)


def test_a_folder_counts_with_the_names_of_its_files(weights: Path, tmp_path: Path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, name in ((first, "a.bin"), (second, "b.bin")):
        folder.mkdir()
        (folder / name).write_bytes(bytes(range(256)) * 40)
    assert fingerprint_weights(first) != fingerprint_weights(second)
    (second / "b.bin").rename(second / "a.bin")
    assert fingerprint_weights(first) == fingerprint_weights(second)


def test_it_begins_with_the_size(weights: Path):
    assert fingerprint_weights(weights).startswith(f"{weights.stat().st_size:,} bytes, ")


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"none\.safetensors: not found"):
        fingerprint_weights(tmp_path / "none.safetensors")


def test_a_stamp_changes_with_whatever_happens_to_a_file(weights: Path, tmp_path: Path):
    first = stamp_files(weights)
    assert first
    assert stamp_files(weights) == first
    with weights.open("r+b") as file:  # in place, with the same size and date
        file.seek(-4, os.SEEK_END)
        file.write(b"1234")
    os.utime(weights, ns=(first[0][4], first[0][4]))
    second = stamp_files(weights)
    assert second != first
    shutil.copy2(weights, tmp_path / "copy")
    (tmp_path / "copy").replace(weights)
    assert stamp_files(weights) != second


def test_a_stamp_of_a_folder_is_of_all_its_files_and_one_of_nothing_is_empty(weights: Path, tmp_path: Path):
    folder = tmp_path / "shards"
    folder.mkdir()
    assert stamp_files(tmp_path / "absent") == ()
    before = stamp_files(folder)
    shutil.copy(weights, folder / "one.safetensors")
    assert stamp_files(folder) != before
