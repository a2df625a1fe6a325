"""Camera paths: poses of every frame, from a direction, a preset or a file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np

from mlx_video.errors import MediaError

POSE_NUMBERS = 19
POSE_WIDTH, POSE_HEIGHT = 1280, 720
"""Pixels of the pictures whose fractions the lens of a pose is given in."""
# Time, focal lengths and centre as fractions of width and height, two zeros; then the rows of the 3×4 matrix
# from world to camera. Source: modelscope/DiffSynth-Studio diffsynth/models/wan_video_camera_controller.py.
DEFAULT_ORIGIN = (
    0.0, 0.532139961, 0.946026558, 0.5, 0.5, 0.0, 0.0,
    1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0,
)  # fmt: skip
DEFAULT_SPEED = 1 / 54

# Word of a direction → number of the pose that changes with every frame, and its sign. 9 and 13 are entries
# of the rotation: the picture is sheared and the camera stays, which is what these models' users know by the
# names. Source: as above, generate_camera_coordinates.
_CHANGES = (("Left", 9, 1), ("Right", 9, -1), ("Up", 13, 1), ("Down", 13, -1), ("In", 18, -1), ("Out", 18, 1))
DIRECTIONS = (
    "Left", "Right", "Up", "Down", "LeftUp", "LeftDown", "RightUp", "RightDown", "In", "Out",
)  # fmt: skip

# Translation in all and turns about the view, of a path of any length.
# Source: aigc-apps/VideoX-Fun comfyui/camera_utils.py, CAMERA; asset/*.txt.
PRESETS: Mapping[str, tuple[tuple[float, float, float], float]] = MappingProxyType(
    {
        "Static": ((0, 0, 0), 0),
        "Pan_Up": ((0, 1, 0), 0),
        "Pan_Down": ((0, -1, 0), 0),
        "Pan_Left": ((1, 0, 0), 0),
        "Pan_Right": ((-1, 0, 0), 0),
        "Pan_Left_Up": ((1, 1, 0), 0),
        "Pan_Left_Down": ((1, -1, 0), 0),
        "Pan_Right_Up": ((-1, 1, 0), 0),
        "Pan_Right_Down": ((-1, -1, 0), 0),
        "Zoom_In": ((0, 0, -2), 0),
        "Zoom_Out": ((0, 0, 2), 0),
        "CW": ((0, 0, 0), -1),
        "ACW": ((0, 0, 0), 1),
    }
)
_REACH = 1.5
_TURN = math.pi / 3


def path_in_direction(
    direction: str, num_frames: int, speed: float = DEFAULT_SPEED, origin: Sequence[float] = DEFAULT_ORIGIN
) -> np.ndarray:
    """Poses of a camera that moves as DiffSynth-Studio's `camera_control_direction` does.

    Args:
        direction: one of `DIRECTIONS`.
        num_frames: of the video.
        speed: change of each frame; 0 for a camera that stands still.
        origin: pose of the first frame, 19 numbers.

    Returns:
        [num_frames, 19], float64.

    Source: modelscope/DiffSynth-Studio diffsynth/models/wan_video_camera_controller.py,
    generate_camera_coordinates.
    """
    step = np.zeros(POSE_NUMBERS)
    for word, number, sign in _CHANGES:
        if word in direction:
            step[number] += sign * speed
    return np.asarray(origin, np.float64) + np.arange(num_frames)[:, None] * step


def path_of_preset(
    preset: str, num_frames: int, speed: float = 1.0, origin: Sequence[float] = DEFAULT_ORIGIN
) -> np.ndarray:
    """Poses of a camera that moves as in VideoX-Fun's trajectory files, however long the video is.

    Args:
        preset: one of `PRESETS`.
        num_frames: of the video.
        speed: multiplies the whole path.
        origin: gives the lens.

    Returns:
        [num_frames, 19], float64.
    """
    translation, turns = PRESETS[preset]
    poses = np.tile(np.asarray(origin, np.float64), (num_frames, 1))
    for index, pose in enumerate(poses):
        share = index / num_frames * speed
        angle = share * _TURN * turns
        matrix = np.eye(3, 4)
        matrix[:2, :2] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
        matrix[:, 3] = np.multiply(translation, share * _REACH)
        pose[7:] = matrix.reshape(-1)
    return poses


def read_path(path: Path, num_frames: int) -> np.ndarray:
    """Poses of a trajectory file: a first line of any content, then one pose of 19 numbers a line.

    Args:
        path: the file.
        num_frames: of the video; further lines are not read.

    Returns:
        [num_frames, 19], float64.

    Raises:
        MediaError: the file cannot be read, is too short, or a line is no pose.

    Source: aigc-apps/VideoX-Fun videox_fun/data/utils.py, process_pose_file.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()[1:]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MediaError(f"{path}: no camera trajectory can be read from it ({reason}).") from error
    lines = [line for line in lines if line.strip()]
    if len(lines) < num_frames:
        raise MediaError(
            f"{path}: has {len(lines)} poses, the video has {num_frames} frames. Add poses, or use fewer "
            "frames."
        )
    return np.stack([_read_pose(line, number, path) for number, line in enumerate(lines[:num_frames], 2)])


def _read_pose(line: str, number: int, path: Path) -> np.ndarray:
    try:
        pose = np.array([float(part) for part in line.split()])
    except ValueError:
        pose = np.empty(0)
    if pose.shape != (POSE_NUMBERS,) or not np.isfinite(pose).all():
        raise MediaError(
            f"{path}: line {number} is no pose: {len(line.split())} values. Give {POSE_NUMBERS} numbers: "
            "time, fx, fy, cx, cy, two zeros, and the 3x4 matrix from world to camera, row by row."
        )
    return pose
