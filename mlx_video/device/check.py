"""Run operations on the default device, compare them with float64, look for fallbacks of faulty ones."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

import mlx.core as mx
import numpy as np

from mlx_video.device.operations import Change, Fallback, Operation, Sizes
from mlx_video.device.trials import Trial, wide
from mlx_video.models.dispatch import Limits, current_limits, use_limits
from mlx_video.models.elementwise import on_gpu

Verdict = Literal["right", "imprecise", "avoided", "wrong"]
ROUNDING: Mapping[mx.Dtype, float] = MappingProxyType({mx.float32: 1e-4, mx.float16: 5e-3, mx.bfloat16: 2e-2})
"""What roundings of a type may add up to in one operation, relative to a row of its result."""
FASTER = 1.1
"""How many times as fast another way must be to be taken: less may be chance."""
SHORT_SECONDS = 0.5
"""Calls shorter than this are timed a second time, since the first one may load and compile kernels."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one operation.

    Attributes:
        name: of the operation.
        size: it was tried at.
        error: largest, over the rows looked at, of |found - expected| / |expected| (lengths of rows).
            Infinite where something is not a number, or the operation failed.
        bound: what rounding explains.
        seconds: of one call.
        verdict: "right"; "imprecise": more than rounding, but no garbage; "wrong": garbage, or it failed;
            "avoided": likewise, but a fallback gives right results.
        note: the fallback or the faster way taken, or how the operation failed; "" if neither.
        changes: fields of Limits that take it.
        flops_per_second: of an operation whose rate counts; else None.
    """

    name: str
    size: str
    error: float
    bound: float
    seconds: float
    verdict: Verdict
    note: str = ""
    changes: Mapping[str, Change] = field(default_factory=dict)
    flops_per_second: float | None = None


@dataclass(frozen=True, slots=True)
class _Attempt:
    error: float
    seconds: float
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to compute an operation, tried.

    Attributes:
        text: what is done; "as usual" for the way that is taken without a reason for another.
        error: as in :class:`Result`.
        seconds: of one call.
        failure: how it failed; "" if it did not.
    """

    text: str
    error: float
    seconds: float
    failure: str = ""


def time_ways(operation: Operation, sizes: Sizes) -> Iterator[Way]:
    """Try an operation in every way that there is, the usual one first.

    Args:
        operation: from the table, or one like them.
        sizes: which of its sizes.
    """
    trial = operation.build(*operation.size(sizes))
    expected = trial.expected()
    usual = Fallback("as usual", {})
    for way in (usual, *operation.alternatives, *operation.fallbacks):
        with use_limits(change_limits(current_limits(), way.changes)):
            attempt = _attempt(trial, expected)
        yield Way(way.text, attempt.error, attempt.seconds, attempt.failure)


def check(operations: Iterable[Operation], sizes: Sizes) -> Iterator[Result]:
    """Try operations on the default device, one for each result taken.

    Args:
        operations: from the table, or ones like them.
        sizes: which of their sizes.
    """
    for operation in operations:
        yield check_operation(operation, sizes)
        mx.clear_cache()


def check_operation(operation: Operation, sizes: Sizes) -> Result:
    """Try one operation, and where it is wrong, its fallbacks."""
    size = operation.size(sizes)
    trial = operation.build(*size)
    expected, bound = trial.expected(), ROUNDING[trial.dtype]
    attempt = _attempt(trial, expected)
    rate = trial.flops / attempt.seconds if operation.gives_rate and math.isfinite(attempt.error) else None
    result = Result(
        operation.name, "×".join(map(str, size)), attempt.error, bound, attempt.seconds,
        _judge(attempt.error, bound, operation.wrong_above), attempt.failure, flops_per_second=rate,
    )  # fmt: skip
    if attempt.error > operation.wrong_above:
        return _find_way(operation, trial, expected, result)
    # The ways of a CPU are known: nothing is gained by timing them.
    return _find_faster(operation, trial, expected, result) if on_gpu() else result


def _judge(error: float, bound: float, wrong_above: float) -> Verdict:
    if error <= bound:
        return "right"
    return "imprecise" if error <= wrong_above else "wrong"


def _find_way(operation: Operation, trial: Trial, expected: np.ndarray, result: Result) -> Result:
    for fallback in operation.fallbacks:
        with use_limits(change_limits(current_limits(), fallback.changes)):
            attempt = _attempt(trial, expected)
        if attempt.error <= operation.wrong_above:
            rate = trial.flops / attempt.seconds if operation.gives_rate else None
            return replace(
                result, verdict="avoided", note=fallback.text, changes=fallback.changes, flops_per_second=rate
            )
    return replace(result, flops_per_second=None)


def _find_faster(operation: Operation, trial: Trial, expected: np.ndarray, result: Result) -> Result:
    """The result with the changes of the fastest alternative, if one is right and clearly faster."""
    fastest, usual = result, result.seconds
    for alternative in operation.alternatives:
        with use_limits(change_limits(current_limits(), alternative.changes)):
            attempt = _attempt(trial, expected)
        is_right = attempt.error <= max(result.error, result.bound)
        if is_right and attempt.seconds < fastest.seconds and FASTER * attempt.seconds <= usual:
            note = f"{alternative.text}: {usual / attempt.seconds:.2g} times as fast"
            fastest = replace(
                result, error=attempt.error, seconds=attempt.seconds, note=note, changes=alternative.changes
            )
    return fastest


def change_limits(limits: Limits, changes: Mapping[str, Change]) -> Limits:
    """Limits with some fields changed; a field that is a set gains the value."""
    values: dict[str, Any] = {
        name: before | {value} if isinstance(before := getattr(limits, name), frozenset) else value
        for name, value in changes.items()
    }
    return replace(limits, **values)


def _attempt(trial: Trial, expected: np.ndarray) -> _Attempt:
    started = time.perf_counter()
    try:
        found, seconds = _timed(trial.run)
        return _Attempt(relative_error(wide(found[mx.array(trial.rows)]), expected), seconds)
    except (RuntimeError, ValueError) as error:  # how MLX reports what a device refuses
        return _Attempt(math.inf, time.perf_counter() - started, f"{type(error).__name__}: {error}")


def _timed(run: Callable[[], mx.array]) -> tuple[mx.array, float]:
    """The result of a call and the seconds it took, of the shorter of two where calls are short."""
    times: list[float] = []
    while not times or (len(times) < 2 and times[0] < SHORT_SECONDS):
        started = time.perf_counter()
        found = run()
        mx.eval(found)
        times.append(time.perf_counter() - started)
    return found, min(times)


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Of the row that is furthest off: the length of the difference over the length of what it should be.

    Args:
        found, expected: [R, C], float64.

    Returns:
        Infinity where a number is missing.
    """
    if found.shape != expected.shape or not np.isfinite(found).all():
        return math.inf
    lengths = np.maximum(np.linalg.norm(expected, axis=1), np.finfo(np.float32).tiny)
    return float((np.linalg.norm(found - expected, axis=1) / lengths).max())
