"""Bernini-R at work: what its runs are given decides guidance, and what does not go together is refused."""

from __future__ import annotations

import numpy as np
import pytest

from mlx_video import Video, WanPipeline, convert_checkpoint
from mlx_video.errors import RequestError
from tests.fixtures.diffusers_checkpoint import write_diffusers_variant

pytestmark = pytest.mark.slow

SMALL = {"width": 32, "height": 16, "num_frames": 5, "steps": 2, "seed": 1}


def draw(seed: int, count: int = 9) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 40, 56, 3), np.uint8)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> WanPipeline:
    root = tmp_path_factory.mktemp("bernini")
    write_diffusers_variant(root / "Bernini-R-Diffusers", "bernini-r-a14b")
    convert_checkpoint(root / "Bernini-R-Diffusers", root / "converted", dtype="float32")
    return WanPipeline.from_pretrained(root / "converted", keep_networks=False)


def run(pipeline: WanPipeline, **options: object) -> np.ndarray:
    return np.array(pipeline("a cat", **{**SMALL, **options}).latents)


def test_a_video_has_its_shape_within_848_pixels(pipeline: WanPipeline):
    clip = np.zeros((5, 72, 96, 3), np.uint8)
    video = pipeline("a cat", bernini_video=clip, num_frames=5, steps=1, seed=1)
    assert video.frames.shape == (5, 64, 96, 3)  # of 4.5 times 16 the even number


def test_frames_are_picked_at_the_rate_of_the_result(pipeline: WanPipeline):
    clip = draw(1, 16)
    fast = run(pipeline, bernini_video=Video(clip, fps=32))
    slow = run(pipeline, bernini_video=Video(clip, fps=16))
    # Of 16 frames at 32 a second nine are shown at 16: round(linspace(0, 15, 9)).
    alike = run(pipeline, bernini_video=Video(clip[[0, 2, 4, 6, 8, 9, 11, 13, 15]], fps=16))
    assert np.array_equal(fast, alike)
    assert not np.array_equal(fast, slow)


def test_the_order_of_pictures_counts(pipeline: WanPipeline):
    one, other = draw(1, 1)[0], draw(2, 1)[0]
    found = run(pipeline, bernini_reference_image=(one, other))
    assert np.abs(found - run(pipeline, bernini_reference_image=(other, one))).max() > 1e-3


def test_a_picture_is_edited(pipeline: WanPipeline):
    found = [run(pipeline, bernini_video=draw(seed, 1), num_frames=1) for seed in (1, 2)]
    assert found[0].shape[1] == 1
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_plain_guidance_sees_the_sources_too(pipeline: WanPipeline):
    given = {"bernini_video": draw(1), "bernini_reference_image": (draw(2, 1)[0],)}
    plain = run(pipeline, **given, recipe="official")
    assert np.abs(plain - run(pipeline, **given)).max() > 1e-3
    assert np.abs(plain - run(pipeline, recipe="official")).max() > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bernini_video": draw(1, 5), "num_frames": 9}, "5 frames make 5 at 16 a second, the result has 9"),
        ({"bernini_reference_image": (draw(1, 1)[0],), "num_frames": 1}, "are for videos"),
        ({"apg": True}, "recipe: bernini: its own guidance does not go with apg"),
        ({"image": draw(1, 1)[0]}, "Leave the option out"),
    ],
    ids=["short", "picture", "form", "image"],
)
def test_what_it_cannot_do_is_refused(pipeline: WanPipeline, options: dict[str, object], message: str):
    with pytest.raises(RequestError, match=message):
        run(pipeline, **options)
