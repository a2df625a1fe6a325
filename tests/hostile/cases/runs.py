"""Latents, states, adapters, pictures, outputs and options of a run."""

from __future__ import annotations

import io
import json
import os
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from tests.fixtures.weight_files import store, write_safetensors
from tests.hostile.campaign import Case
from tests.hostile.cases.safetensors_files import make_special, read, write
from tests.hostile.world import World

LATENTS = (16, 1, 4, 4)


def cases(world: World) -> Iterator[Case]:
    """All of them are runs, but for the pictures."""
    yield from latents(world)
    yield from adapters(world)
    yield from pictures(world)
    yield from videos()
    yield from outputs(world)
    yield from caches(world)
    yield from options(world)


def _generate(kind: str, name: str, make: Callable[[Path], list[str | Path]], **facts: object) -> Case:
    return Case(kind, name, make, "generate", **facts)  # type: ignore[arg-type]


def latents(world: World) -> Iterator[Case]:
    """Latents to be decoded."""
    values: dict[str, np.ndarray] = {
        "NaN": np.full(LATENTS, np.nan, np.float32),
        "one infinity": np.concatenate([np.full(1, np.inf, np.float32), np.zeros(255, np.float32)]).reshape(
            LATENTS
        ),
        "1e38": np.full(LATENTS, 1e38, np.float32),
        "another number of channels": np.zeros((5, 1, 4, 4), np.float32),
        "no frames": np.zeros((16, 0, 4, 4), np.float32),
        "no rows": np.zeros((16, 1, 0, 4), np.float32),
        "three axes": np.zeros((16, 4, 4), np.float32),
    }
    for name, value in values.items():
        yield _generate("latents", name, lambda folder, one=value: _decode(world, folder, one))
    for name, shape in {"sizes that wrap": [2**32 + 16, 1, 4, 4], "overlapping sizes": [16, 1, 4, 4]}.items():
        yield _generate("latents", name, lambda folder, one=shape: _decode_reshaped(world, folder, one))
    for kind in ("pipe", "zero", "folder", "loop", "nowhere"):
        yield _generate(
            "special files",
            f"{kind} as latents",
            lambda folder, one=kind: _decode_special(world, folder, one),
        )
        yield _generate(
            "special files",
            f"{kind} as an adapter",
            lambda folder, one=kind: _adapter_special(world, folder, one),
        )
    for kind in ("pipe", "zero", "folder"):
        yield _generate(
            "special files",
            f"{kind} as the state",
            lambda folder, one=kind: _state_special(world, folder, one),
        )
    yield _generate(
        "latents", "sound ones", lambda folder: world.generate("--decode-only", world.latents), is_sound=True
    )
    settings = {"nested": "[" * 100_000, "control": "\x1b]0;owned\x07", "long": "x" * 1_000_000}
    for name, text in settings.items():
        yield _generate(
            "latents",
            f"{name} settings",
            lambda folder, one=text: _decode_settings(world, folder, one),
            is_sound=True,
        )


def _decode(world: World, folder: Path, values: np.ndarray) -> list[str | Path]:
    path = folder / "latents.safetensors"
    write_safetensors(path, [store("latents", values)])
    return world.generate("--decode-only", path)


def _decode_reshaped(world: World, folder: Path, shape: list[int]) -> list[str | Path]:
    header, data = read(world.latents)
    header["latents"]["shape"] = shape
    if shape == [16, 1, 4, 4]:
        header["other"] = dict(header["latents"])
    path = folder / "latents.safetensors"
    write(path, header, data)
    return world.generate("--decode-only", path)


def _decode_special(world: World, folder: Path, kind: str) -> list[str | Path]:
    path = folder / "latents.safetensors"
    make_special(path, kind)
    return world.generate("--decode-only", path)


def _decode_settings(world: World, folder: Path, text: str) -> list[str | Path]:
    header, data = read(world.latents)
    header["__metadata__"] = {**header.get("__metadata__", {}), "prompt": text}
    path = folder / "latents.safetensors"
    write(path, header, data)
    return world.generate("--decode-only", path)


def _adapter_special(world: World, folder: Path, kind: str) -> list[str | Path]:
    path = folder / "adapter.safetensors"
    make_special(path, kind)
    return world.generate("--lora", path, "1")


def _state_special(world: World, folder: Path, kind: str) -> list[str | Path]:
    make_special(folder / "out.png.state.safetensors", kind)
    return world.generate("--resume")


def adapters(world: World) -> Iterator[Case]:
    """Adapters whose numbers or names spoil a run."""
    layer = "diffusion_model.blocks.0.self_attn.q"
    dim = world.checkpoint.sizes.transformer.dim

    def pair(down: float = 0.01, up: float = 0.01, alpha: object = 4.0, rank: int = 4) -> list[object]:
        parts = [
            store(f"{layer}.lora_down.weight", np.full((rank, dim), down, np.float32)),
            store(f"{layer}.lora_up.weight", np.full((dim, rank), up, np.float32)),
        ]
        return parts if alpha is None else [*parts, store(f"{layer}.alpha", np.array(alpha, np.float32))]

    sound = {"a sound one": pair(), "no alpha": pair(alpha=None)}
    for name, tensors in sound.items():
        yield _generate(
            "adapter", name, lambda folder, one=tensors: _adapter(world, folder, one), is_sound=True
        )
    damaged = {
        "NaN": pair(down=np.nan),
        "NaN in the up factor": pair(up=np.nan),
        "infinity": pair(up=np.inf),
        "an alpha of NaN": pair(alpha=np.nan),
        "an alpha of infinity": pair(alpha=np.inf),
        "an alpha of 1e38": pair(alpha=1e38),
        "weights of 1e38": pair(down=1e38, up=1e38),
        "an alpha of many numbers": pair(alpha=[1.0] * 1000),
        "a down factor alone": pair()[:1],
        "rank 0": pair(rank=0),
        "factors that do not fit each other": [
            store(f"{layer}.lora_down.weight", np.ones((4, dim), np.float32)),
            store(f"{layer}.lora_up.weight", np.ones((dim, 5), np.float32)),
        ],
        "factors of another layer's size": [
            store(f"{layer}.lora_down.weight", np.ones((4, 7), np.float32)),
            store(f"{layer}.lora_up.weight", np.ones((9, 4), np.float32)),
        ],
        "no known layer": [store("evil.lora_down.weight", np.ones((4, 4), np.float32))],
        "names with control codes": [store("\x1b[31mevil\x07.lora_down.weight", np.ones((4, 4), np.float32))],
        "block 10^12": [
            store(
                "diffusion_model.blocks.1000000000000.self_attn.q.lora_down.weight",
                np.ones((4, dim), np.float32),
            ),
            store(
                "diffusion_model.blocks.1000000000000.self_attn.q.lora_up.weight",
                np.ones((dim, 4), np.float32),
            ),
        ],
    }
    for name, tensors in damaged.items():
        yield _generate(
            "adapter", name, lambda folder, one=tensors: _adapter(world, folder, one, "--strict-lora")
        )
        yield Case("adapter", f"{name}, baked", lambda folder, one=tensors: _baked(world, folder, one))
    config = {
        "r": 4,
        "lora_alpha": 4,
        "alpha_pattern": {"(x+x+)+y": 4.0, "([a-z.]+)+!": 8},
        "rank_pattern": {"(x+x+)+y": 2},
    }
    yield _generate("adapter", "a catastrophic alpha_pattern", lambda folder: _peft(world, folder, config))
    for name, content in {
        "no JSON": b"{",
        "a list": b"[]",
        "nested": b"[" * 100_000,
        "alpha text": b'{"r": 4, "lora_alpha": "x"}',
        "alpha 1e400": b'{"r": 4, "lora_alpha": 1e400}',
    }.items():
        yield _generate(
            "adapter", f"adapter_config.json: {name}", lambda folder, one=content: _peft(world, folder, one)
        )


def _adapter(world: World, folder: Path, tensors: list[object], *options: str) -> list[str | Path]:
    path = folder / "adapter.safetensors"
    write_safetensors(path, tensors)  # type: ignore[arg-type]
    return world.generate("--lora", path, "1", *options)


def _baked(world: World, folder: Path, tensors: list[object]) -> list[str | Path]:
    path = folder / "adapter.safetensors"
    write_safetensors(path, tensors)  # type: ignore[arg-type]
    return world.convert(world.checkpoint.path, "--lora", str(path), "1", "--strict-lora")


def _peft(world: World, folder: Path, config: object) -> list[str | Path]:
    place = folder / "peft"
    place.mkdir()
    dim = world.checkpoint.sizes.transformer.dim
    name = "base_model.model.blocks.0.self_attn.q.lora_{}.weight"
    write_safetensors(
        place / "adapter_model.safetensors",
        [
            store(name.format("A"), np.full((4, dim), 0.01, np.float32)),
            store(name.format("B"), np.full((dim, 4), 0.01, np.float32)),
        ],
    )
    content = config if isinstance(config, bytes) else json.dumps(config).encode()
    (place / "adapter_config.json").write_bytes(content)
    return world.generate("--lora", place, "1", "--strict-lora")


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG of a stated size, with whatever data."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(data))
        + chunk(b"IEND", b"")
    )


def pictures(world: World) -> Iterator[Case]:
    """Pictures and videos, prepared as controls: the same code opens them everywhere."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(buffer, "PNG")
    sound = buffer.getvalue()
    gif = io.BytesIO()
    Image.new("P", (8, 8)).save(gif, "GIF", save_all=True, append_images=[Image.new("P", (8, 8))] * 3)
    contents = {
        "nothing": b"",
        "text": b"hello",
        "cut short": sound[: len(sound) // 2],
        "13,300 by 13,300 pixels": png(13300, 13300, bytes(1000)),
        "100,000 by 100,000 pixels": png(100_000, 100_000),
        "2^31 - 1 pixels wide": png(2**31 - 1, 1),
        "no pixels": png(0, 0),
        "a bomb of data": png(8, 8, bytes(200_000_000)),
        "one pixel high": png(20_000, 1, bytes(60_001)),
        "a damaged checksum": sound[:40] + b"\x00" + sound[41:],
        "an SVG": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        "a PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(r) file\n",
        "a playlist": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
    }
    for name, content in contents.items():
        for suffix in (".png", ".mp4"):
            yield Case(
                "pictures",
                f"{name} as {suffix}",
                lambda folder, one=content, end=suffix: _prepared(folder, one, end),
                "prepare",
                is_sound=name == "a bomb of data",  # what is behind the pixels is not unpacked
            )
    for kind in ("pipe", "zero", "folder", "loop", "nowhere"):
        yield Case(
            "special files",
            f"{kind} as a video",
            lambda folder, one=kind: _special_video(folder, one),
            "prepare",
        )
    yield Case(
        "pictures", "a sound one", lambda folder: _prepared(folder, sound, ".png"), "prepare", is_sound=True
    )


def _prepared(folder: Path, content: bytes, suffix: str) -> list[str | Path]:
    path = folder / f"input{suffix}"
    path.write_bytes(content)
    return ["grey", path, "out.mp4"]


def _special_video(folder: Path, kind: str) -> list[str | Path]:
    path = folder / "input.mp4"
    make_special(path, kind)
    return ["grey", path, "out.mp4"]


def videos() -> Iterator[Case]:
    """Films that end early or say what is not so, given as controls."""
    sound = film()
    moov, mdat = sound.index(b"moov"), sound.index(b"mdat")
    damaged = {
        "nothing but its first bytes": sound[:40],
        "cut within its tables": sound[: (moov + len(sound)) // 2] if moov > mdat else sound[: (moov + mdat) // 2],
        "tables of zeros": sound[: moov + 4] + bytes(len(sound) - moov - 4),
        "a box of 2^32 - 1 bytes": b"\xff\xff\xff\xff" + sound[4:],
        "a box of no bytes": bytes(4) + sound[4:],
        "only pictures, no tables": sound[mdat - 4 :] if mdat > moov else sound[:moov],
    }  # fmt: skip
    for name, content in damaged.items():
        yield Case("videos", name, lambda folder, one=content: _prepared(folder, one, ".mp4"), "prepare")
    for suffix in (".mp4", ".gif", ".png", ".webm"):
        yield Case(
            "videos",
            f"a film called {suffix}",
            lambda folder, end=suffix: _prepared(folder, sound, end),
            "prepare",
            is_sound=True,
        )
    frames = io.BytesIO()
    Image.new("P", (8, 8)).save(
        frames, "GIF", save_all=True, append_images=[Image.new("P", (8, 8), n) for n in range(9)]
    )
    pictures = frames.getvalue()
    for name, content in {
        "cut short": pictures[: len(pictures) - 30],
        "its header alone": pictures[:20],
    }.items():
        yield Case(
            "videos", f"a GIF: {name}", lambda folder, one=content: _prepared(folder, one, ".gif"), "prepare"
        )
    for kind in ("pipe", "zero", "folder", "loop", "nowhere"):
        yield Case(
            "special files",
            f"{kind} as a folder's frame",
            lambda folder, one=kind: _frame_folder(folder, one),
            "prepare",
        )
    yield Case(
        "videos", "a link to a film", lambda folder: _linked_film(folder, sound), "prepare", is_sound=True
    )
    yield Case("videos", "an empty folder of frames", lambda folder: _frame_folder(folder, ""), "prepare")


@cache
def film() -> bytes:
    """A sound film of four frames."""
    from mlx_video import Video

    with tempfile.TemporaryDirectory() as place:
        frames = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
        return Video(frames, 8.0).save(Path(place) / "film.mp4").read_bytes()


def _linked_film(folder: Path, content: bytes) -> list[str | Path]:
    (folder / "film.mp4").write_bytes(content)
    (folder / "link.mp4").symlink_to("film.mp4")
    return ["grey", folder / "link.mp4", "out.mp4"]


def _frame_folder(folder: Path, kind: str) -> list[str | Path]:
    frames = folder / "frames"
    frames.mkdir()
    if kind:
        make_special(frames / "0001.png", kind)
    return ["grey", frames, "out.mp4"]


def caches(world: World) -> Iterator[Case]:
    """Folders of caches that take nothing, or hold junk: a run needs none of them."""
    for name, place in {
        "a file": "taken",
        "a full device": "/dev/full",
        "a folder that takes no files": "/proc/self",
        "a link loop": "loop",
        "no folder yet": "a/b/c/d",
        "a folder of junk": "junk",
    }.items():
        yield _generate(
            "caches",
            name,
            lambda folder: _beside_caches(world, folder),
            is_sound=True,
            environment={"MLX_VIDEO_CACHE": place},
        )


def _beside_caches(world: World, folder: Path) -> list[str | Path]:
    (folder / "taken").write_text("a file")
    (folder / "loop").symlink_to("loop")
    for name in ("device", "prompts", "speeds", "rates", "demo-model"):
        (folder / "junk" / name).mkdir(parents=True)
        (folder / "junk" / name / "x.json").write_bytes(b"\xff[")
    arguments = world.generate()
    arguments.remove("--no-device-check")
    return arguments


def outputs(world: World) -> Iterator[Case]:
    """Places that take no result."""
    for name, place in {
        "/dev/null": "/dev/null",
        "an empty name": "",
        "a name of 300 letters": "a" * 300 + ".png",
        "a null byte": "a\x00.png",
        "control codes": "\x1b[31mevil\x07.unknown",
        "a folder through a file": "/etc/passwd/out.png",
        "no ending": "out",
        "/proc": "/proc/out.png",
    }.items():
        yield _generate("outputs", name, lambda folder, one=place: [*world.generate(), "--output-path", one])
    yield _generate("outputs", "a folder named like the state", lambda folder: _state_folder(world, folder))
    yield _generate("outputs", "a folder of this name", lambda folder: _output_folder(world, folder))
    for kind in ("pipe", "zero", "loop"):
        yield _generate(
            "special files",
            f"{kind} as the output",
            lambda folder, one=kind: _special_output(world, folder, one),
        )
    yield _generate(
        "outputs", "a link to a full device", lambda folder: _linked_output(world, folder, "/dev/full")
    )
    yield _generate(
        "outputs",
        "a link into a folder that takes no files",
        lambda folder: _linked_output(world, folder, "/proc/self/out.png"),
    )
    yield _generate(
        "outputs",
        "one name for the video and the latents",
        lambda folder: world.generate("--save-latents", "out.png"),
    )
    yield _generate("outputs", "the model's own weights", lambda folder: _over_the_model(world, folder))
    yield Case("outputs", "a conversion into its own source", lambda folder: _into_source(world, folder))
    yield Case("outputs", "a conversion over a file", lambda folder: _over_a_file(world, folder))
    yield Case(
        "outputs",
        "a conversion to a folder that takes no files",
        lambda folder: [*world.convert(world.checkpoint.path), "--output-dir", "/proc/self/model"],
    )
    yield Case(
        "outputs",
        "a conversion to no name",
        lambda folder: [*world.convert(world.checkpoint.path), "--output-dir", ""],
    )
    yield Case(
        "outputs",
        "a conversion to a name of 300 letters",
        lambda folder: [*world.convert(world.checkpoint.path), "--output-dir", "a" * 300],
    )
    yield Case(
        "outputs",
        "a conversion to a null byte",
        lambda folder: [*world.convert(world.checkpoint.path), "--output-dir", "a\x00"],
    )
    yield Case("outputs", "a conversion through a link loop", lambda folder: _through_loop(world, folder))
    yield _generate("outputs", "a folder that takes no files", lambda folder: _closed_folder(world, folder))


def _special_output(world: World, folder: Path, kind: str) -> list[str | Path]:
    make_special(folder / "out.png", kind)
    return world.generate()


def _linked_output(world: World, folder: Path, target: str) -> list[str | Path]:
    (folder / "out.png").symlink_to(target)
    return world.generate()


def _over_the_model(world: World, folder: Path) -> list[str | Path]:
    model = world.copy_model(folder)
    return [*world.generate(model=model), "--save-latents", model / "model.safetensors"]


def _into_source(world: World, folder: Path) -> list[str | Path]:
    source = world.copy_checkpoint(folder)
    return [*world.convert(source), "--output-dir", source]


def _over_a_file(world: World, folder: Path) -> list[str | Path]:
    (folder / "converted").write_text("mine")
    return world.convert(world.checkpoint.path)


def _through_loop(world: World, folder: Path) -> list[str | Path]:
    (folder / "loop").symlink_to("loop")
    return [*world.convert(world.checkpoint.path), "--output-dir", folder / "loop" / "model"]


def _state_folder(world: World, folder: Path) -> list[str | Path]:
    (folder / "out.png.state.safetensors").mkdir()
    return world.generate()


def _output_folder(world: World, folder: Path) -> list[str | Path]:
    (folder / "out.png").mkdir()
    return world.generate()


def _closed_folder(world: World, folder: Path) -> list[str | Path]:
    (folder / "closed").symlink_to("/proc/self")
    return [*world.generate(), "--output-path", "closed/out.png"]


def options(world: World) -> Iterator[Case]:
    """Values that no run can honour."""
    wrong = {
        "--steps": ["0", "-1", "1000000000", "9" * 401, "1.5", "NaN", ""],
        "--width": ["0", "-32", "1000000000", "9" * 401],
        "--num-frames": ["2", "0", "-3", "4000000001"],
        "--guide-scale": ["-1", "nan", "inf", "1e400", "1,2,3", ","],
        "--shift": ["0", "-1", "1e308", "nan"],
        "--seed": ["x", "1" * 401, "18446744073709551616"],
        "--fps": ["0", "-1", "1000000000"],
        "--memory-limit": ["0", "-1", "1e308", "nan", "1e-9"],
        "--scheduler": ["evil", "\x1b[31m"],
        "--boundary": ["2", "nan"],
        "--trim-first-frames": ["1", "-1", "1000000000000"],
        "--sigmas": ["1,1,1", "nan", "2,1", ",".join(["0.5"] * 100_000)],
        "--context-frames": ["0", "1000000000"],
        "--save-latents": ["", "/dev/full/x.safetensors"],
        "--lora": ["/nowhere.safetensors", "evil/a..b", "x" * 5000],
        "--model-dir": ["/nowhere", "evil/a..b", "a/b/c/d", "\x1b[31m", "", "~nobody-here/x"],
        "--denoising-strength": ["-1", "2", "nan"],
        "--image": ["/nowhere.png", "", "a\x00b"],
    }
    for flag, values in wrong.items():
        for value in values:
            yield _generate(
                "options",
                f"{flag} {value[:20]!r}",
                lambda folder, one=(flag, value): [*world.generate(), *one],
            )
    yield _generate(
        "options",
        "a prompt that is no UTF-8",
        lambda folder: [*world.generate(), "--prompt", os.fsdecode(b"a \xff cat")],
        is_sound=True,
    )
    yield _generate(
        "options",
        "a prompt of a megabyte",
        lambda folder: [*world.generate(), "--prompt", "cat " * 30_000],
        is_sound=True,
    )
    yield _generate(
        "options",
        "a prompt of control codes",
        lambda folder: [*world.generate(), "--prompt", "\x1b[2J\x07"],
        is_sound=True,
    )
