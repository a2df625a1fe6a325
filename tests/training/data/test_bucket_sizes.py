"""Sizes of examples against those of musubi-tuner and DiffSynth-Studio."""

from __future__ import annotations

import pytest

from mlx_video.errors import DatasetError
from mlx_video.training.data.bucket_sizes import BucketSizes, LimitedSizes, list_buckets

STEP = (16, 16)
# What BucketSelector of musubi-tuner gives for its architecture "wan".
CLIPS = [
    (1920, 1080), (1080, 1920), (1024, 1024), (640, 480), (500, 333), (3000, 500), (500, 3000), (720, 577),
    (961, 544),
]  # fmt: skip
CHOSEN = {
    ((960, 544), False): [
        (960, 544), (544, 960), (720, 720), (832, 624), (880, 592), (1472, 352), (352, 1472), (816, 640),
        (960, 544),
    ],
    ((960, 544), True): [
        (960, 544), (544, 960), (720, 720), (640, 480), (496, 320), (1472, 352), (352, 1472), (720, 576),
        (960, 544),
    ],
    ((832, 480), False): [
        (832, 480), (480, 832), (624, 640), (720, 544), (768, 512), (1312, 304), (304, 1312), (704, 560),
        (832, 480),
    ],
    ((64, 64), False): [
        (80, 48), (48, 80), (64, 64), (64, 64), (80, 48), (128, 32), (32, 128), (64, 64), (80, 48),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("resolution", "no_upscale"), CHOSEN)
def test_clips_get_the_buckets_of_musubi_tuner(resolution: tuple[int, int], no_upscale: bool):
    rule = BucketSizes(resolution, no_upscale=no_upscale)
    found = [rule.choose(*size, STEP) for size in CLIPS]
    assert found == CHOSEN[resolution, no_upscale]


def test_buckets_of_a_small_area_are_those_of_musubi_tuner():
    assert list_buckets(64, 64) == ((32, 128), (48, 80), (64, 64), (80, 48), (128, 32))
    assert list_buckets(48, 48) == ((16, 144), (32, 64), (48, 48), (64, 32), (144, 16))
    large = list_buckets(960, 544)
    assert (len(large), large[0], large[-1]) == (47, (352, 1472), (1472, 352))


def test_without_buckets_every_clip_gets_the_resolution():
    rule = BucketSizes((960, 544), enable_bucket=False, no_upscale=True)
    assert {rule.choose(*size, STEP) for size in CLIPS} == {(960, 544)}


def test_a_model_of_larger_steps_gets_buckets_of_them():
    assert all(width % 32 == height % 32 == 0 for width, height in list_buckets(1280, 704, 32))
    assert BucketSizes((1280, 704)).choose(1920, 1080, (32, 32)) == (
        1280,
        704,
    )  # 1.82 is nearer to 1.78 than 1.65


def test_clips_keep_their_size_down_to_an_area_as_in_diffsynth():
    rule = LimitedSizes(max_pixels=1024 * 1024)
    assert rule.choose(640, 490, STEP) == (640, 480)  # rounded down, never enlarged
    assert rule.choose(1920, 1080, STEP) == (1360, 768)  # int(1920 / 1.4062…) = 1365, int(1080 / …) = 768
    assert LimitedSizes((832, 480)).choose(1920, 1080, STEP) == (832, 480)


@pytest.mark.parametrize(
    ("rule", "clip", "told"),
    [
        (BucketSizes((850, 480), enable_bucket=False), (850, 480), "850x480.*multiples of 16x16.*848x480"),
        (BucketSizes((960, 544), no_upscale=True), (100, 12), "100x12 pixels are less than 16"),
        (BucketSizes((16, 16)), (100, 100), "too small for buckets of 16"),
        (LimitedSizes(), (5000, 8), "5000x8 pixels leave less than 16x16"),
        (LimitedSizes((100, 100)), (640, 480), "100x100.*Nearest below: 96x96"),
    ],
)
def test_what_no_model_makes_is_refused(rule: BucketSizes | LimitedSizes, clip: tuple[int, int], told: str):
    with pytest.raises(DatasetError, match=told):
        rule.choose(*clip, STEP)
