"""Animate from a checkpoint to frames, by both commands, against Wan2.2's own pipeline in float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlx_video.cli import convert, generate
from mlx_video.config import FACE_SIZE
from tests.fixtures.adapter_files import write_relighting_adapter
from tests.fixtures.tiny_variants import TinyVariant, tiny_variant, write_tiny_variant
from tests.parity.compare_runs import assert_runs_agree, read_run
from tests.parity.official_animate_run import (
    BACKGROUND,
    CHARACTER,
    FACE,
    MASK,
    POSES,
    AnimateRequest,
    run_animate,
)

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.parity,
    pytest.mark.slow,
    # The motion encoder checkpoints activations for gradients, of which there are none.
    pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad", "ignore::FutureWarning"),
]

PROMPT, NEGATIVE_PROMPT, SEED, SHIFT = "A red circle moves left", "blurred", 42, 5.0
WIDTH, HEIGHT = 48, 32


@dataclass(frozen=True)
class Case:
    """What is asked for; `frames` is the length of the videos, `size` that of the character's picture."""

    frames: int
    segment_frames: int = 5
    shared_frames: int = 1
    steps: int = 4
    guide_scale: float = 1.0
    is_replacement: bool = False
    is_relit: bool = False
    size: tuple[int, int] = (HEIGHT, WIDTH)


CASES = {
    "one segment": Case(5, size=(64, 40)),
    "animation": Case(8),
    "animation, five frames shared": Case(12, 9, 5, steps=2),
    "replacement": Case(8, is_replacement=True),
    "replacement in its light": Case(5, steps=2, is_replacement=True, is_relit=True),
    "replacement under guidance": Case(7, steps=3, guide_scale=2.5, is_replacement=True, size=(24, 48)),
}

# Others have a segment behind another one, a replacement and guidance, each alone.
NIGHTLY = ("one segment", "animation", "replacement", "replacement in its light")


def official_sizes() -> TinyVariant:
    """The tiny model in sizes that the official code has fixed: of what reads a face, and of image tokens."""
    row = tiny_variant("wan2.2-animate-14b")
    transformer = row.sizes.transformer
    face = replace(transformer.face, layers=(0, 5), hidden_dim=1024)
    sizes = replace(
        row.sizes,
        transformer=replace(transformer, num_layers=10, face=face),
        image_encoder=replace(row.sizes.image_encoder, image_size=224),
    )
    return replace(row, sizes=sizes)


def draw(folder: Path, count: int, height: int, width: int, seed: int, cells: int = 1) -> None:
    """Frames of random colours."""
    folder.mkdir(parents=True)
    numbers = np.random.default_rng(seed)
    for number in range(count):
        pixels = numbers.integers(0, 256, (height // cells, width // cells, 3), np.uint8)
        Image.fromarray(pixels.repeat(cells, 0).repeat(cells, 1)).save(folder / f"{number:03}.png")


def write_inputs(folder: Path, case: Case) -> list[str]:
    """All that a case gives, and the words that say so."""
    draw(folder / POSES, case.frames, HEIGHT, WIDTH, 1)
    draw(folder / FACE, case.frames, FACE_SIZE, FACE_SIZE, 2, cells=64)
    draw(folder / "pictures", 1, *case.size, 3)
    (folder / "pictures" / "000.png").rename(folder / CHARACTER)
    words = [
        "--image", folder / CHARACTER, "--animate-pose-video", folder / POSES, "--animate-face-video",
        folder / FACE,
    ]  # fmt: skip
    if case.is_replacement:
        draw(folder / BACKGROUND, case.frames, HEIGHT, WIDTH, 4)
        (folder / MASK).mkdir()
        for number in range(case.frames):
            mask = np.zeros((HEIGHT, WIDTH), np.uint8)
            mask[5:27, 3 + 2 * number : 25 + 2 * number] = 255
            Image.fromarray(mask).save(folder / MASK / f"{number:03}.png")
        words += ["--animate-inpaint-video", folder / BACKGROUND, "--animate-mask-video", folder / MASK]
    return [*map(str, words)]


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=name, marks=[pytest.mark.nightly] * (name in NIGHTLY))
        for name, case in CASES.items()
    ],
)
def test_a_video_agrees_with_the_official_pipeline(
    case: Case, tmp_path: Path, record_property: Callable[[str, object], None]
):
    original, model, inputs = tmp_path / "original", tmp_path / "model", tmp_path / "inputs"
    variant = write_tiny_variant(original, official_sizes(), seed=3)
    words, relighting = write_inputs(inputs, case), {}
    if case.is_relit:
        relighting = write_relighting_adapter(original / "relighting_lora.ckpt", variant.sizes.transformer)
        words += ["--lora", str(original / "relighting_lora.ckpt"), "--strict-lora"]
    assert convert.main([
        "--checkpoint-dir", str(original), "--output-dir", str(model), "--dtype", "float32",
    ]) == 0  # fmt: skip
    assert generate.main([
        "--model-dir", str(model), "--prompt", PROMPT, "--negative-prompt", NEGATIVE_PROMPT,
        "--num-frames", str(case.segment_frames), "--continue-frames", str(case.shared_frames),
        "--steps", str(case.steps), "--guide-scale", str(case.guide_scale), "--seed", str(SEED),
        "--output-path", str(tmp_path / "video.gif"), "--save-frames", str(tmp_path / "frames"),
        "--save-latents", str(tmp_path / "latents.safetensors"), *words,
    ]) == 0  # fmt: skip
    request = AnimateRequest(
        PROMPT, NEGATIVE_PROMPT, SEED, case.steps, SHIFT, case.guide_scale, case.segment_frames,
        case.shared_frames, case.is_replacement, relighting,
    )  # fmt: skip
    segments, expected_frames = run_animate(original, variant, inputs, request)
    stride = (case.shared_frames + 3) // 4  # latent frames that a segment shares with the one before
    expected = np.concatenate([each[:, stride if number else 0 :] for number, each in enumerate(segments)], 1)
    assert len(segments) == (1 if case.frames <= case.segment_frames else 2)
    assert expected_frames.shape == (case.frames, HEIGHT, WIDTH, 3)
    assert_runs_agree(read_run(tmp_path), (expected, expected_frames), record_property)
