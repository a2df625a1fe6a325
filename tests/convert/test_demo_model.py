"""The demo models that ship with the package: converted on first use, and they draw what they are told."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlx_video import WanPipeline, convert_checkpoint, generate_wan
from mlx_video.convert.demo_model import (
    DEMO_CHECKPOINT,
    DEMO_MODELS,
    IMAGE_DEMO,
    TEXT_DEMO,
    convert_demo_model,
    demo_checkpoint,
    demo_model_folder,
)
from mlx_video.events import BytesWritten, Notice
from mlx_video.lora.read import read_adapters
from mlx_video.media.video import read_frames
from mlx_video.request import LoraChoice
from mlx_video.variants.demo_prompts import remark_on_demo_prompt

pytestmark = pytest.mark.slow

PAIRS = 4
# Half of the default, which the command's own test takes: no easier to draw in, and half as long.
STEPS = 15
ADAPTER = "growing.safetensors"


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_they_are_small_enough_to_ship(demo_examples: Path):
    assert size_of(DEMO_CHECKPOINT) + (demo_examples / ADAPTER).stat().st_size <= 30e6
    assert size_of(DEMO_CHECKPOINT / "control") <= 5e6


@pytest.mark.parametrize("flag", [None, "--image", "--control-video"])
def test_planning_a_run_of_it_leaves_nothing_on_disk(tmp_path: Path, monkeypatch, capsys, flag: str | None):
    places = {"MLX_VIDEO_CACHE": tmp_path / "cache", "TMPDIR": tmp_path / "temporary"}
    for name, place in places.items():
        place.mkdir()
        monkeypatch.setenv(name, str(place))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.chdir(tmp_path / "cache")
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    (tmp_path / "frames").mkdir()
    for number in range(17):
        Image.new("RGB", (64, 64)).save(tmp_path / "frames" / f"{number:02}.png")
    given = {"--image": tmp_path / "a.png", "--control-video": tmp_path / "frames"}
    flags = [flag, str(given[flag])] if flag else []
    assert generate_wan.main(["--plan", "--memory-limit", "4", *flags]) == 0
    printed = capsys.readouterr()
    assert "budget: 4.00 GB" in printed.out
    assert printed.err.startswith("No --model-dir: using the demo model")
    assert [list(place.iterdir()) for place in places.values()] == [[], []]


def test_it_is_converted_on_first_use_only(cache: Path):
    first = list(convert_demo_model())
    assert any(isinstance(event, BytesWritten) for event in first)
    assert "using the demo model" in first[0].text
    again = list(convert_demo_model())
    assert [type(event) for event in again] == [Notice]
    assert TEXT_DEMO.path().parent == cache


def test_the_command_without_a_model_draws_the_prompt(cache: Path, tmp_path: Path, capsys, demo_tools):
    _, score = demo_tools
    output = tmp_path / "video.mp4"
    prompt = "a blue square moving up on a white background"
    assert generate_wan.main(["--prompt", prompt, "--seed", "11", "--output-path", str(output)]) == 0
    assert "using the demo model" in capsys.readouterr().err
    scene = score.read_scene(read_frames(output))
    assert (scene.colour, scene.background, scene.motion) == ("blue", "white", "up")


@pytest.mark.parametrize("flag", [None, "--image"])
def test_an_unknown_prompt_gets_the_words_that_the_models_know(
    cache: Path, tmp_path: Path, capsys, flag: str | None
):
    Image.new("RGB", (64, 64)).save(tmp_path / "first.png")
    options = [flag, str(tmp_path / "first.png")] if flag else []
    options += ["--steps", "1", "--num-frames", "1", "--output-path", str(tmp_path / "a.png")]
    assert generate_wan.main(["--prompt", "a red cat", *options]) == 0
    told = capsys.readouterr().err
    assert 'not trained on "cat"' in told
    assert "a {red, green, blue, yellow, purple, cyan} {circle, square, triangle, cross} " in told


def test_every_prompt_of_the_training_scenes_is_taken_without_a_remark(demo_tools):
    grammar, _ = demo_tools
    captions = [caption for scene in grammar.ALL_SCENES for caption in scene.captions()]
    assert len(set(captions)) == 4 * len(grammar.ALL_SCENES)
    assert {remark_on_demo_prompt(caption) for caption in captions} == {""}


def test_the_command_with_an_image_moves_it(cache: Path, tmp_path: Path, capsys, demo_tools):
    grammar, score = demo_tools
    scene = grammar.Scene("green", "circle", "left", "gray")
    first = grammar.draw_clip(scene, np.random.default_rng(5))[0]
    Image.fromarray(first).save(tmp_path / "first.png")
    output = tmp_path / "video.mp4"
    options = ["--image", str(tmp_path / "first.png"), "--seed", "3", "--output-path", str(output)]
    assert generate_wan.main(["--prompt", scene.captions()[0], *options]) == 0
    assert "using the demo model for images" in capsys.readouterr().err
    frames = read_frames(output)
    found = score.read_scene(frames)
    assert (found.colour, found.background, found.motion) == ("green", "gray", "left")
    # H.264 costs a little on top of the model's own error.
    assert 10 * np.log10(255**2 / np.square(frames[0].astype(float) - first).mean()) > 22


@pytest.mark.parametrize("bits", [pytest.param(8, marks=pytest.mark.nightly), 4])
def test_the_image_model_works_quantized(cache: Path, tmp_path: Path, demo_tools, bits: int):
    grammar, score = demo_tools
    with demo_checkpoint(IMAGE_DEMO) as checkpoint:
        folder = convert_checkpoint(
            checkpoint, tmp_path / "quantized", quantize=True, bits=bits, dtype="float32"
        )
    scene = grammar.Scene("red", "square", "down", "white")
    image = grammar.draw_clip(scene, np.random.default_rng(6))[0]
    video = WanPipeline.from_pretrained(folder)(scene.captions()[0], image=image, seed=2, steps=STEPS)
    found = score.read_scene(video.frames)
    assert (found.colour, found.background, found.motion) == ("red", "white", "down")


def test_all_models_are_converted_apart(cache: Path):
    configs = [WanPipeline.from_pretrained(demo_model_folder(model)).config for model in DEMO_MODELS]
    assert [config.variant for config in configs] == [model.variant.name for model in DEMO_MODELS]


@pytest.mark.parametrize(
    "bits", [pytest.param(None, marks=pytest.mark.nightly), pytest.param(8, marks=pytest.mark.nightly), 4]
)
def test_it_follows_the_prompts_of_unseen_scenes_at_every_precision(
    cache: Path, tmp_path: Path, demo_tools, bits: int | None
):
    grammar, score = demo_tools
    folder = None
    if bits:
        settings = {"quantize": True, "bits": bits, "dtype": "float32"}
        folder = convert_checkpoint(DEMO_CHECKPOINT, tmp_path / "quantized", **settings)
    pipeline = WanPipeline.from_pretrained(folder)
    results = []
    for scene, seed in grammar.held_out_pairs(PAIRS):
        video = pipeline(scene.captions()[seed % 4], seed=seed, steps=STEPS)
        results.append((scene, score.read_scene(video.frames)))
    right = score.accuracies(results)
    # A few clips; examples/demo_model/evaluate.py measures sixty. One miss is allowed.
    for attribute in ("colour", "background", "motion", "shape"):
        assert right[attribute] >= 1 - 1 / PAIRS, results


def test_the_demo_adapter_fits_the_demo_model_whole(cache: Path, demo_examples: Path):
    # What it does to clips is scored by examples/demo_model/evaluate_adapter.py.
    config = WanPipeline.from_pretrained().config.transformer
    adapters = read_adapters([LoraChoice(demo_examples / ADAPTER)], config, strict=True)
    assert "60 of 60 pairs, 60 layers changed, rank 8, alpha in the file" in adapters.notices[0]
    assert (demo_examples / ADAPTER).stat().st_size <= 2e6


def test_the_scorer_reads_every_drawn_scene(demo_tools):
    grammar, score = demo_tools
    rng = np.random.default_rng(1)
    for scene in grammar.ALL_SCENES[::7]:
        assert score.read_scene(grammar.draw_clip(scene, rng)) == scene


def test_held_out_scenes_are_never_trained_on(demo_tools):
    grammar, _ = demo_tools
    training, held_out = grammar.split_scenes()
    assert not set(training) & set(held_out)
    assert {scene for scene, _ in grammar.held_out_pairs()} <= set(held_out)
    assert len(grammar.held_out_pairs()) == 60
