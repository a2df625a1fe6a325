"""Time that a VACE block takes beside a plain one of the same weights.

A block with its hint added runs in turns with a plain block, and with what VACE does once in a forward, of
which each of the published model's VACE blocks bears its share. Before, both blocks are checked to give the
same tokens. On a CPU the time is that of the process, which leaves out the times in which others run.

The hint is one product of the transformer's width more. What that is to the rest depends on the number of
tokens, since attention grows faster: multiplications are counted for this grid and for 832x480x81.

    python -m benchmarks.bench_vace                  # 4680 tokens
    python -m benchmarks.bench_vace --grid 1 30 52 --repeats 7
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time

import mlx.core as mx
from mlx.utils import tree_map

from benchmarks.forward import STEP
from benchmarks.timing import TABLE_HEADER, Timing, Work, alternate, format_row
from mlx_video.config import TransformerConfig
from mlx_video.models.block_context import BlockContext
from mlx_video.models.control.vace import VACETransformer
from mlx_video.models.elementwise import add_gated, on_gpu
from mlx_video.models.token_layout import video_layout
from mlx_video.models.transformer_block import TransformerBlock

LIMIT_TIME = 1.05
VACE_CHANNELS = 96
WHOLE_VIDEO = 21 * 30 * 52
NUM_VACE_BLOCKS = 15  # of VACE 1.3B
CONFIG = TransformerConfig(
    dim=1536, ffn_dim=8960, num_heads=12, num_layers=1, vace_layers=(0,), vace_in_dim=VACE_CHANNELS
)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--grid", type=int, nargs=3, default=(3, 30, 52), help="tokens, default %(default)s")
    parser.add_argument("--repeats", type=int, default=5, help="counted rounds, default %(default)s")
    return parser


def build_works(grid: tuple[int, int, int]) -> dict[str, Work]:
    """A plain block, a VACE block with its hint, and the beginning of the VACE stream, on the same tokens."""
    network = VACETransformer(CONFIG)
    mx.random.seed(0)
    network.update(tree_map(lambda array: mx.random.normal(array.shape) * 0.02, network.parameters()))
    block, plain = network.vace_blocks[0], TransformerBlock(CONFIG)
    plain.update({name: child for name, child in block.parameters().items() if name != "after_proj"})
    t, h, w = grid
    layout = video_layout(grid)
    text = network.project_text(mx.random.normal((60, CONFIG.text_dim)))
    time_features = network.embed_time(STEP.timestep, layout)
    context = BlockContext(STEP, time_features, layout, network.rotary_table(layout), text)
    tokens = mx.random.normal((math.prod(grid), CONFIG.dim))
    vace_context = mx.random.normal((VACE_CHANNELS, t, 2 * h, 2 * w))
    mx.eval(network.parameters(), tokens, vace_context)

    def with_hint() -> tuple[mx.array, mx.array]:
        stream, hint = block(tokens, context)
        return stream, add_gated(tokens, hint, mx.array(1.0))

    return {
        "plain block": lambda: plain(tokens, context),
        "VACE block": with_hint,
        "beginning": lambda: network.begin_vace(vace_context, tokens),
    }


def count_products(num_tokens: int) -> float:
    """Multiplications of a VACE block for each of a plain one."""
    # Keys and values of the text are made once in a run.
    plain = 6 * CONFIG.dim**2 + 2 * CONFIG.dim * CONFIG.ffn_dim
    plain += 2 * CONFIG.dim * (num_tokens + CONFIG.text_len)
    beginning = CONFIG.dim**2 + 4 * VACE_CHANNELS * CONFIG.dim
    return 1 + (CONFIG.dim**2 + beginning / NUM_VACE_BLOCKS) / plain


def time_ratio(timings: dict[str, Timing]) -> float:
    """Time of a VACE block, with its share of the beginning, for that of a plain one."""
    return statistics.median(
        (vace + beginning / NUM_VACE_BLOCKS) / plain
        for plain, vace, beginning in zip(*(timing.seconds for timing in timings.values()), strict=True)
    )


def main() -> int:
    args = build_parser().parse_args()
    grid = tuple(args.grid)
    works = build_works(grid)
    if not mx.array_equal(works["plain block"](), works["VACE block"]()[0]):
        raise SystemExit("the VACE block gives other tokens than the plain one")
    clock = time.perf_counter if on_gpu() else time.process_time
    timings = alternate(works, warmups=0, repeats=args.repeats, clock=clock)
    found, num_tokens = time_ratio(timings), math.prod(grid)
    print(f"time: {found:.3f}, at most {LIMIT_TIME} allowed: {'kept' if found <= LIMIT_TIME else 'MISSED'}")
    for count in (num_tokens, WHOLE_VIDEO):
        print(f"multiplications of {count} tokens: {count_products(count):.3f}")
    print(TABLE_HEADER)
    for label, timing in timings.items():
        row = format_row(
            label, "1.3B widths, float32", f"{num_tokens} tokens", timing, timings["plain block"]
        )
        print(row)
    return 0 if found <= LIMIT_TIME else 1


if __name__ == "__main__":
    sys.exit(main())
