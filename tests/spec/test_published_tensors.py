"""The recorded tensor lists are the published files'; each is recognised; the tiny files follow them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from mlx_video.convert.find_checkpoint import check_component
from mlx_video.formats.tensor_source import open_tensors
from mlx_video.inspect.path import inspect_path
from mlx_video.variants.other_models import PUBLISHED, digest_shapes
from tests.fixtures.comfy_files import CLIP, TEXT_ENCODER, TRANSFORMER, VAE, write_comfy_tree
from tests.fixtures.diffusers_checkpoint import write_diffusers_variant
from tests.fixtures.sparse_files import list_bytes, write_sparse
from tests.fixtures.tensor_lists import TensorList, fold, list_names, read_list, unfold
from tests.fixtures.tiny_checkpoint import IMAGE_ENCODER_FILE, TEXT_ENCODER_FILE, write_tiny_checkpoint
from tests.fixtures.tiny_variants import CONTROL_VARIANTS, TINY_VARIANTS, write_tiny_variant
from tests.record.tensor_lists import LISTS, make

pytestmark = pytest.mark.slow

# List → what the published file with its digest is called.
DIGESTS = {
    "transformer-wan2.1-t2v-1.3b": "Wan2.1 T2V 1.3B",
    "transformer-wan2.1-t2v-14b": "Wan2.1 T2V 14B, or an expert of Wan2.2 T2V A14B",
    "transformer-krea-realtime-14b": "krea-realtime 14B",
    "transformer-wan2.1-i2v-14b": "Wan2.1 I2V 14B, or Fun-14B-InP",
    "transformer-wan2.1-flf2v-14b": "Wan2.1 FLF2V 14B",
    "transformer-wan2.1-fun-1.3b-inp": "Wan2.1 Fun-1.3B-InP",
    "transformer-wan2.1-fun-control": "Wan2.1 Fun Control 14B",
    "transformer-wan2.1-fun-v1.1-control": "Wan2.1 Fun-V1.1 Control 14B",
    "transformer-wan2.1-fun-v1.1-control-camera": "Wan2.1 Fun-V1.1 Control-Camera 14B",
    "transformer-wan2.2-fun-a14b-control-camera": "an expert of Wan2.2 Fun-A14B-Control-Camera",
    "transformer-wan2.2-fun-a14b-control": "an expert of Wan2.2 Fun-A14B-Control",
    "transformer-wan2.2-i2v-a14b": "an expert of Wan2.2 I2V A14B",
    "transformer-wan2.2-ti2v-5b": "Wan2.2 TI2V 5B",
    "transformer-wan2.1-vace-1.3b": "Wan2.1 VACE 1.3B",
    "transformer-wan2.1-vace-14b": "Wan2.1 VACE 14B, or an expert of Wan2.2 VACE-Fun A14B",
    "transformer-wan2.2-animate-14b": "Wan2.2 Animate 14B",
    "umt5": "UMT5-XXL",
    "vae-2.1": "VAE of Wan2.1",
    "vae-2.2": "VAE of Wan2.2",
    "clip": "CLIP ViT-H with XLM-RoBERTa",
}
# Digests of files in Diffusers' layout. Source: as for PUBLISHED; its earlier model_loader_configs.
DIFFUSERS_DIGESTS = {
    "diffusers-wan2.1-t2v-14b": "cb104773c6c2cb6df4f9529ad5c60d0b",
    "diffusers-wan2.1-video-as-prompt-14b": "5f90e66a0672219f12d9a626c8c21f61",
    "diffusers-wan2.2-i2v-a14b": "8b85650bb749144f6b934ba7d76a8a0c",
}
# Bytes of published safetensors files, which names, types and shapes settle to the byte; and their metadata.
PUBLISHED_BYTES = {
    "transformer-wan2.1-t2v-1.3b": (5_676_070_424, {"format": "pt"}),
    "umt5-comfy": (11_366_399_385, {}),
    "umt5-comfy-fp8-scaled": (6_735_906_897, {}),
    "vae-2.1-diffusers": (507_591_892, {"format": "pt"}),
    "vae-2.2-comfy": (1_409_400_960, {}),
}
COMPONENTS = {
    "transformer": ("transformer", "diffusers", "comfy", "gguf"),
    "text_encoder": ("umt5",),
    "vae": ("vae",),
    "clip": ("clip",),
}
ENDINGS = {"umt5": ".pth", "vae-2.1": ".pth", "vae-2.2": ".pth", "clip": ".pth"}


def shapes_of(tensors: TensorList) -> dict[str, tuple[int, ...]]:
    return {name: tensor.shape for name, tensor in tensors.items()}


@pytest.mark.parametrize("name", DIGESTS)
def test_a_list_has_the_digest_of_the_published_file(name: str):
    assert PUBLISHED[digest_shapes(shapes_of(read_list(name)))] == DIGESTS[name]


@pytest.mark.parametrize("name", DIFFUSERS_DIGESTS)
def test_a_list_in_diffusers_names_has_its_published_digest(name: str):
    assert digest_shapes(shapes_of(read_list(name))) == DIFFUSERS_DIGESTS[name]


@pytest.mark.parametrize("name", PUBLISHED_BYTES)
def test_a_list_makes_a_file_of_the_published_size(name: str):
    expected, metadata = PUBLISHED_BYTES[name]
    assert safetensors_bytes(read_list(name), metadata) == expected


def safetensors_bytes(tensors: TensorList, metadata: dict[str, str]) -> int:
    """Bytes of the file that the safetensors library writes.

    Source: huggingface/safetensors safetensors/src/tensor.rs, prepare.
    """
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    wide = {"F32": 4, "F16": 2, "BF16": 2}
    at = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (-wide.get(item[1].dtype, 1), item[0])):
        end = at + list_bytes(tensor)
        header[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":"))
    return 8 + -(-len(text) // 8) * 8 + at


@pytest.mark.parametrize("name", list_names())
def test_folding_a_list_loses_nothing(name: str):
    tensors = read_list(name)
    assert list(unfold(fold(tensors))) == list(tensors.items())


def test_every_list_has_a_maker():
    assert list_names() == sorted(LISTS)


@pytest.mark.parity
@pytest.mark.parametrize("name", LISTS)
def test_the_official_modules_still_make_the_list(name: str):
    for package in ("torch", "diffusers", "transformers", "gguf"):
        pytest.importorskip(package)
    assert make(name) == read_list(name)


@pytest.mark.sample(20)
@pytest.mark.parametrize("name", list_names())
def test_each_list_alone_is_taken_by_its_option_and_inspected_as_what_it_is(brief_path: Path, name: str):
    ending = ".gguf" if "gguf" in name else ENDINGS.get(name, ".safetensors")
    file = write_sparse(brief_path / f"{name}{ending}", read_list(name))
    option = next(option for option, stems in COMPONENTS.items() if name.startswith(stems))
    check_component(option, file)
    found = inspect_path(file)
    assert found.problems == ()
    (part,) = found.parts
    assert part.component == option.replace("clip", "image_encoder")
    assert part.tensors == len(read_list(name))
    published = DIGESTS.get(name.replace("diffusers-", "transformer-").removesuffix("-diffusers"))
    assert published is None or part.model == published or part.component == "image_encoder"


def reduce(tensors: Iterable[str], blocks: dict[str, int]) -> set[str]:
    """Names of a published file with fewer blocks.

    Args:
        tensors: all names.
        blocks: what stands before a block's number → how many remain.
    """
    kept = set()
    for name in tensors:
        path = next((path for path in blocks if name.startswith(f"{path}.")), None)
        number = re.match(r"\d+", name.removeprefix(f"{path}.")) if path else None
        if number is None or int(number[0]) < blocks[str(path)]:
            kept.add(name)
    return kept


def stored_axes(file: Path) -> dict[str, int]:
    """Each tensor of a file with its number of axes."""
    with open_tensors(file) as source:
        return {name: len(info.shape) for name, info in source.infos.items()}


def check_against(file: Path, name: str, blocks: dict[str, int]) -> None:
    tensors = read_list(name)
    expected = {kept: len(tensors[kept].shape) for kept in reduce(tensors, blocks)}
    assert stored_axes(file) == expected


TRANSFORMER_BLOCKS = {"blocks": 2, "vace_blocks": 2, "face_adapter.fuser_blocks": 1, "face_adapter": 1}
UMT5_BLOCKS = {"blocks": 2}
EXPERT_OF = {"wan2.2-t2v-a14b": "wan2.1-t2v-14b", "wan2.2-vace-fun-a14b": "wan2.1-vace-14b"}
HF_UMT5_BLOCKS = {"encoder.block": 2}
CLIP_BLOCKS = {"visual.transformer": 3, "textual.blocks": 2}
HF_CLIP_BLOCKS = {"vision_model.encoder.layers": 3}


SAME_TENSORS = {
    "krea-realtime-14b": "wan2.1-t2v-14b",  # in its folder; the single file has a prefix
    "wan2.2-t2v-a14b": "wan2.1-t2v-14b",
    "wan2.1-fun-inp": "wan2.1-i2v-14b",
    "wan2.2-fun-a14b-inp": "wan2.2-i2v-a14b",
    "wan2.2-vace-fun-a14b": "wan2.1-vace-14b",
}


def list_of(variant: str) -> str:
    return SAME_TENSORS.get(variant, variant)


@pytest.mark.parametrize("name", TINY_VARIANTS | CONTROL_VARIANTS)
def test_the_tiny_original_files_have_every_published_name(tmp_path: Path, name: str):
    variant = write_tiny_variant(tmp_path / "Wan", name)
    path = tmp_path / "Wan"
    shards = sorted((path / variant.folders[0]).glob("*.safetensors"))
    found = {key: axes for shard in shards for key, axes in stored_axes(shard).items()}
    tensors = read_list(f"transformer-{list_of(name)}")
    assert found == {kept: len(tensors[kept].shape) for kept in reduce(tensors, TRANSFORMER_BLOCKS)}
    check_against(path / TEXT_ENCODER_FILE, "umt5", UMT5_BLOCKS)
    check_against(path / variant.vae_file, "vae-2.2" if variant.has_wan22_vae else "vae-2.1", {})
    if variant.sizes.image_encoder is not None:
        check_against(path / IMAGE_ENCODER_FILE, "clip", CLIP_BLOCKS)


@pytest.mark.parametrize("name", TINY_VARIANTS)
def test_the_tiny_diffusers_files_have_every_published_name(tmp_path: Path, name: str):
    path, weights = tmp_path / "Wan", "diffusion_pytorch_model.safetensors"
    write_diffusers_variant(path, name)
    check_against(path / "transformer" / weights, f"diffusers-{list_of(name)}", TRANSFORMER_BLOCKS)
    check_against(path / "text_encoder" / "model.safetensors", "umt5-diffusers", HF_UMT5_BLOCKS)
    generation = "2.2" if TINY_VARIANTS[name].has_wan22_vae else "2.1"
    check_against(path / "vae" / weights, f"vae-{generation}-diffusers", {})
    if TINY_VARIANTS[name].sizes.image_encoder is not None:
        check_against(path / "image_encoder" / "model.safetensors", "clip-diffusers", HF_CLIP_BLOCKS)


def test_the_tiny_comfyui_files_have_every_published_name(tmp_path: Path):
    sizes = TINY_VARIANTS["wan2.1-i2v-14b"].sizes
    tree = write_comfy_tree(tmp_path / "models", write_tiny_checkpoint(tmp_path / "Wan", sizes))
    transformer = {name: axes for name, axes in stored_axes(tree / TRANSFORMER).items() if "img" not in name}
    tensors = read_list("comfy-wan2.1-t2v-1.3b")
    kept = reduce(tensors, {"model.diffusion_model.blocks": 2})
    assert transformer == {name: len(tensors[name].shape) for name in kept}
    check_against(tree / TEXT_ENCODER, "umt5-comfy", HF_UMT5_BLOCKS)
    check_against(tree / VAE, "vae-2.1-comfy", {})
    check_against(tree / CLIP, "clip-comfy", HF_CLIP_BLOCKS)
