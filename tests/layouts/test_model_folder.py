import pytest

from mlx_video.errors import CheckpointError, ConfigError
from mlx_video.layouts.model_folder import open_model_folder
from tests.layouts.fake_folders import (
    converted,
    diffusers,
    original,
    original_dual,
    touch,
    write_json,
    write_weights,
)

EXPERTS = ("low_noise_model.safetensors", "high_noise_model.safetensors")


def refused(folder, error=CheckpointError):
    with pytest.raises(error) as refused:
        open_model_folder(folder)
    assert str(folder) in str(refused.value)
    return str(refused.value)


def test_a_converted_folder_gives_every_component(tmp_path):
    model = open_model_folder(converted(tmp_path))
    assert model.path == tmp_path
    assert model.config["t5_vocab_size"] == 256384
    assert model.transformers == {"model": tmp_path / "model.safetensors"}
    assert model.text_encoder == tmp_path / "t5_encoder.safetensors"
    assert model.vae == tmp_path / "vae.safetensors"
    assert model.vae_encoder is None
    assert "image_encoder" not in model.parts
    assert model.tokenizer == tmp_path / "tokenizer"


def test_an_image_encoder_is_found_where_there_is_one(tmp_path):
    file = touch(converted(tmp_path) / "clip_vision.safetensors")
    assert open_model_folder(tmp_path).parts["image_encoder"] == file


def test_a_dual_folder_gives_both_experts(tmp_path):
    assert open_model_folder(converted(tmp_path, *EXPERTS)).transformers == {
        "low_noise": tmp_path / EXPERTS[0],
        "high_noise": tmp_path / EXPERTS[1],
    }


def test_the_config_decides_where_single_and_dual_files_lie_together(tmp_path):
    converted(tmp_path, "model.safetensors", *EXPERTS)
    assert set(open_model_folder(tmp_path).transformers) == {"low_noise", "high_noise"}
    write_json(tmp_path / "config.json", {"t5_vocab_size": 1, "dual_model": False})
    assert set(open_model_folder(tmp_path).transformers) == {"model"}


def test_a_second_encoder_file_is_found(tmp_path):
    touch(converted(tmp_path) / "vae_encoder.safetensors")
    assert open_model_folder(tmp_path).vae_encoder == tmp_path / "vae_encoder.safetensors"


def test_the_tokenizer_may_lie_in_the_root_or_be_absent(tmp_path):
    (converted(tmp_path) / "tokenizer/tokenizer.json").rename(tmp_path / "tokenizer.json")
    assert open_model_folder(tmp_path).tokenizer == tmp_path
    (tmp_path / "tokenizer.json").unlink()
    assert open_model_folder(tmp_path).tokenizer is None


@pytest.mark.parametrize("absent", ["model.safetensors", "t5_encoder.safetensors", "vae.safetensors"])
def test_a_missing_file_is_named(tmp_path, absent):
    (converted(tmp_path) / absent).unlink()
    assert f"{absent} not found, the folder is incomplete" in refused(tmp_path)


def test_a_missing_expert_is_named(tmp_path):
    (converted(tmp_path, *EXPERTS) / EXPERTS[0]).unlink()
    assert f"{EXPERTS[0]} not found" in refused(tmp_path)


def test_a_folder_without_config_gives_an_empty_one(tmp_path):
    write_weights(tmp_path / "model.safetensors", "patch_embedding_proj.weight")
    for name in ("t5_encoder.safetensors", "vae.safetensors"):
        touch(tmp_path / name)
    assert open_model_folder(tmp_path).config == {}


def test_a_text_encoder_may_have_the_name_that_a_fork_gave_it(tmp_path):
    (converted(tmp_path) / "t5_encoder.safetensors").rename(tmp_path / "t5_encoder_q8.safetensors")
    assert open_model_folder(tmp_path).text_encoder == tmp_path / "t5_encoder_q8.safetensors"


def test_a_damaged_config_is_a_config_error(tmp_path):
    (converted(tmp_path) / "config.json").write_text('{"t5_vocab_size": ')
    assert "config.json: is no valid JSON" in refused(tmp_path, ConfigError)


@pytest.mark.parametrize("make", [original, original_dual, diffusers, lambda path: comfy(path)])
def test_a_checkpoint_not_yet_converted_names_the_command_that_converts_it(tmp_path, make):
    assert refused(make(tmp_path)).endswith(
        f"Convert it first: python -m mlx_video.convert_wan --checkpoint-dir {tmp_path}"
    )


def comfy(path):
    return touch(path / "diffusion_models" / "wan.safetensors").parents[1]


def test_any_other_folder_is_no_converted_model(tmp_path):
    assert "is no converted model" in refused(tmp_path)


def test_a_missing_path_and_a_file_have_their_own_messages(tmp_path):
    assert "no such folder. Check the path" in refused(tmp_path / "absent")
    assert "is a file" in refused(touch(tmp_path / "model.safetensors"))


def test_an_interrupted_conversion_is_recognised_under_both_names(tmp_path):
    stage = converted(tmp_path / ".wan.unfinished")
    assert "is an unfinished conversion. Run the conversion again." in refused(stage)
    assert "Its conversion was interrupted; run it again." in refused(tmp_path / "wan")
