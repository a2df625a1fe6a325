"""One picture at a chosen moment between control pictures: few latent frames, each at a time of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_video.conditioning.clips import encode_picture
from mlx_video.conditioning.frames import MASK_CHANNELS, Encoding, FrameEncoder
from mlx_video.errors import RequestError
from mlx_video.models.rope import MAX_POSITIONS

MOST_CONTROLS = 2


@dataclass(frozen=True, slots=True)
class OneFrame:
    """Where in time the picture and its controls lie.

    Attributes:
        target_index: of the picture.
        control_indices: of the control pictures, in the order of these.
    """

    target_index: int
    control_indices: tuple[int, ...]

    def __post_init__(self) -> None:
        indices = (self.target_index, *self.control_indices)
        for field, index in zip(("target_index", *["control_index"] * len(indices)), indices, strict=False):
            if not 0 <= index < MAX_POSITIONS:
                raise RequestError(
                    field, f"{index}: outside of 0 to {MAX_POSITIONS - 1}, the times that the models know."
                )
        if len(set(indices)) < len(indices):
            raise RequestError(
                "control_index",
                f"{', '.join(map(str, self.control_indices))} with --target-index {self.target_index}: every "
                "picture needs a time of its own. Choose different numbers.",
            )

    def check_pictures(self, count: int) -> None:
        """Refuse another number of control pictures.

        Raises:
            RequestError: there are more or fewer than indices, or more than the models take.
        """
        if count > MOST_CONTROLS:
            raise RequestError("control_image", f"{count} pictures: the models take one or two. Give fewer.")
        if count != len(self.control_indices):
            raise RequestError(
                "control_image",
                f"{count} pictures for {len(self.control_indices)} numbers of --control-index. Give one for "
                "each.",
            )

    @property
    def times(self) -> tuple[int, ...]:
        """Position in time of each latent frame, rising."""
        return tuple(sorted((self.target_index, *self.control_indices)))

    @property
    def target(self) -> int:
        """Number of the latent frame that becomes the picture."""
        return self.times.index(self.target_index)


def encode_one_frame(
    encode: FrameEncoder, one: OneFrame, controls: Sequence[np.ndarray]
) -> Encoding[mx.array]:
    """Encode control pictures as given frames around the picture to be made, each as a clip of its own.

    Args:
        encode: the VAE.
        one: where they lie.
        controls: float32 [H, W, 3] in [-1, 1], of the result's size, one for each control index.

    Returns:
        [4 + C, T, h, w], float32: the mask of what is given, then latents, grey at the target.

    Raises:
        RequestError: there are more or fewer pictures than indices.

    Source: kohya-ss/musubi-tuner wan_generate_video.py, prepare_one_frame_inference.
    """
    one.check_pictures(len(controls))
    pictures = dict(zip(one.control_indices, controls, strict=True))
    grey = np.zeros_like(controls[0])
    frames = []
    for time in one.times:
        latents = yield from encode_picture(encode, pictures.get(time, grey))
        mask = mx.full((MASK_CHANNELS, *latents.shape[1:]), float(time in pictures))
        frames.append(mx.concatenate([mask, latents]))
    return mx.concatenate(frames, axis=1)
