"""Folders with the file names of real checkpoints and next to nothing inside."""

from __future__ import annotations

import json
from pathlib import Path

from tests.formats.stored_arrays import entry, write_raw

INDEX = "diffusion_pytorch_model.safetensors.index.json"


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def write_json(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def write_weights(path: Path, *names: str) -> Path:
    """A safetensors file of one-byte tensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {name: entry(index, 1, dtype="U8") for index, name in enumerate(names)}
    return write_raw(path, header, bytes(len(names)))


def shard_name(number: int, total: int) -> str:
    return f"diffusion_pytorch_model-{number:05}-of-{total:05}.safetensors"


def write_shards(folder: Path, *shards: tuple[str, ...], total_size: int | None = None) -> Path:
    """Shards with the given tensors, and their index."""
    weight_map = {}
    for number, names in enumerate(shards, 1):
        file = write_weights(folder / shard_name(number, len(shards)), *names)
        weight_map |= dict.fromkeys(names, file.name)
    size = len(weight_map) if total_size is None else total_size
    write_json(folder / INDEX, {"metadata": {"total_size": size}, "weight_map": weight_map})
    return folder


def add_shared_parts(folder: Path, vae: str = "Wan2.1_VAE.pth") -> Path:
    touch(folder / "models_t5_umt5-xxl-enc-bf16.pth")
    touch(folder / vae)
    write_json(folder / "google" / "umt5-xxl" / "tokenizer.json", {})
    return folder


def original(folder: Path) -> Path:
    """Wan2.1-T2V with one transformer file."""
    write_weights(folder / "diffusion_pytorch_model.safetensors", "patch_embedding.weight")
    write_json(folder / "config.json", {"_class_name": "WanModel", "dim": 1536})
    return add_shared_parts(folder)


def original_dual(folder: Path) -> Path:
    """Wan2.2-T2V-A14B."""
    for name in ("low_noise_model", "high_noise_model"):
        write_shards(folder / name, ("a", "b"), ("c",))
        write_json(folder / name / "config.json", {"_class_name": "WanModel", "which": name})
    write_json(folder / "configuration.json", {"framework": "Pytorch"})
    return add_shared_parts(folder)


def converted(folder: Path, *transformers: str) -> Path:
    """What convert_wan makes."""
    for name in transformers or ("model.safetensors",):
        write_weights(folder / name, "patch_embedding_proj.weight")
    write_weights(folder / "t5_encoder.safetensors", "norm.weight")
    write_weights(folder / "vae.safetensors", "conv1.weight")
    write_json(folder / "config.json", {"t5_vocab_size": 256384, "dual_model": len(transformers) > 1})
    write_json(folder / "tokenizer" / "tokenizer.json", {})
    return folder


def diffusers(folder: Path) -> Path:
    write_json(folder / "model_index.json", {"_class_name": "WanPipeline"})
    write_weights(folder / "transformer" / "diffusion_pytorch_model.safetensors", "x")
    return folder
