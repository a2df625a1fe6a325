"""Time the text encoder's blocks against the products and attentions that they cannot do without.

Both run in turns in one process, on blocks of UMT5-XXL's widths (fewer of them, and a small vocabulary). The
result in the requested type is first checked against float32.

    python -m benchmarks.bench_text_encoder --tokens 128 --num-layers 2

With --full, the memory of the whole encoder streamed from a file: two prompts through random weights of
UMT5-XXL's sizes, in a process of its own, whose memory counts above an interpreter with everything imported.
Streamed features of one such block are first checked against resident ones, bit for bit.

    python -m benchmarks.bench_text_encoder --full                   # 11.4 GB of disk for a while
    python -m benchmarks.bench_text_encoder --full --num-layers 1 --vocab-size 1000    # 0.4 GB
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_map

from benchmarks.bench_convert import ROOT, empty_cache, peak_resident_bytes, random_tensors
from benchmarks.timing import TABLE_HEADER, Timing, alternate, format_row
from mlx_video.config import TextEncoderConfig
from mlx_video.formats.tensor_source import open_tensors
from mlx_video.loading.streamed_text_encoder import encode_streamed
from mlx_video.models.encoders.text_encoder import UMT5Encoder
from mlx_video.weights.load import load_module
from mlx_video.weights.names.text_encoder_names import WAN_RULES, text_encoder_tensors
from mlx_video.weights.rules import target_shapes
from tests.fixtures.generators import finish
from tests.fixtures.weight_files import write_safetensors

DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16}
# Relative to the largest feature: rounded weights and, in bfloat16, rounded activations of a few blocks.
LARGEST_ERROR = {"float32": 1e-6, "bfloat16": 5e-2, "float16": 1e-2}
STORED = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
FULL = TextEncoderConfig()
# A short prompt, and the default negative prompt.
PROMPT_TOKENS = (20, 126)
LARGEST_GB = 1.2


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=128, help="of the text, default %(default)s")
    parser.add_argument("--num-layers", type=int, help="blocks, default 2, with --full all 24")
    parser.add_argument(
        "--dtype", choices=DTYPES, help="of the weights, default float32, with --full bfloat16"
    )
    parser.add_argument("--repeats", type=int, default=7, help="counted rounds, default %(default)s")
    parser.add_argument("--full", action="store_true", help="measure the streamed encoder's memory instead")
    parser.add_argument(
        "--vocab-size", type=int, default=FULL.vocab_size, help="with --full, default %(default)s"
    )
    parser.add_argument("--folder", type=Path, help="for --full's file, default the temporary folder")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    return parser


def build_encoder(num_layers: int) -> UMT5Encoder:
    mx.random.seed(0)
    return UMT5Encoder(replace(TextEncoderConfig(), vocab_size=1000, num_layers=num_layers))


def build_floor(encoder: UMT5Encoder, x: mx.array, num_heads: int) -> Callable[[], mx.array]:
    """Every product and attention of the blocks, in the type of `x`, one after another."""
    config = encoder.config
    inner = mx.random.normal((x.shape[0], config.dim_attn)).astype(x.dtype)
    hidden = mx.random.normal((x.shape[0], config.dim_ffn)).astype(x.dtype)
    heads = inner.reshape(1, x.shape[0], num_heads, -1).swapaxes(1, 2)
    bias = mx.zeros((1, num_heads, x.shape[0], x.shape[0]), dtype=x.dtype)
    mx.eval(inner, hidden, bias)

    def chunks() -> Iterator[mx.array]:
        for block in encoder.blocks:
            for layer in (block.attn.q, block.attn.k, block.attn.v, block.ffn.gate_proj, block.ffn.fc1):
                yield x @ layer.weight.astype(x.dtype).T
            yield mx.fast.scaled_dot_product_attention(heads, heads, heads, scale=1.0, mask=bias)
            yield inner @ block.attn.o.weight.astype(x.dtype).T
            yield hidden @ block.ffn.fc2.weight.astype(x.dtype).T

    def run() -> mx.array:
        for chunk in chunks():
            mx.eval(chunk)
        return chunk

    return run


def check(found: mx.array, expected: mx.array, dtype: str) -> None:
    error = (mx.abs(found.astype(mx.float32) - expected).max() / mx.abs(expected).max()).item()
    if not error <= LARGEST_ERROR[dtype]:
        raise SystemExit(f"features in {dtype} differ from float32 by {error:.1e}")


def full_config(args: argparse.Namespace) -> TextEncoderConfig:
    return replace(FULL, vocab_size=args.vocab_size, num_layers=args.num_layers or FULL.num_layers)


def write_encoder(path: Path, config: TextEncoderConfig, dtype: str) -> Path:
    shapes = target_shapes(text_encoder_tensors(config), WAN_RULES)
    write_safetensors(path, random_tensors(shapes, STORED[dtype]))
    empty_cache(path.parent)
    return path


def draw_texts(config: TextEncoderConfig) -> list[list[int]]:
    key = mx.random.key(0)
    return [mx.random.randint(0, config.vocab_size, (count,), key=key).tolist() for count in PROMPT_TOKENS]


def check_streaming(folder: Path, dtype: str) -> None:
    config = replace(FULL, vocab_size=1000, num_layers=1)
    path, texts, encoder = folder / "one_block.safetensors", draw_texts(config), UMT5Encoder(config)
    with open_tensors(write_encoder(path, config, dtype)) as source:
        streamed = finish(encode_streamed(source, config, texts))
        load_module(encoder, source)
    path.unlink()
    resident = [encoder(mx.array(text)) for text in texts]
    if not all(mx.array_equal(a, b).item() for a, b in zip(streamed, resident, strict=True)):
        raise SystemExit("streamed features differ from resident ones")


def encode_measured(path: Path, config: TextEncoderConfig) -> dict[str, float]:
    """Encode the prompts once; the peaks are this process's, so it must have done nothing else."""
    texts, before = draw_texts(config), peak_resident_bytes()
    mx.reset_peak_memory()
    started = time.perf_counter()
    with open_tensors(path) as source:
        features = finish(encode_streamed(source, config, texts))
    seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "mlx_bytes": mx.get_peak_memory(),
        "resident_bytes": peak_resident_bytes() - before,
        "is_finite": all(mx.all(mx.isfinite(x)).item() for x in features),
    }


def measure_full(args: argparse.Namespace, arguments: Sequence[str]) -> None:
    config, dtype = full_config(args), args.dtype or "bfloat16"
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="bench_text_encoder_") as name:
        folder = Path(name)
        check_streaming(folder, dtype)
        path = write_encoder(folder / "t5_encoder.safetensors", config, dtype)
        size = path.stat().st_size
        command = [sys.executable, "-m", "benchmarks.bench_text_encoder", *arguments, "--child", str(path)]
        child = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    figures = json.loads(child.stdout)
    if not figures["is_finite"]:
        raise SystemExit("features are not finite")
    report_full(config, dtype, size, figures)


def report_full(config: TextEncoderConfig, dtype: str, size: int, figures: dict[str, float]) -> None:
    mlx_gb, resident_gb = figures["mlx_bytes"] / 1e9, figures["resident_bytes"] / 1e9
    print(f"file {size / 1e9:.2f} GB, {figures['seconds']:.1f} s")
    print(f"peak of MLX {mlx_gb:.3f} GB, of the process above its imports {resident_gb:.3f} GB")
    model = f"UMT5-XXL widths, {config.num_layers} blocks, {dtype}"
    timing = Timing((figures["seconds"],), int(max(figures["mlx_bytes"], figures["resident_bytes"])))
    print(TABLE_HEADER)
    tokens = " and ".join(str(count) for count in PROMPT_TOKENS)
    print(format_row("text streamed", model, f"{tokens} tokens", timing))
    if max(mlx_gb, resident_gb) > LARGEST_GB:
        raise SystemExit(f"more than {LARGEST_GB} GB")


def main() -> None:
    args = build_parser().parse_args()
    if args.child:
        print(json.dumps(encode_measured(args.child, full_config(args))))
    elif args.full:
        measure_full(args, sys.argv[1:])
    else:
        compare_with_floor(args)


def compare_with_floor(args: argparse.Namespace) -> None:
    args.num_layers, args.dtype = args.num_layers or 2, args.dtype or "float32"
    encoder = build_encoder(args.num_layers)
    ids = mx.random.randint(0, 1000, (args.tokens,))
    expected = encoder(ids)
    encoder.update(tree_map(lambda array: array.astype(DTYPES[args.dtype]), encoder.parameters()))
    mx.eval(encoder.parameters(), expected)
    check(encoder(ids), expected, args.dtype)
    works = {
        "floor": build_floor(encoder, encoder.embed(ids), encoder.config.num_heads),
        "encoder": lambda: encoder(ids),
    }
    timings = alternate(works, repeats=args.repeats)
    print(TABLE_HEADER)
    for label, timing in timings.items():
        model = f"UMT5-XXL widths, {args.num_layers} blocks, {args.dtype}"
        print(format_row(f"text {label}", model, f"{args.tokens} tokens", timing, timings["floor"]))


if __name__ == "__main__":
    main()
