"""A ComfyUI tree in which other models' files lie beside Wan's: they are named, and do no harm."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlx_video.convert import vae_origin
from mlx_video.convert.convert import convert
from mlx_video.convert_wan import main
from mlx_video.errors import CheckpointError, MissingPartError, RequestError
from mlx_video.events import Notice
from mlx_video.inspect.path import inspect_path
from mlx_video.request import ConvertRequest
from mlx_video.variants.other_vaes import OTHER_VAES
from tests.fixtures.comfy_files import CLIP, VAE, write_comfy_tree, write_plain
from tests.fixtures.diffusers_checkpoint import vae_name
from tests.fixtures.foreign_files import OTHER_FORMS, SAFETENSORS, write_foreign_file
from tests.fixtures.tiny_checkpoint import TinySizes, write_tiny_checkpoint

pytestmark = pytest.mark.slow

NAMED = {
    "clip_vision/clip_vision_g.safetensors": "is a CLIP ViT-bigG, 1664 wide; Wan needs ViT-H",
    "clip_vision/clip_vision_vit_l.safetensors": "is a CLIP ViT-L, 1024 wide; Wan needs ViT-H",
    "clip_vision/llava_llama3_vision.safetensors": "is a CLIP ViT-L, 1024 wide; Wan needs ViT-H",
    "text_encoders/t5xxl_fp16.safetensors": "32128 vocabulary rows (T5 v1.1); Wan needs UMT5-XXL",
    "text_encoders/byt5_small_glyphxl_fp16.safetensors": "(T5, mT5 or ByT5); Wan needs UMT5-XXL",
    "text_encoders/mt5_xl.safetensors": "(T5, mT5 or ByT5); Wan needs UMT5-XXL",
    "vae/qwen_image_vae.safetensors": "the VAE of Qwen-Image: its latents are those of Wan2.1",
    "vae/qwen_image_layered_vae.safetensors": "is a VAE for pictures of 4 channels; Wan's takes 3",
    "vae/wan_alpha_2.1_vae_alpha_channel.safetensors": "the VAE of Wan-Alpha",
    "loras/flux_style.safetensors": "looks made for",
    "loras/sdxl_style.safetensors": "looks made for",
    "loras/Qwen-Image-Lightning-4steps.safetensors": "looks made for",
    "loras/hunyuan.safetensors": "looks made for",
    "upscale_models/4x-UltraSharp.pth": "format torch used before 1.6",
    "checkpoints/v1-5-pruned-emaonly.ckpt": "contains Python objects (pytorch_lightning",
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A tree of an image-to-video model, which no test may change."""
    folder = tmp_path_factory.mktemp("shared")
    tiny = write_tiny_checkpoint(folder / "Wan2.1-I2V", TinySizes().reading_images())
    write_comfy_tree(folder / "models", tiny)
    run(folder / "models", folder / "converted")
    return tiny


@pytest.fixture
def tree(shared, tmp_path) -> Path:
    return shutil.copytree(shared.path.parent / "models", tmp_path / "models")


def run(source, output, **options):
    events = list(convert(ConvertRequest(source, output, dtype="float32", **options)))
    return [event.text for event in events if isinstance(event, Notice)]


def put(tree: Path, name: str) -> Path:
    """Add one of the other models' files."""
    path = tree / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name in OTHER_FORMS:
        OTHER_FORMS[name](path)
        return path
    return write_foreign_file(path, SAFETENSORS[name])


def file_bytes(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


@pytest.mark.sample(8)
@pytest.mark.parametrize("name", [*SAFETENSORS, *OTHER_FORMS])
def test_a_file_of_another_model_is_named_and_no_fault_of_the_tree(tree, name, capsys):
    put(tree, name)
    assert main(["--inspect", str(tree)]) == 0
    shown = capsys.readouterr().out
    assert "problem" not in shown
    assert NAMED.get(name, "It is of another model" if name in SAFETENSORS else "") in shown
    assert f"--checkpoint-dir {tree}" in shown


def test_all_of_them_together_change_nothing_of_the_conversion(shared, tree, tmp_path):
    for name in (*SAFETENSORS, *OTHER_FORMS):
        put(tree, name)
    assert inspect_path(tree).problems == ()
    run(tree, tmp_path / "out")
    assert file_bytes(tmp_path / "out") == file_bytes(shared.path.parent / "converted")


def test_a_damaged_file_in_a_folder_of_wans_stays_a_fault(tree):
    OTHER_FORMS["upscale_models/cut.safetensors"](tree / "diffusion_models" / "cut.safetensors")
    assert "cut.safetensors" in inspect_path(tree).problems[0]


@pytest.mark.parametrize(
    "name", ["clip_vision/clip_vision_g.safetensors", "vae/qwen_image_layered_vae.safetensors"]
)
def test_a_file_of_another_model_alone_is_unknown(tmp_path, name, capsys):
    assert main(["--inspect", str(put(tmp_path, name))]) == 1
    assert NAMED[name] in capsys.readouterr().out


def test_another_clip_alone_in_the_tree_is_refused_for_what_it_is(tree, tmp_path):
    (tree / CLIP).unlink()
    put(tree, "clip_vision/clip_vision_g.safetensors")
    with pytest.raises(CheckpointError, match="cls_embedding is 1664 wide"):
        run(tree, tmp_path / "out")


# VAEs that only something besides their tensors tells from Wan's.


def add_other_vae(tree: Path, shared, name: str = "qwen_image_vae.safetensors") -> Path:
    """A VAE with the tensors of the tree's own, other numbers."""
    return write_plain(tree / "vae" / name, {n: 2 * values for n, values in shared.vae.items()})


def test_qwen_images_vae_beside_wans_makes_nothing_ambiguous(shared, tree, tmp_path):
    add_other_vae(tree, shared)
    run(tree, tmp_path / "out")
    assert file_bytes(tmp_path / "out") == file_bytes(shared.path.parent / "converted")


def test_qwen_images_vae_alone_is_not_taken_unless_it_is_named(shared, tree, tmp_path):
    other = add_other_vae(tree, shared)
    (tree / VAE).unlink()
    message = r"qwen_image_vae.safetensors is that of Qwen-Image: .*Give Wan's with --vae FILE, or this one"
    with pytest.raises(MissingPartError, match=message):
        run(tree, tmp_path / "out")
    found = inspect_path(tree)
    assert (found.problems, found.command) == ((), "")
    assert "--vae FILE" in found.missing[0]
    told = run(tree, tmp_path / "out", vae=other)
    assert any("is the VAE of Qwen-Image: its latents are those of Wan2.1" in text for text in told)


def test_a_vae_whose_name_says_nothing_is_not_taken_silently(shared, tree, tmp_path):
    (tree / VAE).rename(tree / "vae" / "video.safetensors")
    told = run(tree, tmp_path / "out")
    taken = "video.safetensors: taken as the VAE by its tensors; nothing else says that it is Wan's"
    assert any(taken in text for text in told)
    assert not any("taken as the VAE" in text for text in run(shared.path, tmp_path / "original"))


@pytest.mark.parametrize(
    "place", ["vae/wan/video.safetensors", "vae/Wan2_1_VAE_bf16.safetensors", "vae/lightvaew2_1.safetensors"]
)
def test_a_vae_is_wans_by_its_own_name_or_its_folders(tree, tmp_path, place):
    (tree / place).parent.mkdir(exist_ok=True)
    (tree / VAE).rename(tree / place)
    assert not any("taken as the VAE" in text for text in run(tree, tmp_path / "out"))


def test_two_vaes_that_nothing_tells_apart_are_asked_for(shared, tree, tmp_path):
    add_other_vae(tree, shared, "video.safetensors")
    add_other_vae(tree, shared)
    with pytest.raises(CheckpointError, match="several VAEs") as caught:
        run(tree, tmp_path / "out")
    assert f"for this model: vae/video.safetensors, {VAE}. Choose one with --vae FILE." in str(caught.value)


def test_a_published_vae_is_known_under_any_name_by_its_bytes(shared, tree, tmp_path, monkeypatch):
    path = add_other_vae(tree, shared, "video.safetensors")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    published = {path.stat().st_size: digest}
    monkeypatch.setattr(vae_origin, "OTHER_VAES", (replace(OTHER_VAES[0], published=published),))
    run(tree, tmp_path / "out")
    assert file_bytes(tmp_path / "out") == file_bytes(shared.path.parent / "converted")


@pytest.mark.parametrize(
    ("class_name", "is_told"), [("AutoencoderKLQwenImage", True), ("AutoencoderKLWan", False)]
)
def test_a_vae_in_diffusers_form_is_known_by_its_class(shared, tree, tmp_path, class_name, is_told):
    arrays = {vae_name(name, 16): values for name, values in shared.vae.items()}
    folder = tmp_path / "qwen" / "vae"
    write_plain(folder / "diffusion_pytorch_model.safetensors", arrays)
    (folder / "config.json").write_text(json.dumps({"_class_name": class_name}))
    told = run(tree, tmp_path / "out", vae=folder)
    assert any("is the VAE of Qwen-Image" in text for text in told) == is_told


def test_a_vae_for_pictures_of_four_channels_is_refused_as_wans(shared, tree, tmp_path):
    four = shared.vae | {
        "encoder.conv1.weight": np.zeros((8, 4, 3, 3, 3), np.float32),
        "decoder.head.2.weight": np.zeros((4, 8, 3, 3, 3), np.float32),
    }
    path = write_plain(tmp_path / "rgba.safetensors", four)
    with pytest.raises((CheckpointError, RequestError), match="is a VAE for pictures of 4 channels"):
        run(tree, tmp_path / "out", vae=path)
