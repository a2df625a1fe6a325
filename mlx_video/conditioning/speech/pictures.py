"""Pictures and videos as speech-to-video takes them: cut like the official code does, at its frame rate."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice, repeat

import numpy as np

from mlx_video.conditioning.speech.sound import FRAME_RATE, MOTION_FRAMES
from mlx_video.errors import RequestError
from mlx_video.media.fit import Fit, fit_frame
from mlx_video.media.resize import centre_cut, resize_by_pillow, to_unit_range
from mlx_video.media.sources.source_video import SourceVideo

BLACK = -1.0


def cover_size(height: int, width: int, shorter: int) -> tuple[int, int]:
    """Height and width of a picture whose shorter side becomes `shorter`; the other is cut to whole pixels.

    Source: torchvision torchvision/transforms/functional.py, _compute_resized_output_size.
    """
    longer = int(shorter * max(height, width) / min(height, width))
    return (longer, shorter) if height > width else (shorter, longer)


def fit_reference(pixels: np.ndarray, height: int, width: int, fit: Fit = "cover") -> np.ndarray:
    """The reference image in the video's size.

    Args:
        pixels: uint8 [H, W, 3].
        height, width: of the video.
        fit: "cover" as the official code has it; others as in `media.fit`.

    Returns:
        float32 [height, width, 3] in [-1, 1].

    Source: Wan2.2 wan/speech2video.py, WanS2V.generate.
    """
    if fit != "cover":
        return to_unit_range(fit_frame(pixels, height, width, fit))
    rows, columns = cover_size(pixels.shape[0], pixels.shape[1], min(height, width))
    return _to_unit(centre_cut(resize_by_pillow(pixels, rows, columns, "BILINEAR"), height, width))


def fit_footage(pixels: np.ndarray, height: int, width: int, fit: Fit = "cover") -> np.ndarray:
    """A frame of a video in the size of the one that is made; it is not rounded to bytes between.

    Arguments and result as for :func:`fit_reference`.

    Source: Wan2.2 wan/speech2video.py, WanS2V.load_pose_cond.
    """
    if fit != "cover":
        return to_unit_range(fit_frame(pixels, height, width, fit))
    rows, columns = cover_size(pixels.shape[0], pixels.shape[1], min(height, width))
    unit = _to_unit(pixels)
    colours = [resize_by_pillow(unit[..., colour], rows, columns, "BILINEAR") for colour in range(3)]
    return centre_cut(np.stack(colours, axis=-1), height, width)


def _to_unit(pixels: np.ndarray) -> np.ndarray:
    """Bytes in [-1, 1], float32, rounded as speech-to-video's code does: not as `media.resize` has it."""
    return pixels.astype(np.float32) / np.float32(255) * 2 - 1


def read_footage(video: SourceVideo, fps: float | None, step: bool = True) -> Iterator[np.ndarray]:
    """Frames of a video at the rate of the models: every one, or every second, or every third and so on.

    Args:
        video: given by the user.
        fps: its rate where the user states it; a video that tells none has that of the models.
        step: whether frames are left out at all.

    Yields:
        uint8 [H, W, 3].

    Source: Wan2.2 wan/speech2video.py, WanS2V.read_last_n_frames.
    """
    every = max(1, round((fps or video.fps or FRAME_RATE) / FRAME_RATE)) if step else 1
    shown = chain.from_iterable(repeat(frame, max(1, round(length))) for frame, length in video.read())
    return islice(shown, 0, None, every)


def pose_of_clip(
    frames: Iterator[np.ndarray], first_frame: int, num_frames: int, size: tuple[int, int]
) -> Iterator[np.ndarray]:
    """Frames that the poses of a clip are encoded from: its first one twice; black where the video is over.

    Args:
        frames: of the whole video, float32 [height, width, 3] in [-1, 1].
        first_frame: of the clip.
        num_frames: of the clip.
        size: (height, width).

    Source: Wan2.2 wan/speech2video.py, WanS2V.load_pose_cond.
    """
    black = np.full((*size, 3), BLACK, np.float32)
    of_clip = islice(chain(islice(frames, first_frame, None), repeat(black)), num_frames)
    first = next(of_clip)
    return chain((first, first), of_clip)


def check_motion(video: SourceVideo) -> None:
    """Refuse a video of earlier frames that are not as many as the models read.

    Raises:
        RequestError: there are more or fewer.
        MediaError: it cannot be read.
    """
    count = sum(1 for _ in islice(video.read(), MOTION_FRAMES + 1))
    if count != MOTION_FRAMES:
        found = f"more than {MOTION_FRAMES}" if count > MOTION_FRAMES else str(count)
        raise RequestError(
            "motion_video",
            f"{video.name} has {found} frames; exactly {MOTION_FRAMES} are read, 16 a second. Cut it, or "
            "give more.",
        )
