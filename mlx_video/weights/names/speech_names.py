"""Tensors of speech-to-video beside those of the transformer, and their converted spelling."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from mlx_video.config import TransformerConfig
from mlx_video.errors import ConfigError
from mlx_video.models.speech.sound_features import KERNEL, NUM_GROUPS, NUM_LAYERS
from mlx_video.weights.names.transformer_names import linear_tensors
from mlx_video.weights.rules import CHANNELS_LAST, FLATTEN_KERNEL, Rule, Shape

POSE_ANCHOR = "cond_encoder.weight"
AUDIO_ANCHOR = "casual_audio_encoder.encoder.conv1_global.conv.weight"
AUDIO_LAYERS = (0, 4, 8, 12, 16, 20, 24, 27, 30, 33, 36, 39)
"""Blocks behind which tokens attend to the sound, of the published model."""

_PACKERS: Mapping[str, Shape] = {"proj": (1, 2, 2), "proj_2x": (2, 4, 4), "proj_4x": (4, 8, 8)}
_BLOCK = re.compile(r"audio_injector\.injector\.(\d+)\.q\.")

SPEECH_RULES = (
    Rule(POSE_ANCHOR, POSE_ANCHOR, FLATTEN_KERNEL),
    Rule("trainable_cond_mask.weight", "trainable_cond_mask"),
    *(
        Rule(f"frame_packer.{name}.weight", f"frame_packer.{name}.weight", FLATTEN_KERNEL)
        for name in _PACKERS
    ),
    Rule("casual_audio_encoder.encoder.*.conv.weight", "sound_encoder.encoder.*.conv.weight", CHANNELS_LAST),
    Rule("casual_audio_encoder.*", "sound_encoder.*"),
    Rule("audio_injector.injector.N.*", "audio_blocks.N.*"),
    Rule("audio_injector.injector_adain_layers.N.linear.*", "audio_blocks.N.adain.*"),
)
"""From the official names to ours, where these differ."""


def speech_tensors(config: TransformerConfig) -> dict[str, Shape]:
    """Name and shape of every tensor that speech-to-video adds to a transformer, officially spelt.

    Source: Wan2.2 wan/modules/s2v/model_s2v.py, WanModel_S2V.
    """
    if config.audio_dim is None:
        return {}
    dim = config.dim
    tensors: dict[str, Shape] = {
        POSE_ANCHOR: (dim, config.pose_dim, *config.patch_size),
        "cond_encoder.bias": (dim,),
        "trainable_cond_mask.weight": (3, dim),
    }
    for name, kernel in _PACKERS.items():
        tensors |= {
            f"frame_packer.{name}.weight": (dim, config.out_dim, *kernel),
            f"frame_packer.{name}.bias": (dim,),
        }
    for number in range(len(config.audio_layers)):
        path = f"audio_injector.injector.{number}"
        for letter in "qkvo":
            tensors |= linear_tensors(f"{path}.{letter}", dim, dim)
        tensors |= {f"{path}.norm_q.weight": (dim,), f"{path}.norm_k.weight": (dim,)}
        tensors |= linear_tensors(f"audio_injector.injector_adain_layers.{number}.linear", 2 * dim, dim)
    return tensors | _sound_tensors(config.audio_dim, dim)


def _sound_tensors(audio_dim: int, dim: int) -> dict[str, Shape]:
    """What reads the sound before the blocks do."""
    quarter, half = dim // 4, dim // 2
    tensors: dict[str, Shape] = {"casual_audio_encoder.weights": (1, NUM_LAYERS, 1, 1)}
    path = "casual_audio_encoder.encoder"
    for name, rows, columns in (
        ("conv1_local", NUM_GROUPS * quarter, audio_dim),
        ("conv1_global", quarter, audio_dim),
        ("conv2", half, quarter),
        ("conv3", dim, half),
    ):
        tensors |= {
            f"{path}.{name}.conv.weight": (rows, columns, KERNEL),
            f"{path}.{name}.conv.bias": (rows,),
        }
    tensors |= linear_tensors(f"{path}.final_linear", dim, dim)
    return tensors | {f"{path}.padding_tokens": (1, 1, 1, dim)}


def count_audio_blocks(names: Iterable[str]) -> int:
    """Number of audio blocks among a transformer's tensors, under the official names."""
    return len({match[1] for name in names if (match := _BLOCK.match(name))})


def read_audio_layers(count: int, num_layers: int, source_config: Mapping[str, Any]) -> tuple[int, ...]:
    """Read behind which blocks tokens attend to the sound.

    Args:
        count: of audio blocks.
        num_layers: of the transformer.
        source_config: the checkpoint's config.json, which may leave it open.

    Raises:
        ConfigError: config.json names another number of blocks.
    """
    stated = source_config.get("audio_inject_layers")
    if not count and not stated:
        return ()
    if stated is None and (count, num_layers) == (len(AUDIO_LAYERS), AUDIO_LAYERS[-1] + 1):
        return AUDIO_LAYERS
    if stated is None:  # no published model: evenly spread, as those of VACE
        return tuple(range(0, num_layers // count * count, num_layers // count))
    if not isinstance(stated, list) or len(stated) != count or not all(type(each) is int for each in stated):
        raise ConfigError(
            f"config.json says audio_inject_layers {stated}, but the transformer has {count} audio blocks. "
            "They belong to different checkpoints; fetch both from the same place."
        )
    return tuple(stated)
