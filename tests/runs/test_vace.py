"""Runs of a VACE model: each input changes what it should, and what a model does not take is refused."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from mlx_video import RequestError, WanPipeline, convert_checkpoint
from mlx_video.cli import generate
from mlx_video.events import Event, Notice
from mlx_video.media.video import read_video_metadata
from mlx_video.request import GenerateRequest, flag_of, make_request
from mlx_video.runs.input_checks import check_inputs
from mlx_video.runs.inputs import check_given_masks
from mlx_video.variants.registry import find_by_name
from tests.fixtures.adapter_files import write_adapter
from tests.fixtures.tiny_variants import write_tiny_variant

pytestmark = pytest.mark.slow

HEIGHT, WIDTH, FRAMES, STEPS = 32, 48, 5, 2
SMALL = {
    "width": WIDTH, "height": HEIGHT, "num_frames": FRAMES, "steps": STEPS, "guide_scale": 3.0, "shift": 3.0,
    "seed": 1,
}  # fmt: skip
VIDEO = np.random.default_rng(0).integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
LEFT = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
LEFT[:, : WIDTH // 2] = 255
PICTURES = [VIDEO[0, :, :40], VIDEO[3, :20]]


def convert(root: Path, name: str) -> WanPipeline:
    write_tiny_variant(root / "original", name)
    return WanPipeline.from_pretrained(convert_checkpoint(root / "original", root / "tiny", dtype="float32"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vace")


@pytest.fixture(scope="module")
def pipeline(root: Path) -> WanPipeline:
    return convert(root, "wan2.1-vace")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> WanPipeline:
    """The text-to-video model whose weights the VACE model holds beside its own."""
    return convert(tmp_path_factory.mktemp("base"), "wan2.1-t2v")


def latents_of(pipeline: WanPipeline, **options: object) -> mx.array:
    return pipeline("a cat", **SMALL | options).latents


def test_at_scale_zero_it_is_the_model_that_it_stands_upon(pipeline: WanPipeline, base: WanPipeline):
    expected = latents_of(base)
    assert mx.array_equal(latents_of(pipeline, vace_video=VIDEO, vace_scale=0), expected)
    assert not mx.array_equal(latents_of(pipeline, vace_video=VIDEO), expected)
    assert not mx.array_equal(latents_of(pipeline), expected), "without inputs all is to be made"


def test_scales_count_block_by_block(pipeline: WanPipeline):
    one = latents_of(pipeline, vace_video=VIDEO)
    assert mx.array_equal(latents_of(pipeline, vace_video=VIDEO, vace_scale=[1.0, 1.0]), one)
    halves = [latents_of(pipeline, vace_video=VIDEO, vace_scale=scales) for scales in ([1, 0.5], [0.5, 1])]
    assert not mx.array_equal(halves[0], one)
    assert not mx.array_equal(*halves)


def test_a_wrong_number_of_scales_is_refused(pipeline: WanPipeline):
    with pytest.raises(RequestError, match=r"1,0.5,0.5: 3 numbers, but .* has 2 VACE blocks\. Give one .* 2"):
        latents_of(pipeline, vace_scale=[1.0, 0.5, 0.5])


def test_pixels_under_the_mask_count_only_where_they_are_repainted(pipeline: WanPipeline):
    moved = VIDEO.copy()
    moved[:, :, : WIDTH // 2] ^= 64

    def masked(video: np.ndarray, **options: object) -> mx.array:
        return latents_of(pipeline, vace_video=video, vace_video_mask=[LEFT] * FRAMES, **options)

    assert mx.array_equal(masked(VIDEO), masked(moved))
    repainted = [masked(video, vace_masked_region="repaint") for video in (VIDEO, moved)]
    assert not mx.array_equal(*repainted)
    assert not mx.array_equal(masked(VIDEO), masked(np.flip(VIDEO, 2).copy())), "what stays counts"


def test_one_picture_is_the_mask_of_all_frames(pipeline: WanPipeline):
    one, all_frames = (
        latents_of(pipeline, vace_video=VIDEO, vace_video_mask=mask) for mask in ([LEFT], [LEFT] * FRAMES)
    )
    assert mx.array_equal(one, all_frames)


@pytest.mark.parametrize(
    ("colours", "said"),
    [
        (
            [0] * FRAMES,
            "--vace-video-mask is all black: nothing is made anew. White is what a model fills in.",
        ),
        (
            [255] * FRAMES,
            "--vace-video-mask is all white: everything is made anew, and nothing of the video stays.",
        ),
        ([0, 0, 255, 255, 255], None),
        ([255, 0, 0, 0, 0], None),
    ],
    ids=str,
)
def test_a_mask_of_one_colour_is_said(pipeline: WanPipeline, colours: list[int], said: str | None):
    notices: list[str] = []

    def note(event: Event) -> None:
        if isinstance(event, Notice) and "mask" in event.text:
            notices.append(event.text)

    mask = [np.full_like(LEFT, colour) for colour in colours]
    latents_of(pipeline, vace_video=VIDEO, vace_video_mask=mask, steps=1, on_event=note)
    assert notices == ([said] if said else [])


def test_a_mask_is_read_no_further_than_to_the_frame_that_tells():
    read = []

    def frames(colours: list[bool]) -> Iterator[np.ndarray]:
        for colour in colours:
            read.append(colour)
            yield np.full((2, 2), colour)

    assert list(check_given_masks({"inpaint_video_mask": lambda: frames([True, False, True, True])})) == []
    assert read == [True, False]
    (notice,) = check_given_masks({"inpaint_video_mask": lambda: frames([False] * 3)})
    assert isinstance(notice, Notice)
    assert notice.text.startswith("--inpaint-video-mask is all black")


@pytest.mark.parametrize("has_end", [False, True])
def test_first_and_last_image_are_a_video_and_a_mask(pipeline: WanPipeline, has_end: bool):
    given = {0: VIDEO[0]} | ({FRAMES - 1: VIDEO[3]} if has_end else {})
    video = [given.get(number, np.full_like(LEFT, 128)) for number in range(FRAMES)]
    mask = [np.full_like(LEFT, 0 if number in given else 255) for number in range(FRAMES)]
    expected = latents_of(pipeline, vace_video=video, vace_video_mask=mask)
    images = dict(zip(("image", "end_image"), given.values(), strict=False))
    assert mx.array_equal(latents_of(pipeline, **images), expected)


def test_without_a_size_the_video_takes_the_shape_of_the_image(pipeline: WanPipeline):
    plan = pipeline.plan(prompt="", image=np.zeros((60, 30, 3), np.uint8))
    (notice,) = (text for text in plan.notices if text.startswith("Size "))
    width, height = map(int, notice.split()[1].split("x"))
    assert height > width


def test_references_count_in_their_order_and_leave_the_video_its_length(pipeline: WanPipeline):
    without, one, both, turned = (
        latents_of(pipeline, vace_reference_image=pictures)
        for pictures in ([], PICTURES[:1], PICTURES, PICTURES[::-1])
    )
    assert without.shape == one.shape == both.shape
    assert not any(mx.array_equal(*two) for two in pairwise([without, one, both, turned]))


def test_references_beside_a_video_that_is_begun_with(pipeline: WanPipeline):
    options = {"input_video": VIDEO, "vace_reference_image": PICTURES}
    near, far = (latents_of(pipeline, denoising_strength=strength, **options) for strength in (1e-3, 0.8))
    start = latents_of(pipeline, input_video=VIDEO, denoising_strength=1e-3)
    assert mx.abs(near - start).max() < 0.1 * mx.abs(far - start).max()


@pytest.mark.sample(1)
@pytest.mark.parametrize("bits", [None, 4])
def test_streamed_vace_blocks_get_the_adapters_of_resident_ones(root: Path, bits: int | None):
    quantization = {"quantize": True, "bits": bits, "group_size": 32} if bits else {}
    folder = convert_checkpoint(root / "original", root / f"streamed-{bits}", dtype="float32", **quantization)
    own = WanPipeline.from_pretrained(folder)
    layers = [
        *(
            f"vace_blocks.{number}.{name}"
            for number in (0, 1)
            for name in ("self_attn.q", "ffn.0", "after_proj")
        ),
        *("vace_blocks.0.before_proj", "blocks.1.cross_attn.k"),
    ]
    write_adapter(root / "adapter.safetensors", own.config.transformer, layers)
    options: dict[str, object] = {"vace_video": VIDEO, "loras": [root / "adapter.safetensors"]}
    resident = latents_of(own, stream="off", **options)
    assert mx.array_equal(latents_of(own, stream="on", **options), resident)
    write_adapter(root / "less.safetensors", own.config.transformer, layers[:-2])
    less = latents_of(own, stream="on", **options | {"loras": [root / "less.safetensors"]})
    assert not mx.array_equal(less, resident)
    assert not mx.array_equal(latents_of(own, stream="on", vace_video=VIDEO), less), (
        "VACE blocks alone change it"
    )


def test_memory_is_planned_for_the_frames_of_references(pipeline: WanPipeline):
    predicted = [
        pipeline.plan(prompt="a cat", **SMALL, vace_reference_image=pictures, stream="off").predicted[
            "denoise"
        ]
        for pictures in ([], PICTURES)
    ]
    assert predicted[1] > predicted[0]


def test_a_run_from_the_command_line_records_its_inputs(pipeline: WanPipeline, tmp_path: Path):
    for number, frame in enumerate(VIDEO):
        (tmp_path / "video").mkdir(exist_ok=True)
        Image.fromarray(frame).save(tmp_path / "video" / f"{number}.png")
    for name, pixels in (("mask", LEFT), ("one", PICTURES[0]), ("two", PICTURES[1])):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    output = tmp_path / "a.mp4"
    words = [
        "--model-dir", pipeline.folder.path, "--prompt", "a cat", "--width", WIDTH, "--height", HEIGHT,
        "--num-frames", FRAMES, "--steps", STEPS, "--output-path", output,
        "--vace-video", tmp_path / "video", "--vace-video-mask", tmp_path / "mask.png",
        "--vace-reference-image", tmp_path / "one.png", "--vace-reference-image", tmp_path / "two.png",
        "--vace-scale", "1,0.5", "--vace-masked-region", "repaint",
    ]  # fmt: skip
    assert generate.main([*map(str, words)]) == 0
    settings = read_video_metadata(output)
    assert settings["vace_reference_image"] == f"{tmp_path / 'one.png'}, {tmp_path / 'two.png'}"
    assert (settings["vace_scale"], settings["vace_masked_region"]) == ("1.0, 0.5", "repaint")
    assert settings["vace_video"] == str(tmp_path / "video")


def test_a_scale_is_refused_without_vace_blocks():
    request = make_request(GenerateRequest, {"prompt": "a cat", "vace_scale": 0.5})
    with pytest.raises(RequestError, match="Wan2.1 T2V 1.3B has no VACE blocks"):
        check_inputs(request, find_by_name("wan2.1-t2v-1.3b"))


@pytest.mark.parametrize("other", ["vace_video", "vace_video_mask"])
def test_an_image_is_refused_beside_what_it_stands_for(other: str):
    request = make_request(GenerateRequest, {"prompt": "a cat", "image": "a.png", other: "a.mp4"})
    with pytest.raises(RequestError, match=f"beside {flag_of(other)} it has no place") as caught:
        check_inputs(request, find_by_name("wan2.1-vace-14b"))
    assert caught.value.field == "image"
