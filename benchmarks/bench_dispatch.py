"""Time a transformer forward whose work is cut into short dispatches against one that is not cut.

Both run in turns in one process. Attention is cut to `--queries` at a time, the feed-forward to as many rows
as have the same number of elements, and every block is evaluated on its own. On a GPU chunks follow from
time alone: there `--seconds` cuts everything instead. The two results are compared before anything is timed.

    python -m benchmarks.bench_dispatch --grid 1 30 52 --num-layers 2
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import mlx.core as mx

from benchmarks.bench_transformer import DTYPES, LARGEST_ERROR, add_network_options, build_network
from benchmarks.forward import predict_velocity
from benchmarks.timing import TABLE_HEADER, Work, alternate, format_row, ratio
from mlx_video.models.dispatch import LARGEST_ARRAY, Limits, current_limits, use_limits

UNCUT = Limits(chunk_elements=LARGEST_ARRAY, quantized_rows=LARGEST_ARRAY, block_tokens=LARGEST_ARRAY)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_network_options(parser)
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="default %(default)s")
    parser.add_argument("--bits", type=int, choices=(4, 8), help="quantize the blocks; default: do not")
    parser.add_argument("--queries", type=int, default=512, help="of one chunk, default %(default)s")
    parser.add_argument("--seconds", type=float, help="of one dispatch, instead; default: by --queries")
    parser.add_argument("--repeats", type=int, default=9, help="counted rounds, default %(default)s")
    return parser


def cut_limits(args: argparse.Namespace) -> Limits:
    if args.seconds:
        return Limits(args.seconds, current_limits().flops_per_second, block_tokens=1)
    scores = args.num_heads * math.prod(args.grid)
    return Limits(chunk_elements=args.queries * scores, block_tokens=1)


def main() -> None:
    args = build_parser().parse_args()
    network = build_network(args)
    t, h, w = args.grid
    latents = mx.random.normal((network.config.in_dim, t, 2 * h, 2 * w))
    text = network.project_text(mx.random.normal((60, network.config.text_dim)))

    def forward_under(limits: Limits) -> Callable[[], mx.array]:
        def run() -> mx.array:
            with use_limits(limits):
                velocity = predict_velocity(network, latents, text)
                mx.eval(velocity)
            return velocity

        return run

    works: dict[str, Work] = {"not cut": forward_under(UNCUT), "cut": forward_under(cut_limits(args))}
    whole, cut = (work() for work in works.values())
    error = (mx.abs(cut - whole).max() / mx.abs(whole).max()).item()
    if not (math.isfinite(error) and error <= LARGEST_ERROR[args.dtype]):
        raise SystemExit(f"cut and whole forward differ by {error:.1e}")
    timings = alternate(works, warmups=1, repeats=args.repeats)
    model = f"dim {args.dim}, ffn {args.ffn_dim}, {args.num_layers} blocks, {args.dtype}"
    model += f", {args.bits} bits" if args.bits else ""
    print(TABLE_HEADER)
    for label, timing in timings.items():
        print(format_row(f"forward, {label}", model, f"{t * h * w} tokens", timing, timings["not cut"]))
    cost = ratio(timings["cut"], timings["not cut"]) - 1
    print(f"cutting costs {cost:+.1%}; largest difference {error:.1e}")


if __name__ == "__main__":
    main()
