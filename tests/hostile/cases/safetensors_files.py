"""Safetensors files whose header or data is not what it says, as a checkpoint's transformer."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.hostile.campaign import Case
from tests.hostile.world import World

Header = dict[str, Any]
FIRST = "patch_embedding.weight"


def read(path: Path) -> tuple[Header, bytes]:
    """Header and data of a file."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def write(path: Path, header: Header | bytes, data: bytes, length: int | None = None) -> None:
    """A file of a header, which may be raw bytes, and a stated length of it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


def edits() -> dict[str, Callable[[Header], None]]:
    """Changes to a sound header."""

    def field(name: str, value: object) -> Callable[[Header], None]:
        return lambda header: header[FIRST].update({name: value})

    def offsets(start: int, end: int) -> Callable[[Header], None]:
        def change(header: Header) -> None:
            begin, stop = header[FIRST]["data_offsets"]
            header[FIRST]["data_offsets"] = [begin + start, stop + end]

        return change

    return {
        "offsets that overlap": offsets(-4, -4),
        "offsets beyond the data": offsets(1 << 40, 1 << 40),
        "offsets that run backwards": field("data_offsets", [8, 0]),
        "negative offsets": field("data_offsets", [-8, 0]),
        "offsets of 2^64": field("data_offsets", [2**64, 2**64 + 8]),
        "offsets that are floats": field("data_offsets", [0.0, 8.0]),
        "one offset": field("data_offsets", [0]),
        "no offsets": lambda header: header[FIRST].pop("data_offsets"),
        "a shape of another count": field("shape", [3, 5]),
        "a negative size": field("shape", [-1, 16, 1, 2, 2]),
        "a size of 2^63": field("shape", [2**63, 2]),
        "sizes whose product wraps to the right count": field("shape", [2**32, 2**32]),
        "a shape of 65 axes": field("shape", [1] * 65),
        "a shape of 4,000 digits": field("shape", [int("9" * 4000)]),
        "a shape that is a text": field("shape", "16"),
        "a shape of texts": field("shape", ["16"]),
        "an unknown type": field("dtype", "F128"),
        "a type that is a list": field("dtype", ["F32"]),
        "a type with control codes": field("dtype", "\x1b[31mF32\x07"),
        "a name with control codes": lambda header: header.update({"\x1b]0;owned\x07": header.pop(FIRST)}),
        "a name of a megabyte": lambda header: header.update({"x" * (1 << 20): header.pop(FIRST)}),
        "a tensor that is a number": lambda header: header.update({FIRST: 1}),
        "a tensor that is null": lambda header: header.update({FIRST: None}),
        "metadata that is a list": lambda header: header.update({"__metadata__": []}),
        "metadata of numbers": lambda header: header.update({"__metadata__": {"a": 1}}),
        "no tensors": lambda header: header.clear(),
        "block 10^12": lambda header: header.update(
            {"blocks.1000000000000.ffn.0.bias": header.pop("blocks.1.ffn.0.bias")}
        ),
    }


def raw() -> dict[str, tuple[bytes, int | None]]:
    """Headers that are no sound JSON, and a stated length."""
    return {
        "an empty header": (b"", None),
        "a header of blanks": (b" " * 64, None),
        "a header longer than the file": (b"{}", 1 << 20),
        "a header of 2^63 bytes": (b"{}", 1 << 63),
        "a header of 2^64 - 1 bytes": (b"{}", (1 << 64) - 1),
        "a header that is no JSON": (b"{,}", None),
        "a header that is no UTF-8": (b'{"\xff": 1}', None),
        "a header that is a list": (b"[]", None),
        "a header nested 100,000 deep": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, None),
        "a header with two equal names": (
            b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
            None,
        ),
        "a number of 401 digits": (
            b'{"a":{"dtype":"F32","shape":[' + b"9" * 401 + b'],"data_offsets":[0,4]}}',
            None,
        ),
        "NaN as a size": (b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}', None),
        "Infinity as an offset": (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,Infinity]}}', None),
        "a million names": (
            b"{"
            + b",".join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % i for i in range(10**6))
            + b"}",
            None,
        ),
        "a hundred thousand axes": (
            b'{"a":{"dtype":"F32","shape":[' + b",".join([b"1"] * 10**5) + b'],"data_offsets":[0,4]}}',
            None,
        ),
    }


def cases(world: World) -> Iterator[Case]:
    """As the transformer of a checkpoint, as latents and as an adapter."""
    for name, edit in edits().items():
        yield Case("safetensors", name, lambda folder, edit=edit: _edited_checkpoint(world, folder, edit))
    for name, (text, length) in raw().items():
        yield Case(
            "safetensors", name, lambda folder, one=(text, length): _raw_checkpoint(world, folder, *one)
        )
        yield Case(
            "latents", name, lambda folder, one=(text, length): _raw_latents(world, folder, *one), "generate"
        )
        yield Case(
            "adapter", name, lambda folder, one=(text, length): _raw_adapter(world, folder, *one), "generate"
        )
    for part in (0, 1, 7, 8, 9, 100, 0.3, 0.99):
        yield Case(
            "safetensors", f"cut at {part}", lambda folder, part=part: _cut_checkpoint(world, folder, part)
        )
    for name, kind in (
        ("a pipe", "pipe"),
        ("a folder", "folder"),
        ("a link to itself", "loop"),
        ("a link to nothing", "nowhere"),
        ("/dev/zero", "zero"),
    ):
        yield Case(
            "special files",
            f"{name} as the transformer",
            lambda folder, kind=kind: _special(world, folder, kind),
        )


def _target(world: World, folder: Path) -> tuple[Path, Path]:
    checkpoint = world.copy_checkpoint(folder)
    return checkpoint, checkpoint / world.checkpoint.transformer_file.name


def _edited_checkpoint(world: World, folder: Path, edit: Callable[[Header], None]) -> list[str | Path]:
    checkpoint, path = _target(world, folder)
    header, data = read(path)
    edit(header)
    write(path, header, data)
    return world.convert(checkpoint)


def _raw_checkpoint(world: World, folder: Path, text: bytes, length: int | None) -> list[str | Path]:
    checkpoint, path = _target(world, folder)
    write(path, text, bytes(16), length)
    return world.convert(checkpoint)


def _raw_latents(world: World, folder: Path, text: bytes, length: int | None) -> list[str | Path]:
    path = folder / "latents.safetensors"
    write(path, text, bytes(16), length)
    return world.generate("--decode-only", path)


def _raw_adapter(world: World, folder: Path, text: bytes, length: int | None) -> list[str | Path]:
    path = folder / "adapter.safetensors"
    write(path, text, bytes(16), length)
    return world.generate("--lora", path, "1")


def _cut_checkpoint(world: World, folder: Path, part: float) -> list[str | Path]:
    checkpoint, path = _target(world, folder)
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content)) if 0 < part < 1 else int(part)])
    return world.convert(checkpoint)


def make_special(path: Path, kind: str) -> None:
    """Something that is no regular file."""
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "nowhere":
        path.symlink_to("/nowhere/at/all")
    else:
        path.symlink_to(f"/dev/{kind}")


def _special(world: World, folder: Path, kind: str) -> list[str | Path]:
    checkpoint, path = _target(world, folder)
    make_special(path, kind)
    return world.convert(checkpoint)
