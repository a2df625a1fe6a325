"""Torch archives whose pickle or zip is not what it says, as a checkpoint's VAE."""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from tests.formats.torch_archive import Call, Global, Storage, foreign_pickle, members_of, tensor, write_zip
from tests.hostile.campaign import Case
from tests.hostile.world import World

Make = Callable[[Path], None]
WORDS = np.zeros(4, np.float32)
STORAGE = Storage("0", "F32", WORDS)


def pickled(*opcodes: bytes) -> bytes:
    return b"\x80\x02" + b"".join(opcodes) + b"."


def programs() -> dict[str, bytes]:
    """Pickles that would do harm, or never end."""
    touch = b"touch ../../touched"
    laughs = pickled(
        b"]q\x00", *(b"]q" + bytes([i + 1]) + b"(" + (b"h" + bytes([i])) * 10 + b"e" for i in range(30))
    )
    return {
        "a command": pickled(b"cos\nsystem\n", b"X" + struct.pack("<I", len(touch)) + touch, b"\x85R"),
        "a command by a name with dots": pickled(b"cbuiltins\neval\n", b"X\x01\x00\x00\x001\x85R"),
        "an import of torch": pickled(b"ctorch\nload\n", b"X\x01\x00\x00\x00a\x85R"),
        "an instance of a class": pickled(b"(ios\nsystem\n"),
        "a class made by NEWOBJ": pickled(b"csubprocess\nPopen\n", b")\x81"),
        "a stack that grows without end": pickled(b"N" * 3_000_000),
        "a memo of 2^31 entries": pickled(b"Nr\xff\xff\xff\x7f"),
        "a billion laughs": laughs,
        "a text of 4 GB": pickled(b"X\xff\xff\xff\xff"),
        "bytes of 2^60": pickled(b"\x8e" + struct.pack("<Q", 2**60)),
        "a bytearray of 6 GB": pickled(b"\x96" + struct.pack("<Q", 6 * 10**9)),
        "a frame of 2^60": b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b"N.",
        "a number of 100 million digits": pickled(b"I" + b"9" * 5_000_000 + b"\n"),
        "a long of 2^31 bytes": pickled(b"\x8b\xff\xff\xff\x7f"),
        "tuples nested 200,000 deep": pickled(b"(" * 200_000 + b"t" * 200_000),
        "protocol 99": b"\x80\x63N.",
        "no end": b"\x80\x02N",
        "nothing": b"",
        "garbage": bytes(range(256)),
        "a state set on a dictionary": foreign_dictionary(b"}(X\x05\x00\x00\x00itemsNub"),
        "a persistent id that is a list": pickled(b"]Q"),
        "an extension": pickled(b"\x82\x01"),
    }


def foreign_dictionary(state: bytes) -> bytes:
    """An OrderedDict with what BUILD does to it."""
    return b"\x80\x02ccollections\nOrderedDict\n)R" + state + b"."


def tensors() -> dict[str, object]:
    """Descriptions of tensors that do not fit what is stored."""
    rebuild = Global("torch._utils", "_rebuild_tensor_v2")
    hooks = Call(Global("collections", "OrderedDict"), ())
    return {
        "strides of 0 over 2^40 elements": tensor(STORAGE, (2**20, 2**20), (0, 0)),
        "negative strides": tensor(STORAGE, (2, 2), (-2, 1)),
        "an offset beyond the storage": tensor(STORAGE, (2, 2), None, 1),
        "a negative offset": tensor(STORAGE, (2, 2), None, -1),
        "a size of 2^62": tensor(STORAGE, (2**62, 0)),
        "65 axes": tensor(STORAGE, (1,) * 65),
        "5,000 axes": tensor(STORAGE, (1,) * 5000),
        "sizes that are texts": Call(rebuild, (STORAGE, 0, ("2",), (1,), False, hooks)),
        "a storage that is a number": Call(rebuild, (7, 0, (2,), (1,), False, hooks)),
        "a storage longer than its member": tensor(Storage("0", "F32", WORDS, 2**40), (2**20, 2**20)),
        "a storage whose key climbs": tensor(Storage("../../../etc/passwd", "F32", WORDS), (2, 2)),
    }


def cases(world: World) -> Iterator[Case]:
    """As the VAE of a checkpoint."""
    for name, program in programs().items():
        members = {"archive/data.pkl": program, "archive/version": b"3\n"}
        yield _case(world, "pickle", name, lambda path, members=members: _write(path, members))
    for name, content in tensors().items():
        members = members_of({"conv1.weight": content})
        yield _case(world, "torch tensors", name, lambda path, members=members: _write(path, members))
    for name, make in zips(world).items():
        yield _case(world, "zip", name, make)
    for name, content in {
        "a bare pickle": pickle.dumps({"a": 1}),
        "a tar": b"ustar" * 300,
        "a page": b"<html></html>",
    }.items():
        yield _case(world, "torch files", name, lambda path, content=content: _replace(path, content))


def _case(world: World, kind: str, name: str, make: Make) -> Case:
    def build(folder: Path) -> list[str | Path]:
        checkpoint = world.copy_checkpoint(folder)
        make(checkpoint / world.checkpoint.vae_file.name)
        return world.convert(checkpoint)

    return Case(kind, name, build)


def _write(path: Path, members: dict[str, bytes]) -> None:
    path.unlink(missing_ok=True)
    write_zip(path, members)


def _replace(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def zips(world: World) -> dict[str, Make]:
    """Directories that lead elsewhere."""

    def sound() -> bytearray:
        return bytearray(world.checkpoint.vae_file.read_bytes())

    def entries(content: bytearray) -> list[int]:
        places, at = [], content.find(b"PK\x01\x02")
        while at >= 0:
            places.append(at)
            at = content.find(b"PK\x01\x02", at + 4)
        return places

    def swapped(path: Path) -> None:
        content = sound()
        # Two storages of one size exchange their places: name and checksum no longer fit.
        infos = {info.filename: info for info in zipfile.ZipFile(world.checkpoint.vae_file).infolist()}
        by_size: dict[int, list[str]] = {}
        for name, info in infos.items():
            by_size.setdefault(info.file_size, []).append(name)
        one, other = next(names for names in by_size.values() if len(names) > 1)[:2]
        for name, donor in ((one, other), (other, one)):
            at = next(place for place in entries(content) if content[place + 46 :].startswith(name.encode()))
            content[at + 42 : at + 46] = struct.pack("<I", infos[donor].header_offset)
        _replace(path, bytes(content))

    def bomb(path: Path) -> None:
        path.unlink(missing_ok=True)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", bytes(300_000_000))

    def stated(size: int) -> Make:
        def make(path: Path) -> None:
            content = sound()
            at = next(place for place in entries(content) if b"data.pkl" in content[place + 46 : place + 80])
            content[at + 20 : at + 28] = struct.pack("<II", size, size)
            _replace(path, bytes(content))

        return make

    def doubled(path: Path) -> None:
        members = members_of({"conv1.weight": tensor(STORAGE, (2, 2))})
        path.unlink(missing_ok=True)
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in [*members.items(), ("archive/data.pkl", foreign_pickle({}))]:
                archive.writestr(name, data)

    def cut(part: float) -> Make:
        return lambda path: _replace(path, bytes(sound()[: int(part * len(sound()))]))

    return {
        "members that exchange places": swapped,
        "a description of 300 MB in little": bomb,
        "a description of 4 GB": stated(0xFFFFFFF0),
        "a description of no bytes": stated(0),
        "two descriptions": doubled,
        "cut in the middle": cut(0.5),
        "cut before its directory": cut(0.98),
        "no members": lambda path: _write(path, {}),
        "100,000 members": lambda path: _write(path, {f"archive/data/{i}": b"" for i in range(100_000)}),
    }
