"""Sizes of a transformer's control networks, from its tensors and, for VACE's layers, its config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from mlx_video.config import FaceConfig
from mlx_video.errors import ConfigError
from mlx_video.models.control.camera_adapter import UNSHUFFLE
from mlx_video.models.speech.sound_features import NUM_GROUPS
from mlx_video.weights.names.animate_names import list_face_statements, read_face_sizes
from mlx_video.weights.names.fun_names import CAMERA_ANCHOR, REFERENCE_ANCHOR
from mlx_video.weights.names.mot_names import find_mot_layers
from mlx_video.weights.names.speech_names import (
    AUDIO_ANCHOR,
    POSE_ANCHOR,
    count_audio_blocks,
    read_audio_layers,
)
from mlx_video.weights.names.transformer_names import PATCH_CELLS
from mlx_video.weights.names.vace_names import VACE_ANCHOR, count_vace_blocks
from mlx_video.weights.rules import Shape


class ControlSizes(TypedDict):
    """Fields of `TransformerConfig`."""

    vace_layers: tuple[int, ...]
    vace_in_dim: int
    reference_dim: int | None
    camera_dim: int | None
    face: FaceConfig | None
    audio_dim: int | None
    audio_layers: tuple[int, ...]
    pose_dim: int
    mot_layers: tuple[int, ...]


def read_control_sizes(shapes: Mapping[str, Shape], source_config: Mapping[str, Any]) -> ControlSizes:
    """Read which control networks there are, and their sizes.

    Args:
        shapes: a transformer's tensors under the official names; kernels as they are, or flattened.
        source_config: the checkpoint's config.json.

    Raises:
        ConfigError: config.json names other VACE layers than there are VACE blocks, or audio layers.
        CheckpointError: a tensor that tells a size of what reads a face is missing or misshapen.
    """
    camera = _input_channels(shapes, CAMERA_ANCHOR)
    num_layers = len({name.split(".")[1] for name in shapes if name.startswith("blocks.")})
    return ControlSizes(
        vace_layers=_read_vace_layers(count_vace_blocks(shapes), num_layers, source_config),
        vace_in_dim=_input_channels(shapes, VACE_ANCHOR) or 0,
        reference_dim=_input_channels(shapes, REFERENCE_ANCHOR),
        camera_dim=None if camera is None else camera // UNSHUFFLE**2,
        face=read_face_sizes(shapes, num_layers),
        audio_dim=_read_audio_dim(shapes.get(AUDIO_ANCHOR, ())),
        audio_layers=read_audio_layers(count_audio_blocks(shapes), num_layers, source_config),
        pose_dim=_input_channels(shapes, POSE_ANCHOR) or 0,
        mot_layers=find_mot_layers(shapes),
    )


def list_statements(sizes: ControlSizes) -> dict[str, object]:
    """What a checkpoint's config.json says of its control networks, where it says anything.

    Sizes of a network that is not there stand in published files all the same.

    Source: aigc-apps/VideoX-Fun videox_fun/models/wan_transformer3d.py, WanTransformer3DModel; for
    has_ref_conv modelscope/DiffSynth-Studio diffsynth/models/wan_video_dit.py, WanModel.
    """
    reference, camera = sizes["reference_dim"], sizes["camera_dim"]
    statements: dict[str, object] = {
        **_list_speech_statements(sizes),
        "vace_in_dim": sizes["vace_in_dim"],
        "add_ref_conv": reference is not None,
        "has_ref_conv": reference is not None,
        "add_control_adapter": camera is not None,
        **list_face_statements(sizes["face"]),
    }
    if reference is not None:
        statements["in_dim_ref_conv"] = reference
    if camera is not None:
        statements |= {"in_dim_control_adapter": camera, "downscale_factor_control_adapter": UNSHUFFLE}
    if sizes["mot_layers"]:
        statements["mot_layers"] = list(sizes["mot_layers"])
    return statements


def _read_audio_dim(kernel: Shape) -> int | None:
    """Input channels of a convolution in time, which are more than its taps, wherever they stand."""
    return max(kernel[1:]) if len(kernel) == 3 else None


def _list_speech_statements(sizes: ControlSizes) -> dict[str, object]:
    """What the config.json of a speech-to-video model says.

    Source: Wan2.2 wan/modules/s2v/model_s2v.py, WanModel_S2V.
    """
    if sizes["audio_dim"] is None:
        return {}
    of_the_code: dict[str, object] = {
        "num_audio_token": NUM_GROUPS,
        "enable_adain": True,
        "adain_mode": "attn_norm",
        "zero_timestep": True,
        "enable_framepack": True,
        "framepack_drop_mode": "padd",
        "enable_motioner": False,
        "enable_tsm": False,
        "trainable_token_pos_emb": False,
        "add_last_motion": True,
    }
    return {"audio_dim": sizes["audio_dim"], "cond_dim": sizes["pose_dim"], **of_the_code}


def _input_channels(shapes: Mapping[str, Shape], name: str) -> int | None:
    """Input channels of a convolution whose kernel is a patch; None without it."""
    shape = shapes.get(name, ())
    if len(shape) < 2:
        return None
    return shape[1] if len(shape) > 2 else shape[1] // PATCH_CELLS


def _read_vace_layers(count: int, num_layers: int, source_config: Mapping[str, Any]) -> tuple[int, ...]:
    stated = source_config.get("vace_layers")
    if stated is None and not count:
        return ()
    if stated is None:  # evenly spread, as in every published model
        return tuple(range(0, num_layers // count * count, num_layers // count))
    if not isinstance(stated, list) or len(stated) != count or not all(type(each) is int for each in stated):
        raise ConfigError(
            f"config.json says vace_layers {stated}, but the transformer has {count} VACE blocks. They "
            "belong to different checkpoints; fetch both from the same place."
        )
    return tuple(stated)
