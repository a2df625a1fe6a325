"""A run that ends early goes on to the same video; what is of another run is refused; nothing is lost."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import RequestError, Video, WanPipeline, convert_checkpoint, generate_wan
from mlx_video.errors import CheckpointError, DeviceError, MediaError, MemoryBudgetError, NonFiniteError
from mlx_video.events import FileWritten, Notice, StageStarted, StateSaved, StepFinished
from mlx_video.latents import decode as latents_decode
from mlx_video.latents import run_state
from mlx_video.latents.latents_file import save_latents
from mlx_video.latents.run_state import load_state, save_state
from mlx_video.media.video import open_video_writer, read_frames, read_video_metadata
from mlx_video.models.dispatch import Limits, use_limits
from mlx_video.models.transformer import WanTransformer
from mlx_video.models.vae.autoencoder import WanVAE
from mlx_video.runs.sampling import sample
from mlx_video.runs.stages import decode as stages
from mlx_video.runs.state import resume
from tests.fixtures.adapter_files import write_adapter
from tests.fixtures.tiny_checkpoint import TinySizes, write_tiny_checkpoint
from tests.fixtures.tiny_variants import write_tiny_variant

pytestmark = pytest.mark.slow

STEPS = 4
SMALL = {"width": 16, "height": 16, "num_frames": 5, "steps": STEPS, "guide_scale": 1.0, "seed": 1}
SOLVERS = ("unipc", "dpm++", "euler")


@pytest.fixture(scope="module", autouse=True)
def quick_garbage_collection() -> Iterator[None]:
    """Every stage collects garbage; what earlier tests have loaded need not be looked through each time."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("model")
    return convert_checkpoint(write_tiny_checkpoint(root / "original").path, root / "tiny", dtype="float32")


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> WanPipeline:
    return WanPipeline.from_pretrained(folder)


@pytest.fixture(scope="module")
def uninterrupted(pipeline: WanPipeline) -> dict[str, Video]:
    return {solver: pipeline("a cat", **SMALL, scheduler=solver) for solver in SOLVERS}


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "a.webp"


class Interrupted(Exception):
    """Stands for whatever ends a run."""


def interrupt(pipeline: WanPipeline, output: Path, *, after: int, **options) -> Path:
    """Begin a video and break off after some steps; returns the file of the state."""

    def stop(event) -> None:
        if isinstance(event, StepFinished) and event.index + 1 == after:
            raise Interrupted

    with pytest.raises(Interrupted):
        pipeline("a cat", output_path=output, on_event=stop, **(SMALL | options))
    assert not output.exists()
    return state_of(output)


def state_of(output: Path) -> Path:
    return output.with_name(f"{output.name}.state.safetensors")


def notices(events: list) -> list[str]:
    return [event.text for event in events if isinstance(event, Notice)]


@pytest.fixture(scope="module")
def states(pipeline: WanPipeline, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Path]:
    """What each solver's run keeps after each of its steps."""
    copies: dict[tuple[str, int], Path] = {}
    folder = tmp_path_factory.mktemp("states")

    def copy(event) -> None:
        if isinstance(event, StateSaved):
            copies[solver, event.done] = Path(shutil.copy(event.path, folder / f"{solver} {event.done}"))

    for solver in SOLVERS:
        pipeline("a cat", **SMALL, scheduler=solver, output_path=folder / "a.webp", on_event=copy)
    return copies


@pytest.mark.sample(4)
@pytest.mark.parametrize("after", [1, 2, 3])
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_resumed_video_equals_the_uninterrupted_one_bit_for_bit(
    pipeline: WanPipeline, uninterrupted: dict[str, Video], states, output: Path, solver: str, after: int
):
    events = []
    state = shutil.copy(states[solver, after], state_of(output))
    options = SMALL | {"scheduler": solver, "output_path": output}
    video = pipeline("a cat", **options, resume=True, on_event=events.append)
    assert mx.array_equal(video.latents, uninterrupted[solver].latents)
    assert np.array_equal(video.frames, uninterrupted[solver].frames)
    assert [e.index for e in events if isinstance(e, StepFinished)] == list(range(after, STEPS))
    assert f"Going on after {after} of 4 steps, from {state}." in notices(events)
    assert list(output.parent.iterdir()) == [output], "the state goes away with success"


@pytest.mark.parametrize("seed", [2**64 - 1, -2])
def test_a_run_of_a_long_seed_and_no_prompt_is_resumed(pipeline: WanPipeline, output: Path, seed: int):
    options = SMALL | {"seed": seed}
    whole = pipeline("", **options)

    def stop(event) -> None:
        if isinstance(event, StepFinished) and event.index == 1:
            raise Interrupted

    with pytest.raises(Interrupted):
        pipeline("", output_path=output, on_event=stop, **options)
    for given in ({"seed": seed}, {"seed": -1}):
        kept = shutil.copy(state_of(output), output.with_name("kept"))
        video = pipeline("", **(SMALL | given), output_path=output, resume=True)
        assert mx.array_equal(video.latents, whole.latents)
        assert video.settings["seed"] == str(seed % 2**64)
        shutil.move(kept, state_of(output))


def test_a_run_can_be_resumed_again_and_again(
    pipeline: WanPipeline, uninterrupted: dict[str, Video], output: Path
):
    interrupt(pipeline, output, after=1)
    interrupt(pipeline, output, after=2, resume=True)
    interrupt(pipeline, output, after=3, resume=True)
    video = pipeline("a cat", **SMALL, output_path=output, resume=True)
    assert mx.array_equal(video.latents, uninterrupted["unipc"].latents)


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> WanPipeline:
    root = tmp_path_factory.mktemp("experts")
    write_tiny_variant(root / "original", "wan2.2-i2v-a14b")
    return WanPipeline.from_pretrained(convert_checkpoint(root / "original", root / "m", dtype="float32"))


@pytest.mark.parametrize(("after", "loaded"), [(1, ["high_noise", "low_noise"]), (2, ["low_noise"])])
def test_two_experts_and_an_image_go_on_with_the_right_expert(
    experts: WanPipeline, picture: np.ndarray, output: Path, monkeypatch, after: int, loaded: list[str]
):
    # Timesteps 999, 937, 833 and 624, the last two below the boundary.
    options, opened = {"image": picture, "shift": 5.0, "boundary": 0.9}, []
    whole = experts("a cat", **(SMALL | options))
    interrupt(experts, output, after=after, **options)
    open_guided_transformer = sample.open_guided_transformer

    def noted(run, recipe, conditioning, name, *others):
        opened.append(name)
        return open_guided_transformer(run, recipe, conditioning, name, *others)

    monkeypatch.setattr(sample, "open_guided_transformer", noted)
    video = experts("a cat", **(SMALL | options), output_path=output, resume=True)
    assert opened == loaded
    assert mx.array_equal(video.latents, whole.latents)


def test_a_given_first_frame_stays_in_place(tmp_path: Path, picture: np.ndarray, output: Path):
    write_tiny_variant(tmp_path / "original", "wan2.2-ti2v-5b")
    pipeline = WanPipeline.from_pretrained(
        convert_checkpoint(tmp_path / "original", tmp_path / "m", dtype="float32")
    )
    options = {"image": picture, "width": 32, "height": 32}
    whole = pipeline("a cat", **(SMALL | options))
    interrupt(pipeline, output, after=2, **options)
    video = pipeline("a cat", **(SMALL | options), output_path=output, resume=True)
    assert mx.array_equal(video.latents, whole.latents)


# What a state knows: options, and what files hold.


@pytest.fixture(scope="module")
def kept(pipeline: WanPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("kept") / "a.webp"
    interrupt(pipeline, output, after=2, guide_scale=2.0)
    return output


def resume_kept(pipeline: WanPipeline, kept: Path, **options) -> None:
    def stop(event) -> None:
        if isinstance(event, StageStarted):
            raise Interrupted

    options = {"prompt": "a cat", "guide_scale": 2.0, "output_path": kept, "resume": True} | options
    pipeline(on_event=stop, **(SMALL | options))


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"prompt": "two dogs"}, "--prompt is a cat there and two dogs here"),
        (
            {"prompt": "x" * 99 + "y"},
            '--prompt is a cat there and "' + "x" * 60 + '…" here',
        ),
        ({"negative_prompt": ""}, '" there and "" here'),
        ({"seed": 5}, "--seed is 1 there and 5 here"),
        ({"noise": "mlx"}, "--noise is torch there and mlx here"),
        ({"steps": 5}, "--steps is 4 there and 5 here"),
        ({"shift": 2.0}, "--shift is 5.0 there and 2.0 here"),
        ({"guide_scale": 3.0}, "--guide-scale is 2.0 there and 3.0 here"),
        ({"scheduler": "euler"}, "--scheduler is unipc there and euler here"),
        ({"width": 48, "seed": 2}, "--width is 16 there and 48 here; --seed is 1 there and 2 here"),
        ({"num_frames": 9}, "--num-frames is 5 there and 9 here"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_state_of_other_settings_is_refused_with_the_difference(
    pipeline: WanPipeline, kept: Path, options: dict, difference: str
):
    before = state_of(kept).read_bytes()
    with pytest.raises(RequestError) as caught:
        resume_kept(pipeline, kept, **options)
    assert caught.value.field == "resume"
    assert f"{state_of(kept)} is of another run: " in caught.value.message
    assert difference in caught.value.message
    assert state_of(kept).read_bytes() == before


def test_long_prompts_are_shown_where_they_differ(pipeline: WanPipeline, output: Path):
    long = "a very long prompt about a cat " * 5

    def stop(event) -> None:
        if isinstance(event, StateSaved):
            raise Interrupted

    with pytest.raises(Interrupted):
        pipeline(long + "that sleeps", **SMALL, output_path=output, on_event=stop)
    with pytest.raises(
        RequestError, match=r'"…[a-z ]* cat that sleeps" there and "…[a-z ]* cat that eats" here'
    ):
        pipeline(long + "that eats", **SMALL, output_path=output, resume=True)


@pytest.mark.parametrize(
    "options",
    [
        {"experts": "parallel"}, {"tiling": "none"}, {"compile": False}, {"trim_first_frames": 2},
        {"save_frames": "frames"}, {"checkpoint_every": 3}, {"debug_latents": True}, {"seed": -1},
    ],
    ids=lambda options: next(iter(options)),
)  # fmt: skip
def test_options_that_do_not_change_the_latents_may_differ(
    pipeline: WanPipeline, kept: Path, tmp_path: Path, options: dict
):
    if "save_frames" in options:
        options = {"save_frames": tmp_path / "frames"}
    with pytest.raises(Interrupted):  # in its first stage: it was not refused
        resume_kept(pipeline, kept, **options)


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: replace(state, latents=state.latents[:, :1], sampler={}),
        lambda state: replace(state, steps=STEPS + 1),
        lambda state: replace(state, sampler={"solver.another": state.latents}),
    ],
    ids=["shape", "steps", "solver"],
)
def test_a_state_that_contradicts_itself_is_refused_by_name(
    pipeline: WanPipeline, kept: Path, output: Path, damage
):
    save_state(state_of(output), damage(load_state(state_of(kept))))
    with pytest.raises(MediaError, match=r"state\.safetensors: is damaged \(.*\)\. Begin anew without"):
        resume_kept(pipeline, output)


def test_a_state_without_a_seed_is_refused_by_name_or_replaced(
    pipeline: WanPipeline, kept: Path, output: Path
):
    save_state(state_of(output), replace(load_state(state_of(kept)), settings={}))
    with pytest.raises(MediaError, match=r"is no state of a run \(KeyError\('seed'\)\)\. Begin anew without"):
        resume_kept(pipeline, output)
    with pytest.raises(Interrupted):
        resume_kept(pipeline, output, resume=False)


def test_other_weights_are_refused_by_file(folder: Path, kept: Path, tmp_path: Path):
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    tensors = mx.load(str(other / "model.safetensors"))
    name = "blocks.0.self_attn.q.weight"
    mx.save_safetensors(str(other / "model.safetensors"), tensors | {name: tensors[name] * 1.01})
    with pytest.raises(RequestError, match=r"another run: model\.safetensors is .* there and .* here"):
        resume_kept(WanPipeline.from_pretrained(other), kept)


def test_a_copy_of_the_model_is_the_same_model(folder: Path, kept: Path, tmp_path: Path):
    copy = Path(shutil.copytree(folder, tmp_path / "elsewhere"))
    with pytest.raises(Interrupted):
        resume_kept(WanPipeline.from_pretrained(copy), kept)


def test_adapters_are_compared_by_content_and_strength(pipeline: WanPipeline, output: Path, tmp_path: Path):
    config = TinySizes().transformer
    for name, seed in (("one", 0), ("two", 1)):
        write_adapter(tmp_path / name, config, seed=seed)
    one, two = tmp_path / "one", tmp_path / "two"
    whole = pipeline("a cat", **SMALL, loras=[(one, 0.5)])
    interrupt(pipeline, output, after=2, loras=[(one, 0.5)])
    for loras, difference in (
        ([(two, 0.5)], r"adapter 1 of --lora is .* there and .* here"),
        ([(one, 0.7)], r"adapter 1 of --lora is .*strength 0\.5 there and .*strength 0\.7 here"),
        ([], r"adapter 1 of --lora is .* there and absent here"),
        ([(one, 0.5), two], r"adapter 2 of --lora is absent there"),
    ):
        with pytest.raises(RequestError, match=difference):
            pipeline("a cat", **SMALL, loras=loras, output_path=output, resume=True)
    one.rename(tmp_path / "moved")
    video = pipeline("a cat", **SMALL, loras=[(tmp_path / "moved", 0.5)], output_path=output, resume=True)
    assert mx.array_equal(video.latents, whole.latents)


def test_images_are_compared_by_their_pixels(experts: WanPipeline, picture: np.ndarray, output: Path):
    from PIL import Image

    interrupt(experts, output, after=1, image=picture)
    with pytest.raises(RequestError, match=r"another run: --image is 32x32, \w+ there and 32x32, \w+ here"):
        experts("a cat", **SMALL, image=picture + 1, output_path=output, resume=True)
    same = Image.fromarray(picture)
    experts("a cat", **SMALL, image=same, output_path=output, resume=True)


# Beginning without --resume, or without a state.


def test_resume_without_a_state_begins_at_the_first_step(
    pipeline: WanPipeline, uninterrupted: dict[str, Video], output: Path
):
    events = []
    video = pipeline("a cat", **SMALL, output_path=output, resume=True, on_event=events.append)
    assert notices(events)[0] == f"No state in {state_of(output)}: beginning at the first step."
    assert mx.array_equal(video.latents, uninterrupted["unipc"].latents)


def test_a_seed_that_was_drawn_at_random_is_taken_from_the_state(pipeline: WanPipeline, output: Path):
    seed = load_state(interrupt(pipeline, output, after=1, seed=-1)).settings["seed"]
    video = pipeline("a cat", **(SMALL | {"seed": -1}), output_path=output, resume=True)
    assert video.settings["seed"] == seed
    assert seed not in ("-1", "1")


def test_without_resume_an_earlier_state_is_named_and_stays_until_the_first_step(
    pipeline: WanPipeline, output: Path
):
    state, events = interrupt(pipeline, output, after=3), []
    earlier = state.read_bytes()

    def watch(event) -> None:
        events.append(event)
        if isinstance(event, StageStarted) and event.stage == "denoise":
            assert state.read_bytes() == earlier
        if isinstance(event, StepFinished):
            assert load_state(state).next_step == 1
            raise Interrupted

    with pytest.raises(Interrupted):
        pipeline("a dog", **SMALL, output_path=output, on_event=watch)
    assert f"{state} holds 3 of 4 steps of an earlier run, which --resume goes on with." in notices(events)[0]


def test_a_state_of_another_version_is_reported(pipeline: WanPipeline, output: Path, monkeypatch):
    monkeypatch.setattr(run_state, "__version__", "0.0.1")
    interrupt(pipeline, output, after=3)
    monkeypatch.undo()
    events = []
    pipeline("a cat", **SMALL, output_path=output, resume=True, on_event=events.append)
    assert any(text.startswith("It was made with mlx-video 0.0.1, mlx ") for text in notices(events))


# When a state is written.


@pytest.mark.parametrize(("every", "kept_after"), [(1, [1, 2, 3, 4]), (3, [3, 4]), (0, [4])])
def test_a_state_is_written_every_n_steps_and_after_the_last(
    pipeline: WanPipeline, output: Path, every: int, kept_after: list[int]
):
    events = []
    pipeline("a cat", **SMALL, output_path=output, checkpoint_every=every, on_event=events.append)
    assert [event.done for event in events if isinstance(event, StateSaved)] == kept_after
    assert list(output.parent.iterdir()) == [output]


def test_keep_state_leaves_the_state(pipeline: WanPipeline, output: Path):
    events = []
    pipeline("a cat", **SMALL, output_path=output, keep_state=True, on_event=events.append)
    assert load_state(state_of(output)).is_finished
    assert [e.path for e in events if isinstance(e, FileWritten)] == [state_of(output), output]


def test_without_a_video_file_there_is_no_state(pipeline: WanPipeline, tmp_path: Path):
    events = []
    pipeline("a cat", **SMALL, save_frames=tmp_path / "frames", on_event=events.append)
    assert not [event for event in events if isinstance(event, StateSaved)]
    assert [path.name for path in tmp_path.iterdir()] == ["frames"]


def test_a_disk_that_becomes_full_does_not_end_the_run(
    pipeline: WanPipeline, uninterrupted: dict[str, Video], output: Path, monkeypatch
):
    def full(path: Path, state) -> None:
        raise MediaError(f"{path}: cannot be written (No space left on device). Check the free space.")

    monkeypatch.setattr(resume, "save_state", full)
    events = []
    video = pipeline("a cat", **SMALL, output_path=output, on_event=events.append)
    assert notices(events)[0].startswith("The state after 1 of 4 steps is not kept. ")
    assert "No space left on device" in notices(events)[0]
    assert mx.array_equal(video.latents, uninterrupted["unipc"].latents)


# Failures: what is kept, and what the user is told.


def test_latents_that_stop_being_finite_leave_the_last_good_state(
    pipeline: WanPipeline, uninterrupted: dict[str, Video], output: Path, monkeypatch
):
    predict = WanTransformer.predict

    def break_in_step_three(self, latents, step, *rest, **options):
        factor = float("nan") if step.index == 2 else 1
        return [velocity * factor for velocity in predict(self, latents, step, *rest, **options)]

    monkeypatch.setattr(WanTransformer, "predict", break_in_step_three)
    with pytest.raises(NonFiniteError) as caught:
        pipeline("a cat", **SMALL, output_path=output)
    text = str(caught.value)
    assert "step 3 of 4" in text
    assert f"mlx {mx.__version__} on {mx.device_info()['device_name']}" in text
    assert "add --no-compile, and go on with --resume" in text
    assert caught.value.__notes__ == [
        f"2 of 4 steps are kept in {state_of(output)}: the same call with resume=True goes on from there."
    ]
    monkeypatch.undo()  # the fault is repaired
    video = pipeline("a cat", **SMALL, output_path=output, resume=True, compile=False)
    # Fused operations round otherwise in the first two steps.
    assert mx.allclose(video.latents, uninterrupted["unipc"].latents, atol=1e-4)


def break_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_, **__):
        raise RuntimeError("the decoder failed")

    monkeypatch.setattr(stages, "decode_chunks", fail)


def test_a_failed_decoding_names_the_command_that_finishes_the_job(
    pipeline: WanPipeline, folder: Path, uninterrupted: dict[str, Video], tmp_path: Path, monkeypatch, capsys
):
    output, frames = tmp_path / "my cat.webp", tmp_path / "frames"
    options = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    command = ["--model-dir", str(folder), "--prompt", "a cat", *options, "--output-path", str(output)]
    command += ["--trim-first-frames", "2", "--save-frames", str(frames)]
    break_decoding(monkeypatch)
    assert generate_wan.main(command) == 1
    *_, error, resume_hint = capsys.readouterr().err.splitlines()
    assert "the decoder failed" in error
    state = state_of(output)
    expected = (
        f"The finished latents are kept in {state}. Make the video from them with: python -m "
        f"mlx_video.generate_wan --model-dir {folder} --decode-only '{state}' --output-path '{output}' "
        f"--save-frames {frames} --trim-first-frames 2"
    )
    assert resume_hint == expected
    monkeypatch.undo()
    words = ["--model-dir", str(folder), "--decode-only", str(state), "--output-path", str(output)]
    assert generate_wan.main([*words, "--save-frames", str(frames), "--trim-first-frames", "2"]) == 0
    assert capsys.readouterr().out.splitlines() == [str(frames), str(output)]
    assert len(list(frames.iterdir())) == 3
    assert read_video_metadata(output) == uninterrupted["unipc"].settings | {"trim_first_frames": "2"}
    assert not state.exists(), "the state goes away with success"


@pytest.mark.parametrize(("factor", "error"), [(0.0, DeviceError), (float("nan"), NonFiniteError)])
def test_frames_that_the_gpu_did_not_make_leave_the_latents_and_no_video(
    pipeline: WanPipeline, uninterrupted: dict[str, Video], output: Path, monkeypatch, factor, error
):
    decode = WanVAE.decode

    def leave_zeros(self, *arguments):
        return (factor * frames for frames in decode(self, *arguments))

    monkeypatch.setattr(WanVAE, "decode", leave_zeros)
    with pytest.raises(error, match="decoding: ") as caught:
        pipeline("a cat", **SMALL, output_path=output)
    assert not output.exists()
    assert "pipe.decode(" in caught.value.__notes__[0]
    kept = load_state(state_of(output))
    assert kept.is_finished
    assert mx.array_equal(kept.latents, uninterrupted["unipc"].latents)


def test_a_gpu_that_gains_by_it_decodes_latents_in_pairs(
    pipeline: WanPipeline, uninterrupted: dict[str, Video], monkeypatch
):
    monkeypatch.setattr(stages, "on_gpu", lambda: True)
    monkeypatch.setattr(latents_decode, "LEAST_PIXELS", 6)  # of two latents of 2×2 cells, and not of one
    decode, taken = stages.decode_chunks, []
    monkeypatch.setattr(stages, "decode_chunks", lambda *a, **how: taken.append(how) or decode(*a, **how))
    with use_limits(Limits(pairs_latents=True)):
        video = pipeline("a cat", **SMALL, device_check=False)
    assert [(how["latents_per_push"], how["parts"]) for how in taken] == [(2, (2, 1, 1, 1))]
    difference = np.abs(video.frames.astype(int) - uninterrupted["unipc"].frames.astype(int))
    assert difference.max() <= 1


def test_memory_that_runs_out_while_decoding_leaves_the_latents_and_names_the_cure(
    pipeline: WanPipeline, output: Path, monkeypatch
):
    def run_out(*_, **__):
        raise RuntimeError(
            "[METAL] Command buffer execution failed: Insufficient Memory "
            "(00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)."
        )

    monkeypatch.setattr(stages, "decode_chunks", run_out)
    with pytest.raises(MemoryBudgetError, match="--memory-limit.*--tiling aggressive") as caught:
        pipeline("a cat", **SMALL, output_path=output)
    assert "pipe.decode(" in caught.value.__notes__[0]
    assert load_state(state_of(output)).is_finished


def test_resuming_a_finished_state_goes_straight_to_decoding(
    pipeline: WanPipeline, uninterrupted: dict[str, Video], output: Path, monkeypatch
):
    break_decoding(monkeypatch)
    with pytest.raises(RuntimeError) as caught:
        pipeline("a cat", **SMALL, output_path=output)
    assert (
        f"Make the video from them with: pipe.decode({str(state_of(output))!r}, output_path="
        in caught.value.__notes__[0]
    )
    monkeypatch.undo()
    events = []
    video = pipeline("a cat", **SMALL, output_path=output, resume=True, on_event=events.append)
    assert [event.stage for event in events if isinstance(event, StageStarted)] == ["decode"]
    assert np.array_equal(video.frames, uninterrupted["unipc"].frames)


# Decoding alone.


@pytest.fixture(scope="module")
def latents_file(pipeline: WanPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("latents") / "final.safetensors"
    pipeline("a cat", **SMALL, save_latents=path)
    return path


def test_decoding_opens_neither_text_encoder_nor_transformer(
    folder: Path, latents_file: Path, uninterrupted: dict[str, Video], tmp_path: Path
):
    broken = Path(shutil.copytree(folder, tmp_path / "broken"))
    for name in ("model.safetensors", "t5_encoder.safetensors"):
        (broken / name).write_bytes(b"damaged")
    shutil.rmtree(broken / "tokenizer")
    video = WanPipeline.from_pretrained(broken).decode(latents_file, output_path=tmp_path / "a.webp")
    whole = uninterrupted["unipc"]
    assert np.array_equal(video.frames, whole.frames)
    assert mx.array_equal(video.latents, whole.latents)
    assert video.settings == whole.settings
    assert read_frames(tmp_path / "a.webp").shape[1:] == (16, 16, 3)
    assert latents_file.exists(), "what the user named as an input stays"


def test_the_command_decodes_without_a_prompt(folder: Path, latents_file: Path, output: Path, capsys):
    words = ["--model-dir", str(folder), "--decode-only", str(latents_file), "--output-path", str(output)]
    assert generate_wan.main(words) == 0
    assert capsys.readouterr().out == f"{output}\n"


@pytest.mark.parametrize("option", ["--decode-only", "--resume"])
@pytest.mark.parametrize("damage", ["cut short", "a video"])
def test_a_file_that_is_no_state_gets_a_message_of_our_own(
    folder: Path, kept: Path, output: Path, capsys, option: str, damage: str
):
    state = state_of(output)
    if damage == "a video":
        with open_video_writer(output.with_suffix(".mp4"), 16, 16, 8, {}) as writer:
            writer.write(np.zeros((2, 16, 16, 3), np.uint8))
        shutil.move(output.with_suffix(".mp4"), state)
    else:
        state.write_bytes(state_of(kept).read_bytes()[:-100])
    before = state.read_bytes()
    options = [option, str(state)] if option == "--decode-only" else ["--prompt", "a cat", option]
    assert generate_wan.main(["--model-dir", str(folder), *options, "--output-path", str(output)]) == 1
    text = ": cut short, " if damage == "cut short" else ", but a video. Give what --save-latents wrote"
    shown = capsys.readouterr().err
    assert f"error: {state}: no complete safetensors file{text}" in shown
    assert "Traceback" not in shown
    assert state.read_bytes() == before
    assert not output.exists()


def test_an_unfinished_state_is_not_decoded(pipeline: WanPipeline, kept: Path):
    with pytest.raises(
        RequestError, match=r"2 of 4 steps are taken, so the latents are noise still.*--resume"
    ):
        pipeline.decode(state_of(kept))


def test_latents_of_another_vae_are_refused(pipeline: WanPipeline, tmp_path: Path):
    save_latents(tmp_path / "a", mx.zeros((48, 2, 4, 4)), {"model": "wan2.2-ti2v-5b"})
    with pytest.raises(RequestError, match=r"48 channels, the model's VAE takes 16\..*\(wan2\.2-ti2v-5b\)"):
        pipeline.decode(tmp_path / "a")


@pytest.mark.parametrize("shape", [(16, 2, 3, 4), (16, 2, 4, 3), (16, 0, 4, 4), (16, 2, 0, 4)])
def test_latents_that_no_run_makes_are_refused(pipeline: WanPipeline, tmp_path: Path, shape: tuple[int, ...]):
    save_latents(tmp_path / "a", mx.zeros(shape), {})
    with pytest.raises(RequestError, match=r"decode_only: .*a: latents of \d frames of \dx\d cells"):
        pipeline.decode(tmp_path / "a")


def test_planning_to_decode_makes_no_folder(pipeline: WanPipeline, latents_file: Path, tmp_path: Path):
    plan = pipeline.plan(decode_only=latents_file, output_path=tmp_path / "new" / "a.webp")
    assert list(plan.predicted) == ["decode"]
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_a_decoder_is_refused(folder: Path, latents_file: Path, tmp_path: Path):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    tensors = mx.load(str(copy / "vae.safetensors"))
    half = {name: array for name, array in tensors.items() if name.startswith(("encoder.", "conv1."))}
    mx.save_safetensors(str(copy / "vae.safetensors"), half)
    with pytest.raises(CheckpointError, match="there is no VAE decoder to make frames"):
        WanPipeline.from_pretrained(copy).decode(latents_file)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"resume": True}, "resume: needs --output-path"),
        ({"keep_state": True}, "keep_state: needs --output-path"),
        ({"checkpoint_every": -1}, "checkpoint_every: -1: must be at least 0"),
        (
            {"decode_only": "a", "save_latents": "b"},
            "save_latents: with --decode-only there is no step to take",
        ),
        ({"decode_only": "a", "resume": True, "output_path": "b.webp"}, "resume: with --decode-only"),
        ({"decode_only": "no such file"}, "no such file: no such file"),
    ],
)
def test_options_that_contradict_each_other_are_refused(pipeline: WanPipeline, options: dict, text: str):
    with pytest.raises((RequestError, MediaError), match=text):
        pipeline("a cat", **options)


def test_a_video_that_loses_all_its_frames_is_refused(pipeline: WanPipeline, latents_file: Path):
    with pytest.raises(RequestError, match="5: leaves nothing of 5 frames"):
        pipeline.decode(latents_file, trim_first_frames=5)
