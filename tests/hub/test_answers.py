"""Answers without an end, and waits without an end, end."""

from __future__ import annotations

import time

import pytest

from mlx_video.errors import CheckpointError
from mlx_video.hub import answers
from mlx_video.hub import download as hub_download
from mlx_video.hub.answers import seconds_to_wait, stated_wait
from mlx_video.hub.fetch import fetch_repository
from tests.fixtures.hub_server import Repository, go_online, serve_hub
from tests.hostile.cases.hub_answers import answer, endless, listed

NAME, FILE = "owner/name", "a.safetensors"
CONTENT = bytes(5000)


@pytest.fixture
def repository(tmp_path, monkeypatch):
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / FILE).write_bytes(CONTENT)
    with serve_hub() as server:
        go_online(monkeypatch, server, tmp_path / "cache")
        server.repositories = {NAME: Repository(tmp_path / "served")}
        yield server.repositories[NAME]


def fetch():
    work = fetch_repository(NAME, None, lambda names, read_json: [FILE])
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


@pytest.mark.parametrize("place", ["listing", FILE])
@pytest.mark.parametrize("headers", [{"Retry_After": "301"}, {"RateLimit": '"api";r=0;t=301'}])
def test_a_wait_of_more_than_five_minutes_is_left_to_the_user(repository, place, headers):
    repository.answers[place] = answer(429, **headers)
    with pytest.raises(CheckpointError, match=r"too many requests \(HTTP 429\) and asks to wait 301 s\. Run"):
        fetch()


def test_a_wait_that_is_asked_for_is_kept(repository, monkeypatch):
    monkeypatch.setattr(hub_download, "_RETRY_SECONDS", 60)  # the usual one
    asked = []

    def once(handler):
        asked.append(time.monotonic())
        del repository.answers[FILE]
        answer(429, Retry_After="1")(handler)

    repository.answers[FILE] = once
    assert (fetch() / FILE).read_bytes() == CONTENT
    assert 1 <= time.monotonic() - asked[0] < 30


def test_a_busy_hub_leaves_the_cached_copy_in_use(repository):
    folder = fetch()
    repository.answers["listing"] = answer(429, Retry_After="301")
    assert fetch() == folder


@pytest.mark.parametrize("status", [404, 500])
def test_of_an_error_without_end_the_beginning_is_read(repository, status):
    repository.answers["listing"] = endless(status)
    began = time.monotonic()
    with pytest.raises(CheckpointError, match=str(status)):
        fetch()
    assert time.monotonic() - began < 10


def test_what_an_error_says_is_told(repository):
    repository.answers["listing"] = answer(400, b'{"error": "no such thing here"}')
    with pytest.raises(CheckpointError, match="is not here, and downloading it from the Hub failed"):
        fetch()


def test_a_list_without_end_is_left_at_the_limit(repository, monkeypatch):
    monkeypatch.setattr(answers, "LARGEST_TEXT_BYTES", 200_000)
    repository.answers["listing"] = endless()
    with pytest.raises(CheckpointError, match=r"sends a text of more than 200,000 bytes\."):
        fetch()


def test_a_list_that_drips_is_left_after_a_while(repository, monkeypatch):
    monkeypatch.setattr(answers, "_TIMEOUTS_OF_TEXT", 0.02)
    repository.answers["listing"] = endless(200, b" ", 0.05)
    with pytest.raises(CheckpointError, match=r"bytes of a text in 0\.02 times HF_HUB_DOWNLOAD_TIMEOUT"):
        fetch()


@pytest.mark.parametrize("content", [b"", b"<html>", b"[" * 100_000, b"9" * 5000, b"\xff"])
def test_a_list_that_is_no_json_is_named(repository, content):
    repository.answers["listing"] = answer(200, content)
    with pytest.raises(CheckpointError, match=rf"{NAME}: the Hub sends an answer that is no JSON"):
        fetch()


@pytest.mark.parametrize("files", [7, "evil", ["evil"], [None], [{}], [{"rfilename": []}]])
def test_a_list_of_no_files_is_named(repository, files):
    repository.answers["listing"] = listed({"sha": "0" * 40, "siblings": files})
    with pytest.raises(CheckpointError, match="the Hub's list of files is none"):
        fetch()


@pytest.mark.parametrize("size", [True, 2**63, 1.0, 10**400])
def test_a_size_that_no_file_has_is_refused(repository, size):
    large = {"sha256": "0" * 64, "size": size}
    repository.answers["listing"] = listed(
        {"sha": "0" * 40, "siblings": [{"rfilename": FILE, "size": size, "lfs": large}]}
    )
    with pytest.raises(CheckpointError, match=r"has the size"):
        fetch()


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"Retry-After": "12"}, 12),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, None),
        ({"Retry-After": "9" * 5000}, 9999999999),
        ({"RateLimit": '"api";r=0;t=55'}, 55),
    ],
)
def test_the_wait_is_read_from_the_answer(headers, expected):
    assert stated_wait(headers) == expected


def test_other_errors_are_not_waited_for():
    assert seconds_to_wait(ValueError("no"), 1.0) is None
