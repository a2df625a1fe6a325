"""Time a transformer forward against the products and attentions that it cannot do without.

Both run in turns in one process. The floor makes every matrix product and attention of the blocks at the same
shapes, with MLX's own attention, without bias, norm, modulation, rotation or activation; a second floor has
our attention, which is the faster one on a CPU. Text keys and values are computed once per run and belong to
neither. Where fusing is timed, the fused forward is first checked against the plain one.

    python -m benchmarks.bench_transformer --grid 1 30 52 --num-layers 2
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map

from benchmarks.forward import predict_velocity
from benchmarks.timing import TABLE_HEADER, Work, alternate, format_row
from mlx_video.config import TransformerConfig
from mlx_video.models.block_context import PromptTokens
from mlx_video.models.elementwise import enable_compile
from mlx_video.models.matmul import attend
from mlx_video.models.transformer import WanTransformer
from mlx_video.weights.quantize import is_quantized_layer

Attention = Callable[..., mx.array]

DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16}
LARGEST_ERROR = {"float32": 1e-5, "bfloat16": 5e-2, "float16": 5e-2}


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """Sizes of a transformer and of what it works on; by default the 1.3B's widths in two blocks."""
    parser.add_argument("--dim", type=int, default=1536, help="width, default %(default)s")
    parser.add_argument("--num-heads", type=int, default=12, help="default %(default)s")
    parser.add_argument("--ffn-dim", type=int, default=8960, help="default %(default)s")
    parser.add_argument("--num-layers", type=int, default=2, help="blocks, default %(default)s")
    parser.add_argument(
        "--grid", type=int, nargs=3, default=(1, 30, 52), help="tokens t h w, default 1 30 52"
    )


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_network_options(parser)
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="of the weights, default %(default)s"
    )
    parser.add_argument("--bits", type=int, choices=(4, 8), help="quantize the blocks; default: do not")
    parser.add_argument("--repeats", type=int, default=7, help="counted rounds, default %(default)s")
    parser.add_argument(
        "--compile", choices=("on", "off", "both"), default="both", help="default %(default)s"
    )
    return parser


def build_network(args: argparse.Namespace) -> WanTransformer:
    mx.random.seed(0)
    config = TransformerConfig(args.dim, args.ffn_dim, args.num_heads, args.num_layers)
    network = WanTransformer(config)
    network.update(tree_map(lambda array: array.astype(DTYPES[args.dtype]), network.parameters()))
    if args.bits:
        nn.quantize(network, bits=args.bits, class_predicate=lambda path, _: is_quantized_layer(path))
    mx.eval(network.parameters())
    return network


def build_floor(
    network: WanTransformer, num_tokens: int, text: PromptTokens, attention: Attention
) -> Callable[[], mx.array]:
    """Every product and attention of the blocks, on inputs of the right shapes, one after another."""
    config = network.config
    dtype = text.text.tokens.dtype
    x = mx.random.normal((num_tokens, config.dim)).astype(dtype)
    hidden = mx.random.normal((num_tokens, config.ffn_dim)).astype(dtype)
    heads = mx.random.normal((1, config.num_heads, num_tokens, config.head_dim)).astype(dtype)
    mx.eval(x, hidden, heads)

    def chunks() -> Iterator[mx.array]:
        for index, block in enumerate(network.blocks):
            own, cross = block.self_attn, block.cross_attn
            for layer in (own.q, own.k, own.v, own.o, cross.q, cross.o, block.ffn.fc1):
                yield multiply(layer, x)
            yield multiply(block.ffn.fc2, hidden)
            yield attention(heads, heads, heads, scale=own.scale)
            keys_values = text.text.keys_values(index, cross.keys_values)
            yield attention(heads, keys_values.keys, keys_values.values, scale=own.scale)

    def run() -> mx.array:
        for chunk in chunks():
            mx.eval(chunk)
        return chunk

    return run


def multiply(layer: nn.Module, rows: mx.array) -> mx.array:
    """A linear layer without its bias."""
    if isinstance(layer, nn.QuantizedLinear):
        return mx.quantized_matmul(
            rows, layer.weight, layer.scales, layer.biases, group_size=layer.group_size, bits=layer.bits
        )
    return rows @ layer.weight.T


def check(network: WanTransformer, forward: Callable[[], mx.array], args: argparse.Namespace) -> float:
    """Relative difference between the fused and the plain forward, refused when too large."""
    enable_compile(False)
    plain = forward()
    enable_compile(True)
    error = (mx.abs(forward() - plain).max() / mx.abs(plain).max()).item()
    if not (math.isfinite(error) and error <= LARGEST_ERROR[args.dtype]):
        raise SystemExit(f"fused and plain forward differ by {error:.1e}")
    return error


def main() -> None:
    args = build_parser().parse_args()
    network = build_network(args)
    config = network.config
    t, h, w = args.grid
    latents = mx.random.normal((config.in_dim, t, 2 * h, 2 * w))
    text = network.project_text(mx.random.normal((60, config.text_dim)))

    def forward() -> mx.array:
        return predict_velocity(network, latents, text)

    def forward_with(compiled: bool) -> Callable[[], mx.array]:
        def run() -> mx.array:
            enable_compile(compiled)
            return forward()

        return run

    works: dict[str, Work] = {
        "floor": build_floor(network, t * h * w, text, mx.fast.scaled_dot_product_attention),
        "floor with our attention": build_floor(network, t * h * w, text, attend),
    }
    if args.compile != "on":
        works["plain"] = forward_with(False)
    if args.compile != "off":
        works["compiled"] = forward_with(True)
        check(network, forward, args)
    timings = alternate(works, warmups=1, repeats=args.repeats)
    model = f"dim {args.dim}, ffn {args.ffn_dim}, {args.num_layers} blocks, {args.dtype}"
    model += f", {args.bits} bits" if args.bits else ""
    print(TABLE_HEADER)
    for label, timing in timings.items():
        print(
            format_row(
                f"transformer forward, {label}", model, f"{t * h * w} tokens", timing, timings["floor"]
            )
        )


if __name__ == "__main__":
    main()
