"""What of a plain clip a model is given, for every model there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlx_video.config import ModelConfig
from mlx_video.errors import DatasetError
from mlx_video.training.data.bucket_sizes import BucketSizes
from mlx_video.training.data.clip_reader import ClipFacts
from mlx_video.training.data.clips import Clip, Table
from mlx_video.training.data.example_plan import Learner, plan_clip
from mlx_video.training.data.frame_windows import FrameRule, Window
from mlx_video.variants.registry import VARIANTS
from mlx_video.variants.variant import Variant
from tests.fixtures.tiny_variants import TEXT_TO_VIDEO

CLIP, PICTURE = Clip(Path("a.mp4"), "a cat", "a.txt"), Clip(Path("a.png"), "a cat", "a.txt", True)
TABLE = Table("clips", (CLIP, PICTURE), BucketSizes((832, 480)), "musubi", FrameRule("full"), Path("cache"))
FIRST, BOTH = ("image",), ("image", "end_image")
# What the makers train image-to-video models with; the others learn from text, or from what a list brings.
OF_CLIPS = {
    "wan2.1-i2v-14b": FIRST, "wan2.2-i2v-a14b": FIRST, "wan2.2-ti2v-5b": FIRST, "wan2.2-i2v": FIRST,
    "wan2.2-i2v-demo": FIRST, "wan2.1-flf2v-14b": BOTH, "wan2.1-fun-inp": BOTH, "wan2.1-fun-1.3b-inp": BOTH,
    "wan2.2-fun-a14b-inp": BOTH, "longcat-video": FIRST,
}  # fmt: skip


def own_frames(variant: Variant, clip: Clip, frames: int) -> tuple[str, ...]:
    config = ModelConfig(
        variant.name, variant.model_version, TEXT_TO_VIDEO.transformer, sampling=variant.sampling
    )
    learner = Learner(variant, config)
    (example,) = plan_clip(TABLE, clip, ClipFacts(832, 480, frames), learner)
    assert example.window == Window(0, frames)
    return example.own_frames


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_every_model_learns_from_a_plain_clip_or_says_what_it_lacks(variant: Variant):
    beside = {*variant.inputs.required} - {"prompt", *BOTH}
    if beside or variant.inputs.alternatives:
        with pytest.raises(DatasetError, match=f"a.mp4: {variant.title} needs "):
            own_frames(variant, CLIP, 17)
        return
    assert own_frames(variant, CLIP, 17) == OF_CLIPS.get(variant.name, ())


@pytest.mark.parametrize("name", OF_CLIPS)
def test_a_picture_spares_no_frame_that_a_model_can_do_without(name: str):
    variant = next(each for each in VARIANTS if each.name == name)
    if "end_image" in variant.inputs.required:
        with pytest.raises(DatasetError, match="needs a first and a last frame"):
            own_frames(variant, PICTURE, 1)
        return
    assert own_frames(variant, PICTURE, 1) == tuple(each for each in FIRST if each in variant.inputs.required)
