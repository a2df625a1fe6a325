"""How much work one call may hand to the device, and which fallbacks of faulty operations are taken.

Apple GPUs abort work that takes some seconds at a stretch, kernels index with 32 bits, and some MLX releases
give wrong numbers at sizes that videos reach. Everything here only decides where work is cut or which of two
equal ways it goes; what is computed stays the same.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from types import MappingProxyType

import mlx.core as mx

LARGEST_ARRAY = 2**31 - 1
"""Elements that 32-bit indices reach (ml-explore/mlx issues 3248, 3327, 4548)."""
TILE = 64
"""Rows per tile of the GPU kernels: chunks of whole tiles take the same kernels as the whole does."""
UNPACKED_ROWS = 4096
"""Rows from which on it may pay to unpack quantized weights first."""
WINOGRAD_SWITCH = "MLX_CONV_WINOGRAD"
"""Variable of the environment in which 0 keeps MLX from Winograd's method."""
FEWEST_QUERIES = 256
"""Shorter chunks of attention leave a GPU idle."""


@dataclass(frozen=True, slots=True)
class Chip:
    """What an Apple GPU is counted on to do.

    Attributes:
        tflops: 10¹² operations a second that products reach, of those on the data sheet.
        seconds: how long one dispatch may take. Less where the same few cores also draw the screen.
    """

    tflops: float
    seconds: float = 1.0


CHIPS: Mapping[str, Chip] = MappingProxyType(
    {
        "M1": Chip(1.4, 0.3),
        "M1 Pro": Chip(2.8),
        "M1 Max": Chip(5.5),
        "M1 Ultra": Chip(11.0),
        "M2": Chip(1.9, 0.3),
        "M2 Pro": Chip(3.6),
        "M2 Max": Chip(7.2),
        "M2 Ultra": Chip(14.4),
        "M3": Chip(2.2, 0.3),
        "M3 Pro": Chip(3.9),
        "M3 Max": Chip(8.7),
        "M3 Ultra": Chip(17.4),
        "M4": Chip(2.4, 0.3),
        "M4 Pro": Chip(4.9),
        "M4 Max": Chip(9.8),
        "M5": Chip(8.7, 0.3),
        "M5 Pro": Chip(17.4),
        "M5 Max": Chip(34.8),
    }
)
"""By name. M1 to M4: 0.53 of the float32 rate, as three public measurements agree (FastVideo and mlx-examples
on Wan, Rapid-MLX on bare products). M5: 0.6 of MLX's float16 products (ml-explore/mlx pull 3211)."""
SLOWEST_CHIP = CHIPS["M1"]

# The letter behind the generation; "g" is a base chip or a Pro, of which the base is slower.
_FAMILIES = {"g": "", "s": " Max", "d": " Ultra"}
_FIRST_GENERATION = 12  # applegpu_g13 is M1


@dataclass(frozen=True, slots=True)
class Limits:
    """What one dispatch may hold, and which fallbacks are taken.

    Attributes:
        seconds: how long one may take.
        flops_per_second: what the device is counted on to do; infinite where no dispatch is ever too long.
        chunk_elements: of an intermediate that is cut to save memory.
        quantized_rows: most rows of a quantized product. Some MLX releases return garbage from more than
            32,768 (ml-explore/mlx pulls 3631, 3922).
        block_tokens: from so many tokens on, each block is evaluated before the next is begun.
        fuses: elementwise work may run as compiled kernels.
        fused_attention: attention may run as one operation of MLX; else its scores are written out.
        quantized_matmul: quantized weights are multiplied as they are; else they are unpacked first.
        plane_convolutions: MLX convolves frames; else shifted frames are multiplied.
        winograd: it may do so by Winograd's method.
        joins_taps: temporal taps of few channels are convolved together, as many channels.
        fuses_taps: what temporal taps give is added up in one operation.
        repeats_pixels: frames are doubled and then convolved; else convolved by one kernel for each parity.
        pairs_latents: frames too small for Winograd's method are decoded two at a time.
        unpacked: packings (see :func:`packing_name`) whose weights are unpacked once for UNPACKED_ROWS rows
            and more, where that is faster than to unpack them for every tile of rows.
        kernels: names of kernels of ours that stand for operations of MLX.
        traces_gradients: only operations are taken whose gradients are finite wherever they are.
    """

    seconds: float = 1.0
    flops_per_second: float = math.inf
    chunk_elements: int = 2**28
    quantized_rows: int = 32768
    block_tokens: int = 8192
    fuses: bool = True
    fused_attention: bool = True
    quantized_matmul: bool = True
    plane_convolutions: bool = True
    winograd: bool = True
    joins_taps: bool = False
    fuses_taps: bool = False
    repeats_pixels: bool = False
    pairs_latents: bool = False
    unpacked: frozenset[str] = frozenset()
    kernels: frozenset[str] = frozenset()
    traces_gradients: bool = False

    def rows(self, *, elements: int = 0, flops: float = 0, fewest: int = TILE) -> int:
        """How many rows of work to do at a time: whole tiles, and never an array beyond LARGEST_ARRAY.

        Args:
            elements: of one row of the largest intermediate.
            flops: operations for one row.
            fewest: a chunk is not made smaller than this to save time or memory.
        """
        by_size = self.chunk_elements // max(1, elements)
        by_time = self.seconds * self.flops_per_second / flops if flops else math.inf
        wanted = max(fewest, min(by_size, by_time, LARGEST_ARRAY))
        most = max(1, LARGEST_ARRAY // max(1, elements))
        return int(min(wanted - wanted % TILE if wanted > TILE else wanted, most))


def packing_name(bits: int, group_size: int) -> str:
    """How the weights of a layer are packed, in a word."""
    return f"{bits} bits by {group_size}"


CPU_LIMITS = Limits(chunk_elements=2**25)
"""Chunks are not smaller than they need be: beside other work, every call of a threaded BLAS may wait for a
core. No dispatch to a CPU is ever too long."""

_chosen: Limits | None = None


def current_limits() -> Limits:
    """The limits in force: those of :func:`use_limits`, else the tabled ones of the default device."""
    return _chosen or device_limits(mx.default_device().type == mx.DeviceType.gpu)


@contextmanager
def use_limits(limits: Limits) -> Iterator[None]:
    """Put other limits in force for the length of a `with` block."""
    global _chosen
    before, _chosen = _chosen, limits
    try:
        with nullcontext() if limits.winograd else _winograd_off():
            yield
    finally:
        _chosen = before


@contextmanager
def _winograd_off() -> Iterator[None]:
    """Tell MLX, which asks before every convolution on a GPU; from 0.32.4 on."""
    before = os.environ.get(WINOGRAD_SWITCH)
    os.environ[WINOGRAD_SWITCH] = "0"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(WINOGRAD_SWITCH, None)
        else:
            os.environ[WINOGRAD_SWITCH] = before


def device_facts() -> dict[str, str | int]:
    """What MLX tells of the device: its name, its architecture, its memory; empty where it cannot tell."""
    try:
        return dict(mx.device_info())
    except Exception:  # whatever it is: those who ask can go on without
        return {}


@lru_cache(maxsize=2)
def device_limits(is_gpu: bool) -> Limits:
    """The limits of this machine's GPU or CPU, from the table of chips."""
    if not is_gpu:
        return CPU_LIMITS
    info = device_facts()
    chip = find_chip(str(info.get("device_name", "")), str(info.get("architecture", "")))
    return Limits(chip.seconds, chip.tflops * 1e12)


def find_chip(device_name: str, architecture: str) -> Chip:
    """The tabled chip of a device.

    Args:
        device_name: as MLX tells it, "Apple M4 Max".
        architecture: as MLX tells it, "applegpu_g16s".

    Returns:
        The chip of this name; else the slowest of its generation and family; else the slowest of all.
    """
    if chip := CHIPS.get(device_name.removeprefix("Apple ")):
        return chip
    found = re.fullmatch(r"applegpu_g(\d+)([a-z])", architecture)
    family = _FAMILIES.get(found[2]) if found else None
    if found is None or family is None:
        return SLOWEST_CHIP
    return CHIPS.get(f"M{int(found[1]) - _FIRST_GENERATION}{family}", SLOWEST_CHIP)


def with_measured_rate(limits: Limits, flops_per_second: float) -> Limits:
    """Limits that count on what attention was measured to reach; a CPU's have no limit in time to adjust."""
    if math.isinf(limits.flops_per_second):
        return limits
    return replace(limits, flops_per_second=flops_per_second)


def evaluate_if_long(tokens: mx.array) -> mx.array:
    """Give a block's result, evaluated if the sequence is long, so that no graph spans many long blocks.

    Args:
        tokens: [L, D].
    """
    if tokens.shape[0] >= current_limits().block_tokens:
        mx.eval(tokens)
    return tokens
