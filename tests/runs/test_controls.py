"""Runs of control models: what a control does, and what is refused before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from mlx_video import RequestError, WanPipeline, convert_checkpoint
from mlx_video.cli import generate
from mlx_video.conditioning.control.camera_path import path_of_preset
from mlx_video.errors import MediaError
from mlx_video.events import Event, StageStarted, StepFinished
from mlx_video.media.video import read_video_metadata
from tests.fixtures.tiny_variants import tiny_variant, write_tiny_variant

pytestmark = pytest.mark.slow

SMALL = {"width": 32, "height": 16, "num_frames": 5, "steps": 2, "seed": 1}
DRAW = np.random.default_rng(0)
IMAGE = DRAW.integers(0, 256, (16, 32, 3), np.uint8)
VIDEO = DRAW.integers(0, 256, (5, 16, 32, 3), np.uint8)
MASK = np.zeros((16, 32, 3), np.uint8)
MASK[:, :16] = 255


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


def write_path(file: Path, preset: str, num_frames: int = 5) -> Path:
    """A trajectory file that says what a preset does."""
    poses = path_of_preset(preset, num_frames)
    file.write_text("a clip\n" + "\n".join(" ".join(map(repr, map(float, pose))) for pose in poses))
    return file


@pytest.mark.parametrize("name", ["wan2.1-fun-inp", "wan2.2-fun-a14b-inp", "wan2.1-fun-v1.1-control"])
def test_a_fun_model_runs_from_text_alone(pipelines, name: str):
    found = pipelines(name)("a cat", **SMALL)
    assert mx.isfinite(found.latents).all()
    assert found.frames.shape == (5, 16, 32, 3)


def test_one_picture_is_the_mask_of_all_frames(pipelines):
    pipeline = pipelines("wan2.1-fun-inp")
    still, moving = (
        pipeline("a cat", inpaint_video=VIDEO, inpaint_video_mask=mask, **SMALL).latents
        for mask in ([MASK], [MASK] * 5)
    )
    assert mx.array_equal(still, moving)


def test_what_is_under_the_mask_does_not_count(pipelines):
    pipeline = pipelines("wan2.1-fun-inp")
    changed = {side: VIDEO.copy() for side in ("under", "beside")}
    changed["under"][:, :, :16] ^= 255
    changed["beside"][:, :, 16:] ^= 255
    found = {
        side: pipeline("a cat", inpaint_video=video, inpaint_video_mask=[MASK] * 5, **SMALL).latents
        for side, video in ({"none": VIDEO} | changed).items()
    }
    assert mx.array_equal(found["under"], found["none"])
    assert not mx.array_equal(found["beside"], found["none"])


def test_a_trajectory_file_does_what_the_preset_does(pipelines, tmp_path: Path):
    pipeline = pipelines("wan2.1-fun-v1.1-control-camera")
    file = write_path(tmp_path / "path.txt", "Zoom_In")
    by_file, by_name, still = (
        pipeline("a cat", image=IMAGE, camera_trajectory=path, **SMALL).latents
        for path in (file, "Zoom_In", "Static")
    )
    assert mx.array_equal(by_file, by_name)
    assert not mx.array_equal(by_name, still)
    by_speed = pipeline(
        "a cat", image=IMAGE, camera_trajectory="Zoom_In", camera_control_speed=0.0, **SMALL
    ).latents
    assert mx.array_equal(by_speed, still)


def test_a_bad_trajectory_is_refused_before_anything_is_loaded(pipelines, tmp_path: Path):
    pipeline = pipelines("wan2.1-fun-v1.1-control-camera")
    events: list[Event] = []
    for path, text in (
        (write_path(tmp_path / "short.txt", "CW", 4), "has 4 poses, the video has 5 frames"),
        (tmp_path / "Pan_left", "no camera trajectory can be read"),
    ):
        with pytest.raises(MediaError, match=text):
            pipeline("a cat", image=IMAGE, camera_trajectory=path, on_event=events.append, **SMALL)
    assert not [event for event in events if isinstance(event, StageStarted)]


def test_a_run_is_not_resumed_with_another_path(pipelines, tmp_path: Path):
    pipeline = pipelines("wan2.1-fun-v1.1-control-camera")
    file, output = write_path(tmp_path / "path.txt", "CW"), tmp_path / "a.webp"
    options = {"image": IMAGE, "camera_trajectory": file, "output_path": output, **SMALL}

    def stop(event: Event) -> None:
        if isinstance(event, StepFinished):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline("a cat", on_event=stop, **options)
    write_path(file, "ACW")
    with pytest.raises(RequestError, match="--camera-trajectory is"):
        pipeline("a cat", resume=True, **options)
    write_path(file, "CW")
    resumed = pipeline("a cat", resume=True, **options).latents
    assert mx.array_equal(resumed, pipeline("a cat", **options).latents)


def test_the_command_takes_controls_from_files(pipelines, tmp_path: Path, capsys):
    model = pipelines("wan2.1-fun-v1.1-control").folder.path
    (tmp_path / "edges").mkdir()
    for index, frame in enumerate(VIDEO):
        Image.fromarray(frame).save(tmp_path / "edges" / f"{index}.png")
    Image.fromarray(IMAGE).save(tmp_path / "robot.png")
    arguments = [
        "--model-dir", str(model), "--prompt", "a cat", "--width", "32", "--height", "16",
        "--num-frames", "5", "--steps", "2", "--seed", "1", "--output-path", str(tmp_path / "a.webp"),
    ]  # fmt: skip
    controls = ["--control-video", str(tmp_path / "edges"), "--reference-image", str(tmp_path / "robot.png")]
    assert generate.main([*arguments, *controls]) == 0
    assert "Without --control-video" not in capsys.readouterr().err
    settings = read_video_metadata(tmp_path / "a.webp")
    assert (settings["control_video"], settings["reference_image"]) == (controls[1], controls[3])
    assert generate.main(arguments) == 0
    assert "Without --control-video the model follows the prompt" in capsys.readouterr().err
    assert generate.main([*arguments, "--camera-trajectory", "Zoom_In"]) == 2
    assert "--camera-trajectory Wan2.1 Fun-V1.1 Control takes --image" in capsys.readouterr().err
