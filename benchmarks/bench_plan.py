"""The planner's predictions against MLX's measured peaks, on random weights of real widths.

    python -m benchmarks.bench_plan transformer    # 1.3B widths, bfloat16 and 4 bits, three sizes
    python -m benchmarks.bench_plan vace           # the same with VACE, in memory and streamed
    python -m benchmarks.bench_plan vae            # both VAEs, decoding and encoding, three sizes
    python -m benchmarks.bench_plan text           # all of UMT5-XXL, streamed; 11.4 GB of disk for a while
    python -m benchmarks.bench_plan transformer --grids 1x15x26 --num-layers 2

Blocks run one after another, so a few show the memory that any number needs beside its weights. Each case has
a process of its own. A prediction that is off by more than LIMIT makes the exit code 1.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map

from benchmarks.bench_text_encoder import draw_texts, write_encoder
from benchmarks.bench_vae import random_vae
from benchmarks.timing import describe_machine
from mlx_video.conditioning.control.vace import VACEAddOn
from mlx_video.conditioning.types import Conditioning
from mlx_video.config import WAN21_VAE, WAN22_VAE, TextEncoderConfig, TransformerConfig
from mlx_video.formats.safetensors import SafetensorsFile
from mlx_video.formats.tensor_info import TensorInfo, dtype_name
from mlx_video.formats.tensor_source import open_tensors
from mlx_video.geometry import Triple, VideoGeometry, pixel_frames
from mlx_video.latents.decode import decode_frames
from mlx_video.latents.encode import encode_chunks
from mlx_video.loading.block_stream import load_streamed
from mlx_video.loading.streamed_text_encoder import encode_streamed
from mlx_video.models.dispatch import current_limits
from mlx_video.models.elementwise import on_gpu
from mlx_video.models.forward import BlockSource
from mlx_video.models.token_layout import video_layout
from mlx_video.models.transformer import WanTransformer
from mlx_video.models.transformer_memory import ForwardSize
from mlx_video.models.video_transformer import VideoTransformer
from mlx_video.planning.stage_peaks import denoise_peak, text_peak
from mlx_video.planning.vae_memory import decode_peak_bytes, encode_peak_bytes
from mlx_video.planning.weight_bytes import WeightBytes, weigh
from mlx_video.runs.sampling.guided_transformer import GuidedTransformer
from mlx_video.sampling.denoise import denoise
from mlx_video.sampling.guidance import ClassifierFreeGuidance
from mlx_video.sampling.schedule import build_schedule
from mlx_video.sampling.solvers.table import build_solver
from mlx_video.variants.vace import NETWORK as VACE
from mlx_video.weights.network import PLAIN, TransformerNetwork
from mlx_video.weights.quantize import is_quantized_layer

ROOT = Path(__file__).parents[1]
LIMIT = 0.15
VACE_CHANNELS = 96
LATENTS = 3  # frames of a VAE's clip: from the third on every layer keeps all that it ever keeps
VAES = {"2.1": WAN21_VAE, "2.2": WAN22_VAE}

Case = dict[str, Any]
Figures = tuple[int, int]
"""Predicted and measured bytes."""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("transformer", "vace", "vae", "text"))
    parser.add_argument("--num-layers", type=int, help="blocks (default: 3; text: 24)")
    parser.add_argument("--vocab-size", type=int, default=256384, help="rows of the text encoder's table")
    parser.add_argument(
        "--grids", nargs="+", default=["1x15x26", "1x30x52", "3x30x52"], help="tokens (default: %(default)s)"
    )
    parser.add_argument(
        "--sizes", nargs="+", default=["8x8", "12x16", "16x24"], help="latent cells (default: %(default)s)"
    )
    parser.add_argument("--steps", type=int, default=2, help="of sampling (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="for the text encoder's file (default: the system's)")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser


def cases(args: argparse.Namespace) -> Iterator[tuple[str, Case]]:
    """Name and settings of everything that is measured."""
    if args.what == "transformer":
        for bits in (None, 4):
            for grid in args.grids:
                name = f"1.3B widths, {f'{bits} bits' if bits else 'bfloat16'}, {grid} tokens"
                yield name, {"bits": bits, "grid": _numbers(grid), "layers": args.num_layers or 3}
    elif args.what == "vace":
        layers = args.num_layers or 3
        for streams in (False, True):
            for grid in args.grids:
                name = f"1.3B widths with VACE, bfloat16, {'streamed, ' if streams else ''}{grid} tokens"
                yield name, {"bits": None, "grid": _numbers(grid), "layers": layers, "streams": streams}
    elif args.what == "vae":
        for generation in VAES:
            for half in ("decode", "encode"):
                for size in args.sizes:
                    name = f"Wan{generation} VAE, {half}, {size} latent cells"
                    yield name, {"generation": generation, "half": half, "size": _numbers(size)}
    else:
        layers = args.num_layers or TextEncoderConfig().num_layers
        name = f"UMT5-XXL streamed, {layers} blocks, two prompts"
        yield name, {"layers": layers, "vocab_size": args.vocab_size, "folder": str(args.folder or "")}


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split("x")]


def measure_transformer(case: Case, steps: int) -> Figures:
    """A guided run of the sampling loop, weights in memory."""
    mx.random.seed(0)
    config = TransformerConfig(1536, 8960, 12, case["layers"])
    network = _random_transformer(config, case["bits"])
    return _measure_run(config, network, _infos_of(network), case, steps)


def measure_vace(case: Case, steps: int) -> Figures:
    """The same with hints behind every second block, weights in memory or streamed."""
    mx.random.seed(0)
    layers = tuple(range(0, case["layers"], 2))
    config = TransformerConfig(1536, 8960, 12, case["layers"], vace_layers=layers, vace_in_dim=VACE_CHANNELS)
    network = _random_transformer(config, case["bits"], VACE.build)
    infos = _infos_of(network)
    if not case["streams"]:
        return _measure_run(config, network, infos, case, steps)
    order = VACE.block_order(config)
    with tempfile.TemporaryDirectory(prefix="bench_plan_") as folder:
        path = Path(folder) / "model.safetensors"
        mx.save_safetensors(str(path), dict(tree_flatten(network.parameters())))
        network.clear()
        streamed = VACE.build(config)
        with SafetensorsFile(path) as source, load_streamed(streamed, source, order, 0) as blocks:
            return _measure_run(config, streamed, infos, case, steps, blocks)


def _infos_of(network: nn.Module) -> list[TensorInfo]:
    parameters: list[tuple[str, mx.array]] = tree_flatten(network.parameters())  # type: ignore[assignment]
    return [TensorInfo(name, array.shape, dtype_name(array.dtype)) for name, array in parameters]


def _measure_run(
    config: TransformerConfig,
    network: VideoTransformer,
    infos: Sequence[TensorInfo],
    case: Case,
    steps: int,
    blocks: BlockSource | None = None,
) -> Figures:
    t, h, w = case["grid"]
    grid: Triple = (t, h, w)
    shape = (config.out_dim, t, 2 * h, 2 * w)
    context = [mx.random.normal((length, config.text_dim)) for length in (60, 126)]
    noise = mx.random.normal(shape)
    kind = VACE if config.vace_layers else PLAIN
    vace_context = mx.random.normal((config.vace_in_dim, *shape[1:]))
    mx.eval(context, noise, vace_context)
    weights = weigh(infos, kind.block_order(config))
    predicted = _predict_transformer(config, weights, grid, shape, kind, None if blocks is None else 0)
    mx.clear_cache()
    mx.reset_peak_memory()
    schedule = build_schedule("unipc", steps, 5.0)
    add_ons = (VACEAddOn(vace_context),) if config.vace_layers else ()
    conditioning = Conditioning(*context, add_ons=add_ons)
    guidance, layout = ClassifierFreeGuidance(5.0), video_layout(grid)
    velocity = GuidedTransformer(network, guidance, conditioning, layout, blocks=blocks)
    for _ in denoise(noise, schedule, build_solver("unipc", schedule), velocity):
        pass
    return predicted, mx.get_peak_memory()


def _random_transformer(
    config: TransformerConfig,
    bits: int | None,
    build: Callable[[TransformerConfig], VideoTransformer] = WanTransformer,
) -> VideoTransformer:
    network = build(config)
    network.update(tree_map(lambda array: array.astype(mx.bfloat16), network.parameters()))
    if bits:
        nn.quantize(network, bits=bits, class_predicate=lambda path, _: is_quantized_layer(path))
    mx.eval(network.parameters())
    return network


def _predict_transformer(
    config: TransformerConfig,
    weights: WeightBytes,
    grid: Triple,
    shape: tuple[int, int, int, int],
    network: TransformerNetwork,
    resident_blocks: int | None,
) -> int:
    num_tokens = grid[0] * grid[1] * grid[2]
    size = ForwardSize(
        config, num_tokens, weights.number_bytes, weights.bits, 0, 2, on_gpu(), current_limits()
    )
    geometry = VideoGeometry(8 * shape[3], 8 * shape[2], pixel_frames(shape[1]), shape, grid)
    peak = denoise_peak(size, weights, geometry, resident_blocks=resident_blocks, network=network)
    return peak.within(mx.set_memory_limit(_memory_limit()))


def _memory_limit() -> int:
    """MLX's limit as it is."""
    limit = mx.set_memory_limit(1 << 40)
    mx.set_memory_limit(limit)
    return limit


def measure_vae(case: Case) -> Figures:
    """A clip through one half of a VAE, in whole frames."""
    height, width = case["size"]
    decodes = case["half"] == "decode"
    vae = random_vae(case["generation"], case.get("width", 0), encoder=not decodes)
    config = vae.config
    weights = mx.get_active_memory()
    mx.reset_peak_memory()
    if decodes:
        latents = mx.random.normal((config.z_dim, LATENTS, height, width))
        for frames in decode_frames(vae, latents):
            del frames
        return weights + decode_peak_bytes(config, height, width), mx.get_peak_memory()
    _, step_h, step_w = config.stride
    chunks = (mx.zeros((count, height * step_h, width * step_w, 3)) for count in (1, *[4] * (LATENTS - 1)))
    for _ in encode_chunks(vae, chunks):
        pass
    return weights + encode_peak_bytes(config, height, width), mx.get_peak_memory()


def measure_text(case: Case) -> Figures:
    """Two prompts through the streamed text encoder."""
    config = replace(TextEncoderConfig(), num_layers=case["layers"], vocab_size=case["vocab_size"])
    with tempfile.TemporaryDirectory(prefix="bench_plan_", dir=case["folder"] or None) as folder:
        path = write_encoder(Path(folder) / "text.safetensors", config, "bfloat16")
        texts = draw_texts(config)
        mx.clear_cache()
        mx.reset_peak_memory()
        with open_tensors(path) as source:
            weights = weigh(source.infos.values())
            for _ in encode_streamed(source, config, texts):
                pass
            measured = mx.get_peak_memory()
    lengths = [len(text) for text in texts]
    return text_peak(weights, config, lengths, on_gpu=on_gpu()).usual, measured


def run_child(args: argparse.Namespace) -> None:
    """Measure one case and print its figures as JSON."""
    case = json.loads(args.child)
    measures: dict[str, Callable[[], Figures]] = {
        "transformer": lambda: measure_transformer(case, args.steps),
        "vace": lambda: measure_vace(case, args.steps),
        "vae": lambda: measure_vae(case),
        "text": lambda: measure_text(case),
    }
    print(json.dumps(measures[args.what]()))


def run_case(args: argparse.Namespace, case: Case) -> Figures:
    """Measure one case in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.bench_plan", args.what, "--steps", str(args.steps)]
    printed = subprocess.run(
        [*command, "--child", json.dumps(case)], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    predicted, measured = json.loads(printed)
    return predicted, measured


def main() -> int:
    args = build_parser().parse_args()
    if args.child:
        run_child(args)
        return 0
    print(f"{describe_machine()}, mlx {mx.__version__}; at most {LIMIT:.0%} off")
    print("| what | predicted GB | measured GB | ratio |\n|---|---|---|---|")
    worst = 0.0
    for name, case in cases(args):
        predicted, measured = run_case(args, case)
        worst = max(worst, abs(predicted / measured - 1))
        print(
            f"| {name} | {predicted / 1e9:.3f} | {measured / 1e9:.3f} | {predicted / measured:.3f} |",
            flush=True,
        )
    print(f"largest deviation {worst:.1%}: {'kept' if worst <= LIMIT else 'MISSED'}")
    return 0 if worst <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
