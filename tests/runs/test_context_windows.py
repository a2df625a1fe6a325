"""Context windows through the whole pipeline: joined, anchored, streamed, cached and gone on with."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import RequestError, WanPipeline, convert_checkpoint
from mlx_video.conditioning.control.camera_path import path_in_direction
from mlx_video.conditioning.control.camera_rays import CameraAddOn, CameraRays
from mlx_video.conditioning.control.fun import ReferenceAddOn
from mlx_video.conditioning.control.vace import VACEAddOn
from mlx_video.conditioning.latent_frames import LatentFrames
from mlx_video.conditioning.types import Conditioning
from mlx_video.formats.safetensors import SafetensorsFile
from mlx_video.models.token_layout import video_layout
from mlx_video.models.transformer import WanTransformer
from mlx_video.planning import best_plan
from mlx_video.planning.step_plans import Streaming
from mlx_video.runs.sampling.guided_transformer import predict_in_windows
from mlx_video.sampling.context_windows import ContextWindows
from mlx_video.sampling.guidance import POSITIVE
from mlx_video.sampling.sampler_state import SamplerState
from mlx_video.sampling.schedule import build_schedule
from mlx_video.sampling.step_caches.magcache import MagCache
from mlx_video.sampling.step_caches.tables import MAGNITUDES
from mlx_video.sampling.windowed_predictions import predict_one_by_one
from tests.fixtures.sampling_runs import (
    SMALL,
    assert_differs,
    assert_resumes_bit_for_bit,
    choose,
    notices_of,
    open_deep_model,
    open_experts,
)
from tests.fixtures.tiny_variants import write_tiny_variant

LONG = {"num_frames": 25}  # 7 latent frames
WINDOWS = LONG | {"context_frames": 9, "context_overlap": 4}  # 3 and 1: from 0, 2 and 4
IMAGE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
STEP = build_schedule("euler", 4, 5.0).step(0)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> WanPipeline:
    return open_deep_model(tmp_path_factory.mktemp("model"))


def seen_frames(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, list[float | None]]]:
    """Of each prediction: latent frames, and the timestep of each segment."""
    seen, predict = [], WanTransformer.predict_parts

    def noted(self, parts, step, **given):
        for part in parts:
            seen.append((part.latents.shape[1], [segment.timestep for segment in part.layout.segments]))
            if part.concat_latents is not None:
                assert part.concat_latents.shape[1] == part.latents.shape[1]
        return predict(self, parts, step, **given)

    monkeypatch.setattr(WanTransformer, "predict_parts", noted)
    return seen


# Joined


def join(windows: ContextWindows, conditioning: Conditioning, frames: int, predict) -> mx.array:
    """Velocity [1, T, 1, 1] of latents that are their own frame numbers."""
    layout = video_layout((frames, 1, 1))

    def predictions(own, own_layout, memory):
        return lambda latents, step, branches: [predict(latents, own, own_layout)]

    join = predict_in_windows(windows, conditioning, layout, SamplerState(), predictions, predict_one_by_one)
    latents = mx.arange(frames, dtype=mx.float32).reshape(1, frames, 1, 1)
    return join(latents, STEP, [POSITIVE])[0]


@pytest.mark.parametrize("schedule", ["static", "uniform", "looped"])
@pytest.mark.parametrize("weights", ["pyramid", "linear", "relative"])
def test_what_does_not_depend_on_the_window_is_left_as_it_is(schedule: str, weights: str):
    windows = ContextWindows(5, 2, schedule, weights)
    found = join(windows, Conditioning(mx.zeros((1, 1))), 13, lambda latents, *_: 3 * latents)
    assert np.allclose(np.array(found).ravel(), 3 * np.arange(13), atol=1e-5)


def test_neighbours_are_averaged_by_their_weights():
    starts = join(
        ContextWindows(3, 1),
        Conditioning(mx.zeros((1, 1))),
        5,
        lambda latents, *_: mx.broadcast_to(latents[:, :1], latents.shape),
    )
    assert np.array(starts).ravel().tolist() == [0, 0, 1, 2, 2]
    ramps = join(
        ContextWindows(4, 2, weighting="linear"),
        Conditioning(mx.zeros((1, 1))),
        6,
        lambda latents, *_: mx.broadcast_to(latents[:, :1], latents.shape),
    )
    assert np.allclose(np.array(ramps).ravel(), [0, 0, 0.5, 1.5, 2, 2])


def test_windows_are_told_what_belongs_to_their_frames_and_see_a_given_first_one():
    told = []

    def predict(latents, own, layout):
        told.append((np.array(latents).ravel().tolist(), np.array(own.concat_latents).ravel().tolist()))
        return latents

    concat = 10 * mx.arange(5).reshape(1, 5, 1, 1)
    found = join(ContextWindows(3, 1), Conditioning(mx.zeros((1, 1)), concat_latents=concat), 5, predict)
    assert told == [([0, 1, 2], [0, 10, 20]), ([0, 2, 3, 4], [0, 20, 30, 40])]
    assert np.array(found).ravel().tolist() == [0, 1, 2, 3, 4]


def test_a_held_first_frame_is_free_of_noise_in_every_window():
    layouts = []

    def predict(latents, own, layout):
        layouts.append([(segment.timestep, segment.times) for segment in layout.segments])
        return latents

    conditioning = Conditioning(mx.zeros((1, 1)), first_frames=mx.zeros((1, 1, 1, 1)))
    join(ContextWindows(3, 1), conditioning, 5, predict)
    assert layouts == [[(0.0, (0,)), (None, (1, 2))], [(0.0, (0,)), (None, (1, 2, 3))]]


def test_leading_frames_stand_before_every_window():
    frames = LatentFrames(leading=2)
    assert frames.window((3, 4), is_anchored=False) == (0, 1, 5, 6)
    assert frames.window((3, 4), is_anchored=True) == (0, 1, 2, 5, 6)
    assert frames.window((0, 1), is_anchored=True) == (0, 1, 2, 3)


def test_add_ons_take_the_frames_of_a_window():
    context = mx.arange(6).reshape(1, 6, 1, 1)
    rays = CameraRays(path_in_direction("Left", 21, 0.01), 32, 48)
    reference = ReferenceAddOn(mx.zeros((1, 1, 1)))
    add_ons = (VACEAddOn(context), CameraAddOn(rays, (0, 1, 2, 3, 4, 5)), reference)
    own = Conditioning(mx.zeros((1, 1)), add_ons=add_ons).take_frames((0, 3, 4))
    vace, camera, same = own.add_ons
    assert vace.vace_context.flatten().tolist() == [0, 3, 4]
    packed = [np.array(frame) for frame in camera._frames()]
    assert all(np.array_equal(a, rays.packed_frame(b)) for a, b in zip(packed, (0, 3, 4), strict=True))
    assert same is reference


# Through the pipeline


@pytest.mark.slow
def test_one_window_that_covers_all_is_the_run_without_windows(pipeline: WanPipeline):
    plain = pipeline("a cat", **(SMALL | LONG)).latents
    assert mx.array_equal(pipeline("a cat", **(SMALL | LONG), context_frames=25).latents, plain)
    assert mx.array_equal(pipeline("a cat", **(SMALL | LONG), context_frames=81).latents, plain)
    assert_differs(pipeline("a cat", **(SMALL | WINDOWS)).latents, plain)
    assert any("One context window" in text for text in notices_of(pipeline, **LONG, context_frames=25))


@pytest.mark.slow
def test_forwards_see_no_more_than_a_window(pipeline: WanPipeline, monkeypatch: pytest.MonkeyPatch):
    seen = seen_frames(monkeypatch)
    text = notices_of(pipeline, **WINDOWS)
    assert seen == [(3, [None])] * 3 * SMALL["steps"]
    assert "Context windows of 9 frames: 3 in each step, static." in text


@pytest.mark.sample(1)
@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{}, {"stream": "on"}, {"context_schedule": "looped", "apg": True}], ids=str
)
def test_windows_are_resumed_bit_for_bit(pipeline: WanPipeline, tmp_path: Path, options: dict):
    assert_resumes_bit_for_bit(pipeline, tmp_path, **(WINDOWS | options))


@pytest.mark.sample(1)
@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["static", "uniform", "looped"])
def test_streamed_windows_are_resident_windows(pipeline: WanPipeline, schedule: str):
    options = SMALL | WINDOWS | {"context_schedule": schedule}
    streamed, resident = (pipeline("a cat", stream=stream, **options).latents for stream in ("on", "off"))
    assert mx.array_equal(streamed, resident)
    if schedule != "static":
        assert_differs(resident, pipeline("a cat", **(SMALL | WINDOWS)).latents)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["static", "uniform"])
def test_streamed_blocks_are_read_once_for_all_windows(
    pipeline: WanPipeline, monkeypatch: pytest.MonkeyPatch, schedule: str
):
    """Three windows under two prompts: a third of the bytes of windows that are predicted one by one."""
    read_bytes, read_into = [], SafetensorsFile.read_into

    def counted(self, name, memory):
        if name.startswith("blocks."):
            read_bytes.append(self.infos[name].nbytes)
        read_into(self, name, memory)

    monkeypatch.setattr(SafetensorsFile, "read_into", counted)
    options = SMALL | WINDOWS | {"stream": "on", "context_schedule": schedule}
    together = pipeline("a cat", **options).latents
    once = sum(read_bytes)
    read_bytes.clear()
    monkeypatch.setattr(best_plan, "list_streaming", lambda *_: [Streaming(0, 1)])
    assert mx.array_equal(pipeline("a cat", **options).latents, together)
    block_bytes = sum(read_bytes) / (SMALL["steps"] * 3)
    # The reader is ahead by a block or two when it is stopped.
    assert once / block_bytes == pytest.approx(SMALL["steps"], abs=0.6)
    assert sum(read_bytes) / once > 2.5


@pytest.mark.slow
def test_stride_and_weights_change_what_is_made(pipeline: WanPipeline):
    options = SMALL | WINDOWS | {"steps": 2, "context_schedule": "looped"}
    plain = pipeline("a cat", **options).latents
    strided = pipeline("a cat", **options, context_stride=2)
    assert_differs(strided.latents, plain)
    assert strided.settings["context_stride"] == "2"
    found = [pipeline("a cat", **options, context_weights=name).latents for name in ("relative", "linear")]
    assert_differs(found[0], plain)
    assert_differs(found[0], found[1])


@pytest.mark.nightly
@pytest.mark.slow
def test_each_window_has_a_step_cache_of_its_own(
    pipeline: WanPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    steps = {"steps": 10}
    plain = pipeline("a cat", **(SMALL | WINDOWS | steps)).latents
    choose(monkeypatch, step_cache=MagCache(error=0.3, retention=0.3, table=MAGNITUDES["t2v-1.3b"]))
    assert_differs(assert_resumes_bit_for_bit(pipeline, tmp_path, 10, **WINDOWS, **steps), plain)
    with pytest.raises(RequestError, match="step_cache: --context-schedule uniform has other windows"):
        pipeline("a cat", **(SMALL | WINDOWS | steps | {"context_schedule": "uniform"}))


@pytest.mark.slow
def test_experts_have_windows(tmp_path: Path):
    experts = open_experts(tmp_path / "experts")
    assert_resumes_bit_for_bit(experts, tmp_path, **WINDOWS, expert_steps=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "given"),
    [
        ("wan2.1-i2v-14b", 32, [(3, [None]), (4, [None]), (4, [None])]),
        ("wan2.2-i2v-a14b", 32, [(3, [None]), (4, [None]), (4, [None])]),
        ("wan2.1-flf2v-14b", 32, [(3, [None]), (4, [None]), (4, [None])]),
        ("wan2.2-ti2v-5b", 64, [(3, [0.0, None]), (4, [0.0, None]), (4, [0.0, None])]),
    ],
)
def test_windows_of_models_with_images_see_the_first_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, size: int, given: list
):
    write_tiny_variant(tmp_path / "original", name, num_layers=2)
    pipeline = WanPipeline.from_pretrained(
        convert_checkpoint(tmp_path / "original", tmp_path / "model", dtype="float32")
    )
    images = {"image": IMAGE} | ({"end_image": IMAGE} if "flf2v" in name else {})
    options = SMALL | WINDOWS | {"width": size, "height": size, "steps": 2} | images
    seen = seen_frames(monkeypatch)
    latents = pipeline("a cat", **options).latents
    assert seen == given * 2
    assert mx.isfinite(latents).all().item()


# Refused, and planned


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"context_frames": 10}, r"context_frames: 10: must be 4n\+1, .* Nearest: 9 or 13"),
        ({"context_frames": 9, "context_overlap": 6}, "context_overlap: 6: must be a multiple of 4"),
        ({"context_frames": 9, "context_overlap": 12}, "context_overlap: 12: .* Give at most 8"),
        (
            {"context_frames": 9, "context_overlap": 4, "context_stride": 2},
            "context_stride: 2: static windows",
        ),
    ],
)
def test_windows_that_cannot_be_are_refused(pipeline: WanPipeline, options: dict, text: str):
    with pytest.raises(RequestError, match=text):
        pipeline("a cat", **(SMALL | LONG | options))


def test_what_a_forward_takes_is_planned_by_the_window(pipeline: WanPipeline):
    def peak(frames: int, **options) -> int:
        return pipeline.plan("a cat", **(SMALL | {"num_frames": frames} | options)).predicted["denoise"]

    windows = {"context_frames": 9, "context_overlap": 4}
    latents = 16 * 2 * 2 * 4  # bytes of a latent frame
    # Nine arrays of latents in every step, and two for each pass; beside them nothing grows.
    assert peak(401, **windows) - peak(201, **windows) == 50 * latents * (9 + 4)
    assert peak(401) - peak(201) > 2 * (peak(401, **windows) - peak(201, **windows))


def test_windows_stand_in_the_record(pipeline: WanPipeline):
    settings = pipeline("a cat", **(SMALL | WINDOWS | {"steps": 1})).settings
    assert settings["context_frames"] == "9"
    assert settings["context_overlap"] == "4"
    assert "context_schedule" not in settings
