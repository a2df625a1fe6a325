"""What every test gets: cache folders of the test run's own, never the user's, and no network."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
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
    """Mark as nightly what samples leave out, and as quick what is neither slow nor compared with PyTorch."""
    leave_to_the_night(items)
    for item in items:
        if not any(item.iter_markers("slow")) and not any(item.iter_markers("parity")):
            item.add_marker("quick")


def leave_to_the_night(items: Sequence[pytest.Item]) -> None:
    """Mark as nightly all but a sample of the cases of each test that is marked `sample`."""
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("sample") and not item.get_closest_marker("nightly"):
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for alike in cases.values():
        count = alike[0].get_closest_marker("sample").args[0]
        chosen = {round(number * (len(alike) - 1) / max(1, count - 1)) for number in range(count)}
        for number, item in enumerate(alike):
            if number not in chosen:
                item.add_marker("nightly")


@pytest.fixture(autouse=True, scope="session")
def _no_waiting_for_the_disk():
    """Leave out that files are on the disk before their names are: no test cuts the power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


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
