"""A kernel in Metal's language, and whether this run takes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import mlx.core as mx

from mlx_video.models.dispatch import current_limits

SIMD_WIDTH = 32
"""Threads that sum up among themselves on every Apple GPU."""
ROW_THREADS = 256
"""Threads of a group that has one row."""

Constants = Mapping[str, mx.Dtype | int]


@dataclass(frozen=True, slots=True)
class MetalKernel:
    """A kernel with one result, `out`.

    Attributes:
        name: unlike any other kernel's: MLX tells compiled kernels apart by it.
        inputs: names of the arrays that it reads, as `source` has them.
        source: body of the function. MLX writes the signature: the inputs, the result, and those of Metal's
            attributes, such as `thread_position_in_grid`, whose names occur.
    """

    name: str
    inputs: tuple[str, ...]
    source: str

    @property
    def is_chosen(self) -> bool:
        """Whether it was found right and faster on this device."""
        return self.name in current_limits().kernels

    def run(
        self,
        arrays: Sequence[mx.array],
        *,
        constants: Constants,
        threads: int,
        group: int,
        shape: tuple[int, ...],
        dtype: mx.Dtype,
    ) -> mx.array:
        """Run on a GPU.

        Args:
            arrays: one for each input; those that are not contiguous are copied.
            constants: types and whole numbers that the source names; each combination is compiled once.
            threads: of the whole grid, which has one axis.
            group: threads of a group.
            shape, dtype: of the result.
        """
        (result,) = _built(self)(
            inputs=list(arrays),
            template=list(constants.items()),
            grid=(threads, 1, 1),
            threadgroup=(min(threads, group), 1, 1),
            output_shapes=[shape],
            output_dtypes=[dtype],
        )
        return result


@cache
def _built(kernel: MetalKernel) -> Callable[..., list[mx.array]]:
    """What MLX makes of a kernel, once: it is compiled at the first call of each kind."""
    build: Any = mx.fast.metal_kernel
    return build(
        name=f"mlx_video_{kernel.name}",
        input_names=list(kernel.inputs),
        output_names=["out"],
        source=kernel.source,
    )


def sum_of_row(value: str, partial: str) -> str:
    """Lines of a kernel that replace every thread's `value` by the sum over a group of ROW_THREADS.

    Args:
        value: name of a float.
        partial: a name for the sums of SIMD groups, not used before.
    """
    groups = ROW_THREADS // SIMD_WIDTH
    return f"""
    threadgroup float {partial}[{groups}];
    {value} = simd_sum({value});
    if (thread_index_in_simdgroup == 0) {{ {partial}[simdgroup_index_in_threadgroup] = {value}; }}
    threadgroup_barrier(mem_flags::mem_threadgroup);
    {value} = 0;
    for (int i = 0; i < {groups}; ++i) {{ {value} += {partial}[i]; }}
"""
