"""Rates of earlier runs in a file that may be anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlx_video.files.cache_folder import cache_folder
from mlx_video.progress.remembered_rates import FILE_NAME, MOST_KEYS, RememberedRates


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "rates.json"


def test_what_is_remembered_is_found_by_another(path: Path):
    RememberedRates(path).remember("a", {"forward": 1.5})
    RememberedRates(path).remember("a", {"text": 2.0})
    RememberedRates(path).remember("b", {"forward": 3.0})
    assert RememberedRates(path).find("a") == {"forward": 1.5, "text": 2.0}
    assert RememberedRates(path).find("b") == {"forward": 3.0}
    assert RememberedRates(path).find("c") == {}


def test_they_lie_in_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("MLX_VIDEO_CACHE", str(tmp_path))
    RememberedRates().remember("a", {"forward": 1.0})
    assert json.loads((cache_folder() / FILE_NAME).read_text())["rates"] == {"a": {"forward": 1.0}}
    assert [each.name for each in tmp_path.iterdir()] == [FILE_NAME]


def test_the_file_does_not_grow_for_ever(path: Path):
    entries = {str(number): {"forward": 1.0} for number in range(MOST_KEYS)}
    path.parent.mkdir()
    path.write_text(json.dumps({"version": 1, "rates": entries}))
    rates = RememberedRates(path)
    rates.remember("0", {"forward": 2.0})
    rates.remember("new", {"forward": 1.0})
    kept = json.loads(path.read_text())["rates"]
    assert len(kept) == MOST_KEYS
    assert {"0", "new"} <= kept.keys()
    assert "1" not in kept, "the one that was not used for longest"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"version": 2, "rates": {"a": {"forward": 1}}}',
        '{"version": 1, "rates": {"a": {"forward": "soon"}}}',
        '{"version": 1, "rates": {"a": {"forward": -1}}}',
        '{"version": 1, "rates": {"a": {"forward": NaN}}}',
        '{"version": 1, "rates": {"a": 1}}',
        '{"version": 1, "rates": []}',
        "[" * 100_000,
        "\udcff",
    ],
)
def test_a_file_that_cannot_be_read_counts_as_nothing_and_is_replaced(path: Path, text: str):
    path.parent.mkdir()
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    rates = RememberedRates(path)
    assert rates.find("a") == {}
    rates.remember("a", {"forward": 1.0})
    assert rates.find("a") == {"forward": 1.0}


def test_where_nothing_can_be_written_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("")
    RememberedRates(tmp_path / "file" / "rates.json").remember("a", {"forward": 1.0})
    monkeypatch.setenv("MLX_VIDEO_CACHE", "~nobody-of-this-name/x")
    RememberedRates().remember("a", {"forward": 1.0})
    assert RememberedRates().find("a") == {}
