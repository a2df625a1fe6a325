"""The camera adapter and the reference's convolution agree with PyTorch's own operations in float32.

Tolerance 1e-5 of the largest value: float32 rounds at 6e-8, and a layer adds up to 6144 products.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.models.control.fun import FunTransformer
from mlx_video.weights.names.fun_names import FUN_RULES, fun_tensors
from mlx_video.weights.names.transformer_names import WAN_RULES, transformer_tensors
from tests.models.control_networks import FUN_CAMERA, FUN_CONTROL
from tests.models.networks import load, relative_error
from tests.parity.golden import fill, fill_weights

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

TOLERANCE = 1e-5


def build(config):
    """A Fun transformer, and its weights under their official names for torch."""
    arrays = fill_weights(transformer_tensors(config) | fun_tensors(config))
    transformer = load(FunTransformer(config), arrays, (*FUN_RULES, *WAN_RULES), mx.float32)
    return transformer, {name: torch.tensor(values) for name, values in arrays.items()}


def convolve(weights, path: str, x, **options):
    return torch.nn.functional.conv2d(x, weights[f"{path}.weight"], weights[f"{path}.bias"], **options)


def test_the_camera_adapter_agrees():
    transformer, weights = build(FUN_CAMERA)
    frames = fill((24, 3, 32, 48), 7)
    cells = torch.nn.functional.pixel_unshuffle(torch.tensor(frames).transpose(0, 1), 8)
    hidden = convolve(weights, "control_adapter.conv", cells, stride=2)
    block = "control_adapter.residual_blocks.0"
    inner = torch.relu(convolve(weights, f"{block}.conv1", hidden, padding=1))
    expected = hidden + convolve(weights, f"{block}.conv2", inner, padding=1)
    found = transformer.control_adapter(mx.array(frames[:, index]) for index in range(3))
    assert relative_error(found, expected.permute(0, 2, 3, 1).reshape(found.shape)) <= TOLERANCE


def test_the_convolution_of_a_reference_agrees():
    transformer, weights = build(FUN_CONTROL)
    reference = fill((16, 4, 6), 8)
    expected = convolve(weights, "ref_conv", torch.tensor(reference)[None], stride=2)[0]
    found = transformer.embed_reference(mx.array(reference))
    assert relative_error(found, expected.flatten(1).T) <= TOLERANCE
    assert np.isfinite(np.array(found)).all()
