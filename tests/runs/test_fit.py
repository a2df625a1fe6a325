"""Images, videos and masks of another shape than the video meet it as --fit says, in every kind of model."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import RequestError, WanPipeline, convert_checkpoint
from mlx_video.media.fit import Fit, fit_frame, fit_mask
from tests.fixtures.tiny_variants import tiny_variant, write_tiny_variant

pytestmark = pytest.mark.slow

SMALL = {"width": 32, "height": 16, "num_frames": 5, "steps": 1, "seed": 1, "guide_scale": 1.0}
DRAW = np.random.default_rng(0)
TALL, OTHER = (DRAW.integers(0, 256, (40, 30, 3), np.uint8) for _ in range(2))
VIDEO = DRAW.integers(0, 256, (5, 24, 20, 3), np.uint8)
MASK = np.zeros((5, 24, 20, 3), np.uint8)
MASK[:, 6:18, 5:] = 255
# Model → what it is given; each of these is of another shape than the video.
INPUTS = {
    "wan2.1-i2v-14b": {"image": TALL, "end_image": OTHER},
    "wan2.1-fun-v1.1-control": {"image": TALL, "reference_image": OTHER, "control_video": VIDEO},
    "wan2.1-fun-inp": {"inpaint_video": VIDEO, "inpaint_video_mask": MASK},
    "wan2.1-vace-1.3b": {"vace_video": VIDEO, "vace_video_mask": MASK},
}
ORIGINAL_TO_CLIP = ("reference_image",)


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory):
    root, made = tmp_path_factory.mktemp("models"), {}

    def open_model(name: str) -> WanPipeline:
        if name not in made:
            original = root / name / tiny_variant(name).called
            write_tiny_variant(original, name)
            made[name] = WanPipeline.from_pretrained(
                convert_checkpoint(original, root / name / "mlx", dtype="float32")
            )
        return made[name]

    return open_model


def fit_value(name: str, value: np.ndarray, fit: Fit, height: int = 16, width: int = 32) -> np.ndarray:
    """An input that is of the video's size already."""
    if value.ndim == 3:
        return fit_frame(value, height, width, fit)
    if name.endswith("mask"):
        masks = [fit_mask(frame, height, width, fit) for frame in value]
        return np.repeat(255 * np.stack(masks).astype(np.uint8)[..., None], 3, axis=3)
    return np.stack([fit_frame(frame, height, width, fit) for frame in value])


@pytest.mark.sample(3)
@pytest.mark.parametrize("fit", ["letterbox", "stretch"])
@pytest.mark.parametrize("name", INPUTS)
def test_an_input_is_fitted_as_if_it_came_so(pipelines, name: str, fit: Fit):
    given = {field: value for field, value in INPUTS[name].items() if field not in ORIGINAL_TO_CLIP}
    if name == "wan2.1-fun-v1.1-control":
        given.pop("image")  # CLIP sees it as it is
    ready = {field: fit_value(field, value, fit) for field, value in given.items()}
    pipeline = pipelines(name)
    found = pipeline("a cat", fit=fit, **given, **SMALL).latents
    assert mx.array_equal(found, pipeline("a cat", **ready, **SMALL).latents)
    assert not mx.array_equal(found, pipeline("a cat", **given, **SMALL).latents)


def test_each_way_makes_another_video(pipelines):
    for name, given in INPUTS.items():
        cover, letterbox, stretch = (
            pipelines(name)("a cat", fit=fit, **given, **SMALL).latents
            for fit in ("cover", "letterbox", "stretch")
        )
        assert not mx.array_equal(cover, letterbox), name
        assert not mx.array_equal(cover, stretch), name
        assert not mx.array_equal(letterbox, stretch), name


def test_the_run_says_how_an_image_meets_the_size(pipelines):
    texts = {
        fit: str(pipelines("wan2.1-i2v-14b").plan("a cat", image=TALL, fit=fit, **SMALL))
        for fit in ("cover", "letterbox", "stretch")
    }
    assert "The image (30x40) is resized and cut at the centre to 32x16." in texts["cover"]
    assert "The image (30x40) is shown whole between black bars in 32x16." in texts["letterbox"]
    assert "The image (30x40) is stretched to 32x16." in texts["stretch"]


def test_another_word_is_refused(pipelines, tmp_path: Path):
    with pytest.raises(RequestError, match="fit: 'crop' is not one of cover, letterbox, stretch"):
        pipelines("wan2.1-i2v-14b")("a cat", image=TALL, fit="crop", **SMALL)
