"""Time the text encoder's blocks against the products and attentions that they cannot do without.

Both run in turns in one process, on blocks of UMT5-XXL's widths (fewer of them, and a small vocabulary). The
result in the requested type is first checked against float32.

    python -m benchmarks.bench_text_encoder --tokens 128 --num-layers 2
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace

import mlx.core as mx
from mlx.utils import tree_map

from benchmarks.timing import TABLE_HEADER, alternate, format_row
from mlx_video.config import TextEncoderConfig
from mlx_video.models.text_encoder import UMT5Encoder

DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16}
# Relative to the largest feature: rounded weights and, in bfloat16, rounded activations of a few blocks.
LARGEST_ERROR = {"float32": 1e-6, "bfloat16": 5e-2, "float16": 1e-2}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=128, help="of the text, default %(default)s")
    parser.add_argument("--num-layers", type=int, default=2, help="blocks, default %(default)s")
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="of the weights, default %(default)s"
    )
    parser.add_argument("--repeats", type=int, default=7, help="counted rounds, default %(default)s")
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

    def pieces() -> Iterator[mx.array]:
        for block in encoder.blocks:
            for layer in (block.attn.q, block.attn.k, block.attn.v, block.ffn.gate_proj, block.ffn.fc1):
                yield x @ layer.weight.astype(x.dtype).T
            yield mx.fast.scaled_dot_product_attention(heads, heads, heads, scale=1.0, mask=bias)
            yield inner @ block.attn.o.weight.astype(x.dtype).T
            yield hidden @ block.ffn.fc2.weight.astype(x.dtype).T

    def run() -> mx.array:
        for piece in pieces():
            mx.eval(piece)
        return piece

    return run


def check(found: mx.array, expected: mx.array, dtype: str) -> None:
    error = (mx.abs(found.astype(mx.float32) - expected).max() / mx.abs(expected).max()).item()
    if not error <= LARGEST_ERROR[dtype]:
        raise SystemExit(f"features in {dtype} differ from float32 by {error:.1e}")


def main() -> None:
    args = build_parser().parse_args()
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
