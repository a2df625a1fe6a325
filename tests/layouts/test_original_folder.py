import shutil

import pytest

from mlx_video.errors import CheckpointError
from mlx_video.layouts.open_checkpoint import open_checkpoint
from tests.layouts.fake_folders import (
    add_shared_parts,
    converted,
    original,
    original_dual,
    touch,
    write_json,
    write_shards,
    write_weights,
)


def refused(folder):
    with pytest.raises(CheckpointError) as refused:
        open_checkpoint(folder)
    assert str(folder) in str(refused.value)
    return str(refused.value)


def test_a_single_transformer_folder_gives_every_component(tmp_path):
    found = open_checkpoint(original(tmp_path))
    assert found.path == tmp_path
    assert found.transformers == {"model": (tmp_path / "diffusion_pytorch_model.safetensors",)}
    assert found.transformer_configs["model"]["dim"] == 1536
    assert found.text_encoder == (tmp_path / "models_t5_umt5-xxl-enc-bf16.pth",)
    assert found.vaes == {"2.1": (tmp_path / "Wan2.1_VAE.pth",)}
    assert found.tokenizer == tmp_path / "google" / "umt5-xxl"
    assert "image_encoder" not in found.parts


def test_an_image_encoder_is_found_where_there_is_one(tmp_path):
    file = touch(original(tmp_path) / "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth")
    assert open_checkpoint(tmp_path).parts["image_encoder"] == (file,)


def test_a_sharded_transformer_gives_its_shards_in_order(tmp_path):
    original(tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
    write_shards(tmp_path, ("a",), ("b",), ("c",))
    assert len(open_checkpoint(tmp_path).transformers["model"]) == 3


def test_a_dual_folder_gives_both_experts_with_their_configs(tmp_path):
    found = open_checkpoint(original_dual(tmp_path))
    assert {name: len(files) for name, files in found.transformers.items()} == {
        "low_noise": 2,
        "high_noise": 2,
    }
    assert found.transformers["low_noise"][0].parent.name == "low_noise_model"
    assert found.transformer_configs["high_noise"]["which"] == "high_noise_model"


def test_where_both_vaes_lie_the_caller_chooses(tmp_path):
    touch(original(tmp_path) / "Wan2.2_VAE.pth")
    found = open_checkpoint(tmp_path)
    assert {key: [path.name for path in paths] for key, paths in found.vaes.items()} == {
        "2.1": ["Wan2.1_VAE.pth"],
        "2.2": ["Wan2.2_VAE.pth"],
    }


def test_stray_files_change_nothing(tmp_path):
    original(tmp_path)
    before = open_checkpoint(tmp_path)
    for stray in (
        "._diffusion_pytorch_model.safetensors",
        ".DS_Store",
        "my_lora.safetensors",
        "assets/a.png",
    ):
        touch(tmp_path / stray)
    assert open_checkpoint(tmp_path) == before


@pytest.mark.parametrize(
    ("absent", "message"),
    [
        ("models_t5_umt5-xxl-enc-bf16.pth", r"models_t5_umt5-xxl-enc-bf16.pth not found in .*(11.4 GB)"),
        ("Wan2.1_VAE.pth", "No VAE found in"),
        ("config.json", "config.json not found; it states the transformer's sizes"),
    ],
)
def test_each_missing_component_is_named(tmp_path, absent, message):
    (original(tmp_path) / absent).unlink()
    found = refused(tmp_path)
    assert all(part in found for part in message.split(".*"))
    assert "\n" not in found


def test_all_missing_components_are_named_at_once(tmp_path):
    write_weights(tmp_path / "diffusion_pytorch_model.safetensors", "x")
    assert len(refused(tmp_path).splitlines()) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "tokenizer.json: this is a Git LFS pointer"),
        (b"<!DOCTYPE html>", "tokenizer.json: is an HTML page"),
        (b"", "tokenizer.json: is empty"),
    ],
)
def test_a_stand_in_for_the_tokenizer_is_refused(tmp_path, content, message):
    (original(tmp_path) / "google/umt5-xxl/tokenizer.json").write_bytes(content)
    assert message in refused(tmp_path)


def test_a_tokenizer_may_be_absent(tmp_path):
    (original(tmp_path) / "google/umt5-xxl/tokenizer.json").unlink()
    assert open_checkpoint(tmp_path).tokenizer is None


def test_a_sentencepiece_model_alone_is_a_tokenizer(tmp_path):
    (original(tmp_path) / "google/umt5-xxl/tokenizer.json").unlink()
    touch(tmp_path / "google/umt5-xxl/spiece.model")
    assert open_checkpoint(tmp_path).tokenizer.name == "umt5-xxl"


@pytest.mark.parametrize("absent", ["low_noise_model", "high_noise_model"])
def test_one_expert_alone_is_refused(tmp_path, absent):
    shutil.rmtree(original_dual(tmp_path) / absent)
    assert f"{absent}/ not found beside " in refused(tmp_path)


def test_a_missing_shard_of_one_expert_is_refused(tmp_path):
    next((original_dual(tmp_path) / "high_noise_model").glob("*-00002-*")).unlink()
    assert "high_noise_model: 1 tensors missing, first c. Shard 2 of 2" in refused(tmp_path)


def test_an_expert_folder_itself_points_to_the_folder_above(tmp_path):
    assert "is one of two experts. Give the folder above it" in refused(
        original_dual(tmp_path) / "low_noise_model"
    )


def test_a_missing_path_and_a_file_have_their_own_messages(tmp_path):
    assert "no such folder" in refused(tmp_path / "absent")
    assert "is a file. Give the folder" in refused(touch(tmp_path / "x.safetensors"))


def test_a_converted_folder_points_to_quantize_only(tmp_path):
    assert "is already an MLX folder. To quantize it use --quantize-only." in refused(converted(tmp_path))


def test_a_converted_folder_is_known_by_its_tensors_without_a_config(tmp_path):
    (converted(tmp_path) / "config.json").unlink()
    assert "is already an MLX folder" in refused(tmp_path)


def test_a_fastvideo_folder_is_refused_by_name(tmp_path):
    touch(tmp_path / "mlx_dit.json")
    found = refused(tmp_path)
    assert "is a FastVideo MLX folder" in found
    assert f"generate_wan --model-dir {tmp_path}" in found


def test_a_folder_without_a_transformer_says_so(tmp_path):
    assert "no transformer found" in refused(add_shared_parts(tmp_path))


def test_a_config_without_weights_is_a_folder_without_a_transformer(tmp_path):
    write_json(add_shared_parts(tmp_path) / "config.json", {"_class_name": "WanModel"})
    assert "no transformer found" in refused(tmp_path)


def test_the_folder_above_a_checkpoint_points_to_it(tmp_path):
    original(tmp_path / "Wan2.1-T2V-1.3B")
    assert f"Did you mean {tmp_path / 'Wan2.1-T2V-1.3B'}?" in refused(tmp_path)
