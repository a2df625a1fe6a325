"""Latents of finished blocks in a file that grows."""

from __future__ import annotations

import errno
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_video.errors import MediaError
from mlx_video.latents.block_file import BlockFile, block_path, is_block_file

SHAPE = (2, 3, 4, 5)
BLOCKS = [mx.random.normal(SHAPE, key=mx.random.key(seed)) for seed in range(3)]


def write(path: Path | None, owner: str = "me") -> BlockFile:
    file = BlockFile(path, SHAPE, owner)
    for block in BLOCKS:
        file.append(block)
    return file


@pytest.mark.parametrize("named", [True, False])
def test_blocks_come_back_as_they_were(tmp_path: Path, named: bool):
    with write(tmp_path / "video.mp4.blocks" if named else None) as file:
        assert file.count == 3
        assert all(mx.array_equal(file.read(index), block) for index, block in enumerate(BLOCKS))
        assert mx.array_equal(file.read_all(), mx.concatenate(BLOCKS, axis=1))
    assert [path.name for path in tmp_path.iterdir()] == ["video.mp4.blocks"] * named


def test_a_run_goes_on_behind_the_blocks_that_it_had(tmp_path: Path):
    path = block_path(tmp_path / "video.mp4")
    write(path).__exit__(None, None, None)
    with BlockFile(path, SHAPE, "me").go_on(2) as file:
        file.append(-BLOCKS[2])
        assert mx.array_equal(file.read_all(), mx.concatenate([*BLOCKS[:2], -BLOCKS[2]], axis=1))
    assert is_block_file(path)


def test_a_file_is_made_with_its_first_block(tmp_path: Path):
    with BlockFile(tmp_path / "blocks", SHAPE, "me").go_on(0):
        assert not (tmp_path / "blocks").exists()


@pytest.mark.parametrize("owner", ["another", "me"])
def test_blocks_of_another_video_or_too_few_are_refused(tmp_path: Path, owner: str):
    path = tmp_path / "blocks"
    write(path).__exit__(None, None, None)
    with pytest.raises(MediaError, match=f"{path}: the 4 finished blocks .* Begin anew without --resume"):
        BlockFile(path, SHAPE, owner).go_on(4)


def test_a_block_of_another_shape_is_a_wrong_call(tmp_path: Path):
    with BlockFile(None, SHAPE, "me") as file, pytest.raises(ValueError, match="among such of"):
        file.append(mx.zeros((2, 3, 4, 6)))


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(self: BlockFile, offset: int, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(BlockFile, "_write", full)
    with pytest.raises(
        MediaError, match="blocks: finished latents cannot be kept there .No space left.*Free"
    ):
        write(tmp_path / "blocks")


@pytest.mark.parametrize("content", [b"", b"notes", b"[1]", b'{"format": 1}'])
def test_other_files_are_no_block_files(tmp_path: Path, content: bytes):
    path = tmp_path / "other"
    path.write_bytes(content)
    assert not is_block_file(path)
    assert not is_block_file(tmp_path / "absent")
