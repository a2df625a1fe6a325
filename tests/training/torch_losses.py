"""The same losses in PyTorch: the official transformer, Diffusers' port, and formulas written out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mlx_video.config import TransformerConfig
from mlx_video.training.loss import NoisyExample
from mlx_video.weights.network import TransformerNetwork
from mlx_video.weights.rules import find_sources
from tests.parity.diffusers_transformer import build_diffusers
from tests.parity.official import wan_module
from tests.parity.plain_network import PlainNetwork
from tests.training.examples import CONTEXT_NUMBERS, KINDS, SIZES, Kind

Weights = Mapping[str, Any]
"""Official name → torch tensor."""
Loss = Callable[[Weights, NoisyExample], Any]


def numbers(array: Any) -> Any:
    """An array of MLX as a tensor; a tensor as it is."""
    import torch

    return array if isinstance(array, torch.Tensor) else torch.tensor(np.array(array))


def build_velocity(name: str) -> Callable[[Weights, Any], Any]:
    """Velocity of a kind of model as a function of its weights and a noisy example."""
    return _BUILDERS[name](KINDS[name])


def build_loss(name: str) -> Loss:
    """Loss of a kind of model as a function of its weights and a noisy example."""
    velocity = build_velocity(name)

    def loss(weights: Weights, one: NoisyExample) -> Any:
        given = one.conditioning.num_first_frames
        return (velocity(weights, one) - numbers(one.target))[:, given:].pow(2).mean()

    return loss


def _official(kind: Kind) -> Callable[[Weights, NoisyExample], Any]:
    import torch

    config, count = kind.config, SIZES[0] * SIZES[1] * SIZES[2] // 4
    model = wan_module("model").WanModel(
        model_type=config.model_type, text_len=config.text_len, in_dim=config.in_dim, dim=config.dim,
        ffn_dim=config.ffn_dim, freq_dim=config.freq_dim, text_dim=config.text_dim, out_dim=config.out_dim,
        num_heads=config.num_heads, num_layers=config.num_layers, eps=config.eps,
    )  # fmt: skip

    def velocity(weights: Weights, one: NoisyExample) -> Any:
        told = one.conditioning
        times = torch.full((1, count), one.timestep)
        if told.first_frames is not None:
            times[:, : count // SIZES[0]] = 0
        y = None if told.concat_latents is None else [numbers(told.concat_latents)]
        inputs = {"t": times, "context": [torch.tensor(CONTEXT_NUMBERS)], "seq_len": count, "y": y}
        return torch.func.functional_call(model, dict(weights), ([numbers(one.noisy)],), inputs)[0]

    return velocity


def _padded_context(config: TransformerConfig) -> Any:
    import torch

    return torch.nn.functional.pad(
        torch.tensor(CONTEXT_NUMBERS), (0, 0, 0, config.text_len - len(CONTEXT_NUMBERS))
    )[None]


def _diffusers(kind: Kind) -> Callable[[Weights, NoisyExample], Any]:
    import torch

    model = build_diffusers(kind.config, kind.arrays)

    def velocity(weights: Weights, one: NoisyExample) -> Any:
        told = one.conditioning
        images = numbers(told.image_tokens).reshape(-1, 257, kind.config.image_dim)
        inputs = {
            "hidden_states": torch.cat([numbers(one.noisy), numbers(told.concat_latents)])[None],
            "timestep": torch.tensor([one.timestep]),
            "encoder_hidden_states": _padded_context(kind.config),
            "encoder_hidden_states_image": images,
            "return_dict": False,
        }
        return torch.func.functional_call(model, _renamed(weights, kind.network), (), inputs)[0][0]

    return velocity


def _vace(kind: Kind) -> Callable[[Weights, NoisyExample], Any]:
    import torch
    from diffusers import WanVACETransformer3DModel

    config = kind.config
    model = WanVACETransformer3DModel(
        num_attention_heads=config.num_heads, attention_head_dim=config.head_dim, in_channels=config.in_dim,
        out_channels=config.out_dim, text_dim=config.text_dim, freq_dim=config.freq_dim,
        ffn_dim=config.ffn_dim, num_layers=config.num_layers, vace_layers=list(config.vace_layers),
        vace_in_channels=config.vace_in_dim,
    )  # fmt: skip

    def velocity(weights: Weights, one: NoisyExample) -> Any:
        inputs = {
            "hidden_states": numbers(one.noisy)[None],
            "timestep": torch.tensor([one.timestep]),
            "encoder_hidden_states": _padded_context(config),
            "control_hidden_states": numbers(one.conditioning.add_ons[0].vace_context)[None],
            "return_dict": False,
        }
        return torch.func.functional_call(model, _renamed(weights, kind.network), (), inputs)[0][0]

    return velocity


def _renamed(weights: Weights, network: TransformerNetwork) -> dict[str, Any]:
    """Weights under Diffusers' names."""
    return {find_sources(name, network.diffusers_rules)[0]: value for name, value in weights.items()}


def _written_out(kind: Kind) -> Callable[[Weights, NoisyExample], Any]:
    def velocity(weights: Weights, one: NoisyExample) -> Any:
        told = one.conditioning
        return PlainNetwork(weights, kind.config)(
            numbers(one.noisy),
            one.timestep,
            numbers(told.context),
            concat=numbers(told.concat_latents),
            reference=numbers(told.add_ons[0].reference),
        )

    return velocity


_BUILDERS: Mapping[str, Callable[[Kind], Callable[[Weights, NoisyExample], Any]]] = {
    "text to video": _official,
    "text and image to video": _official,
    "expert of image to video": _official,
    "image to video": _diffusers,
    "first and last frame": _diffusers,
    "VACE": _vace,
    "Fun control": _written_out,
}
