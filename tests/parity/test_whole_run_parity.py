"""From a checkpoint folder in the original layout to frames, through the product's own path."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mlx_video import WanPipeline, convert_checkpoint
from tests.fixtures.tiny_checkpoint import write_tiny_checkpoint
from tests.parity.official_run import run_official

# Rounding grows over six guided steps; one step of one network agrees to 1e-5.
LATENTS_TOLERANCE = 1e-4

SETTINGS = {"prompt": "A red circle moves left", "seed": 42, "steps": 6, "shift": 5.0, "guide_scale": 5.0}


@pytest.mark.parity
@pytest.mark.parametrize("solver", ["unipc", "dpm++"])
def test_six_guided_steps_agree_with_the_official_code(solver: str, tmp_path: Path):
    checkpoint = write_tiny_checkpoint(tmp_path / "original", seed=3)
    official = run_official(
        checkpoint.path, checkpoint.sizes, solver=solver, latent_shape=(16, 3, 4, 6), **SETTINGS
    )
    folder = convert_checkpoint(checkpoint.path, tmp_path / "converted", dtype="float32")
    ours = WanPipeline.from_pretrained(folder)(
        **SETTINGS, scheduler=solver, width=48, height=32, num_frames=9
    )
    error = np.abs(np.array(ours.latents) - official.latents).max() / np.abs(official.latents).max()
    assert error < LATENTS_TOLERANCE
    assert ours.frames.shape == official.frames.shape == (9, 32, 48, 3)
    assert np.abs(ours.frames.astype(int) - official.frames).max() <= 1
