"""VACE from a saved pipeline to frames, by both commands, against Diffusers' own pipeline in float32."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlx_video.cli import convert, generate
from tests.fixtures.tiny_variants import TINY_VARIANTS, write_tiny_variant
from tests.parity.compare_runs import assert_runs_agree, read_run
from tests.parity.diffusers_pipeline import save_with_diffusers
from tests.parity.official import wan_module
from tests.parity.official_run import text_encoder

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity


PROMPT, NEGATIVE_PROMPT, SEED, STEPS, GUIDE_SCALE = "A red circle moves left", "blurred", 42, 6, 4.0
WIDTH, HEIGHT, NUM_FRAMES = 48, 32, 9
SHIFT = 7.0  # of the scheduler that is saved
LATENT_SHAPE = (16, 3, 4, 6)
TEXT_LEN = 512  # of every model in Diffusers' layout, whose config.json does not state it


@dataclass(frozen=True)
class Case:
    """What a model is given.

    Attributes:
        references: sizes (height, width) of the pictures; Diffusers stretches others to multiples of 8.
    """

    variant: str = "wan2.1-vace-1.3b"
    has_video: bool = True
    has_mask: bool = False
    references: tuple[tuple[int, int], ...] = ()
    scales: tuple[float, ...] = (1.0, 1.0)


CASES = {
    "nothing": Case(has_video=False),
    "a video": Case(),
    "a video, a mask and references": Case(
        has_mask=True, references=((40, 24), (16, 64)), scales=(0.7, 1.3)
    ),
    "two experts": Case("wan2.2-vace-fun-a14b", has_mask=True, references=((32, 48),)),
}  # fmt: skip


def draw(path: Path, height: int, width: int, seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path)
    return Image.open(path).convert("RGB")


@pytest.fixture
def inputs(tmp_path: Path) -> Callable[[Case], tuple[list[str], dict[str, Any]]]:
    """What a case gives to our command, and the same for Diffusers."""

    def make(case: Case) -> tuple[list[str], dict[str, Any]]:
        words, theirs = ["--vace-scale", ",".join(map(str, case.scales))], {}
        theirs["conditioning_scale"] = list(case.scales)
        if case.has_video:
            frames = [
                draw(tmp_path / "video" / f"{number}.png", HEIGHT, WIDTH, number)
                for number in range(NUM_FRAMES)
            ]
            words, theirs = [*words, "--vace-video", str(tmp_path / "video")], theirs | {"video": frames}
        if case.has_mask:
            mask = np.zeros((HEIGHT, WIDTH), np.uint8)
            mask[8:27, 11:35] = 255
            Image.fromarray(mask).save(tmp_path / "mask.png")
            words += ["--vace-video-mask", str(tmp_path / "mask.png"), "--vace-masked-region", "repaint"]
            theirs["mask"] = [Image.fromarray(mask)] * NUM_FRAMES
        pictures = []
        for number, (height, width) in enumerate(case.references):
            path = tmp_path / "references" / f"{number}.png"
            pictures.append(draw(path, height, width, 100 + number))
            words += ["--vace-reference-image", str(path)]
        # Diffusers puts each before those that were there.
        return words, theirs | ({"reference_images": pictures[::-1]} if pictures else {})

    return make


def exact_sinusoid(timestep: Any, width: int) -> Any:
    """Sinusoid in float64, as the official code computes it; Diffusers' is exact to 6e-8 of 1000."""
    half = width // 2
    angles = timestep.double()[:, None] * torch.exp(-math.log(10000) * torch.arange(half).double() / half)
    return torch.cat([angles.cos(), angles.sin()], 1).float()


def official_solver() -> Any:
    """UniPC with the official noise levels, from which Diffusers' differ in the fourth digit."""
    wan_module("model")  # finds the package
    from wan.utils.fm_solvers_unipc import FlowUniPCMultistepScheduler

    solver = FlowUniPCMultistepScheduler(num_train_timesteps=1000, shift=1, use_dynamic_shifting=False)
    solver.set_timesteps = partial(solver.set_timesteps, shift=SHIFT)
    return solver


def run_diffusers(saved: Path, original: Path, case: Case, options: dict[str, Any]) -> Any:
    from diffusers import (
        AutoencoderKLWan,
        WanVACEPipeline,
        WanVACETransformer3DModel,
    )

    variant = TINY_VARIANTS[case.variant]
    names = ("transformer", "transformer_2") if variant.is_dual else ("transformer",)
    transformers = {name: WanVACETransformer3DModel.from_pretrained(saved / name) for name in names}
    for transformer in transformers.values():
        width = transformer.config.freq_dim
        embedder = transformer.condition_embedder
        embedder.timesteps_proj.forward = lambda timestep, width=width: exact_sinusoid(timestep, width)
    pipeline = WanVACEPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=AutoencoderKLWan.from_pretrained(saved / "vae"),
        scheduler=official_solver(),
        boundary_ratio=0.875 if variant.is_dual else None,
        **transformers,
    )
    pipeline.set_progress_bar_config(disable=True)
    prompts = [
        torch.nn.functional.pad(features, (0, 0, 0, TEXT_LEN - len(features)))[None]
        for features in text_encoder(original, variant.sizes)([PROMPT, NEGATIVE_PROMPT])
    ]
    generator = torch.Generator().manual_seed(SEED)
    noise = torch.randn(LATENT_SHAPE, generator=generator)
    if case.references:
        channels, _, *sides = LATENT_SHAPE
        leading = torch.randn((channels, len(case.references), *sides), generator=generator)
        noise = torch.cat([leading, noise], 1)
    seen: dict[str, Any] = {}

    def note(pipeline: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        seen["latents"] = values["latents"]
        return values

    frames = pipeline(
        prompt_embeds=prompts[0], negative_prompt_embeds=prompts[1], height=HEIGHT, width=WIDTH,
        num_frames=NUM_FRAMES, num_inference_steps=STEPS, guidance_scale=GUIDE_SCALE, latents=noise[None],
        output_type="pt", callback_on_step_end=note, **options,
    ).frames[0]  # fmt: skip
    latents = seen["latents"][0, :, len(case.references) :]
    return latents.numpy(), frames.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_six_guided_steps_agree_with_diffusers(
    case: Case, inputs: Callable, tmp_path: Path, record_property: Callable[[str, object], None]
):
    saved, original, model = tmp_path / "saved", tmp_path / "original", tmp_path / "model"
    save_with_diffusers(saved, case.variant)
    write_tiny_variant(original, case.variant)
    words, options = inputs(case)
    assert convert.main([
        "--checkpoint-dir", str(saved), "--output-dir", str(model), "--dtype", "float32",
    ]) == 0  # fmt: skip
    assert generate.main([
        "--model-dir", str(model), "--prompt", PROMPT, "--negative-prompt", NEGATIVE_PROMPT,
        "--width", str(WIDTH), "--height", str(HEIGHT), "--num-frames", str(NUM_FRAMES),
        "--steps", str(STEPS), "--guide-scale", str(GUIDE_SCALE), "--seed", str(SEED),
        "--shift", str(SHIFT), "--scheduler", "unipc", "--output-path", str(tmp_path / "video.gif"),
        "--save-latents", str(tmp_path / "latents.safetensors"), "--save-frames", str(tmp_path / "frames"),
        *words,
    ]) == 0  # fmt: skip
    expected, expected_frames = run_diffusers(saved, original, case, options)
    assert_runs_agree(read_run(tmp_path), (expected, np.floor(255 * expected_frames)), record_property)
