"""The official client of OpenAI's interface makes, lists, loads and deletes videos."""

from __future__ import annotations

import base64
import io
import warnings

import numpy as np
import pytest
from PIL import Image

from mlx_video.media.video import read_frames, read_video_metadata
from tests.fixtures.running_server import RunningServer

openai = pytest.importorskip("openai")
# The client says of every call that OpenAI's own service will end.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

SMALL = {"steps": 2, "num_frames": 5, "guide_scale": 1}


@pytest.fixture(scope="module")
def client(server: RunningServer):
    with openai.OpenAI(base_url=f"{server.address}v1", api_key="any", max_retries=0) as made:
        yield made


def png(colour: str = "red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (32, 32), colour).save(file, "PNG")
    return file.getvalue()


def make(client, **options):
    with warnings.catch_warnings(action="ignore"):
        return client.videos.create_and_poll(poll_interval_ms=50, **options)


@pytest.fixture(scope="module")
def finished(client):
    return make(client, prompt="a cat", size="32x16", model="tiny", extra_body={**SMALL, "seed": 7})


def test_a_video_is_made_of_a_prompt(client, finished, tmp_path):
    assert (finished.status, finished.progress, finished.error) == ("completed", 100, None)
    assert (finished.prompt, finished.size, finished.model) == ("a cat", "32x16", "tiny")
    assert finished.completed_at >= finished.created_at
    client.videos.download_content(finished.id).write_to_file(tmp_path / "a.mp4")
    assert read_frames(tmp_path / "a.mp4").shape == (5, 16, 32, 3)
    settings = read_video_metadata(tmp_path / "a.mp4")
    assert (settings["seed"], settings["steps"], settings["prompt"]) == ("7", "2", "a cat")


def test_a_thumbnail_is_the_first_frame(client, finished, tmp_path):
    content = client.videos.download_content(finished.id, variant="thumbnail").read()
    with Image.open(io.BytesIO(content)) as picture:
        assert (picture.format, picture.size) == ("PNG", (320, 160))
        small = np.asarray(picture.resize((32, 16)), dtype=float)
    client.videos.download_content(finished.id).write_to_file(tmp_path / "a.mp4")
    assert np.abs(small - read_frames(tmp_path / "a.mp4")[0]).mean() < 12  # enlarged and reduced again


def test_seconds_become_frames_of_the_kind_that_models_take(client):
    video = make(client, prompt="a cat", size="16x16", seconds="0.5", model="tiny", extra_body={"steps": 1})
    assert video.status == "completed"
    assert float(video.seconds) == 9 / 16  # 8 frames are 0.5 s; models take 4n+1


def test_an_image_chooses_the_model_that_takes_one_and_decides_the_video(client, tmp_path):
    options = {"prompt": "a cat", "size": "16x16", "extra_body": {**SMALL, "seed": 1}}
    for colour in ("blue", "red"):
        video = make(client, input_reference=("x.png", png(colour), "image/png"), **options)
        assert (video.model, video.status) == ("tiny-i2v", "completed"), video.error
        client.videos.download_content(video.id).write_to_file(tmp_path / f"{colour}.mp4")
    assert (read_frames(tmp_path / "blue.mp4") != read_frames(tmp_path / "red.mp4")).any()
    # Of the server's folders the file names none.
    assert read_video_metadata(tmp_path / "red.mp4")["image"] == f"{video.id}/image.png"


@pytest.mark.parametrize("is_form", [False, True])
def test_an_image_may_come_as_data_in_its_address(server, is_form):
    data = "data:image/png;base64," + base64.b64encode(png()).decode()
    fields = {"prompt": "a cat", "size": "16x16", **SMALL}
    with server.client() as asking:
        if is_form:
            form = {name: (None, str(value)) for name, value in fields.items()}
            answer = asking.post("/v1/videos", files={**form, "input_reference[image_url]": (None, data)})
        else:
            answer = asking.post("/v1/videos", json={**fields, "input_reference": {"image_url": data}})
        video = server.wait_for(answer.json()["id"], "completed", "failed")
        assert (video["status"], video["inputs"]) == ("completed", ["image"])
        for address in ("file:///etc/passwd", "http://127.0.0.1/a.png", "data:image/png;base64,?"):
            refused = asking.post("/v1/videos", json={**fields, "input_reference": {"image_url": address}})
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, "input_reference")


def test_a_remix_keeps_all_but_the_prompt(client, finished):
    with warnings.catch_warnings(action="ignore"):
        remix = client.videos.remix(finished.id, prompt="a dog")
        video = client.videos.poll(remix.id, poll_interval_ms=50)
    assert (video.status, video.prompt, video.remixed_from_video_id) == ("completed", "a dog", finished.id)
    assert (video.size, video.seconds) == (finished.size, finished.seconds)


def test_a_list_comes_page_by_page_in_both_orders(client, finished):
    more = [make(client, prompt=f"{n}", size="16x16", model="tiny", extra_body={**SMALL}) for n in range(2)]
    newest = [video.id for video in client.videos.list(limit=1, order="desc")]  # iterates over all pages
    assert newest[:2] == [more[1].id, more[0].id]
    assert newest[::-1] == [video.id for video in client.videos.list(limit=100, order="asc")]
    page = client.videos.list(limit=1, after=more[1].id)
    assert [video.id for video in page.data] == [more[0].id]


def test_a_deleted_video_is_gone(client):
    video = make(client, prompt="a cat", size="16x16", model="tiny", extra_body=SMALL)
    assert client.videos.delete(video.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.videos.retrieve(video.id)
    with pytest.raises(openai.NotFoundError):
        client.videos.download_content(video.id)


@pytest.mark.parametrize(
    ("options", "param", "said"),
    [
        ({"model": "sora-2"}, "model", "no such model here. There are: tiny, tiny-i2v"),
        ({"size": "wide"}, "size", "must be width and height"),
        ({"seconds": "nan"}, "seconds", "must be a number"),
        ({"extra_body": {"num_frames": 6.5}}, "num_frames", ""),
        ({"extra_body": {"sparkle": 1}}, "sparkle", "unknown"),
        ({"extra_body": {"output_path": "/tmp/a.mp4"}}, "output_path", "not for clients"),
        ({"extra_body": {"image": "/etc/passwd"}}, "image", "uploaded file alone"),
        ({"extra_body": {"input_video": "/etc/passwd"}}, "input_video", "uploaded file alone"),
        ({"extra_body": {"camera_trajectory": "/etc/passwd"}}, "camera_trajectory", "not for clients"),
        ({"extra_body": {"loras": "/etc/passwd"}}, "loras", "not for clients"),
        (
            {"input_reference": ("a.png", b"#EXTM3U\n/etc/passwd", "image/png")},
            "image",
            "a kind that is not taken",
        ),
        ({"prompt": " "}, "prompt", "missing"),
    ],
)
def test_a_wrong_value_is_refused_at_once_and_named(client, options, param, said):
    with pytest.raises(openai.BadRequestError) as refused:
        client.videos.create(**{"prompt": "a cat", **options})
    assert refused.value.param == param
    assert said in refused.value.message


@pytest.mark.parametrize("what", ["edits", "extensions", "characters"])
def test_what_openai_has_besides_is_refused_as_not_made(server, what):
    with server.client() as asking:
        answer = asking.post(f"/v1/videos/{what}", data={"prompt": "on"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (501, "not_implemented")
    assert answer.json()["error"]["message"] == f"{what.capitalize()} are not made by this server."


def test_a_video_that_fails_says_why_and_the_next_one_is_made(client, server):
    bad = client.videos.create(
        prompt="a cat",
        model="tiny-i2v",
        size="16x16",
        extra_body=SMALL,
        input_reference=("a.png", png()[:60], "image/png"),
    )
    good = make(client, prompt="a cat", model="tiny", size="16x16", extra_body=SMALL)
    assert good.status == "completed"
    failed = client.videos.retrieve(bad.id)
    assert failed.status == "failed"
    assert "image.png" in failed.error.message
    assert "/" not in failed.error.message
    with pytest.raises(openai.NotFoundError, match="failed"):
        client.videos.download_content(bad.id)
