"""GGUF files that say what is not so, given as the transformer."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.hostile.campaign import Case
from tests.hostile.world import World

F32 = 0


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def string(key: bytes, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", 8) + text(value)


@dataclass(frozen=True)
class Gguf:
    """A file in parts, each of which may lie.

    Attributes:
        entries: of the metadata, as bytes.
        tensors: name, shape (slowest axis last), type, offset.
        data: behind the header.
        counts: stated tensors and entries; None for the true ones.
    """

    entries: Sequence[bytes] = (string(b"general.architecture", b"wan"),)
    tensors: Sequence[tuple[bytes, Sequence[int], int, int]] = (
        (b"blocks.0.self_attn.q.weight", (4, 4), F32, 0),
        (b"blocks.0.self_attn.k.weight", (4, 4), F32, 64),
    )
    data: bytes = bytes(128)
    counts: tuple[int | None, int | None] = (None, None)
    version: int = 3
    extra: bytes = field(default=b"")

    def encode(self) -> bytes:
        tensors, entries = self.counts
        head = b"GGUF" + struct.pack("<I", self.version)
        head += struct.pack(
            "<QQ",
            len(self.tensors) if tensors is None else tensors,
            len(self.entries) if entries is None else entries,
        )
        head += b"".join(self.entries) + self.extra
        for name, shape, kind, offset in self.tensors:
            head += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
            head += struct.pack("<IQ", kind, offset)
        return head + bytes(-len(head) % 32) + self.data


def files() -> dict[str, bytes]:
    """Name of the fault → the file."""
    sound = Gguf()
    first, second = sound.tensors
    array = struct.pack("<I", 9)
    many = b"".join(string(b"k%d" % i, b"v") for i in range(400_000))
    return {
        "nothing but a magic": b"GGUF",
        "version 99": replace(sound, version=99).encode(),
        "big-endian": b"GGUF" + struct.pack(">I", 3) + bytes(64),
        "2^60 tensors": replace(sound, counts=(2**60, None)).encode(),
        "2^60 entries": replace(sound, counts=(None, 2**60)).encode(),
        "one tensor too many": replace(sound, counts=(3, None)).encode(),
        "one entry too many": replace(sound, counts=(None, 2)).encode(),
        "offsets that overlap": replace(sound, tensors=[first, (*second[:3], 32)]).encode(),
        "equal offsets": replace(sound, tensors=[first, (*second[:3], 0)]).encode(),
        "an offset that is not aligned": replace(sound, tensors=[first, (*second[:3], 63)]).encode(),
        "an offset of 2^63": replace(sound, tensors=[first, (*second[:3], 2**63)]).encode(),
        "a size of 2^63": replace(sound, tensors=[(b"a", (2**63,), F32, 0)]).encode(),
        "sizes whose product wraps": replace(sound, tensors=[(b"a", (2**33, 2**33), F32, 0)]).encode(),
        "65 axes": replace(sound, tensors=[(b"a", (1,) * 65, F32, 0)]).encode(),
        "no axes": replace(sound, tensors=[(b"a", (), F32, 0)]).encode(),
        "two equal names": replace(sound, tensors=[first, (first[0], (4, 4), F32, 64)]).encode(),
        "type 999": replace(sound, tensors=[(b"a", (4, 4), 999, 0)]).encode(),
        "a removed type": replace(sound, tensors=[(b"a", (4, 4), 4, 0)]).encode(),
        "packed rows that do not divide": replace(sound, tensors=[(b"a", (33, 4), 8, 0)]).encode(),
        "a name with control codes": replace(sound, tensors=[(b"\x1b]0;owned\x07", (4, 4), F32, 0)]).encode(),
        "a name of a megabyte": replace(sound, tensors=[(b"x" * (1 << 20), (4, 4), F32, 0)]).encode(),
        "a name of 2^60 bytes": replace(sound, tensors=[], counts=(1, None), extra=struct.pack("<Q", 2**60)).encode(),
        "a text of 2^63 bytes": replace(sound, entries=[text(b"k") + struct.pack("<IQ", 8, 2**63)]).encode(),
        "a list of 2^60 numbers": replace(sound, entries=[text(b"k") + array + struct.pack("<IQ", 4, 2**60)]).encode(),
        "a list of lists": replace(sound, entries=[text(b"k") + array + struct.pack("<IQ", 9, 1)]).encode(),
        "a list of type 77": replace(sound, entries=[text(b"k") + array + struct.pack("<IQ", 77, 1)]).encode(),
        "a value of type 77": replace(sound, entries=[text(b"k") + struct.pack("<I", 77)]).encode(),
        "an alignment of 0": replace(sound, entries=[text(b"general.alignment") + struct.pack("<II", 4, 0)]).encode(),
        "an alignment of 2^31": replace(sound, entries=[text(b"general.alignment") + struct.pack("<II", 4, 2**31)]).encode(),
        "an alignment that is a text": replace(sound, entries=[string(b"general.alignment", b"32")]).encode(),
        "an architecture with control codes": replace(sound, entries=[string(b"general.architecture", b"\x1b[2J")]).encode(),
        "400,000 entries": replace(sound, entries=[many], counts=(None, 400_000)).encode(),
        "2 million tensors": replace(
            sound, tensors=[], counts=(2_000_000, None),
            extra=b"".join(text(b"%d" % i) + struct.pack("<IQIQ", 1, 0, 0, 0) for i in range(1_500_000)),
        ).encode(),
        "data cut short": Gguf(data=bytes(100)).encode(),
    }  # fmt: skip


def cases(world: World) -> Iterator[Case]:
    """Each as `--transformer`, and inspected."""
    for name, content in files().items():
        yield Case("gguf", name, lambda folder, content=content: _as_transformer(world, folder, content))
        yield Case("gguf", f"{name}, inspected", lambda folder, content=content: _inspected(folder, content))


def _as_transformer(world: World, folder: Path, content: bytes) -> list[str | Path]:
    path = folder / "model.gguf"
    path.write_bytes(content)
    return world.convert(world.checkpoint.path, "--transformer", str(path))


def _inspected(folder: Path, content: bytes) -> list[str | Path]:
    path = folder / "model.gguf"
    path.write_bytes(content)
    return ["--inspect", path]
