"""The motion controller agrees with its formula in PyTorch, and what it adds reaches every block.

Tolerance 1e-5 of the largest value: float32 rounds at 6e-8, and a layer adds up to 256 products.
"""

from __future__ import annotations

import mlx.core as mx
import pytest

from mlx_video.config import MotionControllerConfig
from mlx_video.models.control.motion_controller import MotionController
from mlx_video.weights.names.motion_names import motion_controller_tensors
from mlx_video.weights.names.transformer_names import WAN_RULES
from tests.models.networks import load, relative_error
from tests.parity.golden import fill_weights

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

SIZES = MotionControllerConfig(dim=48, freq_dim=256)
TOLERANCE = 1e-5


@pytest.mark.parametrize("bucket", [0, 1, 57, 99.5, 100])
def test_the_addition_agrees(bucket: float):
    arrays = fill_weights(motion_controller_tensors(SIZES))
    controller = load(MotionController(SIZES), arrays, WAN_RULES, mx.float32)
    waves = torch.tensor(10.0 * bucket).double() * 10000 ** (-torch.arange(128).double() / 128)
    hidden = torch.cat([waves.cos(), waves.sin()]).float()
    for place in (0, 2, 4):
        hidden = torch.nn.functional.silu(hidden) if place else hidden
        weight, bias = (torch.tensor(arrays[f"linear.{place}.{kind}"]) for kind in ("weight", "bias"))
        hidden = torch.nn.functional.linear(hidden, weight, bias)
    assert relative_error(controller(bucket), hidden.reshape(6, SIZES.dim)) <= TOLERANCE
