"""Videos made block by block: frames leave as they come, memory stays flat, runs go on bit for bit."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import RequestError, WanPipeline, convert_checkpoint
from mlx_video.config import TransformerConfig, VAEConfig
from mlx_video.errors import MediaError, MemoryBudgetError
from mlx_video.events import (
    Event,
    FileWritten,
    FramesDecoded,
    Notice,
    PreviewMade,
    StageFinished,
    StepFinished,
    WorkPlanned,
)
from mlx_video.latents.block_file import block_path
from mlx_video.media.video import read_frames
from tests.fixtures.adapter_files import write_adapter
from tests.fixtures.sampling_runs import Interrupted, assert_differs
from tests.fixtures.tiny_checkpoint import TinySizes, write_tiny_checkpoint

pytestmark = pytest.mark.slow

WITHIN = 0.15
STEPS, BLOCKS = 2, 3
SMALL = {
    "width": 48, "height": 32, "num_frames": 12 * BLOCKS - 3, "steps": STEPS, "seed": 1, "kv_cache_frames": 3,
}  # fmt: skip


def open_krea(root: Path, sizes: TinySizes, **options: object) -> WanPipeline:
    original = write_tiny_checkpoint(root / "krea-realtime-video", sizes, seed=3).path
    options = {"dtype": "float32"} | options
    return WanPipeline.from_pretrained(convert_checkpoint(original, root / "converted", **options))


def deep_sizes() -> TinySizes:
    """Blocks enough to be streamed."""
    sizes = TinySizes()
    return replace(sizes, transformer=replace(sizes.transformer, num_layers=4))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("krea")


@pytest.fixture(scope="module")
def pipeline(root: Path) -> WanPipeline:
    return open_krea(root, deep_sizes())


def run(pipeline: WanPipeline, until: Callable[[Event], bool] = lambda event: False, **options: object):
    """The video and the events of a run, which may be broken off."""
    events: list[Event] = []

    def note(event: Event) -> None:
        events.append(event)
        if until(event):
            raise Interrupted

    options = SMALL | options
    try:
        return pipeline(options.pop("prompt", "a cat"), on_event=note, **options), events
    except Interrupted:
        return None, events


@pytest.fixture(scope="module")
def whole(pipeline: WanPipeline):
    return run(pipeline)


def latents_of(pipeline: WanPipeline, **options: object) -> mx.array:
    return run(pipeline, **options)[0].latents


# Frames as they come


def test_frames_leave_before_the_next_block_begins(whole):
    video, events = whole
    told = [
        event.index if isinstance(event, StepFinished) else f"{event.done} frames"
        for event in events
        if isinstance(event, StepFinished | FramesDecoded)
    ]
    frames = iter(f"{4 * count + 1} frames" for count in range(3 * BLOCKS))
    expected = [[2 * block, 2 * block + 1, *(next(frames) for _ in range(3))] for block in range(BLOCKS)]
    assert told == [*chain(*expected)]
    assert video.frames.shape == (33, 32, 48, 3)
    assert video.frames.std() > 10


def test_frames_are_on_the_disk_while_sampling_goes_on(pipeline: WanPipeline, whole, tmp_path: Path):
    for event in pipeline.stream("a cat", **SMALL, save_frames=tmp_path / "frames"):
        if isinstance(event, StepFinished) and event.index == 2 * STEPS:
            break
    written = sorted(tmp_path.rglob("*.png"))
    assert [read_frames(path)[0].shape for path in written] == [(32, 48, 3)] * 21
    assert np.array_equal(read_frames(written[-1])[0], whole[0].frames[20])


def test_previews_show_the_block_under_way(pipeline: WanPipeline, tmp_path: Path):
    _, events = run(pipeline, preview=tmp_path / "preview.webp")
    shown = [event for event in events if isinstance(event, PreviewMade)]
    assert len(shown) == STEPS * BLOCKS
    assert read_frames(tmp_path / "preview.webp").shape[0] == 3


def test_the_first_frames_are_trimmed_and_files_have_the_others(pipeline: WanPipeline, whole, tmp_path: Path):
    video, events = run(pipeline, trim_first_frames=3, output_path=tmp_path / "a.webp")
    assert np.array_equal(video.frames, whole[0].frames[3:])
    assert {event.path.name for event in events if isinstance(event, FileWritten)} >= {"a.webp"}
    assert read_frames(tmp_path / "a.webp").shape[0] == 30
    assert not block_path(tmp_path / "a.webp").exists()


def test_its_latents_are_decoded_to_the_same_frames(pipeline: WanPipeline, whole, tmp_path: Path):
    video, _ = run(pipeline, save_latents=tmp_path / "latents.safetensors")
    assert mx.array_equal(video.latents, whole[0].latents)
    assert np.array_equal(pipeline.decode(tmp_path / "latents.safetensors").frames, whole[0].frames)


def test_an_encoded_prompt_and_a_list_of_seeds_make_the_same_videos(pipeline: WanPipeline, whole):
    found = pipeline(pipeline.encode("a cat"), **SMALL)
    assert mx.array_equal(found.latents, whole[0].latents)
    found = {each.index: each.video for each in pipeline.batch(["a cat"], **SMALL, count=2)}
    assert mx.array_equal(found[0].latents, whole[0].latents)
    assert_differs(found[1].latents, whole[0].latents)


# Options


def test_frames_in_the_cache_count_from_where_there_are_more(pipeline: WanPipeline, whole):
    three = whole[0].latents
    for context, same in ((1, 3), (2, 3), (5, 6), (6, 6)):
        found = latents_of(pipeline, kv_cache_frames=context)
        assert mx.array_equal(found[:, :same], three[:, :same]), "the first blocks see all there is"
        assert_differs(found[:, same : same + 3], three[:, same : same + 3])


@pytest.mark.parametrize(
    "change", [{"prompt": "two dogs"}, {"seed": 2}, {"steps": 3}, {"shift": 8.0}, {"noise": "mlx"}], ids=str
)
def test_each_option_changes_the_first_block_and_the_last(pipeline: WanPipeline, whole, change):
    found = latents_of(pipeline, **change)
    assert_differs(found[:, :3], whole[0].latents[:, :3])
    assert_differs(found[:, -3:], whole[0].latents[:, -3:])


def test_its_defaults_are_the_authors(pipeline: WanPipeline):
    plan = pipeline.plan("a cat", **{**SMALL, "steps": None})
    assert any("5 steps each" in text for text in plan.notices)
    assert any("3 of 3 latent frames" in text for text in plan.notices)


def test_a_video_has_whole_blocks(pipeline: WanPipeline):
    video, events = run(pipeline, num_frames=10)
    assert video.frames.shape[0] == 21
    texts = [event.text for event in events if isinstance(event, Notice)]
    assert any(text.startswith("--num-frames 10 becomes 21: ") for text in texts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kv_cache_frames": 19}, "kv_cache_frames: 19: .* sees 21 latent frames at once.*at most 18"),
        ({"kv_cache_frames": 0}, "kv_cache_frames: 0"),
        ({"guide_scale": 5.0}, "guide_scale: 5.0: beside --kv-cache-frames .*prompt alone"),
        ({"recipe": "krea"}, "recipe: krea: beside --kv-cache-frames"),
        ({"scheduler": "euler"}, "scheduler: euler: beside"),
        ({"sigmas": (1.0, 0.5)}, "sigmas: .*beside"),
        ({"tiling": "aggressive"}, "tiling: aggressive: .*tiles need the whole video"),
        ({"decoder": "tiny"}, "decoder: tiny: .*VAE itself"),
        ({"context_frames": 9}, "context_frames: beside --kv-cache-frames it has no place"),
        ({"step_cache": "easycache"}, "step_cache: beside"),
        ({"cfg_zero_star": True}, "cfg_zero_star: beside"),
        ({"segments": 2}, "segments: "),
        ({"input_video": [np.zeros((32, 48, 3), np.uint8)] * 9}, "input_video: beside"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_has_no_place_beside_blocks_is_refused(pipeline: WanPipeline, options, message):
    with pytest.raises(RequestError, match=message):
        run(pipeline, **options)


def test_a_model_that_was_not_trained_to_make_blocks_is_refused(tmp_path: Path):
    original = write_tiny_checkpoint(tmp_path / "Wan").path
    plain = WanPipeline.from_pretrained(convert_checkpoint(original, tmp_path / "m", dtype="float32"))
    with pytest.raises(
        RequestError, match=r"kv_cache_frames: 3: .* was not trained .* krea-realtime 14B was"
    ):
        run(plain)


# Memory


@pytest.mark.nightly
def test_memory_is_the_same_for_3_blocks_and_for_30(pipeline: WanPipeline):
    peaks = {}
    for blocks in (3, 30):
        for event in pipeline.stream(
            "a cat", **(SMALL | {"num_frames": 12 * blocks - 3, "steps": 1, "width": 32, "height": 16})
        ):
            if isinstance(event, StageFinished) and event.stage == "denoise":
                peaks[blocks] = event.peak_bytes
    # MLX counts by pages; 27 blocks more would be 41 kB of latents and 2 MB of frames.
    assert abs(peaks[30] - peaks[3]) < 30_000


# Wide enough that what is planned outweighs what is not; in the second the transformer takes most.
WIDE_VAE = TinySizes(vae=VAEConfig(encoder_dim=32, decoder_dim=32))
WIDE = TinySizes(transformer=TransformerConfig(512, 2048, 4, 4, text_dim=32, freq_dim=64))


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("sizes", "options"),
    [(WIDE_VAE, {"width": 48, "height": 64}), (WIDE, {"width": 96, "height": 96, "kv_cache_frames": 9})],
    ids=["VAE", "transformer"],
)
def test_its_plan_foresees_the_run(tmp_path: Path, sizes: TinySizes, options: dict[str, int]):
    if sizes is WIDE:
        options = options | {"num_frames": 12 * 5 - 3, "steps": 1}
    wide = open_krea(tmp_path, sizes)
    plan = wide.plan("a cat", **(SMALL | options))
    before = mx.get_active_memory()
    _, events = run(wide, **options)
    (denoise,) = (event for event in events if isinstance(event, StageFinished) and event.stage == "denoise")
    assert plan.predicted["denoise"] == pytest.approx(denoise.peak_bytes - before, rel=WITHIN)


def test_the_plan_names_keys_and_values_and_grows_with_them_alone(pipeline: WanPipeline):
    plans = {
        (blocks, context): pipeline.plan(
            "a cat",
            **(
                SMALL
                | {"num_frames": 12 * blocks - 3, "kv_cache_frames": context, "width": 832, "height": 480}
            ),
        )
        for blocks, context in ((30, 3), (300, 3), (30, 9))
    }
    assert plans[30, 3].predicted == plans[300, 3].predicted
    assert plans[30, 9].predicted["denoise"] > plans[30, 3].predicted["denoise"]
    (stage,) = (stage for stage in plans[30, 3].stages if stage.name == "denoise")
    assert "keys and values of 3 latent frames" in stage.holds


def test_where_memory_is_short_fewer_frames_in_the_cache_are_named(pipeline: WanPipeline):
    options = SMALL | {"kv_cache_frames": 18, "width": 128, "height": 128, "num_frames": 93, "stream": "on"}
    less = pipeline.plan("a cat", **(options | {"kv_cache_frames": 9})).predicted["denoise"] / 1e9
    with pytest.raises(MemoryBudgetError, match=r"--kv-cache-frames (\d+)") as caught:
        pipeline.plan("a cat", **options, memory_limit=less)
    assert "--num-frames" not in str(caught.value)
    named = int(re.search(r"--kv-cache-frames (\d+)", str(caught.value))[1])
    fitting = pipeline.plan("a cat", **(options | {"kv_cache_frames": named}), memory_limit=less)
    assert fitting.predicted["denoise"] <= less * 1e9


# Going on


@pytest.mark.parametrize("done", [1, 2, 4, 5])
def test_interrupted_after_each_step_it_goes_on_to_the_same_video(
    pipeline: WanPipeline, whole, tmp_path: Path, done: int
):
    output = tmp_path / "video.webp"
    part, events = run(
        pipeline,
        until=lambda event: isinstance(event, StepFinished) and event.index + 1 == done,
        output_path=output,
    )
    assert part is None
    video, events = run(pipeline, output_path=output, resume=True)
    steps = [event.index for event in events if isinstance(event, StepFinished)]
    assert steps == list(range(done, STEPS * BLOCKS))
    assert mx.array_equal(video.latents, whole[0].latents)
    assert np.array_equal(video.frames, whole[0].frames)
    assert [*tmp_path.iterdir()] == [output], "state and blocks go away with success"


def break_off(pipeline: WanPipeline, output: Path) -> Path:
    """Stop in the third block; returns the file of the two that are finished."""
    run(
        pipeline,
        until=lambda event: isinstance(event, StepFinished) and event.index == 2 * STEPS,
        output_path=output,
    )
    return block_path(output)


@pytest.mark.parametrize("harm", ["damaged", "cut short", "absent", "of another video"])
def test_blocks_that_cannot_be_those_of_the_run_are_refused(pipeline: WanPipeline, tmp_path: Path, harm: str):
    output = tmp_path / "video.webp"
    blocks = break_off(pipeline, output)
    content = bytearray(blocks.read_bytes())
    if harm == "damaged":
        content[len(content) // 2] ^= 1
    if harm == "of another video":
        at = content.index(b'"owner": "') + len(b'"owner": "')
        content[at : at + 32] = hashlib.md5(b"another").hexdigest().encode()
    blocks.write_bytes(content[: -9 if harm == "cut short" else None])
    if harm == "absent":
        blocks.unlink()
    with pytest.raises(MediaError, match=r"video.webp.blocks: the 2 finished blocks .* without --resume"):
        run(pipeline, output_path=output, resume=True)
    assert not output.exists()


def test_a_file_that_is_no_blocks_is_not_written_over(pipeline: WanPipeline, tmp_path: Path):
    other = block_path(tmp_path / "video.webp")
    other.write_text("my notes")
    with pytest.raises(RequestError, match="the run keeps finished blocks here"):
        run(pipeline, output_path=tmp_path / "video.webp")
    assert other.read_text() == "my notes"


def test_a_run_that_begins_anew_takes_no_block_of_the_one_before(
    pipeline: WanPipeline, whole, tmp_path: Path
):
    output = tmp_path / "video.webp"
    break_off(pipeline, output)
    video, events = run(pipeline, output_path=output)
    assert [event.index for event in events if isinstance(event, StepFinished)] == [*range(STEPS * BLOCKS)]
    assert mx.array_equal(video.latents, whole[0].latents)


@pytest.mark.parametrize("other", [{"kv_cache_frames": 6}, {"steps": 3}, {"kv_cache_frames": None}], ids=str)
def test_a_state_of_other_blocks_is_refused(pipeline: WanPipeline, tmp_path: Path, other):
    break_off(pipeline, tmp_path / "video.webp")
    with pytest.raises(RequestError, match="resume: .* is of another run: "):
        run(pipeline, output_path=tmp_path / "video.webp", resume=True, **other)


def test_the_work_of_the_context_counts_in_the_time_that_is_left(pipeline: WanPipeline):
    (work,) = (event for event in pipeline.stream("a cat", **SMALL) if isinstance(event, WorkPlanned))
    # As many frames again go through the transformer before every block but the first.
    assert work.step_weights == (1.0, 1.0, *[2.0, 1.0] * (BLOCKS - 1))


def test_a_kept_state_is_decoded_and_gone_on_with(pipeline: WanPipeline, whole, tmp_path: Path):
    output = tmp_path / "video.webp"
    run(pipeline, output_path=output, keep_state=True)
    (state,) = {*tmp_path.iterdir()} - {output}
    assert np.array_equal(pipeline.decode(state).frames, whole[0].frames)


# Other forms of the weights


def test_streamed_blocks_make_the_same_video(pipeline: WanPipeline, whole):
    plan = pipeline.plan("a cat", **SMALL, stream="on")
    assert plan.choices.resident_blocks == 0
    assert mx.array_equal(latents_of(pipeline, stream="on"), whole[0].latents)


def test_an_adapter_changes_every_block_alike_in_both_modes(pipeline: WanPipeline, whole, tmp_path: Path):
    path = tmp_path / "adapter.safetensors"
    write_adapter(path, pipeline.config.transformer)
    side, merged = (latents_of(pipeline, loras=[path], lora_mode=mode) for mode in ("side", "merge"))
    for start in range(0, 3 * BLOCKS, 3):
        assert_differs(side[:, start : start + 3], whole[0].latents[:, start : start + 3])
    assert mx.abs(merged - side).max() <= 5e-4 * mx.abs(side - whole[0].latents).max()
    unchanged = latents_of(pipeline, loras=[(path, 0.0)])
    assert mx.array_equal(unchanged, whole[0].latents)
    with pytest.raises(RequestError, match="beside --kv-cache-frames adapters have one strength"):
        run(pipeline, loras=[(path, "1:0.5")])


def test_a_quantized_model_makes_nearly_the_same_video(tmp_path: Path, whole):
    quantized = open_krea(tmp_path, deep_sizes(), quantize=True, bits=8)
    video, _ = run(quantized)
    error = mx.abs(video.latents - whole[0].latents).mean() / mx.abs(whole[0].latents).mean()
    assert 1e-6 < error < 0.1
    assert mx.array_equal(latents_of(quantized, stream="on"), video.latents)
