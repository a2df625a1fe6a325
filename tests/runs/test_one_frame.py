"""One picture in place of a video: what each input does to it, and what does not go with it."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from mlx_video import RequestError, WanPipeline, convert_checkpoint
from mlx_video.cli import generate
from mlx_video.events import Event, MemoryPlanned, StageFinished, StageStarted, StepFinished
from mlx_video.latents.latents_file import load_latents
from tests.fixtures.tiny_variants import write_tiny_variant

pytestmark = pytest.mark.slow

DRAW = np.random.default_rng(0)
IMAGE, LAST, FIRST_CONTROL, SECOND_CONTROL = (DRAW.integers(0, 256, (20, 36, 3), np.uint8) for _ in range(4))
SMALL = {"width": 32, "height": 16, "steps": 2, "seed": 1, "guide_scale": 2.0}
ONE = {"image": IMAGE, "target_index": 1, "control_image": [FIRST_CONTROL], "control_index": [0]}
TWO = {
    "image": IMAGE, "end_image": LAST, "target_index": 1, "control_image": [FIRST_CONTROL, SECOND_CONTROL],
    "control_index": [0, 10],
}  # fmt: skip
MODELS = {"wan2.1-i2v-14b": ONE, "wan2.1-flf2v-14b": TWO}


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("models")
    for name in (*MODELS, "wan2.2-i2v-a14b"):
        write_tiny_variant(root / "original" / name, name)
    return {
        name: WanPipeline.from_pretrained(
            convert_checkpoint(root / "original" / name, root / name, dtype="float32"), keep_networks=False
        )
        for name in (*MODELS, "wan2.2-i2v-a14b")
    }


def latents_of(pipeline: WanPipeline, options: dict[str, object], **changes: object) -> mx.array:
    return pipeline("a cat", **SMALL | options | changes).latents


@pytest.mark.parametrize("name", MODELS)
def test_every_input_changes_the_picture(pipelines, name: str):
    pipeline, options = pipelines[name], MODELS[name]
    whole = latents_of(pipeline, options)
    assert whole.shape == (16, 1, 2, 4)
    controls = options["control_image"]
    others = [
        {"image": 255 - IMAGE},
        {"target_index": 2},
        {"control_index": [5, *options["control_index"][1:]]},
        {"control_image": [255 - FIRST_CONTROL, *controls[1:]]},
    ]
    if name == "wan2.1-flf2v-14b":
        others += [{"end_image": 255 - LAST}, {"control_image": [controls[0], 255 - SECOND_CONTROL]}]
    for changes in others:
        found = latents_of(pipeline, options, **changes)
        assert mx.abs(found - whole).max() > 1e-3, changes


def test_pictures_go_with_their_indices_in_whatever_order(pipelines):
    pipeline = pipelines["wan2.1-flf2v-14b"]
    turned = {"control_image": [SECOND_CONTROL, FIRST_CONTROL], "control_index": [10, 0]}
    assert mx.array_equal(latents_of(pipeline, TWO, **turned), latents_of(pipeline, TWO))
    swapped = {"control_index": [10, 0]}
    assert not mx.array_equal(latents_of(pipeline, TWO, **swapped), latents_of(pipeline, TWO))


def test_streaming_and_resuming_give_the_same_picture(pipelines, tmp_path: Path):
    pipeline = pipelines["wan2.1-flf2v-14b"]
    whole = latents_of(pipeline, TWO)
    assert mx.array_equal(latents_of(pipeline, TWO, stream="on"), whole)
    options = SMALL | TWO | {"output_path": tmp_path / "a.png"}

    def stop(event: Event) -> None:
        if isinstance(event, StepFinished):
            assert event.latents.shape == (16, 1, 2, 4), "only the picture is shown"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline("a cat", on_event=stop, **options)
    with pytest.raises(RequestError, match="--control-index is"):
        pipeline("a cat", **options | {"resume": True, "control_index": [0, 11]})
    with pytest.raises(RequestError, match="--control-image is"):
        pipeline("a cat", **options | {"resume": True, "control_image": [IMAGE, IMAGE]})
    assert mx.array_equal(pipeline("a cat", resume=True, **options).latents, whole)


def test_its_memory_is_planned_with_the_controls(pipelines):
    pipeline, events, beside = pipelines["wan2.1-flf2v-14b"], [], mx.get_active_memory()
    options = SMALL | TWO | {"width": 128, "height": 128}
    pipeline("a cat", on_event=events.append, **options)
    (planned,) = (event.predicted for event in events if isinstance(event, MemoryPlanned))
    (denoise,) = (one for one in events if isinstance(one, StageFinished) and one.stage == "denoise")
    assert planned["denoise"] == pytest.approx(denoise.peak_bytes - beside, rel=0.15)


def test_the_command_writes_a_picture_and_its_latents(pipelines, tmp_path: Path):
    for name, pixels in (("first", IMAGE), ("control", FIRST_CONTROL)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    words = [
        "--model-dir", str(pipelines["wan2.1-i2v-14b"].folder.path), "--prompt", "a cat", "--steps", "2",
        "--width", "32", "--height", "16", "--seed", "1", "--guide-scale", "2", "--image",
        str(tmp_path / "first.png"), "--target-index", "1", "--control-image", str(tmp_path / "control.png"),
        "--control-index", "0", "--output-path", str(tmp_path / "a.png"),
        "--save-latents", str(tmp_path / "a.safetensors"),
    ]  # fmt: skip
    assert generate.main(words) == 0
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (32, 16)
    latents = load_latents(tmp_path / "a.safetensors")[0]
    assert mx.array_equal(latents, latents_of(pipelines["wan2.1-i2v-14b"], ONE))


def test_the_picture_takes_the_images_shape_without_a_size(pipelines):
    sized = {name: value for name, value in (SMALL | ONE).items() if name not in ("width", "height")}
    plan = pipelines["wan2.1-i2v-14b"].plan("a cat", **sized)
    assert "Size 832x464 follows the image's shape" in str(plan)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"control_image": []}, "target_index: needs --control-image and --control-index beside it"),
        ({"control_index": []}, "target_index: needs --control-image and --control-index beside it"),
        ({"target_index": None}, "control_image: needs --target-index"),
        ({"control_index": [0, 3]}, "control_image: 1 pictures for 2 numbers of --control-index"),
        ({"control_index": [1]}, "control_index: 1 with --target-index 1: every picture needs a time"),
        ({"control_index": [1024]}, "control_index: 1024: outside of 0 to 1023"),
        ({"target_index": -1}, "target_index: -1: must be between 0 and 1023"),
        (
            {"control_image": [IMAGE] * 3, "control_index": [0, 2, 3]},
            "3 pictures: the models take one or two",
        ),
        ({"num_frames": 5}, "num_frames: 5: --target-index makes one picture"),
        ({"end_image": LAST}, "end_image: beside --target-index Wan2.1 I2V 14B does not read it"),
        ({"input_video": [IMAGE] * 5}, "input_video: beside --target-index Wan2.1 I2V 14B does not"),
        ({"segments": 2}, "target_index: makes one picture, with which no video goes on"),
        ({"image": None}, "image: missing: Wan2.1 I2V 14B needs it"),
    ],
)
def test_what_does_not_go_with_one_picture_is_refused_before_anything_is_loaded(pipelines, changes, message):
    events: list[Event] = []
    options = {name: value for name, value in (SMALL | ONE | changes).items() if value is not None}
    with pytest.raises(RequestError, match=message):
        pipelines["wan2.1-i2v-14b"]("a cat", on_event=events.append, **options)
    assert not [event for event in events if isinstance(event, StageStarted)]


def test_other_models_refuse_it_by_name(pipelines):
    message = "target_index: Wan2.2 I2V A14B takes --image, --end-image and nothing else of that kind"
    with pytest.raises(RequestError, match=message):
        latents_of(pipelines["wan2.2-i2v-a14b"], ONE)
