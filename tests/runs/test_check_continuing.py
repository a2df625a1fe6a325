"""What cannot go on is refused before anything is made."""

from __future__ import annotations

import pytest

from mlx_video.errors import RequestError
from mlx_video.request import GenerateRequest, make_request
from mlx_video.runs.continuation import check_continuing
from mlx_video.variants.registry import VARIANTS

NAMED = {variant.name: variant for variant in VARIANTS}


def check(name: str, **options: object) -> None:
    check_continuing(make_request(GenerateRequest, {"prompt": "a cat", **options}), NAMED[name])


def test_a_model_without_images_makes_one_segment():
    check("wan2.1-t2v-1.3b", segments=1)
    for options in ({"segments": 2}, {"continue_from": "a.mp4"}):
        with pytest.raises(RequestError, match="takes no image, so nothing can begin with the last frame"):
            check("wan2.1-t2v-1.3b", **options)


def test_a_clip_that_ends_with_a_picture_goes_on_no_further():
    check("wan2.1-i2v-14b", image="a.png", segments=2)
    check("wan2.1-i2v-14b", image="a.png", end_image="b.png", segments=1)
    with pytest.raises(RequestError, match="beside --segments: a clip would end before it goes on"):
        check("wan2.1-i2v-14b", image="a.png", end_image="b.png", segments=2)


def test_one_beginning_is_given():
    with pytest.raises(RequestError, match="both say what the clip begins with"):
        check("wan2.1-i2v-14b", image="a.png", continue_from="a.mp4")
