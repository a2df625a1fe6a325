"""Time a training step against the products and attentions that it cannot do without, and its peak.

The floor makes every matrix product of the blocks, forward and back to what enters it, and every attention
with its gradient by MLX's own differentiation, one after another; it has no adapter. Both run in turns in one
process. Before anything is timed, checkpointed and kept activations are checked to give the same gradients.

    python -m benchmarks.bench_training --grid 1 16 16
    python -m benchmarks.bench_training --grid 1 30 52 --repeats 1
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import mlx.core as mx
from mlx.utils import tree_flatten

from benchmarks.bench_transformer import DTYPES, add_network_options, build_network, multiply
from benchmarks.timing import TABLE_HEADER, Work, alternate, format_row
from mlx_video.conditioning.types import Conditioning
from mlx_video.models.transformer import WanTransformer
from mlx_video.planning.weight_bytes import WeightBytes
from mlx_video.request.train import TrainRequest
from mlx_video.runs.memory import find_host
from mlx_video.training.adapter import Adapter, AdapterPlan, find_layers
from mlx_video.training.gradients import resident_gradients
from mlx_video.training.loss import add_noise
from mlx_video.training.memory import MemoryWay, TrainingSize, training_peak
from mlx_video.weights.network import PLAIN

LARGEST_DIFFERENCE = 1e-5


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_network_options(parser)
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="of the weights, default %(default)s"
    )
    parser.add_argument("--bits", type=int, choices=(4, 8), help="quantize the blocks; default: do not")
    parser.add_argument("--rank", type=int, default=32, help="of the adapter, default %(default)s")
    parser.add_argument("--repeats", type=int, default=3, help="counted rounds, default %(default)s")
    return parser


def build_floor(network: WanTransformer, num_tokens: int) -> Callable[[], mx.array]:
    """Products of all blocks forward and back to their inputs, and attentions with their gradients."""
    config = network.config
    rows = {width: mx.random.normal((num_tokens, width)) for width in (config.dim, config.ffn_dim)}
    heads, text = (
        mx.random.normal((1, config.num_heads, length, config.head_dim))
        for length in (num_tokens, config.text_len)
    )
    mx.eval(rows, heads, text)

    def attend(keys: mx.array, scale: float) -> list[mx.array]:
        def run(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
            return mx.softmax(q @ k.swapaxes(-1, -2) * scale, axis=-1) @ v

        made, gradients = mx.vjp(run, [heads, keys, keys], [heads])
        return [*made, *gradients]

    def run() -> mx.array:
        for block in network.blocks:
            own, cross = block.self_attn, block.cross_attn
            layers = (own.q, own.k, own.v, own.o, cross.q, cross.o, block.ffn.fc1, block.ffn.fc2)
            for number, layer in enumerate(layers):
                entering, leaving = (config.dim, config.dim) if number < 6 else (config.dim, config.ffn_dim)
                if number == 7:
                    entering, leaving = leaving, entering
                (made,), (gradient,) = mx.vjp(
                    lambda x, layer=layer: multiply(layer, x), [rows[entering]], [rows[leaving]]
                )
                mx.eval(made, gradient)
            for keys in (heads, text):
                mx.eval(attend(keys, own.scale))
        return made

    return run


def main() -> None:
    args = build_parser().parse_args()
    network = build_network(args)
    config, (t, h, w) = network.config, args.grid
    layers = find_layers(PLAIN, config, ())
    adapter = Adapter(AdapterPlan("lora", args.rank, float(args.rank), layers), 0)
    adapter.attach(network)
    shape = (config.out_dim, t, 2 * h, 2 * w)
    context = mx.random.normal((60, config.text_dim))
    one = add_noise("clip", mx.random.normal(shape), mx.random.normal(shape), 0.5, Conditioning(context))
    mx.eval(one.noisy, one.target)
    steps = {
        way: resident_gradients(network, adapter.trainable, checkpoints=way.checkpoints)
        for way in (MemoryWay(), MemoryWay(checkpoints=False))
    }
    (_, first), (_, second) = (gradients(one) for gradients in steps.values())
    worst = max(mx.abs(first[name] - second[name]).max().item() for name in first)
    if not worst <= LARGEST_DIFFERENCE:
        raise SystemExit(f"checkpointed gradients differ by {worst:.1e}")
    del first, second
    names = {MemoryWay(): "checkpointed", MemoryWay(checkpoints=False): "activations kept"}
    works: dict[str, Work] = {"floor": build_floor(network, t * h * w)}
    works |= {names[way]: lambda gradients=gradients: gradients(one) for way, gradients in steps.items()}
    timings = alternate(works, warmups=0, repeats=args.repeats)
    model = f"dim {args.dim}, ffn {args.ffn_dim}, {args.num_layers} blocks, {args.dtype}"
    model += f", {args.bits} bits" if args.bits else ""
    print(TABLE_HEADER)
    for label, timing in timings.items():
        print(format_row(f"training step, {label}", model, f"{t * h * w} tokens", timing, timings["floor"]))
    trained = sum(value.size for value in adapter.trainable.values().values())
    total = sum(array.nbytes for _, array in tree_flatten(network.parameters())) - 4 * trained
    weights = WeightBytes(
        (total // len(network.blocks),) * len(network.blocks), 0, DTYPES[args.dtype].size, args.bits
    )
    size = TrainingSize(config, weights, t * h * w, 0, trained, 0, 4, TrainRequest())
    for way, label in names.items():
        planned = training_peak(size, find_host(None), way).usual
        print(
            f"{label}: planned {planned / 1e9:.3f} GB, {planned / timings[label].peak_bytes:.2f} of measured"
        )


if __name__ == "__main__":
    main()
