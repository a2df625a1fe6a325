"""LongCat-Video from its authors' folder to frames, by both commands, against its pipeline in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlx_video.cli import convert, generate
from tests.fixtures.longcat_checkpoint import longcat_adapter
from tests.fixtures.tiny_variants import LONGCAT, write_tiny_variant
from tests.fixtures.weight_files import store, write_safetensors
from tests.parity.compare_runs import FRAMES_TOLERANCE, LATENTS_TOLERANCE, assert_runs_agree, read_run
from tests.parity.longcat_run import LongCatPipeline, LongCatRequest

pytest.importorskip("torch")
pytestmark = pytest.mark.parity


PROMPT, NEGATIVE_PROMPT, SEED = "A red circle moves left", "blurred", 42
WIDTH, HEIGHT, NUM_FRAMES = 48, 32, 17
PICTURE_SIZE = (40, 60)  # of the video's shape: nothing is cut, all is resized
EARLIER_FRAMES, TAIL_FRAMES = 17, 13
SHORT_TAIL = 9  # of a clip of 17 frames: about half


@dataclass(frozen=True)
class Case:
    """What the model is given, and how many steps are asked for."""

    steps: int = 4
    given: str = ""
    remembers: bool = False
    is_distilled: bool = False


CASES = {
    "text": Case(),
    "text, distilled": Case(steps=4, is_distilled=True),
    "an image": Case(given="image"),
    "the end of a video": Case(given="video", remembers=True),
    "the end of a video, nothing kept": Case(given="video"),
    "the end of a video, distilled": Case(steps=4, given="video", remembers=True, is_distilled=True),
}


def draw(path: Path, seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (*PICTURE_SIZE, 3), np.uint8)
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path)
    return Image.open(path).convert("RGB")


@dataclass(frozen=True)
class Model:
    """A checkpoint, and its conversion."""

    original: Path
    converted: Path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    root = tmp_path_factory.mktemp("longcat")
    write_tiny_variant(root / "original", "longcat-video")
    assert convert.main([
        "--checkpoint-dir", str(root / "original"), "--output-dir", str(root / "model"), "--dtype", "float32",
    ]) == 0  # fmt: skip
    return Model(root / "original", root / "model")


def inputs(case: Case, folder: Path) -> tuple[list[str], dict[str, Any]]:
    """What a case gives to our command, and the same for the pipeline."""
    words: list[str] = []
    theirs: dict[str, Any] = {"remembers": case.remembers, "goes_on": case.given == "video"}
    if case.given == "image":
        theirs["given"] = [draw(folder / "first.png", 1)]
        words += ["--image", str(folder / "first.png")]
    if case.given == "video":
        frames = [draw(folder / "earlier" / f"{n:02}.png", n) for n in range(EARLIER_FRAMES)]
        theirs["given"] = frames[-TAIL_FRAMES:]
        words += ["--longcat-video", str(folder / "earlier")]
        words += [] if case.remembers else ["--no-longcat-kv-cache"]
    if case.is_distilled:
        arrays, changes = longcat_adapter(LONGCAT.transformer, strength=0.1)
        path = folder / "cfg_step_lora.safetensors"
        write_safetensors(path, [store(name, values) for name, values in arrays.items()])
        words += ["--lora", str(path)]
        theirs |= {"changes": changes, "guide_scale": 1.0}
    return words, theirs


def run_ours(model: Model, case: Case, words: list[str], folder: Path) -> tuple[np.ndarray, np.ndarray]:
    assert generate.main([
        "--model-dir", str(model.converted), "--prompt", PROMPT, "--negative-prompt", NEGATIVE_PROMPT,
        "--width", str(WIDTH), "--height", str(HEIGHT), "--num-frames", str(NUM_FRAMES),
        "--steps", str(case.steps), "--seed", str(SEED), "--output-path", str(folder / "video.gif"),
        "--save-latents", str(folder / "latents.safetensors"), "--save-frames", str(folder / "frames"),
        *words,
    ]) == 0  # fmt: skip
    return read_run(folder)


@pytest.mark.slow
def test_refinement_agrees_with_the_authors_pipeline(model: Model, tmp_path: Path):
    """Its attention to few blocks is held to a mask over all of them."""
    frames = [draw(tmp_path / "first" / f"{n:02}.png", n) for n in range(5)]
    arrays, changes = longcat_adapter(LONGCAT.transformer, strength=0.1)
    adapter = tmp_path / "refinement_lora.safetensors"
    write_safetensors(adapter, [store(name, values) for name, values in arrays.items()])
    assert generate.main([
        "--model-dir", str(model.converted), "--prompt", PROMPT, "--width", "128", "--height", "64",
        "--longcat-refine", str(tmp_path / "first"), "--lora", str(adapter), "--steps", "30",
        "--seed", str(SEED), "--save-latents", str(tmp_path / "latents.safetensors"),
        "--save-frames", str(tmp_path / "frames"),
    ]) == 0  # fmt: skip
    found, pictures = read_run(tmp_path)
    request = LongCatRequest(
        PROMPT, "", 30, SEED, 128, 64, 13, guide_scale=1.0, refined=frames, changes=changes
    )
    expected, expected_frames = LongCatPipeline(model.original, LONGCAT)(request)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < LATENTS_TOLERANCE * np.abs(expected).max()
    assert len(pictures) == 10
    shown = np.floor(255 * expected_frames[:10])
    assert np.abs(pictures.astype(float) - shown).max() <= FRAMES_TOLERANCE


@pytest.mark.slow
@pytest.mark.nightly
def test_a_second_part_agrees_with_the_authors_pipeline(model: Model, tmp_path: Path):
    """It begins with the last frames of our own first part: one may differ from theirs by a digit."""
    found, frames = run_ours(model, CASES["text"], ["--segments", "2"], tmp_path)
    assert len(frames) == NUM_FRAMES + NUM_FRAMES - SHORT_TAIL
    given = [Image.fromarray(frame) for frame in frames[NUM_FRAMES - SHORT_TAIL : NUM_FRAMES]]
    request = LongCatRequest(
        PROMPT, NEGATIVE_PROMPT, CASES["text"].steps, SEED, WIDTH, HEIGHT, NUM_FRAMES, given=given,
        remembers=True, goes_on=True, part=1,
    )  # fmt: skip
    expected, expected_frames = LongCatPipeline(model.original, LONGCAT)(request)
    fresh = NUM_FRAMES - SHORT_TAIL
    own = slice(-fresh // 4, None)  # latents of both parts are joined
    error = np.abs(found[:, own] - expected[:, own]).max() / np.abs(expected).max()
    assert error < LATENTS_TOLERANCE
    shown = np.floor(255 * expected_frames[-fresh:])
    assert np.abs(frames[-fresh:].astype(float) - shown).max() <= FRAMES_TOLERANCE


LIKENESSES = ("text, distilled", "the end of a video, nothing kept", "the end of a video, distilled")


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=name, marks=[pytest.mark.nightly] if name in LIKENESSES else [])
        for name, case in CASES.items()
    ],
)
def test_the_command_agrees_with_the_authors_pipeline(
    case: Case, model: Model, tmp_path: Path, record_property: Callable[[str, object], None]
):
    words, theirs = inputs(case, tmp_path)
    found, frames = run_ours(model, case, words, tmp_path)
    expected, expected_frames = LongCatPipeline(model.original, LONGCAT)(
        LongCatRequest(PROMPT, NEGATIVE_PROMPT, case.steps, SEED, WIDTH, HEIGHT, NUM_FRAMES, **theirs)
    )
    assert_runs_agree((found, frames), (expected, np.floor(255 * expected_frames)), record_property)
