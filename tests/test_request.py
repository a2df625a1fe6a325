"""Requests are checked when they are constructed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlx_video.errors import RequestError
from mlx_video.request import ConvertRequest, GenerateRequest, LoraChoice
from mlx_video.request.speech import frames_of_clip


@pytest.mark.parametrize(
    ("options", "field", "text"),
    [
        ({"loras": ("a.safetensors",)}, "loras", r"must be a tuple of LoraChoice\(path, strength\)"),
        ({"loras_high": [LoraChoice(Path("a"))]}, "loras_high", "must be a tuple of LoraChoice"),
        ({"loras_low": None}, "loras_low", "None: must be a tuple"),
        ({"lora_mode": "fast"}, "lora_mode", "'fast' is not one of auto, merge, side"),
        ({"steps": 0}, "steps", "0: must be between 1 and 1000"),
        ({"steps": 1001}, "steps", "1001: must be between 1 and 1000"),
        ({"shift": 0.0}, "shift", "must be a positive number"),
        ({"shift": float("nan")}, "shift", "must be a positive number"),
        ({"width": 0}, "width", "0: must be at least 1"),
        ({"num_frames": -3}, "num_frames", "-3: must be at least 1"),
        ({"trim_first_frames": -1}, "trim_first_frames", "must be at least 0"),
        ({"seed": 2**64}, "seed", "18446744073709551616: must be between -9223372036854775808 and"),
        ({"seed": -(2**63) - 1}, "seed", "-9223372036854775809: must be between .* and 18446744073709551615"),
        ({"seed": "7"}, "seed", "'7': must be a whole number"),
        ({"prompt": None}, "prompt", "None: must be a text"),
        ({"guide_scale": -1.0}, "guide_scale", "at least 0"),
        ({"guide_scale": float("inf")}, "guide_scale", "at least 0"),
        ({"guide_scale": (1.0, 2.0, 3.0)}, "guide_scale", "one number of at least 0, or two"),
        ({"scheduler": "ddim"}, "scheduler", "'ddim' is not one of unipc, dpm\\+\\+, euler"),
        ({"noise": "numpy"}, "noise", "not one of torch, mlx"),
        ({"tiling": "big"}, "tiling", "not one of auto"),
        ({"width": "64"}, "width", "'64': must be a whole number"),
        ({"num_frames": 5.0}, "num_frames", "5.0: must be a whole number"),
        ({"seed": 1.5}, "seed", "1.5: must be a whole number"),
        ({"trim_first_frames": None}, "trim_first_frames", "None: must be a whole number"),
        ({"shift": "3"}, "shift", "'3': must be a number"),
        ({"guide_scale": [3.0, 3.0]}, "guide_scale", "one number of at least 0, or two"),
        ({"negative_prompt": 3}, "negative_prompt", "3: must be a text"),
        ({"image": "cat.png"}, "image", "'cat.png': must be a path"),
        ({"image": 3}, "image", "3: must be a path .*a Pillow image or a numpy array"),
        ({"image": [[0, 1]]}, "image", "must be a path"),
        ({"image": Path("a.png"), "end_image": "b.png"}, "end_image", "'b.png': must be a path"),
        ({"end_image": Path("b.png")}, "end_image", "needs --image, the first frame"),
        (
            {"image": Path("a.png"), "end_image": Path("b.png"), "num_frames": 1},
            "end_image",
            "--num-frames 1 has no last frame",
        ),
    ],
)
def test_a_wrong_option_is_refused_by_name_and_value(options: dict, field: str, text: str):
    with pytest.raises(RequestError, match=text) as caught:
        GenerateRequest(**({"prompt": "a cat"} | options))
    assert caught.value.field == field


@pytest.mark.parametrize(
    "image", [Path("missing.png"), Image.new("RGB", (4, 4)), np.zeros((4, 4, 3), np.uint8)]
)
def test_an_image_is_a_path_a_picture_or_an_array_and_is_not_opened_yet(image):
    request = GenerateRequest("a cat", image=image, end_image=image)
    assert request.image is image
    assert request.end_image is image


@pytest.mark.parametrize("options", [{}, {"seed": -1}, {"seed": None}])
def test_a_seed_that_names_none_becomes_a_random_one_that_is_recorded(options):
    seeds = {GenerateRequest("a cat", **options).seed for _ in range(8)}
    assert len(seeds) > 1
    assert all(0 <= seed < 2**31 for seed in seeds)


@pytest.mark.parametrize(
    ("seed", "kept"),
    [
        (0, 0),
        (2**63 - 1, 2**63 - 1),
        (2**63, 2**63),
        (18446744073709551615, 2**64 - 1),
        (np.uint64(2**64 - 1), 2**64 - 1),
        (-2, 2**64 - 2),
        (-(2**63), 2**63),
    ],
)
def test_a_seed_is_kept_as_torch_takes_it(seed: int, kept: int):
    found = GenerateRequest("a cat", seed=seed).seed
    assert found == kept
    assert type(found) is int


def test_a_run_that_resumes_without_a_seed_draws_none():
    assert GenerateRequest("a cat", resume=True, output_path=Path("a.mp4")).seed == -1
    assert GenerateRequest("a cat", seed=None, resume=True, output_path=Path("a.mp4")).seed == -1


@pytest.mark.parametrize("prompt", ["", " \t\n"])
def test_an_empty_prompt_is_a_prompt(prompt: str):
    assert GenerateRequest(prompt).prompt == prompt


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"bits": 3}, "bits"),
        ({"group_size": 16}, "group_size"),
        ({"dtype": "int8"}, "dtype"),
        ({"model_version": "3"}, "model_version"),
    ],
)
def test_a_wrong_conversion_option_is_refused(options: dict, field: str):
    with pytest.raises(RequestError, match="is not one of") as caught:
        ConvertRequest(Path("in"), Path("out"), **options)
    assert caught.value.field == field


@pytest.mark.parametrize("options", [{"bits": 8}, {"group_size": 32}])
def test_an_option_of_quantization_without_quantization_is_refused_not_ignored(options: dict):
    with pytest.raises(RequestError, match="counts only with --quantize"):
        ConvertRequest(Path("in"), Path("out"), **options)
    ConvertRequest(Path("in"), Path("out"), quantize=True, **options)
    ConvertRequest(Path("in"), Path("out"), quantize_only=True, **options)


@pytest.mark.parametrize(
    ("path", "strength", "text"),
    [
        ("a", 1.0, "'a': must be a path"),
        (Path("a"), "1", "a '1': the strength must be a number"),
        (Path("a"), float("nan"), "a nan: the strength must be a number"),
        (Path("a"), -float("inf"), "a -inf: the strength"),
        (Path("a"), True, "a True: the strength"),
    ],
)
def test_an_adapter_is_a_path_and_a_finite_strength(path: object, strength: object, text: str):
    with pytest.raises(RequestError, match=text):
        LoraChoice(path, strength)
    assert str(LoraChoice(Path("a"), -0.5)) == "a -0.5"


@pytest.mark.parametrize("field", ["loras", "loras_high", "loras_low"])
def test_adapters_to_bake_are_a_tuple_of_choices(field: str):
    with pytest.raises(RequestError, match="must be a tuple of LoraChoice") as caught:
        ConvertRequest(Path("in"), Path("out"), **{field: [Path("a")]})
    assert caught.value.field == field


def test_converting_a_folder_into_itself_is_refused(tmp_path: Path):
    with pytest.raises(RequestError, match="is the checkpoint folder itself"):
        ConvertRequest(tmp_path, tmp_path / ".." / tmp_path.name)


FILE = Path("file.safetensors")


@pytest.mark.parametrize(
    ("options", "field", "text"),
    [
        ({}, "checkpoint_dir", "is needed.* components: --transformer, --text-encoder, --vae"),
        ({"vae": FILE}, "checkpoint_dir", "is not given, and --transformer, --text-encoder neither"),
        (
            {"high_noise": FILE, "vae": FILE},
            "checkpoint_dir",
            "is not given, and --low-noise, --text-encoder neither",
        ),
        ({"checkpoint_dir": Path("in"), "vae": "a.safetensors"}, "vae", "must be a path"),
        (
            {"checkpoint_dir": Path("in"), "quantize_only": True, "clip": FILE},
            "clip",
            "does not count with --quantize-only",
        ),
        (
            {"checkpoint_dir": Path("in"), "transformer": FILE, "low_noise": FILE},
            "low_noise",
            "--transformer stands for both experts",
        ),
    ],
)
def test_components_must_make_a_whole_checkpoint(options: dict[str, object], field: str, text: str):
    with pytest.raises(RequestError, match=text) as caught:
        ConvertRequest(**options)
    assert caught.value.field == field


def test_components_given_one_by_one_need_no_folder():
    request = ConvertRequest(high_noise=FILE, low_noise=FILE, text_encoder=FILE, vae=FILE)
    assert request.checkpoint_dir is None
    assert list(request.components) == ["high_noise", "low_noise", "text_encoder", "vae"]


@pytest.mark.parametrize(("given", "other"), [("inpaint_video", "-mask"), ("inpaint_video_mask", "")])
def test_a_video_to_fill_in_and_its_mask_go_together(given: str, other: str):
    with pytest.raises(RequestError, match=f"needs --inpaint-video{other} beside it") as caught:
        GenerateRequest("a cat", **{given: Path("a.mp4")})
    assert caught.value.field == given


@pytest.mark.parametrize(("asked", "nearest"), [(81, "80 or 84"), (83, "80 or 84"), (3, "8 or 12")])
def test_clips_of_other_lengths_are_told_the_nearest(asked: int, nearest: str):
    with pytest.raises(RequestError, match=f"Nearest: {nearest}"):
        frames_of_clip(asked, None)
