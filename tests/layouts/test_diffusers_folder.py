"""Which files of a Diffusers folder are which component, and what each incomplete folder is told."""

import shutil

import pytest

from mlx_video.errors import CheckpointError, ConfigError
from mlx_video.layouts.checkpoint_files import SamplingHints
from mlx_video.layouts.open_checkpoint import open_checkpoint
from tests.layouts.fake_folders import touch, write_json, write_weights

TRANSFORMER = {
    "_class_name": "WanTransformer3DModel",
    "num_attention_heads": 12,
    "attention_head_dim": 128,
    "in_channels": 16,
    "pos_embed_seq_len": None,
    "image_dim": None,
    "qk_norm": "rms_norm_across_heads",
    "cross_attn_norm": True,
}
WEIGHTS = "diffusion_pytorch_model.safetensors"


def diffusers(folder, *transformers, **index):
    """A pipeline's folder with next to nothing inside."""
    for name in transformers or ("transformer",):
        write_weights(folder / name / WEIGHTS, name)
        write_json(folder / name / "config.json", TRANSFORMER)
    write_weights(folder / "text_encoder" / "model.safetensors", "shared.weight")
    write_weights(folder / "vae" / WEIGHTS, "quant_conv.weight")
    write_json(folder / "tokenizer" / "tokenizer.json", {})
    write_json(folder / "model_index.json", {"_class_name": "WanPipeline"} | index)
    return folder


def refused(folder, error=CheckpointError):
    with pytest.raises(error) as refused:
        open_checkpoint(folder)
    assert str(folder) in str(refused.value)
    return str(refused.value)


def test_every_component_is_found(tmp_path):
    found = open_checkpoint(diffusers(tmp_path))
    assert found.transformers == {"model": (tmp_path / "transformer" / WEIGHTS,)}
    assert found.text_encoder == (tmp_path / "text_encoder" / "model.safetensors",)
    assert found.vaes == {"vae": (tmp_path / "vae" / WEIGHTS,)}
    assert found.tokenizer == tmp_path / "tokenizer"
    assert "image_encoder" not in found.parts
    assert found.hints == SamplingHints(pipeline="WanPipeline")


def test_sizes_come_under_the_keys_of_the_original_config(tmp_path):
    sizes = open_checkpoint(diffusers(tmp_path)).transformer_configs["model"]
    assert sizes == {"num_heads": 12, "dim": 1536, "in_dim": 16, "image_dim": None, "image_positions": 0}


def test_the_first_of_two_transformers_is_the_high_noise_expert(tmp_path):
    found = open_checkpoint(diffusers(tmp_path, "transformer", "transformer_2"))
    folders = {name: files[0].parent.name for name, files in found.transformers.items()}
    assert folders == {"low_noise": "transformer_2", "high_noise": "transformer"}


def test_the_image_encoder_is_found_where_there_is_one(tmp_path):
    file = write_weights(diffusers(tmp_path) / "image_encoder" / "model.safetensors", "x")
    assert open_checkpoint(tmp_path).parts["image_encoder"] == (file,)


def test_sharded_encoders_and_transformers_are_complete(tmp_path):
    diffusers(tmp_path)
    (tmp_path / "text_encoder" / "model.safetensors").unlink()
    for number in (1, 2):
        write_weights(tmp_path / "text_encoder" / f"model-0000{number}-of-00002.safetensors", f"t{number}")
    assert len(open_checkpoint(tmp_path).text_encoder) == 2
    (tmp_path / "text_encoder" / "model-00001-of-00002.safetensors").unlink()
    assert "shard 1 of 2 is absent" in refused(tmp_path)


@pytest.mark.parametrize("key", ["flow_shift", "shift"])
def test_scheduler_and_index_give_hints_about_sampling(tmp_path, key):
    diffusers(tmp_path, "transformer", "transformer_2", boundary_ratio=0.875, expand_timesteps=False)
    write_json(tmp_path / "scheduler" / "scheduler_config.json", {key: 12})
    assert open_checkpoint(tmp_path).hints == SamplingHints(12.0, 0.875, False, "WanPipeline")


def test_a_folder_without_model_index_is_taken_by_its_transformer(tmp_path):
    (diffusers(tmp_path) / "model_index.json").unlink()
    assert open_checkpoint(tmp_path).transformers.keys() == {"model"}


@pytest.mark.parametrize("component", ["transformer", "text_encoder", "vae"])
def test_each_missing_component_is_named(tmp_path, component):
    shutil.rmtree(diffusers(tmp_path) / component)
    assert refused(tmp_path).startswith(f"{component}/ not found in ")


def test_all_missing_components_are_named_at_once(tmp_path):
    write_json(tmp_path / "model_index.json", {"_class_name": "WanPipeline"})
    assert len(refused(tmp_path).splitlines()) == 3


def test_a_tokenizer_may_be_absent_but_no_stand_in(tmp_path):
    file = diffusers(tmp_path) / "tokenizer" / "tokenizer.json"
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert "this is a Git LFS pointer" in refused(tmp_path)
    file.unlink()
    assert open_checkpoint(tmp_path).tokenizer is None


@pytest.mark.parametrize(
    "index", [{"boundary_ratio": 0.9}, {"transformer_2": ["diffusers", "WanTransformer3DModel"]}]
)
def test_one_expert_alone_is_refused(tmp_path, index):
    diffusers(tmp_path, **index)
    assert "transformer_2/ not found in" in refused(tmp_path)
    shutil.move(tmp_path / "transformer", tmp_path / "transformer_2")
    assert "transformer/ not found in" in refused(tmp_path)


def test_a_listed_image_encoder_that_is_absent_is_refused(tmp_path):
    diffusers(tmp_path, image_encoder=["transformers", "CLIPVisionModel"])
    assert "image_encoder/ not found in" in refused(tmp_path)


def test_a_component_without_weights_says_which_files_were_expected(tmp_path):
    (diffusers(tmp_path) / "text_encoder" / "model.safetensors").unlink()
    touch(tmp_path / "text_encoder" / "pytorch_model.bin")
    assert "no text encoder found, expected model.safetensors or its shards" in refused(tmp_path)


@pytest.mark.parametrize("name", ["WanSpeechToVideoPipeline", "HunyuanVideoPipeline"])
def test_other_pipelines_are_refused_by_name(tmp_path, name):
    assert f"is a {name}, which this version cannot convert" in refused(diffusers(tmp_path, _class_name=name))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"_class_name": "CosmosTransformer3DModel"}, "CosmosTransformer3DModel"),
        ({"_class_name": "HunyuanVideoTransformer3DModel"}, "HunyuanVideoTransformer3DModel"),
    ],
)
def test_other_transformers_are_refused_by_name(tmp_path, change, name):
    write_json(diffusers(tmp_path) / "transformer" / "config.json", TRANSFORMER | change)
    assert f"is a {name}, which this version cannot convert" in refused(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("transformer/config.json", TRANSFORMER | {"cross_attn_norm": False}, "cross_attn_norm is False"),
        (
            "model_index.json",
            {"_class_name": "WanPipeline", "boundary_ratio": "0.9"},
            "boundary_ratio is '0.9'",
        ),
        ("image_encoder/config.json", {"hidden_act": "quick_gelu"}, "hidden_act is 'quick_gelu'"),
    ],
)
def test_values_that_no_wan_model_has_are_refused(tmp_path, file, content, message):
    diffusers(tmp_path, "transformer", "transformer_2")
    write_json(tmp_path / file, content)
    assert message in refused(tmp_path, ConfigError)


def test_a_bare_transformer_folder_points_to_the_folder_above(tmp_path):
    diffusers(tmp_path)
    message = refused(tmp_path / "transformer")
    assert "is the transformer of a Diffusers folder alone" in message
    assert message.endswith(f"Give the folder above it, {tmp_path}.")


def test_a_bare_transformer_without_a_pipeline_above_is_told_what_is_missing(tmp_path):
    write_json(tmp_path / "copy" / "config.json", TRANSFORMER)
    assert refused(tmp_path / "copy").endswith("lie beside it. Give the folder above it.")


def test_the_folder_above_a_pipeline_points_to_it(tmp_path):
    diffusers(tmp_path / "Wan2.1-T2V-1.3B-Diffusers")
    assert f"Did you mean {tmp_path / 'Wan2.1-T2V-1.3B-Diffusers'}?" in refused(tmp_path)


def test_a_repository_in_the_hubs_cache_is_called_by_its_name(tmp_path):
    snapshot = tmp_path / "models--Wan-AI--Wan2.1-T2V-14B-Diffusers" / "snapshots" / "38ec498"
    files = open_checkpoint(diffusers(snapshot))
    assert files.names == ("Wan-AI/Wan2.1-T2V-14B-Diffusers", "WanPipeline")
    assert files.transformer_names == (WEIGHTS,)
