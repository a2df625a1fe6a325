"""The tiny decoder, in both sizes and every form, against a rendering of its public code in PyTorch.

The rendering follows madebyollin/taehv taehv.py, TAEHV: all frames at once, pixels repeated before the
product over channels, channels first; random weights, float32 on the CPU.
"""

from __future__ import annotations

from itertools import product

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.config import TinyVAEConfig
from mlx_video.latents.tiny_decode import decode_tiny
from mlx_video.models.vae.tiny import TinyForm
from tests.models.vae.tiny_decoder import SMALL_21, SMALL_22, build, random_weights

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")

# Of pixels between -1 and 1: sums of about a hundred products in another order, through twelve layers.
TOLERANCE = 1e-5
FIRST_OF_STAGE = (3, 9, 15)


def render(weights: dict[str, np.ndarray], latents: np.ndarray, form: TinyForm, patch_size: int):
    """Frames [F, h, w, 3] between 0 and 1, of latents [C, T, H, W]."""
    tensors = {name: torch.tensor(values) for name, values in weights.items()}

    def convolve(x, name):
        return torch.conv2d(x, tensors[f"{name}.weight"], tensors.get(f"{name}.bias"), padding=1)

    x = torch.tensor(latents).transpose(0, 1)
    x = convolve(3 * torch.tanh(x / 3), "decoder.1").relu()
    for first, in_time, in_space in zip(FIRST_OF_STAGE, form.time, form.space, strict=True):
        for block in range(first, first + 3):
            past = torch.cat([torch.zeros_like(x[:1]), x[:-1]])
            y = torch.cat([x, past], dim=1)
            for layer in (0, 2):
                y = convolve(y, f"decoder.{block}.conv.{layer}").relu()
            x = (convolve(y, f"decoder.{block}.conv.4") + x).relu()
        if in_space:
            x = torch.nn.functional.interpolate(x, scale_factor=2, mode="nearest")
        frames = 1 + in_time
        kernel = tensors[f"decoder.{first + 4}.conv.weight"][-frames * x.shape[1] :]
        grown = torch.conv2d(x, kernel)
        x = grown.reshape(frames * len(x), -1, *x.shape[2:])
        x = convolve(x, f"decoder.{first + 5}")
    x = convolve(x.relu(), "decoder.22")
    x = torch.nn.functional.pixel_shuffle(x, patch_size).clamp(0, 1)
    return x[form.frames_to_trim :].permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("config", [SMALL_21, SMALL_22], ids=["16 channels", "48 channels"])
@pytest.mark.parametrize("time", list(product((False,), (False, True), (False, True))))
@pytest.mark.parametrize("space", [(True, True, True), (True, True, False), (False, False, False)])
def test_the_decoder_in_every_form(config: TinyVAEConfig, time, space):
    torch.set_num_threads(1)
    weights, form = random_weights(config), TinyForm(time, space)
    latents = 2 * np.random.default_rng(3).standard_normal((config.z_dim, 4, 3, 5)).astype(np.float32)
    expected = render(weights, latents, form, config.patch_size) * 2 - 1
    chunks = decode_tiny(build(config, weights), mx.array(latents), form)
    np.testing.assert_allclose(np.concatenate([np.array(c) for c in chunks]), expected, atol=TOLERANCE)
    assert np.std(expected) > 0.05
