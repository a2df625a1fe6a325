"""Tiny converted models for the Python interface."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mlx_video import WanPipeline, convert_checkpoint
from tests.fixtures.tiny_checkpoint import write_tiny_checkpoint


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny converted text-to-video model."""
    root = tmp_path_factory.mktemp("api")
    checkpoint = write_tiny_checkpoint(root / "original").path
    return convert_checkpoint(checkpoint, root / "tiny", dtype="float32", progress=False)


@pytest.fixture
def pipe(tiny_folder: Path) -> Iterator[WanPipeline]:
    with WanPipeline.from_pretrained(tiny_folder, keep_networks=False) as opened:
        yield opened
