"""The queue outlives the server, however that ends; videos change places, are cancelled and tried again."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import numpy as np
import pytest

from mlx_video.media.video import read_frames
from mlx_video.server.store import VideoStore
from tests.fixtures.running_server import RunningServer, running_server

pytestmark = pytest.mark.slow

STEPS = 24
SLOW = {"model": "tiny", "size": "48x48", "num_frames": 5, "steps": STEPS, "seed": 3, "guide_scale": 1}
# Stopped long before its end.
LONG = {**SLOW, "steps": 400}
SHORT = {"model": "tiny", "size": "16x16", "num_frames": 5, "steps": 1, "guide_scale": 1}


def ask(server: RunningServer, prompt: str = "a cat", **settings) -> str:
    with server.client() as client:
        answer = client.post("/v1/videos", json={"prompt": prompt, **settings})
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


def first_step_after(server: RunningServer, video_id: str, least: int = 1) -> int:
    """Number of the first step that is told of a video, of those from `least` on."""
    with server.client() as client, client.stream("GET", "/events") as stream:
        name = ""
        for line in stream.iter_lines():
            key, _, value = line.partition(": ")
            name = value if key == "event" else name
            if key == "data" and name == "progress":
                told = json.loads(value)
                found = re.match(r"step (\d+) of \d+", told["text"])
                if told["id"] == video_id and found and int(found[1]) >= least:
                    return int(found[1])
    raise AssertionError("the stream ended")


def frames_of(server: RunningServer, video_id: str, path: Path) -> np.ndarray:
    with server.client() as client:
        path.write_bytes(client.get(f"/v1/videos/{video_id}/content").content)
    return read_frames(path)


def test_a_killed_server_goes_on_with_its_video_and_then_with_the_others(models: Path, tmp_path: Path):
    words = (tmp_path / "served", "--models", str(models))
    with running_server(*words) as server:
        first, second = ask(server, **SLOW), ask(server, "a dog", **SHORT)
        done = first_step_after(server, first, least=6)
        server.kill()
    assert (tmp_path / "served" / first / "video.mp4.state.safetensors").exists()
    with running_server(*words) as server:
        assert first_step_after(server, first) >= done  # the steps before are not taken again
        assert server.wait_for(first, "completed", "failed")["status"] == "completed"
        assert server.wait_for(second, "completed", "failed")["status"] == "completed"
        again = ask(server, **SLOW)
        server.wait_for(again, "completed", "failed")
        in_two_goes = frames_of(server, first, tmp_path / "two.mp4")
        np.testing.assert_array_equal(in_two_goes, frames_of(server, again, tmp_path / "one.mp4"))


@pytest.mark.nightly
def test_a_server_killed_again_and_again_makes_the_same_video(models: Path, tmp_path: Path):
    words, moments = (tmp_path / "served", "--models", str(models)), np.random.default_rng(0)
    with running_server(*words) as server:
        video = ask(server, **SLOW)
        time.sleep(moments.uniform(0, 1))
        server.kill()
    for _ in range(3):
        with running_server(*words) as server:
            time.sleep(moments.uniform(0, 1))
            server.kill()
        finished = tmp_path / "served" / video / "video.mp4"
        assert not finished.exists() or len(read_frames(finished)) == SLOW["num_frames"]
    with running_server(*words) as server:
        assert server.wait_for(video, "completed", "failed")["status"] == "completed"
        again = ask(server, **SLOW)
        assert server.wait_for(again, "completed", "failed")["status"] == "completed"
        found = frames_of(server, video, tmp_path / "killed.mp4")
        np.testing.assert_array_equal(found, frames_of(server, again, tmp_path / "one.mp4"))


def test_ctrl_c_ends_a_server_at_once_although_pages_listen_and_keeps_its_state(models: Path, tmp_path: Path):
    words = (tmp_path / "served", "--models", str(models))
    with running_server(*words) as server:
        video = ask(server, **LONG)
        with server.client() as client, client.stream("GET", "/events") as stream:
            next(stream.iter_lines())
            first_step_after(server, video, least=3)
            assert server.interrupt() == 0
        assert "Traceback" not in server.printed
    store = VideoStore(tmp_path / "served")
    kept = store.find(video)
    store.close()
    assert kept is not None
    assert kept.status == "in_progress"  # and so the next server begins with it
    assert (tmp_path / "served" / video / "video.mp4.state.safetensors").exists()


def test_two_servers_do_not_share_a_folder(models: Path, tmp_path: Path):
    words = (tmp_path / "served", "--models", str(models))
    with (
        running_server(*words),
        pytest.raises(AssertionError, match="another server works there"),
        running_server(*words),
    ):
        pass


def test_what_is_made_is_cancelled_and_goes_on_when_tried_again(server: RunningServer):
    with server.client() as client:
        video = ask(server, **LONG)
        done = first_step_after(server, video, least=5)
        assert client.post(f"/api/videos/{video}/cancel").status_code == 200
        server.wait_for(video, "cancelled")
        told = client.get(f"/v1/videos/{video}").json()
        assert (told["status"], told["error"]["code"]) == ("failed", "cancelled")  # OpenAI knows no other
        assert client.post(f"/api/videos/{video}/cancel").status_code == 409
        assert client.post(f"/api/videos/{video}/retry").status_code == 200
        assert first_step_after(server, video) >= done
        assert client.delete(f"/v1/videos/{video}").json()["deleted"]  # while it is made
        after = ask(server, **SHORT)
        server.wait_for(after, "completed")
        assert client.get(f"/v1/videos/{video}").status_code == 404


def test_videos_that_wait_are_moved_and_made_in_their_new_order(server: RunningServer):
    with server.client() as client:
        blocker = ask(server, **LONG)
        server.wait_for(blocker, "in_progress")
        a, b, c = (ask(server, name, **SHORT) for name in "abc")
        assert client.post(f"/api/videos/{c}/move", json={"before": a}).json()["queue"] == [c, a, b]
        assert client.post(f"/api/videos/{a}/move", json={}).json()["queue"] == [c, b, a]
        assert client.post(f"/api/videos/{b}/cancel").json()["status"] == "cancelled"
        client.post(f"/api/videos/{blocker}/cancel")
        ended = [server.wait_for(each, "completed") for each in (c, a)]
        assert ended[0]["started_at"] <= ended[1]["started_at"]
        assert client.post(f"/api/videos/{a}/move", json={}).status_code == 409
        lists = client.get("/api/videos").json()
        assert b in [each["id"] for each in lists["ended"]]


def test_a_plan_is_told_while_a_video_is_made(server: RunningServer):
    with server.client() as client:
        video = ask(server, **SLOW)
        plan = client.post("/api/plan", json={"prompt": "a cat", **SHORT, "size": "40x40"}).json()
        assert [stage["stage"] for stage in plan["stages"]] == ["text", "denoise", "decode"]
        assert plan["budget_gb"] > 0
        assert any("40x40 becomes" in text for text in plan["notices"])
        refused = client.post("/api/plan", json={"prompt": "a cat", **SHORT, "num_frames": 6})
        assert refused.status_code == 400
        assert "4n+1" in refused.json()["error"]["message"]
        assert server.wait_for(video, "completed", "failed")["status"] == "completed"  # undisturbed


def test_a_preview_is_told_after_a_step(server: RunningServer):
    video = ask(server, **LONG)
    with server.client() as client, client.stream("GET", "/events") as stream:
        lines = stream.iter_lines()
        next(line for line in lines if line == "event: preview")
        told = json.loads(next(lines).removeprefix("data: "))
        client_cancel = server.client()
    with client_cancel as client:
        client.post(f"/api/videos/{video}/cancel")
    assert told["image"].startswith("data:image/png;base64,iVBOR")
