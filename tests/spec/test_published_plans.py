"""Published models without their numbers convert to the right plan; every damaged file is named."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from mlx_video.checkpoint.safetensors import read_header
from mlx_video.config import WAN21_VAE, WAN22_VAE, ImageEncoderConfig, TextEncoderConfig
from mlx_video.errors import MLXVideoError
from mlx_video.pipeline.convert_plan import Plan, plan_conversion
from mlx_video.pipeline.inspect_path import inspect_path
from mlx_video.request import ConvertRequest
from mlx_video.weights.text_encoder_names import text_encoder_tensors
from mlx_video.weights.transformer_names import transformer_tensors
from mlx_video.weights.vae_names import vae_tensors
from tests.checkpoint.stored_arrays import entry, write_raw
from tests.fixtures.published_sizes import PUBLISHED_TRANSFORMERS
from tests.fixtures.tiny_checkpoint import (
    IMAGE_ENCODER_FILE,
    TEXT_ENCODER_FILE,
    TOKENIZER_FOLDER,
    image_encoder_file_tensors,
    source_config,
    write_tiny_checkpoint,
    write_tokenizer,
)

# Model → tensors and parameters of each transformer. Source: the published files' headers.
PUBLISHED_COUNTS = {
    "wan2.1-t2v-1.3b": (825, 1_418_996_800),
    "wan2.1-t2v-14b": (1095, 14_288_491_584),
    "wan2.1-i2v-14b": (1303, 16_394_878_784),
    "wan2.1-flf2v-14b": (1304, 16_395_536_704),
    "wan2.2-t2v-a14b": (1095, 14_288_491_584),
    "wan2.2-i2v-a14b": (1095, 14_288_901_184),
    "wan2.2-ti2v-5b": (825, 4_999_787_712),
}
# Names, kinds and sizes alone; its 256384 tokens are not written.
TEXT_ENCODER = replace(TextEncoderConfig(), vocab_size=160)


def write_sparse(path: Path, shapes: dict[str, tuple[int, ...]], dtype: str = "F32") -> None:
    """A file of zeros that takes no room on the disk."""
    header, at = {}, 0
    for name, shape in shapes.items():
        header[name] = entry(at, *shape, dtype=dtype)
        at = header[name]["data_offsets"][1]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_raw(path, header)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + at)


def tell_apart(path: Path) -> None:
    """Give a file of zeros one number of its own: two experts are never the same."""
    header = read_header(path)
    with path.open("r+b") as file:
        file.seek(header.data_start + header.offsets["blocks.0.self_attn.q.weight"][0])
        file.write(b"\x01")


def write_published(path: Path, name: str) -> Path:
    """The folder of a published model, in full size and without numbers."""
    config = PUBLISHED_TRANSFORMERS[name]
    is_dual = name.endswith("a14b")
    for folder in ("low_noise_model", "high_noise_model") if is_dual else (".",):
        write_sparse(path / folder / "diffusion_pytorch_model.safetensors", transformer_tensors(config))
        (path / folder / "config.json").write_text(json.dumps(source_config(config)))
    if is_dual:
        tell_apart(path / "high_noise_model" / "diffusion_pytorch_model.safetensors")
    write_sparse(path / TEXT_ENCODER_FILE, text_encoder_tensors(TEXT_ENCODER), "BF16")
    vae, file = (WAN22_VAE, "Wan2.2_VAE.pth") if name == "wan2.2-ti2v-5b" else (WAN21_VAE, "Wan2.1_VAE.pth")
    write_sparse(path / file, vae_tensors(vae))
    if config.image_dim is not None:
        tensors = image_encoder_file_tensors(replace(ImageEncoderConfig(), num_layers=31))
        write_sparse(path / IMAGE_ENCODER_FILE, tensors)
    write_tokenizer(path / TOKENIZER_FOLDER)
    return path


def plan(folder: Path) -> Plan:
    with ExitStack() as opened:
        return plan_conversion(ConvertRequest(folder, folder / "out"), opened)


@pytest.mark.parametrize("name", PUBLISHED_TRANSFORMERS)
def test_a_published_model_without_its_numbers_gets_its_plan(tmp_path: Path, name: str):
    folder = write_published(tmp_path / "Wan", name)
    made = plan(folder)
    is_dual, reads_images = name.endswith("a14b"), name in ("wan2.1-i2v-14b", "wan2.1-flf2v-14b")
    transformers = ["low_noise_model", "high_noise_model"] if is_dual else ["model"]
    names = [*transformers, "t5_encoder", *(["clip_vision"] if reads_images else []), "vae"]
    assert [component.file_name for component in made.components] == [f"{n}.safetensors" for n in names]
    tensors, parameters = PUBLISHED_COUNTS[name]
    for component in made.components[: len(transformers)]:
        assert (len(component.jobs), component.nbytes) == (tensors, 2 * parameters)
    assert made.config["mlx_video"]["variant"] == name
    assert made.config["vae_z_dim"] == (48 if name == "wan2.2-ti2v-5b" else 16)
    assert made.config["dual_model"] == is_dual
    if name in ("wan2.1-t2v-14b", "wan2.1-flf2v-14b", "wan2.2-t2v-a14b"):
        return  # the others stand for these
    found = inspect_path(folder)
    assert (found.variant, found.problems, found.missing) == (name, (), ())
    assert found.nbytes > 4 * parameters


REQUIRED = (
    "diffusion_pytorch_model-00001-of-00002.safetensors",
    "diffusion_pytorch_model-00002-of-00002.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "config.json",
    TEXT_ENCODER_FILE,
    "Wan2.1_VAE.pth",
    f"{TOKENIZER_FOLDER}/tokenizer.json",
)
# The index can be told from the shards' names, the tokenizer is the same for all models.
REPLACEABLE = ("diffusion_pytorch_model.safetensors.index.json", f"{TOKENIZER_FOLDER}/tokenizer.json")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "Wan", shards=2).path


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
@pytest.mark.parametrize("file", REQUIRED)
def test_a_truncated_file_is_named(tiny: Path, tmp_path: Path, file: str, share: float):
    own = shutil.copytree(tiny, tmp_path / "Wan")
    content = (own / file).read_bytes()
    (own / file).write_bytes(content[: int(share * (len(content) - 2))])
    with pytest.raises(MLXVideoError) as caught:
        plan(own)
    assert Path(file).name in str(caught.value)
    assert any(Path(file).name in text for text in (*inspect_path(own).problems, *inspect_path(own).missing))


@pytest.mark.parametrize("file", [file for file in REQUIRED if file not in REPLACEABLE])
def test_an_absent_file_is_named(tiny: Path, tmp_path: Path, file: str):
    own = shutil.copytree(tiny, tmp_path / "Wan")
    (own / file).unlink()
    with pytest.raises(MLXVideoError) as caught:
        plan(own)
    assert Path(file).name in str(caught.value)
