"""What Bernini-R sees beside the noise: a video to edit, and pictures of what is to appear."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import mlx.core as mx
import numpy as np

from mlx_video.conditioning.clips import encode_frames, encode_picture
from mlx_video.conditioning.units import ConditioningUnit, Encoders, Fields, UnitInputs
from mlx_video.errors import RequestError
from mlx_video.events import Work
from mlx_video.geometry import VideoGeometry
from mlx_video.media.resize import resize_by_pillow, to_unit_range
from mlx_video.media.sources.pick_frames import even_places
from mlx_video.media.sources.source_video import SourceVideo
from mlx_video.models.block_context import Pass
from mlx_video.models.source_tokens import SourceHook
from mlx_video.models.transformer import WanTransformer
from mlx_video.models.video_transformer import VideoTransformer
from mlx_video.sampling.recipes.bernini import SOURCE_PICTURES, SOURCE_VIDEO, find_kinds
from mlx_video.sampling.source_guidance import PICTURES, VIDEO

LONGEST_SIDE = 848
"""Pixels of the longer side that a source is shrunk to."""
MOST_NUMBERS = 5
"""The highest number of a source that the model was trained with."""
_STRIDE = 16
_FRAME_FACTOR = 4
# What each task's prompt begins with. Source: bytedance/Bernini bernini/prompt_enhancer.py, SYSTEM_PROMPTS.
_ASSISTANT = "You are a helpful assistant specialized in "


def begin_prompt(kinds: frozenset[str], *, is_picture: bool) -> str:
    """What the prompt begins with, which says what is to be done with the sources.

    Args:
        kinds: of the sources.
        is_picture: whether one frame is made.
    """
    if kinds == {VIDEO, PICTURES}:
        task = "video editing with reference."
    elif kinds == {PICTURES}:
        task = "subject-to-video generation."
    elif kinds == {VIDEO}:
        task = "image editing." if is_picture else "video editing."
    else:
        task = "text-to-image generation." if is_picture else "text-to-video generation."
    return _ASSISTANT + task


def size_within(height: int, width: int, longest: int = LONGEST_SIDE) -> tuple[int, int]:
    """Height and width of a source: as it is, shrunk where it is too long, in multiples of 16.

    Source: bytedance/Bernini bernini/data_utils.py, MaxLongEdgeMinShortEdgeResize.
    """
    scale = max(min(longest / max(width, height), 1.0), 1 / min(width, height))
    found = _scale(height, width, scale)
    return _scale(*found, longest / max(found)) if max(found) > longest else found


def _scale(height: int, width: int, scale: float) -> tuple[int, int]:
    rows, columns = (
        max(_STRIDE, int(round(round(side * scale) / _STRIDE) * _STRIDE)) for side in (height, width)
    )
    return rows, columns


def choose_size(height: int, width: int, area: int) -> tuple[int, int]:
    """Width and height of a result that follows a video, whatever the area."""
    rows, columns = size_within(height, width)
    return columns, rows


def number_sources(count: int) -> list[float]:
    """Numbers of so many sources, from 1 on; more than the model knows lie between them.

    Source: bytedance/Bernini bernini/models/wan_diffusion.py, GEN_Wanx22.sample.
    """
    if count <= MOST_NUMBERS:
        return [float(number) for number in range(1, count + 1)]
    return np.linspace(1.0, float(MOST_NUMBERS), count).tolist()


def number_frames(count: int, video_fps: float, fps: float) -> list[int]:
    """Which frames of a video are shown at another rate, 4n+1 of them.

    Args:
        count: frames of the video.
        video_fps: its rate.
        fps: of the result.

    Source: bytedance/Bernini bernini/data_utils.py, smart_video_nframes.
    """
    wanted = max(math.floor(count / video_fps * fps / _FRAME_FACTOR), 1) * _FRAME_FACTOR + 1
    last = count // _FRAME_FACTOR * _FRAME_FACTOR if video_fps == fps else count - 1
    # Beyond the end comes the last frame again.
    return np.rint(even_places(last, wanted)).astype(int).clip(0, count - 1).tolist()


def check_source(video: SourceVideo, num_frames: int, video_fps: float | None, fps: float) -> None:
    """Refuse a video that is shorter than the result, or no picture where one is made.

    Raises:
        RequestError: it is too short.
        MediaError: it cannot be read.
    """
    count = 1 if video.is_still else sum(1 for _ in video.read())
    found = 1 if count == 1 else len(number_frames(count, video_fps or video.fps or fps, fps))
    if found < num_frames:
        raise RequestError(
            SOURCE_VIDEO,
            f"{video.name}: {count} frames make {found} at {fps:g} a second, the result has {num_frames}. "
            f"Give a longer video, or --num-frames {found}.",
        )


def count_source_frames(
    geometry: VideoGeometry, pictures: Sequence[tuple[int, int]], *, has_video: bool
) -> int:
    """Token frames of the result's size that sources take as much room as, rounded up.

    Args:
        geometry: of the result.
        pictures: height and width of each.
        has_video: whether a video is edited.
    """
    frames, rows, columns = geometry.grid
    longest = max(LONGEST_SIDE, geometry.width, geometry.height)
    tokens = sum(math.prod(size_within(*size, longest)) // _STRIDE**2 for size in pictures)
    return has_video * frames + math.ceil(tokens / (rows * columns))


@dataclass(frozen=True, slots=True)
class SourcesAddOn:
    """Sources in every pass that sees them.

    Attributes:
        video: latents of the video to edit, [C, T, h, w]; None for none.
        pictures: of each picture, [C, 1, h, w].
    """

    video: mx.array | None
    pictures: tuple[mx.array, ...]

    def __call__(self, transformer: VideoTransformer, one: Pass) -> Pass:
        """The pass with the tokens of the sources before the video's; the video's number comes first."""
        given = [] if self.video is None else [(VIDEO, self.video)]
        given += [(PICTURES, latents) for latents in self.pictures]
        numbers = number_sources(len(given))
        seen = [latents for kind, latents in given if one.sees is None or kind in one.sees]
        if not seen:
            return one
        # A video comes first, so that pictures are left out from behind.
        hook = SourceHook(cast(WanTransformer, transformer), seen, numbers[: len(seen)])
        return replace(one, hooks=(*one.hooks, hook))

    def take_frames(self, frames: Sequence[int]) -> SourcesAddOn:
        """See `types.FrameAddOn`."""
        return self if self.video is None else replace(self, video=self.video[:, mx.array(list(frames))])


def _encode_prompts(inputs: UnitInputs, encoders: Encoders) -> Work[Fields]:
    prompt, *others = inputs.prompts
    start = begin_prompt(_kinds_of(inputs), is_picture=inputs.geometry.num_frames == 1)
    features = yield from encoders.encode_texts([start + prompt.strip(), *others])
    return dict(zip(("context", "negative_context"), features, strict=False))


TASK_PROMPTS = ConditioningUnit("prompts", "text", ("context", "negative_context"), _encode_prompts)
"""Features of the prompts, the first of which begins with the task."""


def _encode_sources(inputs: UnitInputs, encoders: Encoders) -> Work[Fields]:
    geometry = inputs.geometry
    longest = max(LONGEST_SIDE, geometry.width, geometry.height)
    video, pictures = None, []
    with encoders.open_vae() as encode:
        if SOURCE_VIDEO in inputs.footage:
            frames = map(to_unit_range, read_source(inputs))
            video = yield from encode_frames(encode, frames, geometry)
        for pixels in inputs.pictures.get(SOURCE_PICTURES, ()):
            size = size_within(len(pixels), pixels.shape[1], longest)
            fitted = resize_by_pillow(pixels, *size, "BICUBIC")
            pictures.append((yield from encode_picture(encode, to_unit_range(fitted))))
        mx.eval(video, pictures)
    return {"sources_add_on": SourcesAddOn(video, tuple(pictures))}


SOURCES = ConditioningUnit(
    "sources", "image", ("sources_add_on",), _encode_sources, lambda inputs: bool(_kinds_of(inputs))
)
"""Latents of the video and the pictures."""


def read_source(inputs: UnitInputs) -> Iterator[np.ndarray]:
    """Frames of the video to edit, uint8, of the result's size and number."""
    video, geometry = inputs.footage[SOURCE_VIDEO], inputs.geometry
    fps = inputs.config.sampling.fps
    numbers = [0]
    if geometry.num_frames > 1:
        count = sum(1 for _ in video.read())
        numbers = number_frames(count, inputs.options["video_fps"] or video.fps or fps, fps)
    wanted = numbers[: geometry.num_frames]
    for number, (frame, _) in enumerate(video.read()):
        for _ in range(wanted.count(number)):
            yield resize_by_pillow(frame, geometry.height, geometry.width, "BICUBIC")


def _kinds_of(inputs: UnitInputs) -> frozenset[str]:
    return find_kinds(frozenset({*inputs.footage, *inputs.pictures}))
