"""Settings of earlier videos: our own in full, those of other programs as far as their files say."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mlx_video import MediaError
from mlx_video.latents.latents_file import save_latents
from mlx_video.media.ffmpeg import find_ffmpeg
from mlx_video.media.video import open_video_writer
from mlx_video.request import LoraChoice
from mlx_video.runs.batch.earlier_settings import read_earlier

OWN = {
    "model": "m",
    "fps": "16",
    "prompt": "a cat, { quiet }",
    "negative_prompt": "",
    "seed": "7",
    "steps": "4",
    "guide_scale": "3.0,4.0",
    "apg": "True",
    "width": "64",
    "vace_scale": "1.0, 0.5",
}
OPTIONS = {
    "prompt": "a cat, { quiet }",
    "negative_prompt": "",
    "seed": 7,
    "steps": 4,
    "guide_scale": (3.0, 4.0),
    "apg": True,
    "width": 64,
    "vace_scale": (1.0, 0.5),
}


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.webp", "a.png", "a.jpg"])
def test_our_own_files_give_every_option_back(tmp_path: Path, name: str):
    with open_video_writer(tmp_path / name, 16, 16, 16, OWN) as writer:
        writer.write(np.zeros((1, 16, 16, 3), np.uint8))
    assert read_earlier(tmp_path / name).options == OPTIONS


def test_latents_give_their_settings_too(tmp_path: Path):
    import mlx.core as mx

    save_latents(tmp_path / "a.safetensors", mx.zeros((16, 1, 2, 2)), OWN)
    assert read_earlier(tmp_path / "a.safetensors").options == OPTIONS


def write_png(path: Path, **texts: object) -> Path:
    chunks = PngInfo()
    for name, value in texts.items():
        chunks.add_text(name, json.dumps(value))
    Image.new("RGB", (8, 8)).save(path, pnginfo=chunks)
    return path


def test_files_that_are_not_here_are_left_out_and_named(tmp_path: Path):
    adapter = tmp_path / "here.safetensors"
    adapter.touch()
    settings = OWN | {"image": "/nowhere/a.png", "loras": f"{adapter} 0.5"}
    earlier = read_earlier(write_png(tmp_path / "a.png", Comment=settings))
    assert "image" not in earlier.options
    assert earlier.options["loras"] == (LoraChoice(adapter, 0.5),)
    assert any("--image is left out: /nowhere/a.png is not here" in one.text for one in earlier.notices)


def text(prompt: object) -> dict:
    return {"class_type": "CLIPTextEncode", "inputs": {"text": prompt, "clip": ["9", 0]}}


def sampler(kind: str, **inputs: object) -> dict:
    return {"class_type": kind, "inputs": inputs}


A14B = {
    "1": text(["2", 0]),
    "2": {"class_type": "PrimitiveStringMultiline", "inputs": {"value": "a cat"}},
    "3": text("blurry"),
    "4": {
        "class_type": "WanImageToVideo",
        "inputs": {"positive": ["1", 0], "negative": ["3", 0], "width": 832, "height": 480, "length": 81},
    },
    "5": {"class_type": "ModelSamplingSD3", "inputs": {"shift": 5.0, "model": ["8", 0]}},
    "6": sampler(
        "KSamplerAdvanced",
        noise_seed=42, steps=20, cfg=4.0, sampler_name="uni_pc", scheduler="simple", start_at_step=0,
        end_at_step=10, positive=["4", 0], negative=["4", 1],
    ),
    "7": sampler(
        "KSamplerAdvanced",
        noise_seed=0, steps=20, cfg=3.0, sampler_name="uni_pc", scheduler="simple", start_at_step=10,
        end_at_step=10000, positive=["4", 0], negative=["4", 1],
    ),
}  # fmt: skip
A14B_OPTIONS = {
    "prompt": "a cat",
    "negative_prompt": "blurry",
    "width": 832,
    "height": 480,
    "num_frames": 81,
    "shift": 5.0,
    "seed": 42,
    "steps": 20,
    "guide_scale": (3.0, 4.0),
    "scheduler": "unipc",
    "noise_levels": "simple",
    "expert_steps": 10,
}


def test_a_graph_of_comfyui_gives_prompts_sizes_seeds_and_both_experts(tmp_path: Path):
    earlier = read_earlier(write_png(tmp_path / "a.png", workflow={"nodes": []}, prompt=A14B))
    assert earlier.program == "ComfyUI"
    assert earlier.options == A14B_OPTIONS


@pytest.mark.parametrize(
    "tags", [{"prompt": A14B}, {"comment": {"prompt": json.dumps(A14B)}}], ids=["own", "helper"]
)
def test_graphs_are_read_from_videos_as_comfyui_and_its_video_helper_write_them(tmp_path: Path, tags: dict):
    path = tmp_path / "a.mp4"
    command = [find_ffmpeg(), "-v", "error", "-f", "lavfi", "-i", "color=s=16x16:d=0.1", "-movflags"]
    command += ["use_metadata_tags"]
    for name, value in tags.items():
        command += ["-metadata", f"{name}={json.dumps(value)}"]
    subprocess.run([*command, str(path)], check=True)
    assert read_earlier(path).options == A14B_OPTIONS


def test_graphs_are_read_from_webp_as_comfyui_writes_them(tmp_path: Path):
    picture = Image.new("RGB", (8, 8))
    fields = picture.getexif()
    fields[0x0110] = f"prompt:{json.dumps(A14B)}"
    fields[0x010F] = 'workflow:{"nodes": []}'
    picture.save(tmp_path / "a.webp", exif=fields)
    assert read_earlier(tmp_path / "a.webp").options == A14B_OPTIONS


def test_what_is_unknown_here_costs_only_itself(tmp_path: Path):
    graph = {
        "1": text("a cat"),
        "2": sampler(
            "KSampler", seed=1, steps=8, cfg=1, sampler_name="ddim", scheduler="simple", positive=["1", 0]
        ),
        "3": {
            "class_type": "LoraLoaderModelOnly",
            "inputs": {"lora_name": "x.safetensors", "strength_model": 1},
        },
    }
    earlier = read_earlier(write_png(tmp_path / "a.png", prompt=graph))
    assert earlier.options == {
        "prompt": "a cat",
        "seed": 1,
        "steps": 8,
        "guide_scale": 1,
        "noise_levels": "simple",
    }
    told = " ".join(notice.text for notice in earlier.notices)
    assert "--scheduler is left out: 'ddim' is not one of" in told
    assert "--lora is left out: x.safetensors is not here" in told


def test_settings_of_wan2gp_give_resolution_frames_and_both_scales(tmp_path: Path):
    settings = {
        "type": "WanGP v9.0 by DeepBeepMeep - Wan2.2", "prompt": "a cat", "negative_prompt": "",
        "resolution": "832x480", "video_length": 81, "num_inference_steps": 20, "seed": 5,
        "guidance_phases": 2, "guidance_scale": 4,
        "guidance2_scale": 3, "flow_shift": 12, "sample_solver": "unipc",
        "activated_loras": [],
    }  # fmt: skip
    path = tmp_path / "a.mp4"
    command = [find_ffmpeg(), "-v", "error", "-f", "lavfi", "-i", "color=s=16x16:d=0.1"]
    subprocess.run([*command, "-metadata", f"comment={json.dumps(settings)}", str(path)], check=True)
    earlier = read_earlier(path)
    assert earlier.program == "Wan2GP"
    assert earlier.options == {
        "prompt": "a cat", "negative_prompt": "", "width": 832, "height": 480, "num_frames": 81, "steps": 20,
        "seed": 5, "guide_scale": (3, 4), "shift": 12, "scheduler": "unipc",
    }  # fmt: skip


def test_the_file_beside_a_video_of_mlx_gen_is_read(tmp_path: Path):
    subprocess.run(
        [find_ffmpeg(), "-v", "error", "-f", "lavfi", "-i", "color=s=16x16:d=0.1", str(tmp_path / "a.mp4")],
        check=True,
    )
    settings = {"mflux_version": "0.39", "prompt": "a cat", "seed": 3, "steps": 40, "guidance": 4.0,
                "guidance_2": 3.0, "frames": 81, "width": 832, "height": 480, "solver": "unipc",
                "image_path": None}  # fmt: skip
    (tmp_path / "a.metadata.json").write_text(json.dumps(settings))
    expected = {"prompt": "a cat", "seed": 3, "steps": 40, "guide_scale": (3.0, 4.0), "num_frames": 81,
                "width": 832, "height": 480, "scheduler": "unipc"}  # fmt: skip
    assert read_earlier(tmp_path / "a.mp4").options == expected
    assert read_earlier(tmp_path / "a.metadata.json").options == expected


@pytest.mark.parametrize("name", ["a.png", "a.json"])
def test_a_file_that_says_nothing_is_refused(tmp_path: Path, name: str):
    path = tmp_path / name
    if name == "a.png":
        write_png(path, Comment={"author": "me"})
    else:
        path.write_text("[1, 2]")
    with pytest.raises(MediaError, match="says nothing of how it was made"):
        read_earlier(path)
    with pytest.raises(MediaError, match="no such file"):
        read_earlier(tmp_path / "none.mp4")
