"""Every variant, from its checkpoint to the video: convert, inspect, plan, run, interrupt, resume, adapt.

A new variant takes part with a row in `tests/fixtures/tiny_variants.py`; without one it fails here by name.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import Video, WanPipeline, convert_checkpoint
from mlx_video.conditioning.control.camera_path import DEFAULT_ORIGIN
from mlx_video.conditioning.control.units import MOTION
from mlx_video.conditioning.speech.sound import MOTION_FRAMES
from mlx_video.config import config_from_json, config_to_json
from mlx_video.errors import RequestError
from mlx_video.events import (
    Event,
    FileWritten,
    FramesDecoded,
    MemoryPlanned,
    Notice,
    StageFinished,
    StageStarted,
    StepFinished,
)
from mlx_video.geometry import size_multiple
from mlx_video.inspect.path import inspect_path
from mlx_video.latents.latents_file import load_latents
from mlx_video.layouts.components import MOTION_CONTROLLER
from mlx_video.media.video import read_frames
from mlx_video.planning.memory_plan import MemoryPlan
from mlx_video.request import INPUTS
from mlx_video.variants.registry import VARIANTS
from mlx_video.variants.variant import Variant
from tests.fixtures.adapter_files import write_adapter
from tests.fixtures.diffusers_checkpoint import write_diffusers_variant
from tests.fixtures.sounds import rising_tone, write_wav
from tests.fixtures.tiny_variants import (
    CONTROL_VARIANTS,
    DIFFUSERS_VARIANTS,
    OWN_LAYOUT_VARIANTS,
    SPEECH_VARIANTS,
    TINY_VARIANTS,
    UNPUBLISHED_VARIANTS,
    WAV2VEC2,
    tiny_variant,
    write_motion_controller,
    write_tiny_variant,
)

pytestmark = pytest.mark.slow

STEPS = 3  # of which each of two experts serves at least one under its variant's own shift and boundary
# A model that goes on from a video takes ten steps more below noise level 0.5, in place of one here.
STEPS_TAKEN = {"longcat-video": 12}
NUM_FRAMES = 5
LAYERS = 4  # enough to be streamed
CHANGED = 1e-3
# Most of these small peaks is weights: the plan knows whose are in memory. How well it foresees the rest is
# tested with networks of other sizes, in tests/planning.
WITHIN = 0.15
# Float32 rounds a merged weight, an unmerged adapter rounds its output: up to 6e-6 of the change was seen.
ROUNDING = 5e-5
# Random weights of 8 bits in groups of 32 change the latents by 0.2 to 0.8 %.
QUANTIZED = 0.02


def draw_picture(name: str, seed: int) -> np.ndarray:
    """A picture of its own for each input."""
    return np.random.default_rng([seed, len(name)]).integers(0, 256, (40, 56, 3), np.uint8)


HALVES = [
    np.repeat(np.uint8([255] * 20 + [0] * 20)[order, None, None], 56, 1).repeat(3, 2)
    for order in (slice(None), slice(None, None, -1))
]
CAMERA: Mapping[str, tuple[object, object]] = {
    "camera_control_direction": ("Left", "Up"),
    "camera_trajectory": ("Zoom_In", "CW"),
    "camera_control_speed": (0.2, 0.4),
    "camera_control_origin": ((0, 0.7, *DEFAULT_ORIGIN[2:]), (0, 0.4, *DEFAULT_ORIGIN[2:])),
}
SOUNDS = tempfile.TemporaryDirectory()
SECONDS = 0.3  # of the frames of a run, and no more


def write_sound(name: str, seed: int) -> Path:
    """A file of a sound, or of the features of one."""
    path = Path(SOUNDS.name) / f"{name}-{seed}"
    if name == "input_audio":
        return write_wav(path.with_suffix(".wav"), rising_tone(SECONDS, 16000, 150 + 200 * seed), 16000)
    features = np.random.default_rng(seed).normal(size=(1, 25, WAV2VEC2.width, NUM_FRAMES))
    np.save(path.with_suffix(".npy"), features.astype(np.float32))
    return path.with_suffix(".npy")


def draw_footage(name: str, seed: int) -> list[np.ndarray]:
    """As many frames as those of a video's inputs need that are not picked by its length."""
    return [draw_picture(name, 2 * frame + seed) for frame in range(MOTION_FRAMES)]


EXAMPLES: Mapping[str, Callable[[str, int], object]] = {
    "text": lambda name, seed: ("a cat", "two dogs in the rain")[seed],
    "image": draw_picture,
    "number": lambda name, seed: (20.0, 90.0)[seed],
    "camera": lambda name, seed: CAMERA[name][seed],
    "video": lambda name, seed: [draw_picture(name, 2 * frame + seed) for frame in range(NUM_FRAMES)],
    "tail": lambda name, seed: [draw_picture(name, seed)],
    "whole video": lambda name, seed: [
        draw_picture(name, 2 * frame + seed) for frame in range(2 * NUM_FRAMES)
    ],
    "footage": draw_footage,
    "audio": write_sound,
    "mask": lambda name, seed: [HALVES[seed]] * NUM_FRAMES,
    "pictures": lambda name, seed: [draw_picture(name, 2 * number + seed) for number in range(2)],
}
"""Kind of input → its value in a run, from the input's name and a seed; seed 1 gives another than seed 0."""

ONLY_WITH: Mapping[str, tuple[str, ...]] = {
    "image": ("end_image",),
    "inpaint_video": ("inpaint_video_mask",),
    "inpaint_video_mask": ("inpaint_video",),
    "animate_inpaint_video": ("animate_mask_video",),
    "animate_mask_video": ("animate_inpaint_video",),
}
"""Input → the others that cannot be given without it."""


def example(name: str, seed: int = 0) -> object:
    """What is given for an input of a request."""
    kind = INPUTS[name]
    if kind not in EXAMPLES:
        pytest.fail(f"{name}: EXAMPLES has no {kind} to give")
    return EXAMPLES[kind](name, seed)


ROWS = TINY_VARIANTS | CONTROL_VARIANTS | DIFFUSERS_VARIANTS | SPEECH_VARIANTS | OWN_LAYOUT_VARIANTS
ROWS |= UNPUBLISHED_VARIANTS


class Interrupted(Exception):
    """Stands for whatever ends a run."""


@dataclass
class Outcome:
    """What a run told, and its video if it came to its end.

    Attributes:
        events: of the run.
        video: None where it was broken off.
        other_bytes: in use by other tests when it began.
    """

    events: list[Event] = field(default_factory=list)
    video: Video | None = None
    other_bytes: int = 0

    def of(self, *kinds: type) -> list:
        return [event for event in self.events if isinstance(event, kinds)]

    @property
    def steps(self) -> dict[int, mx.array]:
        """Step → the latents after it."""
        return {event.index: event.latents for event in self.of(StepFinished)}

    @property
    def latents(self) -> mx.array:
        """The latents after the last step."""
        return self.of(StepFinished)[-1].latents

    @property
    def stages(self) -> list[str]:
        return [event.stage for event in self.of(StageStarted)]


def is_decoding(event: Event) -> bool:
    return isinstance(event, StageStarted) and event.stage == "decode"


@dataclass
class Walk:
    """One variant on its way; what several steps need is made once."""

    variant: Variant
    root: Path

    @property
    def is_decoded_behind_others(self) -> bool:
        """Whether the decoder sees latents before the video's, which a file of latents does not have."""
        way = self.variant.continuation
        return way is not None and way.extra_frames > 0

    @cached_property
    def found_as(self) -> Variant:
        """The variant that the converter finds."""
        name = tiny_variant(self.variant.name).found_as or self.variant.name
        return next(variant for variant in VARIANTS if variant.name == name)

    @property
    def steps(self) -> range:
        """Indices of the steps of a run."""
        return range(STEPS_TAKEN.get(self.variant.name, STEPS))

    @cached_property
    def original(self) -> Path:
        path = self.root / tiny_variant(self.variant.name).called
        sizes = tiny_variant(self.variant.name).deepened(LAYERS).sizes
        if self.variant.name in DIFFUSERS_VARIANTS:
            write_diffusers_variant(path, self.variant.name, sizes)
        else:
            write_tiny_variant(path, self.variant.name, num_layers=LAYERS)
        if MOTION in self.variant.inputs.all:
            write_motion_controller(path / MOTION_CONTROLLER.file_name, sizes.transformer.dim)
        return path

    @cached_property
    def conversion(self) -> list[Event]:
        events: list[Event] = []
        convert_checkpoint(self.original, self.root / "converted", dtype="float32", on_event=events.append)
        return events

    @cached_property
    def model(self) -> Path:
        """The converted folder; one that its size made another variant of is given its own name."""
        path = self.conversion[-1].path
        if self.found_as is not self.variant:
            config = config_from_json(json.loads((path / "config.json").read_text()))
            own = replace(config, variant=self.variant.name, sampling=self.variant.sampling)
            (path / "config.json").write_text(json.dumps(config_to_json(own)))
        return path

    @cached_property
    def pipeline(self) -> WanPipeline:
        return WanPipeline.from_pretrained(self.model, keep_networks=False)

    @cached_property
    def options(self) -> dict[str, object]:
        """A small run with every input that the variant takes; what is not given is the variant's own."""
        config = self.pipeline.config
        width, height = size_multiple(config.vae.stride, config.transformer.patch_size)
        inputs = {name: example(name) for name in self.variant.inputs.together}
        return inputs | {
            "width": 2 * width, "height": height, "num_frames": NUM_FRAMES, "steps": STEPS, "seed": 1,
        }  # fmt: skip

    def run(
        self,
        *,
        until: Callable[[Event], bool] = lambda event: False,
        pipeline: WanPipeline | None = None,
        **changes: object,
    ) -> Outcome:
        """Make a video; an input changed to None is not given.

        Args:
            until: says at which event to break off.
            pipeline: another one than the variant's own.
            changes: of the options.
        """
        outcome = Outcome(other_bytes=mx.get_active_memory())

        def note(event: Event) -> None:
            outcome.events.append(event)
            if until(event):
                raise Interrupted

        options = {name: value for name, value in (self.options | changes).items() if value is not None}
        with contextlib.suppress(Interrupted):
            outcome.video = (pipeline or self.pipeline)(**options, on_event=note)
        return outcome

    @cached_property
    def output(self) -> Path:
        return self.root / "video.webp"

    @cached_property
    def latents_file(self) -> Path:
        return self.root / "latents.safetensors"

    @cached_property
    def whole(self) -> Outcome:
        """The run that the others are compared with."""
        return self.run(stream="off", output_path=self.output, save_latents=self.latents_file)

    @cached_property
    def adapter(self) -> Path:
        """An adapter for every linear layer of the blocks."""
        path = self.root / "adapter.safetensors"
        write_adapter(path, self.pipeline.config.transformer)
        return path


def test_no_tiny_checkpoint_is_of_a_variant_that_is_gone():
    assert set(ROWS) <= {variant.name for variant in VARIANTS}


# Networks and inputs of another row in other sizes.
LIKENESSES = (
    "wan2.1-t2v-demo", "wan2.1-t2v", "wan2.1-t2v-14b", "wan2.2-i2v-demo", "wan2.2-i2v", "wan2.1-fun-inp",
    "wan2.2-fun-control-demo", "wan2.2-fun-control", "wan2.2-fun-control-camera", "wan2.1-vace",
    "wan2.1-vace-14b",
)  # fmt: skip


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(each, id=each.name, marks=[pytest.mark.nightly] * (each.name in LIKENESSES))
        for each in VARIANTS
    ],
)
def walk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Walk:
    variant = request.param
    if variant.name not in ROWS:
        pytest.fail(f"{variant.name} has no tiny checkpoint: add its row to tests/fixtures/tiny_variants.py")
    return Walk(variant, tmp_path_factory.mktemp(variant.name))


def assert_same_steps(found: Outcome, expected: Outcome) -> None:
    """Compare the latents after every step bit for bit."""
    assert list(found.steps) == list(expected.steps)
    for index, latents in found.steps.items():
        assert mx.array_equal(latents, expected.steps[index]), f"after step {index + 1}"


def assert_changed(found: mx.array, expected: mx.array, what: str) -> None:
    assert mx.isfinite(found).all(), what
    assert mx.abs(found - expected).max().item() > CHANGED, f"{what} changes nothing"


def test_it_is_converted_as_what_it_is(walk: Walk):
    texts = [event.text for event in walk.conversion if isinstance(event, Notice)]
    assert any(text.startswith(f"Found {walk.found_as.title}: ") for text in texts)
    assert isinstance(walk.conversion[-1], FileWritten)
    config = walk.pipeline.config
    assert (config.variant, config.sampling) == (walk.variant.name, walk.variant.sampling)
    assert config.transformer.model_type == walk.variant.model_type


def test_it_is_recognised_by_inspection(walk: Walk):
    expected = {walk.original: ("checkpoint", walk.found_as), walk.model: ("converted model", walk.variant)}
    for path, (kind, variant) in expected.items():
        found = inspect_path(path)
        assert (found.kind, found.variant, found.model) == (kind, variant.name, variant.title)
        assert (found.missing, found.problems) == ((), ())


@pytest.mark.sample(13)
def test_its_run_ends_with_a_video(walk: Walk):
    whole = walk.whole
    assert [event.index for event in whole.of(StepFinished)] == list(walk.steps)
    assert [event.stage for event in whole.of(StageFinished)] == whole.stages
    decoded = whole.of(FramesDecoded)[-1]
    assert decoded.done == decoded.total
    behind_others = walk.is_decoded_behind_others
    assert decoded.total > NUM_FRAMES if behind_others else decoded.total == NUM_FRAMES
    assert [event.path for event in whole.of(FileWritten)] == [walk.latents_file, walk.output]
    assert all(mx.isfinite(latents).all() for latents in whole.steps.values())
    assert mx.array_equal(whole.video.latents, whole.latents)
    shape = (NUM_FRAMES, walk.options["height"], walk.options["width"], 3)
    assert whole.video.frames.shape == read_frames(walk.output).shape == shape
    assert whole.video.frames.std() > 1, "a picture of one colour shows nothing"
    assert whole.video.settings["model"] == walk.variant.name


def test_its_plan_foresees_the_run(walk: Walk):
    plan: MemoryPlan = walk.pipeline.plan(**walk.options, stream="off")
    assert list(plan.predicted) == walk.whole.stages
    assert walk.whole.of(MemoryPlanned)[0].predicted == plan.predicted
    (denoise,) = (event for event in walk.whole.of(StageFinished) if event.stage == "denoise")
    measured = denoise.peak_bytes - walk.whole.other_bytes
    assert plan.predicted["denoise"] == pytest.approx(measured, rel=WITHIN)


@pytest.mark.sample(13)
@pytest.mark.slow
def test_each_of_its_inputs_changes_the_video(walk: Walk):
    for name in walk.variant.inputs.together:
        other = walk.run(**{name: example(name, seed=1)}, until=is_decoding)
        assert_changed(other.latents, walk.whole.latents, name)
    for name in walk.variant.inputs.optional:
        without = walk.run(**dict.fromkeys((name, *ONLY_WITH.get(name, ()))), until=is_decoding)
        assert_changed(without.latents, walk.whole.latents, f"leaving out {name}")
    for name in walk.variant.inputs.alternatives[1:]:
        changes = {walk.variant.inputs.alternatives[0]: None, name: example(name)}
        assert_changed(walk.run(**changes, until=is_decoding).latents, walk.whole.latents, name)


@pytest.mark.slow
def test_each_of_its_shorthands_changes_the_video(walk: Walk):
    # A finished video to refine needs an adapter, too; see tests/runs/test_longcat_refine.py.
    shorthands = {
        name: replaced
        for name, replaced in walk.variant.inputs.shorthands.items()
        if INPUTS[name] != "all frames"
    }
    given: dict[str, object] = {name: None for replaced in shorthands.values() for name in replaced}
    given |= {name: example(name) for name in shorthands}
    for name in shorthands:
        one, other = (
            walk.run(**given | {name: example(name, seed=seed)}, until=is_decoding) for seed in (0, 1)
        )
        assert_changed(other.latents, one.latents, name)


@pytest.mark.sample(6)
def test_streamed_blocks_make_the_same_latents(walk: Walk):
    plan = walk.pipeline.plan(**walk.options, stream="on")
    assert plan.choices.resident_blocks == 0
    assert sum(stage.read_bytes for stage in plan.stages) > 0, "nothing would be streamed"
    assert_same_steps(walk.run(stream="on", until=is_decoding), walk.whole)


@pytest.mark.sample(6)
def test_quantized_to_eight_bits_it_makes_nearly_the_same_latents(walk: Walk):
    folder = convert_checkpoint(
        walk.model, walk.root / "quantized", quantize_only=True, bits=8, group_size=32, progress=False
    )
    quantized = WanPipeline.from_pretrained(folder, keep_networks=False)
    found, exact = walk.run(until=is_decoding, pipeline=quantized).latents, walk.whole.latents
    assert 0 < (mx.linalg.norm(found - exact) / mx.linalg.norm(exact)).item() < QUANTIZED


@pytest.mark.sample(6)
@pytest.mark.slow
def test_interrupted_after_each_step_it_goes_on_to_the_same_video(walk: Walk, tmp_path: Path):
    output = tmp_path / "video.webp"
    for done in walk.steps:

        def is_taken(event: Event, done: int = done) -> bool:
            return isinstance(event, StepFinished) and event.index == done

        part = walk.run(output_path=output, resume=done > 0, until=is_taken)
        assert part.video is None
        assert list(part.steps) == [done]
        assert mx.array_equal(part.steps[done], walk.whole.steps[done]), f"step {done + 1}"
    last = walk.run(output_path=output, resume=True)
    # What the decoder sees before them is made of the inputs again.
    assert last.stages == (["image", "decode"] if walk.is_decoded_behind_others else ["decode"])
    assert np.array_equal(last.video.frames, walk.whole.video.frames)
    assert [*tmp_path.iterdir()] == [output], "the state goes away with success"


@pytest.mark.sample(6)
@pytest.mark.slow
def test_an_adapter_changes_the_video_alike_in_both_modes_and_not_at_strength_zero(walk: Walk):
    def adapted(strength: float, mode: str) -> mx.array:
        return walk.run(loras=[(walk.adapter, strength)], lora_mode=mode, until=is_decoding).latents

    whole = walk.whole.latents
    assert mx.array_equal(adapted(0.0, "side"), whole)
    side, merged = adapted(1.0, "side"), adapted(1.0, "merge")
    assert_changed(side, whole, "an adapter")
    assert mx.abs(merged - side).max() <= ROUNDING * mx.abs(side - whole).max()


@pytest.mark.slow
def test_both_experts_take_part_where_there_are_two(walk: Walk):
    texts = [event.text for event in walk.whole.of(Notice)]
    told = any("the high-noise expert serves" in text and "the low-noise expert" in text for text in texts)
    assert told == walk.pipeline.config.is_dual
    if walk.pipeline.config.is_dual:
        for name in ("loras_high", "loras_low"):
            adapted = walk.run(**{name: [walk.adapter]}, until=is_decoding)
            assert_changed(adapted.latents, walk.whole.latents, name)


@pytest.mark.sample(8)
def test_its_latents_are_decoded_to_the_same_frames(walk: Walk):
    whole = walk.whole
    assert mx.array_equal(load_latents(walk.latents_file)[0], whole.latents)
    if walk.is_decoded_behind_others:
        with pytest.raises(RequestError, match="decodes each clip behind the frames before it"):
            walk.pipeline.decode(walk.latents_file)
        return
    decoded = walk.pipeline.decode(walk.latents_file)
    assert np.array_equal(decoded.frames, whole.video.frames)
    assert decoded.settings == whole.video.settings
