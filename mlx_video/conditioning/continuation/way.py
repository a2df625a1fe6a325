"""The record of one way in which a video is made in several parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

from mlx_video.conditioning.continuation.part import EarlierVideo
from mlx_video.config import ModelConfig
from mlx_video.media.sound import Sound
from mlx_video.request import GenerateRequest


@dataclass(frozen=True, slots=True)
class Length:
    """How long a video is whose inputs tell.

    Attributes:
        parts: how many it is made in.
        frames: to which the last part is cut; None for all that it makes.
        reason: for messages, such as "the pose video has 120 frames".
        sound: whose length it is; None where no sound tells it.
    """

    parts: int
    frames: int | None
    reason: str
    sound: Sound | None = field(default=None, compare=False)


class CountShared(Protocol):
    """How many frames a part takes of what is before it."""

    def __call__(self, request: GenerateRequest, config: ModelConfig, title: str) -> int:
        """Count them, for a model of this title.

        Raises:
            RequestError: `continue_frames` is not for this model, or does not fit a part.
        """


Begin = Callable[[GenerateRequest, EarlierVideo, ModelConfig], GenerateRequest]
"""The request for a part, and what is before it → the request with what becomes of that."""


def in_size_of_earlier(
    request: GenerateRequest, earlier: EarlierVideo, config: ModelConfig
) -> GenerateRequest:
    """The request, of which what is left open of the size is that of the earlier video."""
    height, width = (side // config.vae.output_scale for side in earlier.last.shape[:2])
    return replace(
        request,
        width=request.width or round((request.height or height) * width / height),
        height=request.height or round((request.width or width) * height / width),
    )


@dataclass(frozen=True, slots=True)
class Continuation:
    """One way to go on from frames.

    Attributes:
        count_shared: frames that a part takes of what is before it.
        begin: what they become in the request.
        replaces: inputs of the first part in whose place they come.
        refuses: inputs that say what they say, and are given for no part.
        is_shown_again: whether the part begins with these frames; where it is joined they are cut.
        count_lost: frames at the start of a video that nothing is before which are not shown.
        most_new: how many frames a part adds at most; None for all that it makes.
        extra_frames: that a part shows beyond those of its latents alone, since others are decoded before it.
        reads_history: whether conditioning units get these frames.
        is_exact: whether they get them as they left the decoder, not as the video holds them.
        reads_on: whether a part reads its other inputs from where it lies, not from their beginning.
        turns_back: whether inputs that end before the last part does go back and forth there.
        find_length: how long the video is; None for as many parts as the user wants, which is also returned
            where the input that tells is missing.
        noise_goes_on: whether a part draws its noise behind that of the parts before, not from the next seed.
        matches_colours: whether a part is brought to the colours of what is before it.
    """

    count_shared: CountShared
    begin: Begin = in_size_of_earlier
    replaces: tuple[str, ...] = ()
    refuses: tuple[str, ...] = ()
    is_shown_again: bool = True
    count_lost: Callable[[GenerateRequest], int] = lambda request: 0
    most_new: Callable[[GenerateRequest], int | None] = lambda request: None
    extra_frames: int = 0
    reads_history: bool = False
    is_exact: bool = False
    reads_on: bool = False
    turns_back: bool = False
    find_length: Callable[[GenerateRequest, ModelConfig], Length | None] | None = None
    noise_goes_on: bool = False
    matches_colours: bool = True
