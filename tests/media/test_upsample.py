"""Videos are enlarged as torch enlarges them with `align_corners`."""

from __future__ import annotations

import numpy as np
import pytest

from mlx_video.media.upsample import upsample

FRAMES = np.random.default_rng(0).integers(0, 256, (5, 10, 14, 3), np.uint8)


def test_corners_and_ends_stay():
    found = np.stack([*upsample(FRAMES, 10, 24, 32)])
    assert found.shape == (10, 24, 32, 3)
    assert found.dtype == np.float32
    for corner in ((0, 0, 0), (0, -1, -1), (-1, 0, -1), (-1, -1, 0)):
        np.testing.assert_allclose(found[corner], FRAMES[corner] / 127.5 - 1, atol=1e-6)


def test_one_frame_is_shown_twice():
    found = [*upsample(FRAMES[:1], 2, 10, 14)]
    np.testing.assert_allclose(found, np.stack([FRAMES[0] / 127.5 - 1] * 2), atol=1e-6)


@pytest.mark.parity
@pytest.mark.parametrize(("frames", "height", "width"), [(10, 24, 32), (5, 7, 9), (9, 40, 14)])
def test_it_agrees_with_torch(frames, height, width):
    torch = pytest.importorskip("torch")
    interpolate = torch.nn.functional.interpolate
    video = torch.tensor(FRAMES).permute(0, 3, 1, 2).float()
    larger = interpolate(video, size=(height, width), mode="bilinear", align_corners=True)
    larger = larger.permute(1, 0, 2, 3)[None] / 255
    longer = interpolate(larger, size=(frames, height, width), mode="trilinear", align_corners=True)
    expected = (longer * 2 - 1)[0].permute(1, 2, 3, 0).numpy()
    found = np.stack([*upsample(FRAMES, frames, height, width)])
    np.testing.assert_allclose(found, expected, atol=2e-6)
