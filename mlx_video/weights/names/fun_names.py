"""Tensors of the Fun family beside those of the transformer."""

from __future__ import annotations

from mlx_video.config import TransformerConfig
from mlx_video.models.control.camera_adapter import UNSHUFFLE
from mlx_video.weights.rules import CHANNELS_LAST, FLATTEN_KERNEL, Rule, Shape

REFERENCE_ANCHOR = "ref_conv.weight"
CAMERA_ANCHOR = "control_adapter.conv.weight"
RESIDUAL_BLOCKS = 1

FUN_RULES = (
    Rule(REFERENCE_ANCHOR, REFERENCE_ANCHOR, FLATTEN_KERNEL),
    Rule(CAMERA_ANCHOR, CAMERA_ANCHOR, FLATTEN_KERNEL),
    *(
        Rule(path, path, CHANNELS_LAST)
        for path in (f"control_adapter.residual_blocks.N.conv{number}.weight" for number in (1, 2))
    ),
)
"""From the official names to ours, where these differ: all stay, kernels change their layout."""


def fun_tensors(config: TransformerConfig) -> dict[str, Shape]:
    """Name and shape of every tensor that a Fun model adds to a transformer, as VideoX-Fun spells them.

    Source: aigc-apps/VideoX-Fun videox_fun/models/wan_transformer3d.py, WanTransformer3DModel.
    """
    tensors: dict[str, Shape] = {}
    dim, cell = config.dim, config.patch_size[1:]
    if config.reference_dim is not None:
        tensors |= {REFERENCE_ANCHOR: (dim, config.reference_dim, *cell), "ref_conv.bias": (dim,)}
    if config.camera_dim is not None:
        channels = config.camera_dim * UNSHUFFLE**2
        tensors |= {CAMERA_ANCHOR: (dim, channels, *cell), "control_adapter.conv.bias": (dim,)}
        for path in (f"control_adapter.residual_blocks.{index}" for index in range(RESIDUAL_BLOCKS)):
            for number in (1, 2):
                tensors |= {
                    f"{path}.conv{number}.weight": (dim, dim, 3, 3),
                    f"{path}.conv{number}.bias": (dim,),
                }
    return tensors
