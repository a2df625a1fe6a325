"""What a mask leaves to a model: some of the video, all of it, or nothing."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from mlx_video.events import Notice


def check_masks(name: str, masks: Iterable[np.ndarray]) -> tuple[Notice, ...]:
    """Say so where a mask is of one colour throughout; looks no further than at the first of another.

    Args:
        name: of the mask, for the message.
        masks: of its frames, bool of any shape, true where they are white.
    """
    any_black = any_white = False
    for mask in masks:
        any_white = any_white or bool(mask.any())
        any_black = any_black or not mask.all()
        if any_black and any_white:
            return ()
    if any_white:
        return (Notice(f"{name} is all white: everything is made anew, and nothing of the video stays."),)
    return (Notice(f"{name} is all black: nothing is made anew. White is what a model fills in."),)
