"""Parts of the server by themselves: names it goes by, its table, what becomes of trouble with the disk."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from mlx_video.convert.demo_model import demo_model_folder
from mlx_video.errors import CheckpointError
from mlx_video.server import worker
from mlx_video.server.asked import SETTINGS
from mlx_video.server.clean_text import CleanTexts
from mlx_video.server.guard import known_hosts
from mlx_video.server.hub import Hub
from mlx_video.server.shelf import ModelShelf, places_in
from mlx_video.server.store import VideoStore, new_id


@pytest.fixture
def store(tmp_path: Path):
    opened = VideoStore(tmp_path)
    yield opened
    opened.close()


def add(store: VideoStore, count: int) -> list[str]:
    return [
        store.add(new_id(), "tiny", {"prompt": str(number)}, {}, size="16x16", seconds="1").id
        for number in range(count)
    ]


def test_a_server_goes_by_other_names_only_where_it_listens_for_others():
    assert known_hosts("127.0.0.1") == {"127.0.0.1", "localhost", "::1"}
    assert "studio.example" in known_hosts("127.0.0.1", ["Studio.Example"])
    assert {"0.0.0.0", "localhost"} < known_hosts("0.0.0.0")


def test_what_was_being_made_comes_first_after_a_restart(store: VideoStore, tmp_path: Path):
    first, second, third = add(store, 3)
    claimed = store.claim()
    assert claimed is not None
    assert claimed.id == first
    store.move(third, before=second)
    again = VideoStore(tmp_path)
    assert again.put_back_interrupted() == 1
    assert [video.id for video in again.queue()] == [first, third, second]
    again.close()


def test_a_video_is_claimed_once_and_not_after_it_was_cancelled(store: VideoStore):
    first, second = add(store, 2)
    assert store.cancel_queued(first)
    claimed = store.claim()
    assert claimed is not None
    assert claimed.id == second
    assert not store.cancel_queued(second)
    assert store.claim() is None
    assert not store.update("video_of_nobody", progress=3)


def test_what_is_put_back_comes_last(store: VideoStore):
    first, second = add(store, 2)
    store.cancel_queued(first)
    store.put_back(first)
    assert [video.id for video in store.queue()] == [second, first]


def test_a_disk_that_is_full_for_a_while_does_not_end_the_worker(
    store: VideoStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(worker, "SECONDS_AFTER_TROUBLE", 0.0)
    calls: list[int] = []

    def claim() -> None:
        calls.append(len(calls))
        if len(calls) == 1:
            raise sqlite3.OperationalError("database or disk is full")
        making.end()

    monkeypatch.setattr(store, "claim", claim)
    making = worker.Worker(store, ModelShelf(dict), tmp_path, Hub(), CleanTexts([]))
    making.run()
    assert calls == [0, 1]


def test_models_are_those_of_a_folder_or_the_one_whose_folder_it_is(tmp_path: Path):
    model = demo_model_folder()
    (tmp_path / "b").symlink_to(model)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.json").write_text("{}")
    shelf = ModelShelf(places_in(tmp_path))
    assert [card.name for card in shelf.cards()] == ["b"]  # what cannot be opened is not offered
    (tmp_path / "c").symlink_to(model)
    assert [card.name for card in shelf.cards()] == ["b", "c"]
    assert [*places_in(model)()] == [model.name]
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="holds no converted model"):
        places_in(tmp_path / "empty")


def test_clients_may_give_every_kind_of_plain_setting_and_no_place():
    given = {"negative_prompt", "steps", "shift", "guide_scale", "slg", "slg_scale", "seed", "apg"}
    assert given <= set(SETTINGS)
    assert not {"output_path", "resume", "loras", "image", "memory_limit", "save_latents"} & set(SETTINGS)
