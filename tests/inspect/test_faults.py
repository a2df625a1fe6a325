"""--inspect and the commands behind it agree: what these refuse is a problem, what is only absent is not."""

import io
import json
import sys

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.convert.convert import convert
from mlx_video.convert.find_checkpoint import find_checkpoint
from mlx_video.convert_wan import main
from mlx_video.errors import CheckpointError, ConfigError, RequestError
from mlx_video.inspect.path import inspect_path
from mlx_video.loading.components import check_weights, open_model
from mlx_video.loading.vae_halves import check_vae_encoder
from mlx_video.request import ConvertRequest
from mlx_video.weights.names.vae_names import vae_tensors
from tests.fixtures.comfy_files import (
    TEXT_ENCODER,
    TRANSFORMER,
    VAE,
    Words,
    comfy_text_encoder,
    embedded_tokenizer,
    write_comfy_tree,
    write_plain,
    write_words,
)
from tests.fixtures.tiny_checkpoint import TinySizes, random_arrays, write_tiny_checkpoint
from tests.fixtures.tiny_variants import TINY_VARIANTS, write_tiny_variant

IMAGE_TO_VIDEO = TinySizes().reading_images()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "Wan2.1-I2V", IMAGE_TO_VIDEO)


@pytest.fixture
def comfy(tiny, tmp_path):
    return write_comfy_tree(tmp_path / "models", tiny)


def converted(tiny, path, **options):
    list(convert(ConvertRequest(tiny.path, path, **options)))
    return path


def test_the_tokenizer_in_a_text_encoder_is_reported_and_no_parameter(comfy, tiny, capsys):
    found = inspect_path(comfy)
    part = next(part for part in found.parts if part.component == "text_encoder")
    assert (found.problems, found.tokenizer) == ((), f"in {TEXT_ENCODER}")
    assert (part.has_tokenizer, set(part.precision)) == (True, {"BF16"})
    assert part.parameters == sum(values.size for values in tiny.text_encoder.values())
    assert main(["--inspect", str(comfy / TEXT_ENCODER)]) == 0
    assert "  tokenizer: in umt5" in capsys.readouterr().out


def test_the_tokenizer_of_another_models_text_encoder_does_not_count(comfy, tiny):
    text_encoder = comfy_text_encoder(tiny.text_encoder)
    write_words(comfy / TEXT_ENCODER, text_encoder)
    other = text_encoder | {"shared.weight": Words("F16", np.zeros((32128, 8), np.float16))}
    write_words(comfy / "text_encoders" / "t5xxl.safetensors", other | embedded_tokenizer())
    found = inspect_path(comfy)
    assert (found.problems, found.tokenizer) == ((), "")
    assert found.missing == ("tokenizer: it is fetched once from google/umt5-xxl.",)


def test_the_text_encoder_of_another_model_alone_is_a_problem(comfy, tiny, tmp_path, capsys):
    other = comfy_text_encoder(tiny.text_encoder) | {
        "shared.weight": Words("F16", np.zeros((32128, 8), np.float16))
    }
    for path in (comfy / TEXT_ENCODER, tmp_path / "t5xxl.safetensors"):
        write_words(path, other)
    for path in (comfy, tmp_path / "t5xxl.safetensors"):
        assert main(["--inspect", str(path)]) == 1
        assert "32128 vocabulary rows (T5 v1.1); Wan needs UMT5-XXL" in capsys.readouterr().out


def test_the_vae_of_other_models_is_a_problem_of_a_whole_comfyui_folder(comfy, capsys):
    sizes = TINY_VARIANTS["wan2.2-ti2v-5b"].sizes.vae
    write_plain(comfy / VAE, random_arrays(vae_tensors(sizes), 2))
    assert main(["--inspect", str(comfy)]) == 1
    shown = capsys.readouterr().out
    assert "problem: wan_2.1_vae.safetensors has 48 latent channels, the transformer makes 16" in shown
    assert "missing:" not in shown


@pytest.mark.parametrize(
    ("twice", "removed", "several", "cure"),
    [
        (TRANSFORMER, TEXT_ENCODER, "transformers", "--transformer FILE"),
        (TEXT_ENCODER, VAE, "text encoders", "--text-encoder FILE"),
        (VAE, None, "VAEs", "--vae FILE"),
    ],
)
def test_several_files_for_one_place_are_a_problem_and_name_the_option(comfy, twice, removed, several, cure):
    file = comfy / twice
    file.with_name(f"another_{file.name}").write_bytes(file.read_bytes())
    if removed:
        (comfy / removed).unlink()
    found = inspect_path(comfy)
    (problem,) = found.problems
    assert f"holds several {several}" in problem
    assert cure in problem
    assert (found.missing, found.command) == ((), "")


def test_what_a_folder_lacks_stays_no_problem(comfy, tiny, tmp_path):
    (comfy / VAE).unlink()
    found = inspect_path(comfy)
    assert "VAE (--vae FILE)" in found.missing[0]
    assert (found.problems, found.command) == ((), "")
    folder = converted(tiny, tmp_path / "mlx")
    (folder / "clip_vision.safetensors").unlink()
    found = inspect_path(folder)
    assert "clip_vision.safetensors not found" in found.missing[0]
    assert (found.problems, found.command) == ((), "")


def test_another_number_of_bits_than_config_json_says_is_a_problem_before_any_work(tiny, tmp_path):
    folder = converted(tiny, tmp_path / "mlx", quantize=True, bits=8)
    assert inspect_path(folder).problems == ()
    config = json.loads((folder / "config.json").read_text())
    config["quantization"]["bits"] = 4
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"config.json says 4 bits, group 64; .* is 8 bits") as caught:
        check_weights(*open_model(folder))
    assert inspect_path(folder).problems == (str(caught.value),)
    assert inspect_path(folder).command == ""


def test_a_vae_without_encoder_is_a_problem_of_a_model_that_needs_an_image(tiny, tmp_path):
    folder = converted(tiny, tmp_path / "mlx")
    tensors = mx.load(str(folder / "vae.safetensors"))
    decoder = {name: tensors[name] for name in tensors if name.startswith(("decoder.", "conv2."))}
    mx.eval(decoder)
    mx.save_safetensors(str(folder / "vae.safetensors"), decoder)
    with pytest.raises(CheckpointError, match="there is no VAE encoder to read images") as caught:
        check_vae_encoder(*open_model(folder))
    found = inspect_path(folder)
    assert (found.problems, found.command) == ((str(caught.value),), "")


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("Wan-AI/Wan2.1-T2V-14B", "--checkpoint-dir Wan-AI/Wan2.1-T2V-14B"),
        ("city96/Wan-gguf/wan-Q8_0.gguf", "--checkpoint-dir city96/Wan-gguf"),
    ],
)
def test_a_repository_is_not_inspected_and_told_so(capsys, place, told):
    assert main(["--inspect", place]) == 1
    shown = capsys.readouterr().err
    assert f"{place}: no such file or folder" in shown
    assert "The Hub is not inspected: download the repository first, or convert it by its name: " in shown
    assert told in shown


@pytest.mark.parametrize(
    "options",
    [
        ("--quantize",),
        ("--bits", "8"),
        ("--vae", "x.pth"),
        ("--checkpoint-dir", "wan"),
        ("--output-dir", "out"),
        ("--revision", "main"),
        ("--lora", "style.safetensors"),
        ("--strict-lora",),
    ],
    ids=lambda options: options[0],
)
def test_options_of_conversions_are_refused(tiny, capsys, options):
    assert main(["--inspect", str(tiny.path), *options]) == 2
    assert f"error: {options[0]} does not count with --inspect PATH" in capsys.readouterr().err


WAN22 = "wan2.2-ti2v-5b"
OPTIONS = {
    "transformer": "model.safetensors",
    "low_noise": "model.safetensors",
    "text_encoder": "t5_encoder.safetensors",
    "vae": "vae.safetensors",
    "clip": "clip_vision.safetensors",
}


@pytest.fixture(scope="module")
def folders(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("converted")
    write_tiny_variant(path / WAN22, WAN22)
    list(convert(ConvertRequest(path / WAN22, path / "mlx22")))
    return {"2.1": converted(tiny, path / "mlx"), "2.2": path / "mlx22"}


@pytest.mark.parametrize(
    ("version", "option", "file"),
    [
        *(("2.1", option, file) for option, file in OPTIONS.items()),
        *(("2.1", option, ".") for option in ("transformer", "text_encoder", "vae", "clip")),
        ("2.2", "vae", "vae.safetensors"),
    ],
)
def test_what_is_converted_already_is_refused_as_a_component(tiny, folders, version, option, file):
    path = folders[version] / file
    given = {option: path} | ({"high_noise": tiny.transformer_file} if option == "low_noise" else {})
    with pytest.raises(RequestError, match=r"converted already. Give the file that it was made") as caught:
        find_checkpoint(ConvertRequest(tiny.path, **given))
    assert (caught.value.field, str(path) in caught.value.message) == (option, True)


def test_a_converted_file_is_refused_as_a_checkpoint(folders):
    with pytest.raises(CheckpointError, match=r"t5_encoder.safetensors: is converted already"):
        find_checkpoint(ConvertRequest(folders["2.1"] / "t5_encoder.safetensors"))


@pytest.mark.parametrize("version", ["2.1", "2.2"])
@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_halves_of_converted_vaes_are_known_as_such(folders, tmp_path, version, half):
    tensors = mx.load(str(folders[version] / "vae.safetensors"))
    conv = {"encoder": "conv1.", "decoder": "conv2."}[half]
    path = tmp_path / f"vae_{half}.safetensors"
    mx.save_safetensors(str(path), {n: v for n, v in tensors.items() if n.startswith((f"{half}.", conv))})
    (part,) = inspect_path(path).parts
    assert (part.component, part.spelling, part.problem) == ("vae", "converted for MLX", "")
    channels, other = {"2.1": 16, "2.2": 48}[version], {"encoder": "decoder", "decoder": "encoder"}[half]
    assert part.model == f"VAE of {channels} latent channels, without its {other}"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_path_that_the_terminal_cannot_spell_is_escaped(comfy, monkeypatch, encoding):
    path = comfy.rename(comfy.with_name("вид"))
    shown = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", shown)
    assert main(["--inspect", str(path)]) == 0
    assert b"\\u0432\\u0438\\u0434: checkpoint, ComfyUI folder" in shown.buffer.getvalue()
