"""Run our Metal kernels without a GPU: their very source, compiled as C++."""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import mlx.core as mx
import numpy as np

from mlx_video.models.kernels.metal_kernel import Constants, MetalKernel

COMPILER = shutil.which("clang++") or shutil.which("g++")
HEADER = Path(__file__).with_name("metal_subset.h")
TYPES = {mx.float32: "float", mx.float16: "float16_t", mx.bfloat16: "bfloat16_t"}
CARRIERS = {mx.float32: np.float32, mx.float16: np.float16, mx.bfloat16: np.uint16}
GUARD = 64
"""Numbers before and after every array: what is read there is NaN, and must not be written."""

# Metal's attributes, and what they are in terms of the group and its thread.
ATTRIBUTES = {
    "thread_position_in_grid": "uint3{group.position * width + i, 0, 0}",
    "thread_position_in_threadgroup": "uint3{i, 0, 0}",
    "threadgroup_position_in_grid": "uint3{group.position, 0, 0}",
    "thread_index_in_simdgroup": "i % SIMD_WIDTH",
    "simdgroup_index_in_threadgroup": "i / SIMD_WIDTH",
}


def run_in_cpp(
    kernel: MetalKernel,
    arrays: Sequence[mx.array],
    *,
    constants: Constants,
    threads: int,
    group: int,
    shape: tuple[int, ...],
    dtype: mx.Dtype,
    is_backwards: bool = False,
) -> mx.array:
    """What `MetalKernel.run` gives on a GPU.

    Args:
        is_backwards: whether the last thread of a group has the first turn.
    """
    run = compiled(source_of(kernel, [(one.dtype, one.ndim) for one in arrays], constants, dtype))
    guarded = [guard(to_numpy(one)) for one in arrays]
    result = guard(np.zeros(shape, CARRIERS[dtype]))
    result[:] = poison(result.dtype)
    places = [one.ctypes.data + GUARD * one.itemsize for one in (*guarded, result)]
    run((ctypes.c_void_p * len(places))(*places), threads, min(threads, group), is_backwards)
    edges = np.concatenate([result[:GUARD], result[-GUARD:]])
    assert (edges.view(np.uint8) == np.full_like(edges, poison(result.dtype)).view(np.uint8)).all()
    return to_mlx(result[GUARD:-GUARD].reshape(shape), dtype)


def source_of(
    kernel: MetalKernel, inputs: Sequence[tuple[mx.Dtype, int]], constants: Constants, dtype: mx.Dtype
) -> str:
    """The kernel with the signature that MLX would write, and a function that runs its whole grid.

    Source of the signature: mlx mlx/backend/common/metal_kernel.cpp, write_signature.
    """
    values = [value if isinstance(value, int) else TYPES[value] for value in constants.values()]
    kinds = ["int" if isinstance(value, int) else "typename" for value in constants.values()]
    template = ", ".join(f"{kind} {name}" for kind, name in zip(kinds, constants, strict=True))
    pairs = [
        (f"const device {TYPES[kind]}{'*' if axes else '&'} {name}", f"{'' if axes else '*'}({TYPES[kind]}*)")
        for name, (kind, axes) in zip(kernel.inputs, inputs, strict=True)
    ]
    pairs.append((f"device {TYPES[dtype]}* out", f"({TYPES[dtype]}*)"))
    named = [name for name in ATTRIBUTES if name in kernel.source]
    kind_of = {name: ATTRIBUTES[name].split("{")[0] if "{" in ATTRIBUTES[name] else "uint" for name in named}
    parameters = [pair[0] for pair in pairs] + [f"{kind_of[name]} {name}" for name in named]
    given = [f"{cast}arrays[{i}]" for i, (_, cast) in enumerate(pairs)] + [ATTRIBUTES[name] for name in named]
    return f"""#include "{HEADER}"
template <{template}> void kernel_function({", ".join(parameters)}) {{
{kernel.source}
}}
using namespace shim;
static void** arrays;
static uint width;
static void start() {{
    const uint i = group.current;
    kernel_function<{", ".join(map(str, values))}>({", ".join(given)});
    group.current = i;
    finish();
}}
extern "C" void run(void** given, uint threads, uint group_size, bool is_backwards) {{
    arrays = given;
    width = group_size;
    for (uint begun = 0; begun < threads; begun += group_size) {{
        group.position = begun / group_size;
        group.size = threads - begun < group_size ? threads - begun : group_size;
        run_group(start, is_backwards);
    }}
}}
"""


@cache
def compiled(source: str) -> ctypes._CFuncPtr:
    """The `run` function of a source."""
    place = Path(mkdtemp()) / f"{hashlib.sha256(source.encode()).hexdigest()[:16]}.cpp"
    place.write_text(source)
    library = place.with_suffix(".so")
    # Metal may join a product and a sum; a C++ compiler does so only if it is let.
    options = ("-std=c++17", "-O1", "-shared", "-fPIC", "-ffp-contract=off", "-w")
    subprocess.run([COMPILER, *options, str(place), "-o", str(library)], check=True)
    run = ctypes.CDLL(str(library)).run
    run.argtypes = (ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint, ctypes.c_bool)
    run.restype = None
    shutil.rmtree(place.parent)
    return run


def to_numpy(array: mx.array) -> np.ndarray:
    """The numbers of an array; bfloat16 as its bits."""
    return np.array(array.view(mx.uint16) if array.dtype == mx.bfloat16 else array)


def to_mlx(array: np.ndarray, dtype: mx.Dtype) -> mx.array:
    """Undo :func:`to_numpy`."""
    return mx.array(array).view(mx.bfloat16) if dtype == mx.bfloat16 else mx.array(array)


def poison(dtype: np.dtype) -> float | int:
    """A NaN; its bits for bfloat16."""
    return 0x7FC1 if dtype == np.uint16 else np.nan


def guard(array: np.ndarray) -> np.ndarray:
    """The numbers in a row, among NaNs."""
    edge = np.full(GUARD, poison(array.dtype), array.dtype)
    return np.concatenate([edge, array.ravel(), edge])
