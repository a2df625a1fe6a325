"""A VAE whose decoder doubles the size, from the file to the video: twice as large, planned and told."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import WanPipeline, convert_checkpoint
from mlx_video.convert_wan import main as convert_main
from mlx_video.errors import CheckpointError
from mlx_video.events import Notice
from mlx_video.generate_wan import main as generate_main
from mlx_video.inspect.path import inspect_path
from mlx_video.latents.encode import encode_video
from mlx_video.loading.components import open_model
from mlx_video.loading.vae_halves import load_vae_encoder
from mlx_video.media.video import read_frames, read_video_metadata
from mlx_video.weights.names.vae_names import vae_tensors
from tests.fixtures.comfy_files import write_plain
from tests.fixtures.diffusers_checkpoint import vae_name
from tests.fixtures.tiny_checkpoint import TinySizes, random_arrays, write_tiny_checkpoint
from tests.fixtures.weight_files import store, write_torch_archive

PUBLISHED_NAME = "Wan2.1_VAE_upscale2x_imageonly_real_v1"
SMALL = {"width": 48, "height": 32, "num_frames": 5, "steps": 1, "seed": 1}
TOLD = "makes frames 2 times as wide and as high"


def vae_arrays():
    """The numbers of the usual tiny VAE, with a last convolution that makes twelve channels."""
    return random_arrays(vae_tensors(replace(TinySizes().vae, output_scale=2)), 2)


def write_safetensors_vae(folder: Path) -> Path:
    return write_plain(folder / f"{PUBLISHED_NAME}.safetensors", vae_arrays())


def write_pth_vae(folder: Path) -> Path:
    path = folder / f"{PUBLISHED_NAME}.pth"
    write_torch_archive(path, [store(name, values) for name, values in vae_arrays().items()])
    return path


def write_diffusers_vae(folder: Path) -> Path:
    place = folder / "diffusers" / PUBLISHED_NAME
    arrays = {vae_name(name, 16): values for name, values in vae_arrays().items()}
    write_plain(place / "diffusion_pytorch_model.safetensors", arrays)
    config = {"_class_name": "AutoencoderKLWan", "z_dim": 16, "in_channels": 3, "out_channels": 12}
    (place / "config.json").write_text(json.dumps(config))
    return place


FORMS = {
    "safetensors": write_safetensors_vae,
    "pth": write_pth_vae,
    "Diffusers": write_diffusers_vae,
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("source") / "Wan2.1-T2V-1.3B")


@pytest.fixture(scope="module")
def folder(checkpoint, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("model")
    vae = write_safetensors_vae(root)
    return convert_checkpoint(checkpoint.path, root / "converted", vae=vae, dtype="float32")


@pytest.mark.parametrize("form", FORMS)
def test_every_form_converts_to_the_same_vae_and_says_that_it_doubles(form, checkpoint, folder, tmp_path):
    vae, told = FORMS[form](tmp_path), []
    made = convert_checkpoint(checkpoint.path, tmp_path / "made", vae=vae, on_event=told.append)
    assert any(TOLD in event.text for event in told if isinstance(event, Notice))
    assert json.loads((made / "config.json").read_text())["mlx_video"]["vae_output_scale"] == 2
    tensors, expected = mx.load(str(made / "vae.safetensors")), mx.load(str(folder / "vae.safetensors"))
    assert all(mx.array_equal(values, expected[name]) for name, values in tensors.items())
    assert tensors.keys() == expected.keys()


@pytest.mark.parametrize("form", FORMS)
def test_inspect_says_that_the_decoder_doubles(form, tmp_path, capsys):
    assert convert_main(["--inspect", str(FORMS[form](tmp_path))]) == 0
    assert TOLD in capsys.readouterr().out


def test_inspect_of_the_converted_folder_says_it_too(folder):
    found = inspect_path(folder)
    assert found.problems == ()
    assert any(TOLD in part.model for part in found.parts if part.component == "vae")


def test_beside_the_usual_vae_it_is_asked_which(checkpoint, tmp_path):
    tree = shutil.copytree(checkpoint.path, tmp_path / "tree")
    comfy = tmp_path / "models"
    (comfy / "diffusion_models").mkdir(parents=True)
    (comfy / "text_encoders").mkdir()
    (tree / checkpoint.transformer_file.name).rename(comfy / "diffusion_models" / "wan.safetensors")
    (tree / checkpoint.text_encoder_file.name).rename(comfy / "text_encoders" / "umt5.pth")
    write_plain(comfy / "vae" / "wan_2.1_vae.safetensors", checkpoint.vae)
    write_safetensors_vae(comfy / "vae")
    with pytest.raises(CheckpointError, match=r"several VAEs .*upscale2x.*Choose one with --vae FILE"):
        convert_checkpoint(comfy, tmp_path / "out")


def test_the_video_is_twice_as_large_in_every_result_and_this_is_told(folder, tmp_path):
    video_path, told = tmp_path / "video.mp4", []
    pipeline = WanPipeline.from_pretrained(folder)
    video = pipeline(
        "a cat", **SMALL, output_path=video_path, save_frames=tmp_path / "frames", on_event=told.append
    )
    texts = [event.text for event in told if isinstance(event, Notice)]
    assert any("the results are 96x64, the transformer works at 48x32" in text for text in texts)
    assert video.latents.shape == (16, 2, 4, 6)
    assert video.frames.shape == (5, 64, 96, 3)
    assert read_frames(video_path).shape == (5, 64, 96, 3)
    assert len(list((tmp_path / "frames").glob("*.png"))) == 5
    settings = read_video_metadata(video_path)
    assert (settings["width"], settings["height"], settings["output_size"]) == ("48", "32", "96x64")


def test_tiles_make_the_same_video(folder):
    pipeline = WanPipeline.from_pretrained(folder)
    options = SMALL | {"width": 304, "height": 16, "num_frames": 1}
    whole, tiled = (pipeline("a cat", **options, tiling=mode).frames for mode in ("none", "aggressive"))
    assert whole.shape == (1, 32, 608, 3)
    assert np.abs(whole.astype(int) - tiled).max() <= 1


def test_the_plan_names_the_size_and_counts_its_memory(folder, checkpoint, tmp_path, capsys):
    usual = convert_checkpoint(checkpoint.path, tmp_path / "usual", dtype="float32")
    arguments = ["--prompt", "a cat", "--width", "832", "--height", "480", "--num-frames", "5", "--plan"]
    assert generate_main(["--model-dir", str(folder), *arguments]) == 0
    assert "VAE decoder (1664x960 pixels)" in capsys.readouterr().out
    options = {"width": 832, "height": 480, "num_frames": 5, "tiling": "none"}
    peaks = [
        WanPipeline.from_pretrained(model).plan(**options).predicted["decode"] for model in (usual, folder)
    ]
    assert peaks[1] > peaks[0] + 4 * 3 * 4 * 832 * 480 * 3  # four frames of three more pixels for each


def test_latents_of_an_earlier_run_become_frames_of_twice_the_size(folder, tmp_path):
    pipeline, told = WanPipeline.from_pretrained(folder), []
    video = pipeline("a cat", **SMALL, save_latents=tmp_path / "latents.safetensors")
    again = pipeline.decode(tmp_path / "latents.safetensors", on_event=told.append)
    assert np.array_equal(again.frames, video.frames)
    assert any("the results are 96x64" in event.text for event in told if isinstance(event, Notice))


def test_images_are_encoded_at_the_size_asked_for(folder, checkpoint, tmp_path):
    usual = convert_checkpoint(checkpoint.path, tmp_path / "usual", dtype="float32")
    frames = mx.clip(mx.random.normal((1, 32, 48, 3), key=mx.random.key(0)), -1, 1)
    latents = [encode_video(load_vae_encoder(*open_model(path)), frames) for path in (usual, folder)]
    assert latents[1].shape == (16, 1, 4, 6)
    assert mx.array_equal(*latents)


def test_a_folder_of_another_tool_with_such_a_vae_makes_it_too(folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    del config["mlx_video"]
    (other / "config.json").write_text(json.dumps(config))
    assert WanPipeline.from_pretrained(other)("a cat", **SMALL).frames.shape == (5, 64, 96, 3)
    (other / "config.json").unlink()
    assert open_model(other)[1].vae.output_scale == 2


def test_a_vae_exchanged_after_the_conversion_is_refused_with_both_sizes(folder, checkpoint, tmp_path):
    usual = convert_checkpoint(checkpoint.path, tmp_path / "usual", dtype="float32")
    shutil.copy(folder / "vae.safetensors", usual / "vae.safetensors")
    message = r"makes frames 2 times as wide and as high, config.json says 1 times.*--vae FILE"
    with pytest.raises(CheckpointError, match=message):
        WanPipeline.from_pretrained(usual)("a cat", **SMALL)
