"""Examples are conditioned as runs are that get the clip's own frames and controls."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import DatasetError, WanPipeline, convert_checkpoint
from mlx_video.conditioning.types import Conditioning
from mlx_video.conditioning.units import build_conditioning
from mlx_video.latents.encode import encode_video
from mlx_video.loading.components import open_model
from mlx_video.loading.vae_halves import load_vae_encoder
from mlx_video.media.resize import to_unit_range
from mlx_video.runs.stages import denoise
from tests.fixtures.tiny_variants import TINY_VARIANTS, write_motion_controller
from tests.training.data.clip_files import draw_frames, write_picture, write_pictures
from tests.training.data.tiny_learners import cache, convert_tiny

pytestmark = pytest.mark.slow

SIZE = {"width": 32, "height": 32, "num_frames": 5}
CLIP, CONTROL, MASK = (
    draw_frames(5, 32, 32),
    draw_frames(5, 32, 32, seed=1),
    draw_frames(5, 32, 32, seed=2) // 128 * 255,
)
PICTURE, OTHER = draw_frames(2, 32, 32, seed=3)
FIRST, LAST = {"image": CLIP[0]}, {"end_image": CLIP[-1]}


@dataclass(frozen=True)
class Case:
    """A model, what the dataset's list says besides clip and prompt, and what a run of the same is given."""

    model: str
    given: dict[str, Any] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    extra_inputs: str | None = None


CASES = {
    "text": Case("wan2.1-t2v-1.3b"),
    "first frame": Case("wan2.1-i2v-14b", FIRST),
    "first and last frame": Case("wan2.1-flf2v-14b", FIRST | LAST),
    "last frame asked for": Case("wan2.2-i2v-a14b", FIRST | LAST, (), "input_image,end_image"),
    "frames in place": Case("wan2.2-ti2v-5b", FIRST),
    "no frame asked for": Case("wan2.2-ti2v-5b", {}, (), "none"),
    "frames between": Case("wan2.1-fun-inp", FIRST | LAST),
    "a control": Case("wan2.1-fun-control", {"control_video": CONTROL}, ("control_video",)),
    "a control with reference": Case(
        "wan2.2-fun-a14b-control",
        {"control_video": CONTROL, "reference_image": PICTURE},
        ("control_video", "reference_image"),
    ),
    "a camera": Case(
        "wan2.1-fun-v1.1-control-camera",
        FIRST | {"camera_control_direction": "Left", "camera_control_speed": 0.02},
        ("camera_control_direction", "camera_control_speed"),
    ),
    "everything of VACE": Case(
        "wan2.1-vace-1.3b",
        {"vace_video": CONTROL, "vace_video_mask": MASK, "vace_reference_image": [PICTURE, OTHER]},
        ("vace_video", "vace_video_mask", "vace_reference_image"),
    ),
}  # fmt: skip


SPEED = Case("wan2.1-t2v-1.3b", {"motion_bucket_id": 60}, ("motion_bucket_id",))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("models")
    return {name: convert_tiny(root, name) for name in dict.fromkeys(case.model for case in CASES.values())}


def write_list(folder: Path, case: Case) -> Path:
    """A list with one clip; everything lies in pictures, which keep every bit."""
    row: dict[str, Any] = {"video": str(write_pictures(folder / "clip", CLIP)), "prompt": "a cat"}
    for name in case.columns:
        value = case.given[name]
        if isinstance(value, list):
            row[name] = [str(write_picture(folder / f"{i}.png", each)) for i, each in enumerate(value)]
        elif isinstance(value, np.ndarray) and value.ndim == 4:
            row[name] = str(write_pictures(folder / name, value))
        elif isinstance(value, np.ndarray):
            row[name] = str(write_picture(folder / f"{name}.png", value))
        else:
            row[name] = value
    path = folder / "list.jsonl"
    path.write_text(json.dumps(row))
    return path


class Stopped(Exception):
    """Ends a run before its first step."""


def conditioning_of_run(monkeypatch: pytest.MonkeyPatch, path: Path, given: dict[str, Any]) -> Conditioning:
    found: list[Conditioning] = []

    def keep(parts: dict[str, object]) -> Conditioning:
        found.append(build_conditioning(parts))
        raise Stopped

    monkeypatch.setattr(denoise, "build_conditioning", keep)
    pipeline = WanPipeline.from_pretrained(path, keep_networks=False)
    with pytest.raises(Stopped):
        pipeline("a cat", seed=0, guide_scale=1.0, steps=1, **SIZE | given)
    return found[0]


def differences(found: Any, expected: Any, name: str = "") -> list[str]:
    """Names of what differs, with everything that records hold."""
    if type(found) is not type(expected):
        return [name]
    if isinstance(found, mx.array | np.ndarray):
        return [] if np.array_equal(np.array(found), np.array(expected)) else [name]
    if isinstance(found, tuple):
        pairs = enumerate(zip(found, expected, strict=True))
        return [each for i, pair in pairs for each in differences(*pair, f"{name}.{i}")]
    if is_dataclass(found):
        names = [each.name for each in fields(found) if each.init]  # what is made later is remade
        return [
            each
            for one in names
            for each in differences(getattr(found, one), getattr(expected, one), f"{name}.{one}")
        ]
    return [] if found == expected else [name]


@pytest.mark.parametrize("name", CASES)
def test_examples_are_conditioned_as_runs_are(models, tmp_path: Path, monkeypatch, name: str):
    case = CASES[name]
    model = models[case.model]
    dataset = cache(model, dataset_config=write_list(tmp_path, case), extra_inputs=case.extra_inputs, **SIZE)
    (example,) = dataset.batch(0)
    expected = conditioning_of_run(monkeypatch, model[0].path, case.given)
    assert differences(example.conditioning, expected) == []
    frames = mx.array(np.stack([*map(to_unit_range, CLIP)]))
    # Latents of VACE's references come before the clip's.
    references = len(case.given.get("vace_reference_image", ()))
    assert example.latents.shape[1] == references + 2
    assert mx.array_equal(example.latents[:, references:], encode_video(load_vae_encoder(*model), frames))


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.columns])
def test_every_input_of_a_dataset_changes_its_examples_and_not_the_clips_latents(
    models, tmp_path: Path, name: str
):
    case = CASES[name]
    path = write_list(tmp_path, case)
    (before,) = cache(models[case.model], dataset_config=path, **SIZE).batch(0)
    row = json.loads(path.read_text())
    for column in case.columns:
        other = dict(row)
        if column == "camera_control_direction":
            other[column] = "Right"
        elif column == "camera_control_speed":
            other[column] = 0.05
        elif column == "vace_reference_image":
            other[column] = row[column][:1]
        elif Path(row[column]).is_dir():
            other[column] = str(
                write_pictures(tmp_path / f"other {column}", draw_frames(5, 32, 32, seed=9) // 2)
            )
        else:
            other[column] = str(write_picture(tmp_path / "other.png", OTHER))
        path.write_text(json.dumps(other))
        (after,) = cache(models[case.model], dataset_config=path, **SIZE).batch(0)
        assert differences(after.conditioning, before.conditioning), column
        assert mx.array_equal(after.latents[:, -2:], before.latents[:, -2:])


def test_what_does_not_go_together_is_told_with_the_clip(models, tmp_path: Path):
    path = write_list(tmp_path, CASES["a camera"])
    model = models["wan2.1-t2v-1.3b"]
    row = {"video": str(tmp_path / "clip"), "prompt": "x"}
    path.write_text(json.dumps(row | {"motion_bucket_id": 50}))
    with pytest.raises(DatasetError, match="clip frames 0-4: .*holds no motion_controller.safetensors"):
        cache(model, dataset_config=path, **SIZE)
    path.write_text(json.dumps(row | {"inpaint_video": str(tmp_path / "clip")}))
    with pytest.raises(DatasetError, match="clip frames 0-4: .*needs --inpaint-video-mask beside it"):
        cache(models["wan2.1-fun-inp"], dataset_config=path, **SIZE)


def write_musubi(folder: Path, keys: str) -> Path:
    path = folder / "data.toml"
    path.write_text(f'[[datasets]]\ncaption_extension = ".txt"\nresolution = 32\n{keys}')
    return path


@pytest.mark.parametrize(("model", "index"), [("wan2.1-i2v-14b", (0,)), ("wan2.1-flf2v-14b", (0, 10))])
def test_one_frame_lies_among_its_controls(models, tmp_path: Path, monkeypatch, model: str, index):
    controls = [PICTURE, OTHER][: len(index)]
    write_picture(tmp_path / "stills" / "a.png", CLIP[0], "a cat")
    for number, pixels in enumerate(controls):
        write_picture(tmp_path / "control" / f"a_{number}.png", pixels)
    keys = (
        f'image_directory = "{tmp_path}/stills"\ncontrol_directory = "{tmp_path}/control"\n'
        f"fp_1f_clean_indices = {list(index)}\nfp_1f_target_index = 1\n"
    )
    (example,) = cache(models[model], dataset_config=write_musubi(tmp_path, keys)).batch(0)
    given = {"image": PICTURE, "control_image": controls, "control_index": index, "target_index": 1}
    given |= {"end_image": OTHER} if len(index) > 1 else {}
    expected = conditioning_of_run(monkeypatch, models[model][0].path, given | {"num_frames": None})
    assert differences(example.conditioning, expected) == []
    vae = load_vae_encoder(*models[model])
    in_order = [PICTURE, CLIP[0], OTHER][: len(index) + 1]
    parts = [encode_video(vae, mx.array(to_unit_range(pixels))[None]) for pixels in in_order]
    assert mx.array_equal(example.latents, mx.concatenate(parts, axis=1))
    with pytest.raises(DatasetError, match="fp_1f_clean_indices: Wan2.1 T2V .*makes no picture among others"):
        cache(models["wan2.1-t2v-1.3b"], dataset_config=tmp_path / "data.toml")


@pytest.mark.parametrize(
    ("model", "name"), [("wan2.1-fun-control", "control_video"), ("wan2.1-vace-1.3b", "vace_video")]
)
def test_a_control_directory_is_what_the_model_follows(
    models, tmp_path: Path, monkeypatch, model: str, name: str
):
    write_pictures(tmp_path / "clip", CLIP)
    write_pictures(tmp_path / "control", CONTROL[:3])
    row = {"video_path": f"{tmp_path}/clip", "control_path": f"{tmp_path}/control", "caption": "a cat"}
    (tmp_path / "v.jsonl").write_text(json.dumps(row))
    keys = f'video_jsonl_file = "{tmp_path}/v.jsonl"\ntarget_frames = [5]\n'
    (example,) = cache(models[model], dataset_config=write_musubi(tmp_path, keys)).batch(0)
    # The last frame of a control that is too short stands still.
    control = np.concatenate([CONTROL[:3], CONTROL[2:3], CONTROL[2:3]])
    expected = conditioning_of_run(monkeypatch, models[model][0].path, {name: control})
    assert differences(example.conditioning, expected) == []


def test_a_control_that_is_too_short_is_told_for_a_list(models, tmp_path: Path):
    path = write_list(tmp_path, CASES["a control"])
    (tmp_path / "control_video" / "004.png").unlink()
    with pytest.raises(
        DatasetError, match=r"control_video: a clip ends before frame 5. .* shorter than .*clip\?"
    ):
        cache(models["wan2.1-fun-control"], dataset_config=path, **SIZE)


def test_what_a_model_does_not_take_is_told(models, tmp_path: Path):
    path = write_list(tmp_path, CASES["a control"])
    model = models["wan2.1-t2v-1.3b"]
    with pytest.raises(
        DatasetError, match="--extra-inputs: Wan2.1 T2V .*takes no control_video. Leave it out"
    ):
        cache(model, dataset_config=path, extra_inputs="control_video", **SIZE)
    events: list[Any] = []
    cache(model, events, dataset_config=path, **SIZE)
    assert "does not read control_video" in str(events)
    with pytest.raises(
        DatasetError, match="has no reference_image, which --extra-inputs names. Add it there"
    ):
        cache(models["wan2.2-fun-a14b-control"], dataset_config=path, extra_inputs="reference_image", **SIZE)
    with pytest.raises(DatasetError, match="needs camera_control_direction. Add the column camera_control_d"):
        cache(models["wan2.1-fun-v1.1-control-camera"], dataset_config=path, **SIZE)
    write_picture(tmp_path / "a.png", CLIP[0])
    (tmp_path / "list.jsonl").write_text(json.dumps({"image": "a.png", "prompt": "x"}))
    with pytest.raises(
        DatasetError, match="needs a first and a last frame, and a picture is one. Give clips"
    ):
        cache(models["wan2.1-flf2v-14b"], dataset_config=path, **SIZE)


def test_how_much_moves_is_told_as_in_a_run(models, tmp_path: Path, monkeypatch):
    original = models["wan2.1-t2v-1.3b"][0].path.parent / "original" / "wan2.1-t2v-1.3b"
    write_motion_controller(
        tmp_path / "speed.safetensors", TINY_VARIANTS["wan2.1-t2v-1.3b"].sizes.transformer.dim
    )
    folder = convert_checkpoint(
        original, tmp_path / "model", dtype="float32", motion_controller=tmp_path / "speed.safetensors"
    )
    (example,) = cache(open_model(folder), dataset_config=write_list(tmp_path, SPEED), **SIZE).batch(0)
    expected = conditioning_of_run(monkeypatch, folder, SPEED.given)
    assert example.conditioning.add_ons
    assert differences(example.conditioning, expected) == []
