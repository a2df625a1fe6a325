"""Converting a transformer that is stored in other layouts, against copying what is read or what is written.

A synthetic transformer of the 1.3B's widths is written as Diffusers names it, as ComfyUI scales it to float8,
and as GGUF packs it; a small text encoder and VAE stand beside it. Converting and copying the larger of both
sides take turns; the fastest of each counts. Each conversion runs in a process of its own; its peak memory
counts above an interpreter with MLX imported. Everything is deleted at the end.

    python -m benchmarks.bench_convert_layouts                  # 12 GB of disk for a while, some minutes
    python -m benchmarks.bench_convert_layouts --num-layers 2   # seconds
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.bench_convert import (
    bare_bytes,
    convert_apart,
    copy_measured,
    empty_cache,
    peak_resident_bytes,
    random_tensors,
    size_of,
)
from benchmarks.timing import Timing, format_row, ratio
from mlx_video.config import TextEncoderConfig, TransformerConfig, VAEConfig
from mlx_video.weights.names.text_encoder_names import text_encoder_tensors
from mlx_video.weights.names.transformer_names import transformer_tensors
from mlx_video.weights.names.vae_names import vae_tensors
from tests.fixtures.comfy_files import Words, write_words
from tests.fixtures.tiny_checkpoint import (
    TEXT_ENCODER_FILE,
    TOKENIZER_FOLDER,
    TRANSFORMER_STEM,
    VAE_FILE,
    source_config,
    write_tokenizer,
)
from tests.fixtures.weight_files import write_safetensors, write_torch_archive
from tests.formats.gguf_writer import pack, write_gguf
from tests.parity.diffusers_transformer import diffusers_name

LIMIT_TIME, LIMIT_GB = 2.0, 1.5
TURNS = 3
TEXT = TextEncoderConfig(vocab_size=1000, num_layers=1)
VAE = VAEConfig(encoder_dim=24, decoder_dim=24)
PACKED = re.compile(r"blocks\.\d+\.(self_attn\.[qkvo]|cross_attn\.[qkvo]|ffn\.[02])\.weight")
Shapes = dict[str, tuple[int, ...]]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-layers", type=int, default=30, help="blocks, default %(default)s")
    parser.add_argument("--layouts", nargs="*", choices=LAYOUTS, default=list(LAYOUTS), help="default: all")
    parser.add_argument("--folder", type=Path, help="where to write (default: the temporary folder)")
    parser.add_argument("--child", nargs=3, type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(convert_measured(*args.child)))
        return 0
    config = TransformerConfig(1536, 8960, 12, args.num_layers)
    verdicts = []
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="bench_convert_layouts_") as folder:
        source = Path(folder) / "source"
        write_rest(source, config)
        for layout in args.layouts:
            verdicts.append(measure(layout, source, Path(folder), config))
    return 0 if all(verdicts) else 1


def write_rest(folder: Path, config: TransformerConfig) -> None:
    """Everything but the transformer, in the original layout; of the transformer its config."""
    folder.mkdir()
    write_torch_archive(folder / TEXT_ENCODER_FILE, random_tensors(text_encoder_tensors(TEXT), "BF16"))
    write_torch_archive(folder / VAE_FILE, random_tensors(vae_tensors(VAE), "F32"))
    (folder / "config.json").write_text(json.dumps(source_config(config)))
    write_tokenizer(folder / TOKENIZER_FOLDER)
    write_safetensors(folder / f"{TRANSFORMER_STEM}.safetensors", [])


def write_diffusers(path: Path, shapes: Shapes) -> None:
    write_safetensors(path, random_tensors({diffusers_name(n): shape for n, shape in shapes.items()}, "F32"))


def write_float8(path: Path, shapes: Shapes) -> None:
    rng, tensors = np.random.default_rng(0), {"scaled_fp8": Words("F8_E4M3", np.zeros(2, np.uint8))}
    for name, shape in shapes.items():
        if PACKED.fullmatch(name):
            # Neither sign nor the highest exponent: no code of a NaN.
            tensors[name] = Words("F8_E4M3", rng.integers(0, 0x78, shape, np.uint8))
            layer = name.removesuffix(".weight")
            tensors[f"{layer}.scale_weight"] = Words("F32", np.float32(1e-4))
        else:
            tensors[name] = Words("F16", rng.standard_normal(shape, np.float32).astype(np.float16))
    write_words(path, tensors)


def write_packed(path: Path, shapes: Shapes, kind: str) -> None:
    rng = np.random.default_rng(0)
    tensors = {}
    for name, shape in shapes.items():
        values = rng.standard_normal(shape, np.float32) * np.float32(0.02)
        stored = kind if PACKED.fullmatch(name) else "F32"
        tensors[name] = (stored, pack(values, stored) if stored == kind else values)
    write_gguf(path, tensors)


LAYOUTS: dict[str, tuple[str, Callable[[Path, Shapes], None]]] = {
    "Diffusers": ("safetensors", write_diffusers),
    "float8": ("safetensors", write_float8),
    "Q8_0": ("gguf", lambda path, shapes: write_packed(path, shapes, "Q8_0")),
    "Q4_0": ("gguf", lambda path, shapes: write_packed(path, shapes, "Q4_0")),
    "Q4_K": ("gguf", lambda path, shapes: write_packed(path, shapes, "Q4_K")),
    "Q6_K": ("gguf", lambda path, shapes: write_packed(path, shapes, "Q6_K")),
}


def measure(layout: str, source: Path, folder: Path, config: TransformerConfig) -> bool:
    ending, write = LAYOUTS[layout]
    stored, output, copied = folder / "stored", folder / "output", folder / "copied"
    stored.mkdir()
    transformer = stored / f"transformer.{ending}"
    write(transformer, transformer_tensors(config))
    conversions: list[dict[str, float]] = []
    copies: list[float] = []
    for _ in range(TURNS):
        shutil.rmtree(output, ignore_errors=True)
        empty_cache(folder)
        conversions.append(
            convert_apart(
                "benchmarks.bench_convert_layouts", "--child", *map(str, (source, transformer, output))
            )
        )
        read_bytes, written = size_of(stored), size_of(output)
        copies.append(copy_measured(output if written > read_bytes else stored, copied))
    shutil.rmtree(stored)
    shutil.rmtree(output)
    peak_bytes = int(max(figures["peak_bytes"] for figures in conversions))
    done = Timing((min(figures["convert"] for figures in conversions),), peak_bytes)
    floor = Timing((min(copies),), 0)
    is_kept = done.median / floor.median <= LIMIT_TIME and peak_bytes / 1e9 <= LIMIT_GB
    print(
        f"{layout}: {read_bytes / 1e9:.2f} GB to {written / 1e9:.2f} GB in {done.median:.1f} s, "
        f"{ratio(done, floor):.2f} times copying the larger (at most {LIMIT_TIME:g}), "
        f"{peak_bytes / 1e9:.2f} GB resident (at most {LIMIT_GB:g}): {'kept' if is_kept else 'MISSED'}"
    )
    print(
        format_row(f"convert {layout} to bfloat16", "1.3B widths", f"{read_bytes / 1e9:.1f} GB", done, floor)
    )
    return is_kept


def convert_measured(source: Path, transformer: Path, output: Path) -> dict[str, float]:
    from mlx_video.convert.convert import convert
    from mlx_video.request import ConvertRequest

    started = time.perf_counter()
    for _ in convert(ConvertRequest(source, output, transformer=transformer)):
        pass
    seconds = time.perf_counter() - started
    return {"convert": seconds, "peak_bytes": peak_resident_bytes() - bare_bytes()}


if __name__ == "__main__":
    sys.exit(main())
