"""Index files, config.json, tokenizers and file names of a checkpoint or a model."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.fixtures.tiny_checkpoint import write_tiny_checkpoint
from tests.hostile.campaign import Case
from tests.hostile.cases.safetensors_files import make_special
from tests.hostile.world import World

Values = dict[str, Any]
INDEX = "diffusion_pytorch_model.safetensors.index.json"


def texts() -> dict[str, bytes]:
    """What a JSON file may hold instead."""
    return {
        "nothing": b"",
        "no JSON": b"{",
        "a list": b"[]",
        "null": b"null",
        "no UTF-8": b'{"a": "\xff\xfe"}',
        "nested 100,000 deep": b"[" * 100_000 + b"]" * 100_000,
        "a number of 5,000 digits": b'{"dim": ' + b"9" * 5000 + b"}",
        "control codes": b'{"_class_name": "\\u001b[31mEvil\\u0007"}',
        "a page": b"<!DOCTYPE html><html></html>",
        "40 MB of blanks": b" " * 40_000_000 + b"{}",
    }


def configs() -> dict[str, Values]:
    """Fields of the original config.json that are not so."""
    wrong: dict[str, list[object]] = {
        "num_layers": [10**9, -1, 0, 2.5, "2", None, 3],
        "dim": [10**9, 0, -8, "128", 129],
        "num_heads": [0, 10**6, 3],
        "ffn_dim": [10**12, 0],
        "eps": [1e308, 0, -1, "x", 1e-320],
        "in_dim": [10**9, 0],
        "freq_dim": [0, 10**10, 3],
        "text_len": [0, 10**12, -5],
        "model_type": ["\x1b[31mevil", 7, "x" * 100_000],
    }
    return {f"{name} {str(value)[:20]}": {name: value} for name, values in wrong.items() for value in values}


def model_configs() -> dict[str, Callable[[Values], None]]:
    """Changes to a converted folder's config.json."""

    def field(path: str, value: object) -> Callable[[Values], None]:
        def change(values: Values) -> None:
            *parents, last = path.split(".")
            for name in parents:
                values = values.setdefault(name, {})
            values[last] = value

        return change

    wrong: dict[str, list[object]] = {
        "sample_steps": [10**9, 0, -1, "many", 1.5],
        "sample_shift": [1e308, 0, -3, "NaN"],
        "sample_fps": [10**9, 0, -16],
        "sample_guide_scale": [-1.0, "x", [1e308, 1e308], [1, 2, 3]],
        "frame_num": [10**9, 0, 2],
        "num_layers": [10**9, 0, 7],
        "dim": [10**9, 126],
        "text_len": [10**12],
        "eps": [0, -1, 1e308],
        "vae_z_dim": [10**9, 0],
        "vae_stride": [[4, 0, 8], [10**9, 8, 8], [4, 8]],
        "t5_vocab_size": [10**12],
        "t5_num_layers": [10**9],
        "patch_size": [[1, 0, 2], [10**9, 1, 1]],
        "mlx_video.width": [10**9, 0],
        "quantization": [{"bits": 99, "group_size": 64}, {"bits": 4, "group_size": 0}],
        "nonsense": [1],
    }
    return {
        f"{path} {str(value)[:20]}": field(path, value) for path, values in wrong.items() for value in values
    }


def tokenizers() -> dict[str, Callable[[Values], None]]:
    """Changes to tokenizer.json."""
    catastrophe = {"type": "Replace", "pattern": {"Regex": "(x+x+)+y"}, "content": ""}

    def normalizer(value: object) -> Callable[[Values], None]:
        return lambda values: values.update(normalizer=value)

    return {
        "a junk map of characters": normalizer({"type": "Precompiled", "precompiled_charsmap": "AAAAAAAA////"}),
        "a map of characters that is no base64": normalizer({"type": "Precompiled", "precompiled_charsmap": "!"}),
        "a catastrophic pattern": normalizer(catastrophe),
        "a broken pattern": normalizer({"type": "Replace", "pattern": {"Regex": "("}, "content": ""}),
        "a replacement that grows": normalizer({"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1_000_000}),
        "an unknown model": lambda values: values.update(model={"type": "Evil"}),
        "no vocabulary": lambda values: values["model"].update(vocab=[]),
        "an unknown piece out of range": lambda values: values["model"].update(unk_id=10**6),
        "scores of NaN": lambda values: values["model"].update(vocab=[["a", float("nan")]]),
        "an id beyond the table": lambda values: values["added_tokens"].append(
            {"id": 10**6, "content": "cat", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
        ),
    }  # fmt: skip


def cases(world: World) -> Iterator[Case]:
    """Conversions of a damaged checkpoint, and runs of a damaged model."""
    for name, content in texts().items():
        # A class of another name, and many blanks: what counts is there.
        is_sound = name in ("control codes", "40 MB of blanks")
        yield Case(
            "config.json",
            name,
            lambda folder, one=content: _source_text(world, folder, "config.json", one),
            is_sound=is_sound,
        )
        yield Case("index", name, lambda folder, one=content: _index_text(world, folder, one))
        yield Case(
            "model config",
            name,
            lambda folder, one=content: _model_text(world, folder, one),
            "generate",
            is_sound=name == "40 MB of blanks",
        )
        yield Case(
            "tokenizer", name, lambda folder, one=content: _tokenizer_text(world, folder, one), "generate"
        )
    for name, values in configs().items():
        is_overruled = {*values} & {"in_dim", "model_type"}  # by the weights, and it is said
        yield Case(
            "config.json",
            name,
            lambda folder, one=values: _source_config(world, folder, one),
            is_sound=bool(is_overruled),
        )
    for name, edit in model_configs().items():
        yield Case(
            "model config", name, lambda folder, one=edit: _model_config(world, folder, one), "generate"
        )
    for name, edit in tokenizers().items():
        # What grows is cut, and the library numbers added tokens itself.
        is_sound = name in ("a replacement that grows", "an id beyond the table")
        yield Case(
            "tokenizer",
            name,
            lambda folder, one=edit: _tokenizer(world, folder, one),
            "generate",
            is_sound=is_sound,
        )
    for name, change in indexes().items():
        yield Case("index", name, lambda folder, one=change: _index(world, folder, one))
    for name, file in shard_names().items():
        yield Case("file names", name, lambda folder, one=file: _named(world, folder, one))
    for kind in ("pipe", "loop", "nowhere", "zero", "folder"):
        yield Case(
            "special files",
            f"{kind} as config.json",
            lambda folder, one=kind: _special_config(world, folder, one),
        )
        yield Case(
            "special files", f"{kind} inspected", lambda folder, one=kind: _special_inspected(folder, one)
        )
        yield Case(
            "special files",
            f"{kind} as the model's config.json",
            lambda folder, one=kind: _special_model(world, folder, one),
            "generate",
        )


def _source_text(world: World, folder: Path, name: str, content: bytes) -> list[str | Path]:
    checkpoint = world.copy_checkpoint(folder)
    (checkpoint / name).write_bytes(content)
    return world.convert(checkpoint)


def _source_config(world: World, folder: Path, values: Values) -> list[str | Path]:
    checkpoint = world.copy_checkpoint(folder)
    path = checkpoint / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return world.convert(checkpoint)


def _model_text(world: World, folder: Path, content: bytes) -> list[str | Path]:
    model = world.copy_model(folder)
    (model / "config.json").write_bytes(content)
    return world.generate(model=model)


def _model_config(world: World, folder: Path, edit: Callable[[Values], None]) -> list[str | Path]:
    model = world.copy_model(folder)
    path = model / "config.json"
    values = json.loads(path.read_text())
    edit(values)
    path.write_text(json.dumps(values))
    # Nothing of the defaults is overruled.
    return [
        "--model-dir",
        model,
        "--prompt",
        "a cat",
        "--output-path",
        "out.mp4",
        "--no-device-check",
        "--plan",
    ]


def _tokenizer_text(world: World, folder: Path, content: bytes) -> list[str | Path]:
    model = world.copy_model(folder)
    (model / "tokenizer" / "tokenizer.json").write_bytes(content)
    return world.generate("--no-prompt-cache", model=model)


def _tokenizer(world: World, folder: Path, edit: Callable[[Values], None]) -> list[str | Path]:
    model = world.copy_model(folder)
    path = model / "tokenizer" / "tokenizer.json"
    values = json.loads(path.read_text())
    edit(values)
    path.write_text(json.dumps(values))
    return [*world.generate("--no-prompt-cache", model=model), "--prompt", "a cat " + "x" * 40]


def _sharded(folder: Path) -> Path:
    return write_tiny_checkpoint(folder / "checkpoint", shards=2).path


def _index_text(world: World, folder: Path, content: bytes) -> list[str | Path]:
    checkpoint = _sharded(folder)
    (checkpoint / INDEX).write_bytes(content)
    for path in checkpoint.glob("*-00002-of-00002.safetensors"):
        path.unlink()  # a sound index is not needed for whole shards
    return world.convert(checkpoint)


def indexes() -> dict[str, Callable[[Values], None]]:
    """Changes to an index."""

    def shard(name: object) -> Callable[[Values], None]:
        return lambda values: values["weight_map"].update({next(iter(values["weight_map"])): name})

    return {
        "a shard that climbs": shard("../../../../etc/passwd"),
        "an absolute shard": shard("/etc/passwd"),
        "a shard that is a number": shard(7),
        "a shard with control codes": shard("\x1b[31mevil.safetensors"),
        "a shard with a null byte": shard("a\x00b.safetensors"),
        "a shard of a long name": shard("a" * 5000 + ".safetensors"),
        "tensors that are nowhere": lambda values: values["weight_map"].update({"evil.weight": "diffusion_pytorch_model-00001-of-00002.safetensors"}),
        "a map that is a list": lambda values: values.update(weight_map=[]),
        "no map": lambda values: values.pop("weight_map"),
    }  # fmt: skip


def _index(world: World, folder: Path, change: Callable[[Values], None]) -> list[str | Path]:
    checkpoint = _sharded(folder)
    path = checkpoint / INDEX
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    (checkpoint / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    return world.convert(checkpoint)


def shard_names() -> dict[str, str]:
    """Names that promise more than there is."""
    return {
        "shard 1 of 10^9": "diffusion_pytorch_model-00001-of-1000000000.safetensors",
        "shard 10^12 of 10^12": "diffusion_pytorch_model-1000000000000-of-1000000000000.safetensors",
        "shard 0 of 0": "diffusion_pytorch_model-00000-of-00000.safetensors",
        "a number of 200 digits": f"diffusion_pytorch_model-{'9' * 100}-of-{'9' * 100}.safetensors",
        "control codes": "\x1b[31mdiffusion_pytorch_model.safetensors",
        "no UTF-8": os.fsdecode(b"diffusion_pytorch_model\xff.safetensors"),
    }


def _named(world: World, folder: Path, name: str) -> list[str | Path]:
    checkpoint = world.copy_checkpoint(folder)
    (checkpoint / world.checkpoint.transformer_file.name).rename(checkpoint / name)
    (checkpoint / "config.json").unlink()
    if "UTF" in name or "\x1b" in name or "\udcff" in name:
        (checkpoint / world.checkpoint.vae_file.name).unlink()
    return world.convert(checkpoint)


def _special_config(world: World, folder: Path, kind: str) -> list[str | Path]:
    checkpoint = world.copy_checkpoint(folder)
    make_special(checkpoint / "config.json", kind)
    return world.convert(checkpoint)


def _special_inspected(folder: Path, kind: str) -> list[str | Path]:
    make_special(folder / "model.safetensors", kind)
    return ["--inspect", folder / "model.safetensors"]


def _special_model(world: World, folder: Path, kind: str) -> list[str | Path]:
    model = world.copy_model(folder)
    make_special(model / "config.json", kind)
    return world.generate(model=model)
