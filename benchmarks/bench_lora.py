"""Time and memory that an adapter costs beside quantized layers: rank 64 on every linear layer of the blocks.

A network of the 1.3B's widths is quantized twice from the same numbers; one of the two gets the adapter, read
from a file as a run does. Both forwards run in turns. Before, the adapted one is checked against the same
adapter merged into the dense weights that the packed ones stand for.

    python -m benchmarks.bench_lora                  # 2 blocks, 1560 tokens
    python -m benchmarks.bench_lora --grid 1 8 8 --num-layers 1 --repeats 3
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map_with_path

from benchmarks.bench_transformer import DTYPES, add_network_options, build_network
from benchmarks.forward import predict_velocity
from benchmarks.timing import TABLE_HEADER, alternate, format_row, ratio
from mlx_video.config import TransformerConfig
from mlx_video.formats.safetensors import SafetensorsWriter
from mlx_video.formats.tensor_source import TensorInfo, dtype_name
from mlx_video.lora.apply import apply_adapters
from mlx_video.lora.read import read_adapters
from mlx_video.models.elementwise import enable_compile, on_gpu
from mlx_video.models.transformer import WanTransformer
from mlx_video.request import LoraChoice
from mlx_video.weights.names.transformer_names import transformer_tensors

LIMIT_TIME = 1.15
LIMIT_MEMORY = 1.2
# On a CPU everything is multiplied in float32; elsewhere in the weights' type.
LARGEST_ERROR = {"float32": 1e-4, "bfloat16": 5e-2, "float16": 5e-2}
SMALLEST_EFFECT = 1e-2


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_network_options(parser)
    parser.add_argument(
        "--dtype", choices=DTYPES, default="bfloat16", help="of scales and adapter, default %(default)s"
    )
    parser.add_argument("--bits", type=int, choices=(4, 8), default=4, help="default %(default)s")
    parser.add_argument("--rank", type=int, default=64, help="default %(default)s")
    parser.add_argument("--repeats", type=int, default=7, help="counted rounds, default %(default)s")
    return parser


def write_adapter(path: Path, config: TransformerConfig, rank: int, dtype: mx.Dtype) -> int:
    """Random factors for every linear layer of the blocks; returns the bytes of its tensors."""
    mx.random.seed(1)
    tensors = {}
    for name, shape in transformer_tensors(config).items():
        if not (name.startswith("blocks.") and name.endswith(".weight") and len(shape) == 2):
            continue
        layer, (rows, columns) = name.removesuffix(".weight"), shape
        down = mx.random.normal((rank, columns)) / columns**0.5
        up = mx.random.normal((rows, rank)) / rank**0.5
        tensors[f"diffusion_model.{layer}.lora_down.weight"] = down.astype(dtype)
        tensors[f"diffusion_model.{layer}.lora_up.weight"] = up.astype(dtype)
    infos = [TensorInfo(name, array.shape, dtype_name(array.dtype)) for name, array in tensors.items()]
    with SafetensorsWriter(path, infos) as writer:
        for name, array in tensors.items():
            writer.write(name, array)
    return sum(info.nbytes for info in infos)


def dense_twin(network: WanTransformer) -> WanTransformer:
    """The network in float32, with the weights that the packed ones stand for."""
    twin = WanTransformer(network.config)
    packed = {path: layer for path, layer in network.named_modules() if isinstance(layer, nn.QuantizedLinear)}
    given = dict(tree_flatten(network.parameters()))

    def unpack(name: str, _: mx.array) -> mx.array:
        layer = packed.get(name.removesuffix(".weight")) if name.endswith(".weight") else None
        if layer is None:
            return given[name].astype(mx.float32)
        return mx.dequantize(
            layer.weight, layer.scales, layer.biases, layer.group_size, layer.bits, dtype=mx.float32
        )

    twin.update(tree_map_with_path(unpack, twin.parameters()))
    mx.eval(twin.parameters())
    return twin


def build_forward(network: WanTransformer, grid: tuple[int, int, int]) -> Callable[[], mx.array]:
    """One velocity of fixed random latents under a fixed random prompt."""
    config, (t, h, w) = network.config, grid
    mx.random.seed(2)
    latents = mx.random.normal((config.in_dim, t, 2 * h, 2 * w))
    text = network.project_text(mx.random.normal((60, config.text_dim)))
    return lambda: predict_velocity(network, latents, text)


def relative_error(found: mx.array, expected: mx.array) -> float:
    error: float = (mx.abs(found - expected).max() / mx.abs(expected).max()).item()
    return error


def check(side: mx.array, merged: mx.array, plain: mx.array, dtype: str) -> float:
    """Refuse a side path that gives other numbers than merging, or an adapter that hardly counts."""
    limit = LARGEST_ERROR[dtype if on_gpu() else "float32"]
    error, effect = relative_error(side, merged), relative_error(side, plain)
    if not (error <= limit and effect >= SMALLEST_EFFECT):
        raise SystemExit(f"side path and merging differ by {error:.1e}; the adapter changes {effect:.1e}")
    return error


def main() -> int:
    args = build_parser().parse_args()
    enable_compile(None)
    plain, adapted = build_network(args), build_network(args)
    with tempfile.TemporaryDirectory(prefix="bench_lora_") as folder:
        path = Path(folder) / "adapter.safetensors"
        nbytes = write_adapter(path, plain.config, args.rank, DTYPES[args.dtype])
        adapters = read_adapters([LoraChoice(path)], plain.config)
        added = measure_added(lambda: apply_adapters(adapted, adapters, mode="side"), adapted)
        twin = dense_twin(plain)
        apply_adapters(twin, adapters, mode="merge")
    forwards = {"without": build_forward(plain, args.grid), "side path": build_forward(adapted, args.grid)}
    merged = build_forward(twin, args.grid)()
    error = check(forwards["side path"](), merged, forwards["without"](), args.dtype)
    del twin, merged
    timings = alternate(forwards, warmups=1, repeats=args.repeats)
    times = ratio(timings["side path"], timings["without"])
    print(f"side path and merged weights differ by {error:.1e}")
    print(f"adapter of {nbytes / 1e6:.1f} MB, {added / 1e6:.1f} MB more in memory at the peak")
    for what, found, limit in (("time", times, LIMIT_TIME), ("memory", added / nbytes, LIMIT_MEMORY)):
        print(f"{what}: {found:.3f}, at most {limit} allowed: {'kept' if found <= limit else 'MISSED'}")
    model = f"dim {args.dim}, ffn {args.ffn_dim}, {args.num_layers} blocks, {args.bits} bits"
    model += f", rank {args.rank}"
    t, h, w = args.grid
    print(TABLE_HEADER)
    for label, timing in timings.items():
        what = f"transformer forward, {label}"
        print(format_row(what, model, f"{t * h * w} tokens", timing, timings["without"]))
    return 0 if times <= LIMIT_TIME and added <= LIMIT_MEMORY * nbytes else 1


def measure_added(apply: Callable[[], None], network: WanTransformer) -> int:
    """Bytes of MLX memory that applying adapters takes at its peak, above what the network holds."""
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    apply()
    mx.eval(network.parameters())
    return mx.get_peak_memory() - before


if __name__ == "__main__":
    sys.exit(main())
