"""VACE in the files of other tools converts to the tensors of the original folder."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import convert_checkpoint
from mlx_video.inspect.path import inspect_path
from mlx_video.weights.names.text_encoder_names import text_encoder_tensors
from mlx_video.weights.names.vae_names import vae_tensors
from tests.fixtures.comfy_files import (
    TEXT_ENCODER,
    VAE,
    comfy_text_encoder,
    embedded_tokenizer,
    write_gguf_transformer,
    write_plain,
    write_words,
)
from tests.fixtures.tiny_checkpoint import Arrays, random_arrays
from tests.fixtures.tiny_variants import TINY_VARIANTS, official_tensors, write_tiny_variant
from tests.fixtures.weight_files import round_to

pytestmark = pytest.mark.slow

SIZES = TINY_VARIANTS["wan2.1-vace-1.3b"].sizes
# Model → the noise that its transformers' files name, in the order of their numbers.
MODELS = {"wan2.1-vace": ("",), "wan2.2-vace-fun-a14b": ("low", "high")}
FORMS = ("", "model.", "model.diffusion_model.", "GGUF")


def arrays_of(number: int) -> Arrays:
    """The numbers that `write_tiny_variant` gives a transformer."""
    return random_arrays(official_tensors(SIZES.transformer), 100 * number)


def write_tree(path: Path, name: str, form: str) -> Path:
    """The model in ComfyUI's folders: its transformers as GGUF, or behind a prefix."""
    for number, noise in enumerate(MODELS[name]):
        stem = path / "diffusion_models" / f"wan_vace{noise and f'_{noise}_noise'}"
        if form == "GGUF":
            write_gguf_transformer(stem.with_suffix(".gguf"), arrays_of(number))
        else:
            write_plain(stem.with_suffix(".safetensors"), arrays_of(number), form)
    texts = random_arrays(text_encoder_tensors(SIZES.text_encoder), 1)
    write_words(path / TEXT_ENCODER, comfy_text_encoder(texts, "BF16") | embedded_tokenizer())
    write_plain(path / VAE, random_arrays(vae_tensors(SIZES.vae), 2))
    return path


def transformers_in(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    return {
        path.stem: {name: np.array(values) for name, values in mx.load(str(path)).items()}
        for path in sorted(folder.glob("*model.safetensors"))
    }


def in_16_bits(name: str, values: np.ndarray) -> np.ndarray:
    """What a GGUF of 16 bits keeps of a converted tensor: matrices of the main blocks are rounded."""
    is_rounded = name.startswith("blocks.") and values.ndim == 2
    return round_to(values, "F16") if is_rounded else values


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A model's name, and its original folder converted."""
    root = tmp_path_factory.mktemp("vace")
    write_tiny_variant(root / "original", request.param)
    return request.param, convert_checkpoint(root / "original", root / "mlx", dtype="float32")


@pytest.mark.sample(3)
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form or "no prefix")
def test_it_is_told_by_its_tensors_and_converts_to_them(model: tuple[str, Path], tmp_path: Path, form: str):
    name, original = model
    tree = write_tree(tmp_path / "models", name, form)
    assert (inspect_path(tree).variant, inspect_path(tree).problems) == (name, ())
    found = transformers_in(convert_checkpoint(tree, tmp_path / "mlx", dtype="float32"))
    expected = transformers_in(original)
    assert list(found) == list(expected)
    for transformer, tensors in expected.items():
        assert list(found[transformer]) == list(tensors)
        for tensor, values in tensors.items():
            kept = in_16_bits(tensor, values) if form == "GGUF" else values
            np.testing.assert_array_equal(found[transformer][tensor], kept, err_msg=tensor)
