"""What every test gets: cache folders of the test run's own, never the user's, and no network."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# huggingface_hub reads both when it is imported, which some test modules do while they are collected.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_CACHE"] = tempfile.mkdtemp(prefix="mlx-video-hub-")
# A shell that starts the tests in the background has them ignore Ctrl-C, and their children too.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out for `-m quick` what imports PyTorch: the import costs a tenth of the whole."""
    is_left_out = collection_path.name.endswith("_parity.py") and config.option.markexpr == "quick"
    return True if is_left_out else None


@pytest.hookimpl(tryfirst=True)  # before `-m` looks at the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as quick what is neither slow nor compared with PyTorch."""
    for item in items:
        if not any(item.iter_markers("slow")) and not any(item.iter_markers("parity")):
            item.add_marker("quick")


@pytest.fixture(autouse=True, scope="session")
def _own_cache_folder(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLX_VIDEO_CACHE", str(tmp_path_factory.mktemp("user-cache")))
        yield
    shutil.rmtree(os.environ["HF_HUB_CACHE"], ignore_errors=True)


@pytest.fixture
def brief_path(tmp_path: Path) -> Iterator[Path]:
    """A folder for files of full size with holes, gone after the test."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.fixture(autouse=True, scope="module")
def _frozen_imports():
    """Every stage of a run collects garbage; what was imported need not be looked through each time."""
    gc.freeze()
