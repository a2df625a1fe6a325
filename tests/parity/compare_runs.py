"""What a whole run made, against what another implementation made of the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from mlx_video.latents.latents_file import load_latents
from mlx_video.media.sources.picture_folder import list_pictures

# Rounding grows over guided steps; one step of one network agrees to 1e-5.
LATENTS_TOLERANCE = 1e-4
FRAMES_TOLERANCE = 1  # a difference in the last digit may fall on either side of a whole number
LEAST_DEVIATION = 0.04 * 255
"""Of frames that prove something: a grey video would agree with any other."""

Record = Callable[[str, object], None]


def read_run(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Latents [C, T, h, w], and frames uint8 [F, H, W, 3], that a run left in a folder."""
    frames = np.stack([np.asarray(Image.open(path)) for path in list_pictures(folder / "frames")])
    return np.array(load_latents(folder / "latents.safetensors")[0]), frames


def assert_runs_agree(
    found: tuple[np.ndarray, np.ndarray], expected: tuple[np.ndarray, np.ndarray], record: Record
) -> None:
    """Compare latents by the largest, and frames by their levels.

    Args:
        found: latents and frames of ours, uint8.
        expected: of the other; its frames hold whole levels, 0 to 255, of any type.
        record: takes both errors, for the test's report.
    """
    (latents, frames), (expected_latents, expected_frames) = found, expected
    assert latents.shape == expected_latents.shape
    assert frames.shape == expected_frames.shape
    error = np.abs(latents - expected_latents).max() / np.abs(expected_latents).max()
    frames_error = np.abs(frames.astype(float) - expected_frames).max()
    record("latents", f"{error:.1e}")
    record("frames", float(frames_error))
    assert error < LATENTS_TOLERANCE
    assert frames_error <= FRAMES_TOLERANCE
    assert expected_frames.std() > LEAST_DEVIATION, "a grey video would prove little"
