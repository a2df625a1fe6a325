"""What is measured, a function a part; none needs weights. Every part gives plain values."""

from __future__ import annotations

import argparse
import fcntl
import math
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from benchmarks import bench_plan, bench_vae
from benchmarks.bench_block_stream import ColdFile, Overlap, time_overlap
from benchmarks.bench_convert import random_tensors, write_safetensors
from benchmarks.bench_transformer import build_floor, build_network
from benchmarks.forward import predict_velocity
from benchmarks.timing import Timing, alternate, ratio
from mlx_video.config import TransformerConfig
from mlx_video.device.check import time_ways
from mlx_video.device.operations import OPERATIONS, Operation, Sizes
from mlx_video.formats.safetensors import SafetensorsFile
from mlx_video.models.elementwise import enable_compile, on_gpu
from mlx_video.weights.names.transformer_names import WAN_RULES, transformer_tensors
from mlx_video.weights.rules import target_shapes

Figures = dict[str, Any]
PRODUCT = "product, bfloat16"
LEAST_READING = 0.02
"""Part of a forward that reading takes at least, so that it can be told how much of it is hidden."""
IS_MAC = sys.platform == "darwin"


@dataclass(frozen=True, slots=True)
class Scale:
    """How large everything is.

    Attributes:
        sizes: of single operations.
        widths: model → dim, ffn_dim, heads of a transformer, and its blocks.
        grid: tokens (t, h, w) of a transformer's forward.
        latent_side: rows and columns of a VAE's latents.
        vae_width: base width of a VAE; 0 for the real one.
        streamed_blocks: of the first of `widths`.
        repeats: counted rounds.
    """

    sizes: Sizes
    widths: Mapping[str, tuple[int, int, int, int]]
    grid: tuple[int, int, int]
    latent_side: int
    vae_width: int
    streamed_blocks: int
    repeats: int


SCALES = {
    "full": Scale(
        "full",
        {"1.3B": (1536, 8960, 12, 2), "14B": (5120, 13824, 40, 1)},
        (5, 30, 52),
        latent_side=60,
        vae_width=0,
        streamed_blocks=10,
        repeats=5,
    ),
    "small": Scale(
        "small",
        {"tiny": (96, 192, 2, 2)},
        (1, 6, 8),
        latent_side=4,
        vae_width=16,
        streamed_blocks=2,
        repeats=1,
    ),
}


class UncachedFile(SafetensorsFile):
    """A file of which macOS is told to cache nothing that is read."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        fcntl.fcntl(self._file.fileno(), fcntl.F_NOCACHE, 1)  # type: ignore[attr-defined]  # macOS alone has it


def measure_operations(scale: Scale) -> Figures:
    """Every operation of the device check in every way that there is, kernels of our own among them."""
    return {operation.name: _describe_ways(operation, scale.sizes) for operation in OPERATIONS}


def _describe_ways(operation: Operation, sizes: Sizes) -> Figures:
    size = operation.size(sizes)
    flops = operation.build(*size).flops
    ways = [
        {
            "way": way.text,
            "ms": 1000 * way.seconds,
            "error": way.error if math.isfinite(way.error) else None,
            "tflops": flops / way.seconds / 1e12 if flops else None,
            "failure": way.failure,
        }
        for way in time_ways(operation, sizes)
    ]
    mx.clear_cache()
    return {"size": "×".join(map(str, size)), "ways": ways}


def measure_transformer(scale: Scale) -> Figures:
    """Forwards of some blocks at each model's widths, over their bare products and attention."""
    return {model: _time_transformer(scale, *widths) for model, widths in scale.widths.items()}


def _time_transformer(scale: Scale, dim: int, ffn_dim: int, num_heads: int, blocks: int) -> Figures:
    network = build_network(
        argparse.Namespace(
            dim=dim,
            ffn_dim=ffn_dim,
            num_heads=num_heads,
            num_layers=blocks,
            dtype="bfloat16" if on_gpu() else "float32",
            bits=None,
        )
    )
    t, h, w = scale.grid
    latents = mx.random.normal((network.config.in_dim, t, 2 * h, 2 * w))
    text = network.project_text(mx.random.normal((60, network.config.text_dim)))

    def forward(*, is_fused: bool) -> Callable[[], mx.array]:
        def run() -> mx.array:
            enable_compile(is_fused)
            return predict_velocity(network, latents, text)

        return run

    floor = build_floor(network, t * h * w, text, mx.fast.scaled_dot_product_attention)
    works = {"floor": floor, "plain": forward(is_fused=False)}
    if on_gpu():  # a CPU would call the system's compiler
        works["fused"] = forward(is_fused=True)
    timings = alternate(works, warmups=1, repeats=scale.repeats)
    enable_compile(None)
    figures = {label: _describe_timing(timing) for label, timing in timings.items()}
    best = min(ratio(timing, timings["floor"]) for label, timing in timings.items() if label != "floor")
    return {"tokens": t * h * w, "blocks": blocks, "times_floor": best, **figures}


def _describe_timing(timing: Timing) -> Figures:
    return {"median_s": timing.median, "spread_s": timing.spread, "peak_gb": timing.peak_bytes / 1e9}


def measure_vaes(scale: Scale) -> Figures:
    """Three latents decoded and encoded by each VAE, over one call of its bare convolutions each."""
    return {
        f"Wan{generation} {half}": _time_vae(scale, generation, half)
        for generation in bench_vae.CONFIGS
        for half in ("decode", "encode")
    }


def _time_vae(scale: Scale, generation: str, half: str) -> Figures:
    side = scale.latent_side // (2 if generation == "2.2" else 1)
    options = argparse.Namespace(
        generation=generation, width=scale.vae_width, latents=3, latent_size=side, latent_width=0
    )
    work = (bench_vae.decoding if half == "decode" else bench_vae.encoding)(options)
    timings = alternate(
        {"floor": work.floor, "work": work.run}, warmups=1, repeats=max(1, scale.repeats // 2)
    )
    times = ratio(timings["work"], timings["floor"])
    return {"latents": f"3×{side}×{side}", "times_floor": times, **_describe_timing(timings["work"])}


def measure_streaming(scale: Scale) -> Figures:
    """Blocks read from the disk while others compute, with the system's cache and without."""
    (dim, ffn_dim, heads, _), *_ = scale.widths.values()
    config = TransformerConfig(dim, ffn_dim, heads, scale.streamed_blocks)
    grid = (1, *scale.grid[1:])
    with tempfile.TemporaryDirectory(prefix="on_this_mac_") as folder:
        path = Path(folder) / "model.safetensors"
        write_safetensors(path, random_tensors(target_shapes(transformer_tensors(config), WAN_RULES), "BF16"))
        ways = {"as usual": SafetensorsFile, "uncached": UncachedFile if IS_MAC else ColdFile}
        return {
            name: _describe_overlap(time_overlap(path, config, grid, scale.repeats, open_file))
            for name, open_file in ways.items()
        }


def _describe_overlap(overlap: Overlap) -> Figures:
    reading, forward = overlap.timings["reading alone"], overlap.timings["resident"]
    return {
        "hidden": overlap.hidden if reading.median >= LEAST_READING * forward.median else None,
        "gb_a_step": overlap.nbytes / 1e9,
        "gb_per_second": overlap.nbytes / reading.median / 1e9,
        **{label: _describe_timing(timing) for label, timing in overlap.timings.items()},
    }


def measure_plans(scale: Scale) -> Figures:
    """Memory that plans predict, over the most that was in use."""
    figures = {}
    for name, measure in _plan_cases(scale):
        predicted, measured = measure()
        figures[name] = {
            "predicted_gb": predicted / 1e9,
            "measured_gb": measured / 1e9,
            "ratio": predicted / measured,
        }
        mx.clear_cache()
    return figures


def _plan_cases(scale: Scale) -> Iterator[tuple[str, Callable[[], tuple[int, int]]]]:
    if scale.sizes == "full":
        for bits in (None, 4):
            case = {"bits": bits, "grid": [3, 30, 52], "layers": 3}
            yield f"1.3B widths, {bits or 16} bits", lambda case=case: bench_plan.measure_transformer(case, 2)
    side = scale.latent_side // 2
    for generation in bench_plan.VAES:
        vae = {"generation": generation, "half": "decode", "size": [side, side], "width": scale.vae_width}
        yield f"Wan{generation} VAE, decode", lambda vae=vae: bench_plan.measure_vae(vae)


PARTS: dict[str, Callable[[Scale], Figures]] = {
    "operations": measure_operations,
    "transformer": measure_transformer,
    "VAEs": measure_vaes,
    "streaming": measure_streaming,
    "plans": measure_plans,
}
