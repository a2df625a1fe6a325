"""Tensors of a motion controller, which are called alike before and after conversion."""

from __future__ import annotations

from collections.abc import Mapping

from mlx_video.config import MotionControllerConfig
from mlx_video.errors import CheckpointError
from mlx_video.formats.tensor_info import TensorInfo
from mlx_video.weights.names.transformer_names import linear_tensors
from mlx_video.weights.rules import Shape

ANCHOR = "linear.0.weight"


def motion_controller_tensors(config: MotionControllerConfig) -> dict[str, Shape]:
    """Name and shape of every tensor; there are no others in its file.

    Source: modelscope/DiffSynth-Studio diffsynth/models/wan_video_motion_controller.py,
    WanMotionControllerModel.
    """
    return {
        **linear_tensors("linear.0", config.dim, config.freq_dim),
        **linear_tensors("linear.2", config.dim, config.dim),
        **linear_tensors("linear.4", 6 * config.dim, config.dim),
    }


def read_motion_controller_config(infos: Mapping[str, TensorInfo], *, label: str) -> MotionControllerConfig:
    """Read the sizes from the first layer.

    Args:
        infos: tensors, original or converted.
        label: names their file.

    Raises:
        CheckpointError: the first layer is missing or misshapen.
    """
    shape = infos[ANCHOR].shape if ANCHOR in infos else ()
    if len(shape) != 2 or shape[1] % 2:
        found = f"is {list(shape)}" if shape else "is missing"
        raise CheckpointError(
            f"{label}: {ANCHOR} {found}; [channels, waves] are expected. Fetch the motion controller again."
        )
    return MotionControllerConfig(*shape)
