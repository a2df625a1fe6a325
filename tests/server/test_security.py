"""Pages of other sites, clients without a token, large bodies and guessed names get nothing."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.fixtures.running_server import RunningServer, running_server

pytestmark = pytest.mark.slow

VIDEO = {"prompt": "a cat", "model": "tiny", "size": "16x16", "num_frames": 5, "steps": 1}


def code_of(answer: httpx.Response) -> tuple[int, str | None]:
    return answer.status_code, answer.json()["error"]["code"]


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "10.0.0.1", "", "[::1"]
)
def test_a_name_that_is_not_the_servers_is_refused(server: RunningServer, host: str):
    with server.client(headers={"host": host}) as client:
        for path in ("/", "/v1/videos", "/events"):
            assert code_of(client.get(path)) == (403, "unknown_host")


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "LOCALHOST", "[::1]"])
def test_names_of_this_machine_are_known(server: RunningServer, name: str):
    with server.client(headers={"host": f"{name}:1234"}) as client:
        assert client.get("/v1/models").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"origin": "http://[bad"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_pages_of_other_sites_may_neither_ask_nor_change_anything(server: RunningServer, headers: dict):
    with server.client(headers=headers) as client:
        before = len(httpx.get(f"{server.address}v1/videos").json()["data"])
        assert code_of(client.post("/v1/videos", json=VIDEO)) == (403, "foreign_origin")
        assert code_of(client.post("/v1/videos", data=VIDEO)) == (403, "foreign_origin")
        assert code_of(client.get("/v1/videos")) == (403, "foreign_origin")
        assert len(httpx.get(f"{server.address}v1/videos").json()["data"]) == before


def test_its_own_page_may(server: RunningServer):
    own = {"origin": server.address.rstrip("/"), "sec-fetch-site": "same-origin"}
    with server.client(headers=own) as client:
        assert client.get("/v1/videos").status_code == 200


def test_a_form_that_is_sent_as_plain_text_is_refused(server: RunningServer):
    with server.client() as client:
        answer = client.post("/v1/videos", content=b'{"prompt": "a"}', headers={"content-type": "text/plain"})
    assert answer.status_code == 415


def test_more_than_the_limit_is_refused_whether_or_not_its_length_is_told(server: RunningServer):
    large = b"x" * 300_000
    with server.client() as client:
        files = {"input_reference": ("a.png", large, "image/png")}
        assert code_of(client.post("/v1/videos", data=VIDEO, files=files)) == (413, "too_large")

        def chunks():
            for start in range(0, len(large), 10_000):
                yield large[start : start + 10_000]

        answer = client.post("/v1/videos", content=chunks(), headers={"content-type": "application/json"})
        assert code_of(answer) == (413, "too_large")


@pytest.mark.parametrize(
    "path",
    [
        "/page/../app.py",
        "/page/%2e%2e/app.py",
        "/page/index.html",
        "/page/%2fetc%2fpasswd",
        "/v1/videos/%2e%2e",
        "/docs",
        "/openapi.json",
    ],
)
def test_nothing_but_the_pages_own_files_is_sent(server: RunningServer, path: str):
    with server.client() as client:
        assert client.get(path).status_code == 404


def test_the_page_takes_nothing_from_other_hosts_and_is_framed_by_none(server: RunningServer):
    with server.client() as client:
        answer = client.get("/")
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "http" not in policy
        for name in ("page.js", "page.css", "icon.svg"):
            text = client.get(f"/page/{name}").text
            assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in answer.text


def test_ids_are_long_and_unlike_each_other(server: RunningServer):
    with server.client() as client:
        ids = [client.post("/v1/videos", json=VIDEO).json()["id"] for _ in range(2)]
    assert all(len(each) == len("video_") + 32 for each in ids)
    assert ids[0][:14] != ids[1][:14]


def test_who_listens_elsewhere_asks_for_a_token(models: Path, tmp_path: Path):
    with running_server(tmp_path, "--models", str(models), "--host", "0.0.0.0") as server:
        assert len(server.token) >= 32
        with server.client() as client:
            for path in ("/", "/v1/videos", "/events", "/page/page.js"):
                assert code_of(client.get(path)) == (401, "invalid_api_key")
            wrong = {"authorization": "Bearer wrong"}
            assert client.get("/v1/videos", headers=wrong).status_code == 401
            right = {"authorization": f"Bearer {server.token}"}
            assert client.get("/v1/videos", headers=right).status_code == 200
            elsewhere = {**right, "host": "evil.example"}
            assert code_of(client.get("/v1/videos", headers=elsewhere)) == (403, "unknown_host")
            assert client.get("/?token=wrong").status_code == 401
            entered = client.get(f"/?token={server.token}")
            assert (entered.status_code, entered.headers["location"]) == (303, "/")
            cookie = entered.headers["set-cookie"]
            assert "HttpOnly" in cookie
            assert "samesite=strict" in cookie.lower()
            assert client.get("/").status_code == 200  # the client keeps the cookie
