"""Time that a VACE block takes beside a plain one, and the memory of the second stream.

A transformer with VACE runs in turns with one that has as many plain blocks in all, and with its own main
blocks alone. What its VACE blocks take is the excess over the last. Before, hints at scale 0 are checked to
change nothing.

    python -m benchmarks.bench_vace                  # 4 blocks, 2 VACE blocks, 4680 tokens
    python -m benchmarks.bench_vace --grid 1 8 8 --repeats 3
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable

import mlx.core as mx
from mlx.utils import tree_map

from benchmarks.forward import STEP
from benchmarks.timing import TABLE_HEADER, alternate, format_row
from mlx_video.config import TransformerConfig
from mlx_video.models.block_context import BlockHook, Pass
from mlx_video.models.control.vace import VACEHook, VACETransformer
from mlx_video.models.transformer import WanTransformer

LIMIT_TIME = 1.05
LIMIT_STREAMS = 1.5
VACE_CHANNELS = 96
DIM, FFN_DIM, NUM_HEADS = 1536, 8960, 12


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--grid", type=int, nargs=3, default=(3, 30, 52), help="tokens, default %(default)s")
    parser.add_argument("--num-layers", type=int, default=4, help="main blocks, default %(default)s")
    parser.add_argument(
        "--every", type=int, default=2, help="a hint behind every so many, default %(default)s"
    )
    parser.add_argument("--repeats", type=int, default=5, help="counted rounds, default %(default)s")
    return parser


def config_of(num_layers: int, vace_layers: tuple[int, ...] = ()) -> TransformerConfig:
    return TransformerConfig(
        dim=DIM,
        ffn_dim=FFN_DIM,
        num_heads=NUM_HEADS,
        num_layers=num_layers,
        vace_layers=vace_layers,
        vace_in_dim=VACE_CHANNELS if vace_layers else 0,
    )


def fill(network: WanTransformer) -> WanTransformer:
    """Small random weights, so that numbers stay finite."""
    mx.random.seed(0)
    network.update(tree_map(lambda array: mx.random.normal(array.shape) * 0.02, network.parameters()))
    mx.eval(network.parameters())
    return network


def build_forward(
    network: WanTransformer, grid: tuple[int, int, int], hooks: tuple[BlockHook, ...] = ()
) -> Callable[[], mx.array]:
    """One velocity of fixed random latents under a fixed random prompt."""
    t, h, w = grid
    mx.random.seed(2)
    latents = mx.random.normal((16, t, 2 * h, 2 * w))
    text = network.project_text(mx.random.normal((60, network.config.text_dim)))
    return lambda: network.predict(latents, STEP, [Pass(text, hooks)])[0]


def main() -> int:
    args = build_parser().parse_args()
    grid = tuple(args.grid)
    layers = tuple(range(0, args.num_layers, args.every))
    vace = fill(VACETransformer(config_of(args.num_layers, layers)))
    assert isinstance(vace, VACETransformer)
    mx.random.seed(3)
    context = mx.random.normal((VACE_CHANNELS, grid[0], 2 * grid[1], 2 * grid[2]))
    main_alone = build_forward(vace, grid)
    off = build_forward(vace, grid, (VACEHook(vace, context, (0.0,) * len(layers)),))
    on = build_forward(vace, grid, (VACEHook(vace, context, (1.0,) * len(layers)),))
    if not mx.array_equal(off(), main_alone()) or mx.array_equal(on(), main_alone()):
        raise SystemExit("hints at scale 0 must change nothing, and at scale 1 something")
    plain = fill(WanTransformer(config_of(args.num_layers + len(layers))))
    works = {"main blocks": main_alone, "with VACE": on, "as many plain": build_forward(plain, grid)}
    timings = alternate(works, warmups=1, repeats=args.repeats)
    base = timings["main blocks"]
    added = {
        label: [a - b for a, b in zip(timings[label].seconds, base.seconds, strict=True)]
        for label in ("with VACE", "as many plain")
    }
    times = statistics.median(added["with VACE"]) / statistics.median(added["as many plain"])
    tokens = grid[0] * grid[1] * grid[2]
    streams = (timings["with VACE"].peak_bytes - base.peak_bytes) / (tokens * DIM * 4)
    for what, found, limit in (("time", times, LIMIT_TIME), ("streams in memory", streams, LIMIT_STREAMS)):
        print(f"{what}: {found:.3f}, at most {limit} allowed: {'kept' if found <= limit else 'MISSED'}")
    model = f"1.3B widths, {args.num_layers} blocks and {len(layers)} of VACE, float32"
    print(TABLE_HEADER)
    for label, timing in timings.items():
        print(format_row(f"transformer forward, {label}", model, f"{tokens} tokens", timing, base))
    return 0 if times <= LIMIT_TIME and streams <= LIMIT_STREAMS else 1


if __name__ == "__main__":
    sys.exit(main())
