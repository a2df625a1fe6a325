"""Speech-to-video in files of every kind converts to all of its tensors, and to no fewer."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import CheckpointError, convert_checkpoint
from mlx_video.inspect.path import inspect_path
from mlx_video.weights.names.audio_encoder_names import HF_RULES, WAN_RULES
from mlx_video.weights.names.speech_names import SPEECH_RULES
from mlx_video.weights.names.text_encoder_names import text_encoder_tensors
from mlx_video.weights.names.transformer_names import WAN_RULES as TRANSFORMER_RULES
from mlx_video.weights.names.vae_names import vae_tensors
from mlx_video.weights.rules import Rule, apply_rules
from tests.fixtures.comfy_files import (
    TEXT_ENCODER,
    VAE,
    Words,
    as_codes,
    comfy_text_encoder,
    embedded_tokenizer,
    write_gguf_transformer,
    write_plain,
    write_words,
)
from tests.fixtures.tiny_checkpoint import (
    Arrays,
    audio_encoder_file_tensors,
    random_arrays,
    write_transformer,
)
from tests.fixtures.tiny_variants import SPEECH_VARIANTS, official_tensors, write_tiny_variant
from tests.fixtures.weight_files import round_to, store, write_safetensors

pytestmark = pytest.mark.slow

NAME = "wan2.2-s2v-14b"
SIZES = SPEECH_VARIANTS[NAME].sizes
TRANSFORMER = random_arrays(official_tensors(SIZES.transformer), 0)
AUDIO_ENCODER = random_arrays(audio_encoder_file_tensors(SIZES.audio_encoder), 4)
NEWER = {
    "conv.weight_g": "conv.parametrizations.weight.original0",
    "conv.weight_v": "conv.parametrizations.weight.original1",
}


def converted(arrays: Arrays, *tables: tuple[Rule, ...]) -> Arrays:
    """What official arrays become, rule by rule."""
    found = {}
    for name, values in arrays.items():
        target, transform = apply_rules(name, tables[0])
        if target is not None:
            found[target] = np.array(transform.apply(mx.array(values)))
    return converted(found, *tables[1:]) if len(tables) > 1 else found


EXPECTED = converted(TRANSFORMER, (*SPEECH_RULES, *TRANSFORMER_RULES))
EXPECTED_AUDIO = converted(
    {name.removeprefix("wav2vec2."): values for name, values in AUDIO_ENCODER.items()}, HF_RULES, WAN_RULES
)


def load(folder: Path, name: str) -> Arrays:
    return {tensor: np.array(values) for tensor, values in mx.load(str(folder / name)).items()}


def assert_equal(found: Arrays, expected: Arrays) -> None:
    assert sorted(found) == sorted(expected)
    for tensor, values in expected.items():
        np.testing.assert_array_equal(found[tensor], values, err_msg=tensor)


def test_every_tensor_of_the_original_folder_arrives(tmp_path: Path):
    write_tiny_variant(tmp_path / "original", NAME)
    model = convert_checkpoint(tmp_path / "original", tmp_path / "mlx", dtype="float32")
    assert_equal(load(model, "model.safetensors"), EXPECTED)
    assert_equal(load(model, "audio_encoder.safetensors"), EXPECTED_AUDIO)


@pytest.mark.parametrize(
    "lost",
    [
        "casual_audio_encoder.weights", "casual_audio_encoder.encoder.conv2.conv.bias",
        "audio_injector.injector.1.norm_k.weight", "audio_injector.injector_adain_layers.0.linear.weight",
        "frame_packer.proj_4x.bias", "trainable_cond_mask.weight", "cond_encoder.bias",
    ],
)  # fmt: skip
def test_a_lost_tensor_is_missed(tmp_path: Path, lost: str):
    write_tiny_variant(tmp_path / "original", NAME)
    write_transformer(
        tmp_path / "original",
        {name: values for name, values in TRANSFORMER.items() if name != lost},
        shards=2,
    )
    with pytest.raises(CheckpointError, match=rf"{lost}|no model that this version knows"):
        convert_checkpoint(tmp_path / "original", tmp_path / "mlx")
    assert not (tmp_path / "mlx").exists()


def test_a_motioner_that_the_released_model_lacks_is_refused(tmp_path: Path):
    write_tiny_variant(tmp_path / "original", NAME)
    more = {"motioner.patch_embedding.weight": np.zeros((4, 4), np.float32)}
    write_transformer(tmp_path / "original", TRANSFORMER | more, shards=2)
    with pytest.raises(CheckpointError, match=r"Wan2.2 S2V 14B has no motioner\.patch_embedding"):
        convert_checkpoint(tmp_path / "original", tmp_path / "mlx")


def test_a_folder_without_the_audio_encoder_says_where_it_is(tmp_path: Path):
    write_tiny_variant(tmp_path / "original", NAME)
    encoder = tmp_path / "original" / "wav2vec2-large-xlsr-53-english" / "model.safetensors"
    encoder.rename(tmp_path / "elsewhere.safetensors")
    with pytest.raises(CheckpointError, match=r"hears sound through it. .* --audio-encoder FILE"):
        convert_checkpoint(tmp_path / "original", tmp_path / "mlx")
    model = convert_checkpoint(
        tmp_path / "original",
        tmp_path / "mlx",
        dtype="float32",
        audio_encoder=tmp_path / "elsewhere.safetensors",
    )
    assert_equal(load(model, "audio_encoder.safetensors"), EXPECTED_AUDIO)


def write_scaled(path: Path, arrays: Arrays) -> Arrays:
    """Write a transformer with float8 matrices in its blocks; returns the numbers they stand for."""
    meant, words = dict(arrays), {}
    for name, values in arrays.items():
        if name.endswith(".weight") and values.ndim == 2 and ("blocks." in name or "injector" in name):
            codes, scale, meant[name] = as_codes(values)
            words[name] = Words("F8_E4M3", codes)
            words[f"{name.removesuffix('weight')}scale_weight"] = Words("F32", np.array([scale], np.float32))
        else:
            words[name] = Words("F32", values)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_words(path, words)
    return meant


@pytest.mark.parametrize("form", ["plain", "prefixed", "scaled float8", "GGUF"])
def test_comfyui_files_of_every_kind_are_taken(tmp_path: Path, form: str):
    tree, stem = tmp_path / "models", tmp_path / "models" / "diffusion_models" / "wan2.2_s2v_14B"
    meant = TRANSFORMER
    if form == "GGUF":
        write_gguf_transformer(stem.with_name(f"{stem.name}.gguf"), TRANSFORMER)
    elif form == "scaled float8":
        meant = write_scaled(stem.with_name(f"{stem.name}_fp8_scaled.safetensors"), TRANSFORMER)
    else:
        prefix = "model.diffusion_model." if form == "prefixed" else ""
        write_plain(stem.with_name(f"{stem.name}_bf16.safetensors"), TRANSFORMER, prefix)
    texts = random_arrays(text_encoder_tensors(SIZES.text_encoder), 1)
    write_words(tree / TEXT_ENCODER, comfy_text_encoder(texts, "BF16") | embedded_tokenizer())
    write_plain(tree / VAE, random_arrays(vae_tensors(SIZES.vae), 2))
    # As ComfyUI's users have it: float16, and weights normalized as newer releases of PyTorch store them.
    renamed = {
        next((name.replace(old, new) for old, new in NEWER.items() if name.endswith(old)), name): values
        for name, values in AUDIO_ENCODER.items()
    }
    encoder = tree / "audio_encoders" / "wav2vec2_large_english_fp16.safetensors"
    encoder.parent.mkdir()
    write_safetensors(encoder, [store(name, values, "F16") for name, values in renamed.items()])
    assert (inspect_path(tree).variant, inspect_path(tree).problems) == (NAME, ())
    model = convert_checkpoint(tree, tmp_path / "mlx", dtype="float32")
    expected = converted(meant, (*SPEECH_RULES, *TRANSFORMER_RULES))
    if form == "GGUF":
        expected = {
            name: round_to(values, "F16") if name.startswith("blocks.") and values.ndim == 2 else values
            for name, values in expected.items()
        }
    assert_equal(load(model, "model.safetensors"), expected)
    half = {name: round_to(values, "F16") for name, values in EXPECTED_AUDIO.items()}
    assert_equal(load(model, "audio_encoder.safetensors"), half)
