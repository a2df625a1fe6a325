"""The demo model that follows an outline: chosen by its inputs, and the shape goes where the outline goes."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import WanPipeline, convert_checkpoint, generate_wan
from mlx_video.convert.demo_model import (
    CONTROL_DEMO,
    DEMO_CHECKPOINT,
    IMAGE_DEMO,
    TEXT_DEMO,
    DemoModel,
    demo_checkpoint,
    demo_for,
    demo_model_folder,
)
from mlx_video.formats.safetensors_header import read_header
from mlx_video.formats.tensor_source import TensorSource, open_tensors
from mlx_video.media.video import read_frames

TRANSFORMER = "diffusion_pytorch_model.safetensors"
ROOT = Path(__file__).parents[2]
PAIRS, STEPS = 4, 15
PROMPT = "a red circle on a white background"


@pytest.mark.parametrize(
    ("inputs", "model"),
    [
        ({"prompt"}, TEXT_DEMO),
        ({"prompt", "image"}, IMAGE_DEMO),
        ({"prompt", "image", "end_image"}, IMAGE_DEMO),
        ({"prompt", "control_video"}, CONTROL_DEMO),
        ({"prompt", "image", "control_video"}, CONTROL_DEMO),
        ({"prompt", "control_video", "reference_image"}, CONTROL_DEMO),
        ({"prompt", "input_video"}, TEXT_DEMO),
    ],
    ids=lambda value: "+".join(sorted(value)) if isinstance(value, set) else value.name,
)
def test_the_inputs_choose_the_model(inputs: set[str], model: DemoModel):
    assert demo_for(inputs) is model


def test_the_transformer_is_that_of_text_to_video_but_for_what_learned():
    own = read_header(DEMO_CHECKPOINT / "control" / TRANSFORMER).infos
    with (
        demo_checkpoint(CONTROL_DEMO) as guided,
        open_tensors(guided / TRANSFORMER) as tensors,
        open_tensors(DEMO_CHECKPOINT / TRANSFORMER) as shared,
    ):
        assert tensors.infos.keys() == shared.infos.keys() | {"ref_conv.weight", "ref_conv.bias"}
        assert shared.infos.keys() - own.keys()
        for name in shared.infos:
            is_shared = np.array_equal(numbers(tensors, name), numbers(shared, name))
            assert is_shared == (name not in own), name


def numbers(source: TensorSource, name: str) -> np.ndarray:
    return np.array(source.read(name).astype(mx.float32))


def test_another_control_video_makes_another_video(cache: Path, demo_tools):
    grammar, _ = demo_tools
    pipeline = WanPipeline.from_pretrained(demo_model_folder(CONTROL_DEMO))
    courses = [grammar.draw_path(path, np.random.default_rng(4)) for path in ("line", "corner")]
    clips = [
        pipeline(PROMPT, control_video=grammar.draw_outline("circle", course), seed=1, steps=2).frames
        for course in courses
    ]
    assert np.abs(clips[0].astype(int) - clips[1]).mean() > 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "bits", [pytest.param(None, marks=pytest.mark.nightly), pytest.param(8, marks=pytest.mark.nightly), 4]
)
def test_the_shape_goes_where_the_outline_goes(cache: Path, tmp_path: Path, demo_tools, bits: int | None):
    # A few clips; examples/demo_model/evaluate_control.py measures forty. One miss is allowed.
    grammar, _ = demo_tools
    import evaluate_control

    folder = demo_model_folder(CONTROL_DEMO)
    if bits:
        with demo_checkpoint(CONTROL_DEMO) as checkpoint:
            folder = convert_checkpoint(
                checkpoint, tmp_path / "quantized", quantize=True, bits=bits, dtype="float32"
            )
    pipeline = WanPipeline.from_pretrained(folder)
    pairs, clips = evaluate_control.guided_pairs(PAIRS), []
    for pair in pairs:
        outline = grammar.draw_outline(pair.scene.shape, pair.course)
        prompt = pair.scene.captions()[pair.seed % 4]
        clips.append(pipeline(prompt, control_video=outline, seed=pair.seed, steps=STEPS).frames)
    scores = evaluate_control.score_guided(clips, pairs)
    for name in ("near", "colour", "background"):
        assert scores[name] >= 100 * (1 - 1 / PAIRS), scores


@pytest.mark.slow
def test_the_commands_of_the_chapter_fill_an_outline(cache: Path, tmp_path: Path, monkeypatch, demo_tools):
    _, score = demo_tools
    page = (ROOT / "docs" / "controls.md").read_text(encoding="utf-8")
    drawing, filling = re.findall(r"^python .*outline\.mp4.*$", page, re.MULTILINE)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    subprocess.run([sys.executable, *shlex.split(drawing)[1:]], check=True)
    assert generate_wan.main([*shlex.split(filling)[3:], "--seed", "1"]) == 0
    outline, video = read_frames(Path("outline.mp4")), read_frames(Path("circle.mp4"))
    scene = score.read_scene(video)
    assert (scene.colour, scene.background) == ("green", "white")
    masks = score.find_shape(video.astype(float))
    distances = [
        np.linalg.norm(score.centroid(drawn[..., 0] > 128) - score.centroid(mask))
        for drawn, mask in zip(outline, masks, strict=True)
    ]
    assert np.mean(distances) <= 3


def test_held_out_scenes_and_paths_are_never_trained_on(demo_tools):
    grammar, _ = demo_tools
    training, held_out = grammar.split_guided_scenes()
    assert not set(training) & set(held_out)
    assert grammar.NEW_PATH not in grammar.PATHS
