"""Videos made block by block, each block behind some of the frames that are finished."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlx_video.geometry import latent_frames, pixel_frames
from mlx_video.sampling.noise_levels.listed import looked_up
from mlx_video.sampling.schedule import NUM_TRAIN_TIMESTEPS, Schedule, check_settings, shift_sigmas


@dataclass(frozen=True, slots=True)
class BlockMethod:
    """How a model was trained to make videos block by block.

    Attributes:
        frames: latent frames of a block.
        most_seen: latent frames that a forward sees at most, the block's among them.
        steps, shift: what is usual.
    """

    frames: int
    most_seen: int
    steps: int
    shift: float

    @property
    def most_context(self) -> int:
        """Latent frames behind which a block may be made, at most."""
        return self.most_seen - self.frames


@dataclass(frozen=True, slots=True)
class BlockPlan:
    """The blocks of one video.

    Attributes:
        frames: latent frames of a block.
        context: finished latent frames whose keys and values are kept, at most.
        count: number of blocks.
    """

    frames: int
    context: int
    count: int

    @property
    def seen(self) -> int:
        """Latent frames that a forward sees at most."""
        return self.context + self.frames

    def context_of(self, index: int) -> int:
        """Latent frames that stand before block `index`, counted from 0."""
        return min(index * self.frames, self.context)

    def begins_anew(self, index: int) -> bool:
        """Whether the first frame that block `index` sees is encoded anew, as a video's first frame is.

        The frames between it and the start of the video are forgotten then. The blocks before keep the first
        frame of the video.

        Source: krea-ai/realtime-video release_server.py, GenerationSession.get_clean_context_frames.
        """
        return index > 0 and (index - 1) * self.frames >= self.context

    @property
    def encodes(self) -> bool:
        """Whether any block begins anew."""
        return self.begins_anew(self.count - 1)

    def num_frames(self, stride: int) -> int:
        """Pixel frames of the video, for a VAE that packs `stride` of them into one."""
        return pixel_frames(self.frames * self.count, stride)


def plan_block_count(num_frames: int, frames: int, stride: int) -> int:
    """Blocks of a video that has so many pixel frames or a few more.

    Args:
        num_frames: asked for, at least 1.
        frames: latent frames of a block.
        stride: pixel frames of a latent frame.
    """
    return -(-latent_frames(num_frames + stride - 1, stride) // frames)


def block_schedule(steps: int, shift: float) -> Schedule:
    """Noise levels and timesteps of every block, the last of which is timestep 0.

    Timesteps are entries of the table of 1000 training steps, evenly spaced and cut off to whole entries. 0
    is none of them: its noise level is that of the last entry, and the step at it is taken like the others.

    Raises:
        RequestError: an argument is out of range.

    Source: krea-ai/realtime-video v2v.py, get_denoising_schedule; utils/wan_wrapper.py,
    WanDiffusionWrapper._convert_flow_pred_to_x0.
    """
    check_settings(steps, shift)
    count = NUM_TRAIN_TIMESTEPS
    table = np.append(shift_sigmas(1 - np.arange(count) / count, shift) * count, 0.0)
    return looked_up(table[count - _spaced_entries(steps)], shift)


def _spaced_entries(steps: int) -> np.ndarray:
    """1000 to 0 in whole numbers, as torch.linspace spaces float32 numbers and a cast cuts them off."""
    count = np.float32(NUM_TRAIN_TIMESTEPS)
    if steps == 1:
        return np.array([NUM_TRAIN_TIMESTEPS])
    width = -count / np.float32(steps - 1)
    numbers = np.arange(steps, dtype=np.float32)
    from_start, from_end = count + width * numbers, -width * numbers[::-1]
    return np.where(numbers < steps // 2, from_start, from_end).astype(np.int64)
