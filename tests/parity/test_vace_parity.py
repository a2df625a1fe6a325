"""The transformer with VACE agrees with Diffusers' port in float32, under Diffusers' names.

Tolerance 1e-5 of the largest value: float32 rounds at 6e-8, and errors grow through the blocks.
"""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.models.block_context import Pass
from mlx_video.models.control.vace import VACEHook, VACETransformer
from mlx_video.weights.names.transformer_names import DIFFUSERS_RULES, WAN_RULES, transformer_tensors
from mlx_video.weights.names.vace_names import VACE_RULES, vace_tensors
from mlx_video.weights.rules import apply_rules
from tests.models.networks import CONTEXT, LATENTS, TRANSFORMER, at, load, relative_error
from tests.parity.golden import fill

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

CONFIG = replace(TRANSFORMER, num_layers=4, vace_layers=(0, 1, 3), vace_in_dim=96)
TOLERANCE = 1e-5
# Diffusers computes the sinusoid in float32, which is exact to 6e-8 only at early timesteps.
EARLY_TIMESTEP = 1.0
VACE_CONTEXT = fill((96, *LATENTS.shape[1:]), 1007, 1.7)


@pytest.fixture(scope="module")
def theirs():
    from diffusers import WanVACETransformer3DModel

    torch.manual_seed(0)
    model = WanVACETransformer3DModel(
        num_attention_heads=CONFIG.num_heads, attention_head_dim=CONFIG.head_dim, in_channels=CONFIG.in_dim,
        out_channels=CONFIG.out_dim, text_dim=CONFIG.text_dim, freq_dim=CONFIG.freq_dim,
        ffn_dim=CONFIG.ffn_dim, num_layers=CONFIG.num_layers, vace_layers=list(CONFIG.vace_layers),
        vace_in_channels=CONFIG.vace_in_dim,
    )  # fmt: skip
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=1.5 / parameter[0].numel() ** 0.5)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def official(theirs):
    """Diffusers' weights under the official names."""
    renamed = {
        apply_rules(name, DIFFUSERS_RULES)[0]: values.numpy() for name, values in theirs.state_dict().items()
    }
    expected = transformer_tensors(CONFIG) | vace_tensors(CONFIG)
    assert {name: values.shape for name, values in renamed.items()} == expected
    return renamed


@pytest.fixture(scope="module")
def ours(official):
    return load(VACETransformer(CONFIG), official, (*VACE_RULES, *WAN_RULES), mx.float32)


@pytest.mark.parametrize("scales", [(1.0, 1.0, 1.0), (0.3, 1.5, 0.7), (1.0, 0.0, 1.0), (0.8, 0.0, 0.0)])
def test_the_whole_transformer_agrees(theirs, ours, scales):
    padded = np.concatenate([CONTEXT, np.zeros((512 - len(CONTEXT), CONTEXT.shape[1]), np.float32)])
    expected = theirs(
        hidden_states=torch.tensor(LATENTS)[None],
        timestep=torch.tensor([EARLY_TIMESTEP]),
        encoder_hidden_states=torch.tensor(padded)[None],
        control_hidden_states=torch.tensor(VACE_CONTEXT)[None],
        control_hidden_states_scale=torch.tensor(scales),
        return_dict=False,
    )[0][0]
    hook = VACEHook(ours, mx.array(VACE_CONTEXT), scales)
    one = Pass(ours.project_text(mx.array(CONTEXT)), (hook,))
    (found,) = ours.predict(mx.array(LATENTS), at(EARLY_TIMESTEP), [one])
    assert relative_error(found, expected) <= TOLERANCE
