"""Animate, from what Diffusers saved to frames, by both commands, against its own WanAnimatePipeline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlx_video.cli import convert, generate
from tests.fixtures.tiny_variants import tiny_variant, write_tiny_variant
from tests.parity.compare_runs import assert_runs_agree, read_run
from tests.parity.diffusers_pipeline import save_with_diffusers
from tests.parity.official_animate_run import BACKGROUND, CHARACTER, FACE, MASK, POSES
from tests.parity.official_run import text_encoder
from tests.parity.official_wan21_image import encode_clip, official_sinusoid
from tests.parity.test_animate_run_parity import (
    HEIGHT,
    NEGATIVE_PROMPT,
    PROMPT,
    SEED,
    WIDTH,
    Case,
    write_inputs,
)
from tests.parity.test_vace_run_parity import SHIFT, TEXT_LEN, official_solver

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.parity,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad", "ignore::FutureWarning"),
]

NAME = "wan2.2-animate-14b"
# Both make a rest of a segment, for which the inputs go back and forth.
CASES = {
    "animation under guidance": Case(8, steps=3, guide_scale=2.5),
    "replacement": Case(7, steps=3, is_replacement=True),
}


def read_frames(folder: Path) -> list[Image.Image]:
    return [Image.open(path).convert("RGB") for path in sorted(folder.iterdir())]


def to_unit(picture: Image.Image) -> Any:
    return torch.tensor(np.asarray(picture)).permute(2, 0, 1) / 127.5 - 1


def run_diffusers(saved: Path, original: Path, inputs: Path, case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Latents [C, T, h, w] of all segments, joined, and frames [F, H, W, 3] from 0 to 1."""
    from diffusers import AutoencoderKLWan, WanAnimatePipeline, WanAnimateTransformer3DModel

    transformer = WanAnimateTransformer3DModel.from_pretrained(saved / "transformer")
    transformer.condition_embedder.timesteps_proj = official_sinusoid(transformer.config.freq_dim)
    pipeline = WanAnimatePipeline(
        tokenizer=None, text_encoder=None, vae=AutoencoderKLWan.from_pretrained(saved / "vae"),
        scheduler=official_solver(), image_processor=None, image_encoder=None, transformer=transformer,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    character = Image.open(inputs / CHARACTER).convert("RGB")
    # Its processor of images for CLIP cuts them; the official code does not.
    features = encode_clip(original, tiny_variant(NAME), [to_unit(character)])
    pipeline.encode_image = lambda image, device: features
    prompts = [
        torch.nn.functional.pad(text, (0, 0, 0, TEXT_LEN - len(text)))[None]
        for text in text_encoder(original, tiny_variant(NAME).sizes)([PROMPT, NEGATIVE_PROMPT])
    ]
    replaced: dict[str, Any] = {"mode": "animate"}
    if case.is_replacement:
        videos = {
            "background_video": read_frames(inputs / BACKGROUND),
            "mask_video": read_frames(inputs / MASK),
        }
        replaced = {"mode": "replace", **videos}
    segments: list[Any] = []

    def note(pipeline: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        if step == case.steps - 1:
            segments.append(values["latents"][0, :, 1:].numpy())
        return values

    frames = pipeline(
        image=character, pose_video=read_frames(inputs / POSES), face_video=read_frames(inputs / FACE),
        prompt_embeds=prompts[0], negative_prompt_embeds=prompts[1], height=HEIGHT, width=WIDTH,
        segment_frame_length=case.segment_frames, prev_segment_conditioning_frames=case.shared_frames,
        num_inference_steps=case.steps, guidance_scale=case.guide_scale, output_type="pt",
        generator=torch.Generator().manual_seed(SEED), callback_on_step_end=note, **replaced,
    ).frames[0]  # fmt: skip
    assert len(segments) == 2
    joined = np.concatenate([segments[0], segments[1][:, 1:]], 1)
    return joined, frames.permute(0, 2, 3, 1).numpy()


@pytest.mark.sample(1)
@pytest.mark.nightly  # the official code's own loop is compared with in every run
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_two_segments_agree_with_diffusers(
    case: Case, tmp_path: Path, record_property: Callable[[str, object], None]
):
    saved, original, model = tmp_path / "saved", tmp_path / "original", tmp_path / "model"
    save_with_diffusers(saved, NAME)
    write_tiny_variant(original, NAME)
    words = write_inputs(tmp_path / "inputs", case)
    assert convert.main([
        "--checkpoint-dir", str(saved), "--output-dir", str(model), "--dtype", "float32",
    ]) == 0  # fmt: skip
    assert generate.main([
        "--model-dir", str(model), "--prompt", PROMPT, "--negative-prompt", NEGATIVE_PROMPT,
        "--num-frames", str(case.segment_frames), "--steps", str(case.steps), "--shift", str(SHIFT),
        "--guide-scale", str(case.guide_scale), "--seed", str(SEED), "--scheduler", "unipc",
        "--output-path", str(tmp_path / "video.gif"), "--save-frames", str(tmp_path / "frames"),
        "--save-latents", str(tmp_path / "latents.safetensors"), *words,
    ]) == 0  # fmt: skip
    expected, expected_frames = run_diffusers(saved, original, tmp_path / "inputs", case)
    assert_runs_agree(read_run(tmp_path), (expected, np.floor(255 * expected_frames)), record_property)
