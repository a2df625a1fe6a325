"""A folder and a repository with the same files are told to have the same layout."""

import pytest

from mlx_video.layouts.folder_layout import list_folder, recognise_layout, recognise_listing
from mlx_video.layouts.listing import Listing

STEM = "diffusion_pytorch_model"


def write(folder, names):
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


@pytest.mark.parametrize(
    ("names", "layout"),
    [
        (["mlx_dit.json", "mlx_dit.safetensors", "vae/config.json"], "fastvideo"),
        (["mlx_dit.safetensors"], "fastvideo"),
        (["ema/mlx_dit.json", "transformer/config.json"], "fastvideo"),
        (["model_index.json", f"{STEM}.safetensors"], "diffusers"),
        (["low_noise_model/any.gguf", f"{STEM}.safetensors"], "original_dual"),
        (["non_block.safetensors", "block_0.safetensors"], "lightx2v"),
        ([f"{STEM}-00001-of-00002-bf16.safetensors", "unet/a.safetensors"], "original"),
        ([f"{STEM}.safetensors.index.json"], "original"),
        (["text_encoders/umt5.safetensors", "wan.safetensors"], "comfy"),
        (["diffusion_pytorch_models.txt", "wan.safetensors", "config.json"], "unknown"),
    ],
)
def test_names_tell_the_same_layout_in_a_folder_and_in_a_repository(tmp_path, names, layout):
    write(tmp_path, names)
    assert recognise_layout(tmp_path) == layout
    assert recognise_listing(Listing(frozenset(names), lambda name: {})) == layout


def test_an_empty_folder_is_told_by_its_name(tmp_path):
    (tmp_path / "high_noise_model").mkdir()
    assert recognise_layout(tmp_path) == "original_dual"


@pytest.mark.parametrize(
    ("config", "layout"), [({"_class_name": "WanModel"}, "original"), ({"vae_z_dim": 16}, "converted")]
)
def test_a_config_tells_a_layout_only_where_files_of_any_name_are_found(config, layout):
    files, read = frozenset(["config.json", "wan.safetensors"]), lambda name: config
    assert recognise_listing(Listing(files, read, has_names_alone=False)) == layout
    assert recognise_listing(Listing(files, read)) == "unknown"


def test_a_needed_component_of_our_names_tells_a_converted_repository_alone(tmp_path):
    names = ["config.json", "model.safetensors", "vae.safetensors"]
    write(tmp_path, names)
    assert recognise_layout(tmp_path) == "unknown"  # nothing in these files is converted
    assert recognise_listing(Listing(frozenset(names), lambda name: {})) == "converted"


def test_only_folders_that_tell_a_layout_are_looked_into(tmp_path):
    write(tmp_path, ["transformer/config.json", "ema/mlx_dit.json", "vae/config.json", "a.txt"])
    found = {"transformer/", "transformer/config.json", "ema/", "ema/mlx_dit.json", "vae/", "a.txt"}
    assert list_folder(tmp_path).files == found
