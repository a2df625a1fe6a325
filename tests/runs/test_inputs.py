"""The input stages: the text encoder streamed, resident or left out by the cache; progress of both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import WanPipeline, convert_checkpoint
from mlx_video.conditioning.types import Conditioning
from mlx_video.conditioning.units import PROMPTS, build_conditioning, fill_conditioning
from mlx_video.errors import CheckpointError
from mlx_video.events import BlocksRead, FramesEncoded, Notice, Work
from mlx_video.generate_wan import build_parser, build_request
from mlx_video.latents.decode import decode_frames, to_uint8, to_uint8_rounded
from mlx_video.latents.encode import encode_video
from mlx_video.loading.residency import resident
from mlx_video.loading.vae_halves import load_vae_decoder
from mlx_video.request import GenerateRequest
from mlx_video.runs import inputs
from mlx_video.runs.generate import prepare_run
from mlx_video.runs.inputs import ModelEncoders, encode_clip, unit_inputs
from mlx_video.runs.run import Run
from tests.fixtures.generators import finish, finish_and_collect
from tests.fixtures.tiny_checkpoint import write_tiny_checkpoint
from tests.models.vae.tiny_vae import build_vae, draw

pytestmark = pytest.mark.slow

SMALL = {"width": 32, "height": 32, "num_frames": 1, "steps": 1, "seed": 1}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> WanPipeline:
    root = tmp_path_factory.mktemp("model")
    checkpoint = write_tiny_checkpoint(root / "original")
    return WanPipeline.from_pretrained(convert_checkpoint(checkpoint.path, root / "converted"))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLX_VIDEO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "prompts"


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts each use of the text encoder was given, in memory or streamed."""
    counts: list[int] = []

    def count(encode):
        def counted(*given):
            counts.append(len(given[-1]))
            return encode(*given)

        return counted

    for name in ("encode_streamed", "encode_resident"):
        monkeypatch.setattr(inputs, name, count(getattr(inputs, name)))
    return counts


def prepare(pipeline: WanPipeline, prompt: str = "a cat", **options) -> Run:
    request = GenerateRequest(prompt, **(SMALL | options))
    return prepare_run(request, pipeline.folder, pipeline.config)


def encode_texts(run: Run) -> Work[Conditioning]:
    return build_conditioning((yield from fill_conditioning([PROMPTS], unit_inputs(run), ModelEncoders(run))))


def assert_same(found: Conditioning, expected: Conditioning) -> None:
    for name in ("context", "negative_context"):
        first, second = getattr(found, name), getattr(expected, name)
        assert first.dtype == second.dtype
        assert mx.array_equal(first, second).item()


def test_an_encoded_and_a_cached_prompt_are_the_same(pipeline: WanPipeline, encoded: list[int]):
    first, second = (finish(encode_texts(prepare(pipeline))) for _ in range(2))
    assert_same(second, first)
    assert encoded == [2]


def test_a_cached_prompt_does_without_the_encoder(pipeline: WanPipeline, monkeypatch: pytest.MonkeyPatch):
    finish(encode_texts(prepare(pipeline)))

    def refuse(*_: object) -> None:
        raise AssertionError("the text encoder was opened")

    for name in ("encode_streamed", "encode_resident", "open_text_encoder", "use_text_encoder"):
        monkeypatch.setattr(inputs, name, refuse)
    finish(encode_texts(prepare(pipeline)))


def test_only_what_is_new_is_encoded(pipeline: WanPipeline, encoded: list[int]):
    for prompt in ("a cat", "a dog", "a cat", " a  cat\n"):
        finish(encode_texts(prepare(pipeline, prompt)))
    assert encoded == [2, 1]


def test_a_run_from_the_cache_makes_the_same_video(pipeline: WanPipeline, encoded: list[int]):
    first, second = (pipeline("a cat", **SMALL) for _ in range(2))
    assert encoded == [2]
    assert mx.array_equal(first.latents, second.latents).item()
    assert np.array_equal(first.frames, second.frames)


def test_without_the_cache_nothing_is_read_or_kept(pipeline: WanPipeline, folder: Path, encoded: list[int]):
    for _ in range(2):
        finish(encode_texts(prepare(pipeline, prompt_cache=False)))
    assert encoded == [2, 2]
    assert not folder.exists()


def test_the_flag_switches_the_cache_off():
    parse = build_parser().parse_args
    assert build_request(parse(["--prompt", "a cat"])).prompt_cache is True
    assert build_request(parse(["--prompt", "a cat", "--no-prompt-cache"])).prompt_cache is False


def test_a_damaged_entry_is_encoded_anew_and_mended(pipeline: WanPipeline, folder: Path, encoded: list[int]):
    first = finish(encode_texts(prepare(pipeline)))
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    assert_same(finish(encode_texts(prepare(pipeline))), first)
    finish(encode_texts(prepare(pipeline)))
    assert encoded == [2, 2]


def test_a_cache_that_takes_no_files_is_a_notice_and_no_failure(
    pipeline: WanPipeline, folder: Path, encoded: list[int]
):
    folder.parent.mkdir()
    folder.write_text("in the way")
    conditioning, events = finish_and_collect(encode_texts(prepare(pipeline)))
    assert conditioning.negative_context is not None
    notices = [event.text for event in events if isinstance(event, Notice)]
    assert len(notices) == 1
    assert notices[0].startswith("The encoded prompt is not kept for later runs.")
    assert str(folder) in notices[0]


def test_progress_is_reported_block_by_block(pipeline: WanPipeline):
    _, events = finish_and_collect(encode_texts(prepare(pipeline)))
    assert events == [BlocksRead(1, 2), BlocksRead(2, 2)]
    assert finish_and_collect(encode_texts(prepare(pipeline)))[1] == []


def test_an_encoder_of_another_model_is_refused(pipeline: WanPipeline):
    config = replace(pipeline.config.text_encoder, num_layers=3)
    run = prepare(pipeline)
    with pytest.raises(CheckpointError, match="tensors do not fit the model"):
        finish(encode_texts(replace(run, config=replace(run.config, text_encoder=config))))


@pytest.mark.parametrize("tile", [None, 1])
def test_frames_are_reported_as_they_are_encoded(tile: int | None):
    vae, frames = build_vae(), draw(5, 16, 16, 3)
    chunks = [frames[:1], frames[1:]]
    latents, events = finish_and_collect(encode_clip(vae, tile, chunks, 5))
    assert mx.array_equal(latents, encode_video(vae, chunks, tile=tile)).item()
    done = [event.done for event in events]
    assert all(isinstance(event, FramesEncoded) and event.total == 5 for event in events)
    assert done == sorted(set(done))
    assert done[-1] == 5
    if tile is None:
        assert done == [1, 5]


def test_a_single_picture_is_rounded_and_frames_of_a_video_are_cut(pipeline: WanPipeline):
    for frames, to_bytes in ((1, to_uint8_rounded), (5, to_uint8)):
        video = pipeline("a cat", **SMALL | {"num_frames": frames})
        with resident(lambda: load_vae_decoder(pipeline.folder, pipeline.config)) as vae:
            decoded = [to_bytes(chunk) for chunk in decode_frames(vae, video.latents)]
        np.testing.assert_array_equal(video.frames, np.concatenate(decoded))


@pytest.mark.parametrize(
    ("size", "to_video"), [({}, False), ({"width": 32}, True), ({"height": 32}, True)], ids=str
)
def test_a_tail_is_cut_to_the_video_where_either_side_is_given(monkeypatch, size: dict, to_video: bool):
    asked = []
    monkeypatch.setattr(inputs, "_read_tail", lambda *given: ())
    monkeypatch.setattr(inputs, "cut_images", lambda frames, geometry, **how: asked.append(how) or ())
    request = GenerateRequest("a cat", fit="cover", **size)
    run = SimpleNamespace(
        request=request, plan=SimpleNamespace(geometry=None), videos={"longcat_video": None}
    )
    assert list(inputs._cut_tail(run, "longcat_video")) == []
    assert asked == [{"to_video": to_video, "fit": "cover"}]
