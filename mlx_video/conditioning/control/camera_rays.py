"""Rays of a camera path, and what they add to a transformer's tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import mlx.core as mx
import numpy as np

from mlx_video.conditioning.control.camera_path import POSE_HEIGHT, POSE_WIDTH
from mlx_video.conditioning.made_once import MadeOnce
from mlx_video.models.block_context import Pass
from mlx_video.models.control.camera_adapter import CameraHook
from mlx_video.models.control.fun import FunTransformer
from mlx_video.models.transformer import WanTransformer

FRAMES_OF_A_GROUP = 4


@dataclass(frozen=True, slots=True, eq=False)
class CameraRays:
    """Rays of every pixel along a camera path.

    Attributes:
        poses: [F, 19], float64.
        height, width: of the video.
    """

    poses: np.ndarray
    height: int
    width: int

    def frame(self, index: int) -> np.ndarray:
        """Plücker coordinates of the rays of a frame.

        Returns:
            [6, H, W], float32: moment, then direction, relative to the first frame's camera.

        Source: aigc-apps/VideoX-Fun videox_fun/data/utils.py, process_pose_params and ray_condition.
        """
        to_first = self._relative_pose(index)
        direction = self._directions(index) @ to_first[:3, :3].T
        moment = np.cross(to_first[:3, 3], direction)
        return np.concatenate([moment, direction], axis=-1).transpose(2, 0, 1).astype(np.float32)

    def packed_frame(self, latent_index: int) -> np.ndarray:
        """Rays of the frames that a latent frame packs.

        Returns:
            [24, H, W], float32: coordinate slowest, then the frame; the first latent frame repeats its one.
        """
        count = FRAMES_OF_A_GROUP
        first = count * (latent_index - 1) + 1
        numbers = [0] * count if latent_index == 0 else range(first, first + count)
        frames = {number: self.frame(number) for number in numbers}
        return np.stack([frames[number] for number in numbers], axis=1).reshape(-1, self.height, self.width)

    def _relative_pose(self, index: int) -> np.ndarray:
        """From camera `index` to the first camera, [4, 4], float32."""
        if index == 0:
            return np.eye(4, dtype=np.float32)
        first, here = (_square(self.poses[number]) for number in (0, index))
        return (first @ np.linalg.inv(here)).astype(np.float32)

    def _directions(self, index: int) -> np.ndarray:
        """Direction of each pixel in its own camera, [H, W, 3], float32, of length 1."""
        fx, fy, cx, cy = self._lens(index)
        x = (np.arange(self.width, dtype=np.float32) + np.float32(0.5) - cx) / fx
        y = (np.arange(self.height, dtype=np.float32) + np.float32(0.5) - cy) / fy
        rays = np.ones((self.height, self.width, 3), np.float32)
        rays[..., 0], rays[..., 1] = x, y[:, None]
        return rays / np.linalg.norm(rays, axis=-1, keepdims=True)

    def _lens(self, index: int) -> np.ndarray:
        """Focal lengths and centre in pixels, float32; poses are of pictures 1280 wide and 720 high."""
        fx, fy, cx, cy = self.poses[index, 1:5]
        aspect = POSE_WIDTH / POSE_HEIGHT
        if aspect > self.width / self.height:
            fx = self.height * aspect * fx / self.width
        else:
            fy = self.width / aspect * fy / self.height
        sides = np.array([self.width, self.height, self.width, self.height])
        return (np.array([fx, fy, cx, cy]) * sides).astype(np.float32)


def _square(pose: np.ndarray) -> np.ndarray:
    return np.vstack([pose[7:].reshape(3, 4), [0, 0, 0, 1]])


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class CameraAddOn:
    """A camera path in every pass of a transformer.

    Attributes:
        rays: of the path.
        latent_frames: numbers of those that are seen.
    """

    rays: CameraRays
    latent_frames: tuple[int, ...]
    _made: MadeOnce[mx.array] = field(default_factory=MadeOnce, init=False, repr=False)

    def __call__(self, transformer: WanTransformer, one: Pass) -> Pass:
        """The pass with the camera's tokens added to the video's."""
        return replace(one, hooks=(*one.hooks, CameraHook(self._tokens_of(transformer))))

    def take_frames(self, frames: Sequence[int]) -> CameraAddOn:
        """See `types.FrameAddOn`."""
        return CameraAddOn(self.rays, tuple(self.latent_frames[frame] for frame in frames))

    def _tokens_of(self, transformer: WanTransformer) -> mx.array:
        adapter = cast(FunTransformer, transformer)
        return self._made.take(transformer, None, lambda: adapter.control_adapter(self._frames()))

    def _frames(self) -> Iterator[mx.array]:
        return (mx.array(self.rays.packed_frame(index)) for index in self.latent_frames)
