"""Rules that turn foreign tensor names and layouts into ours, with every tensor accounted for."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import mlx.core as mx

from mlx_video.errors import CheckpointError
from mlx_video.formats.tensor_source import TensorInfo, TensorSource

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Transform:
    """A change of layout that keeps the first axis, so that row slices can be transformed one by one.

    Attributes:
        shape_of: source shape → target shape.
        apply: source array, or a slice of its rows → target array.
    """

    shape_of: Callable[[Shape], Shape]
    apply: Callable[[mx.array], mx.array]


def _flat_kernel_shape(shape: Shape) -> Shape:
    return (shape[0], math.prod(shape[1:]))


def _channels_last_shape(shape: Shape) -> Shape:
    return (shape[0], *shape[2:], shape[1])


IDENTITY = Transform(lambda shape: shape, lambda array: array)
# [O, I, ...] → [O, I·...]: a convolution whose stride is its kernel is a linear layer on flattened patches.
FLATTEN_KERNEL = Transform(_flat_kernel_shape, lambda array: array.reshape(_flat_kernel_shape(array.shape)))
# [O, I, ...] → [O, ..., I]: the layout of MLX convolutions.
CHANNELS_LAST = Transform(_channels_last_shape, lambda array: mx.contiguous(mx.moveaxis(array, 1, -1)))


@dataclass(frozen=True, slots=True)
class Rule:
    """One way of renaming.

    In both patterns `N` as a whole name part stands for a block index and `*` for any text; the target
    repeats them in the source's order. A target of None drops the tensor.
    """

    source: str
    target: str | None
    transform: Transform = IDENTITY


def drop(source: str) -> Rule:
    """A rule for tensors that are left out on purpose."""
    return Rule(source, None)


@dataclass(frozen=True, slots=True)
class Move:
    """One source tensor on its way into a converted file.

    Attributes:
        info: the tensor as the source stores it, with its full name there.
        target: name in the converted file.
        shape: in the converted file.
        transform: from the stored layout to the converted one.
    """

    info: TensorInfo
    target: str
    shape: Shape
    transform: Transform


def apply_rules(name: str, rules: Iterable[Rule]) -> tuple[str | None, Transform]:
    """Rename one tensor by the first rule that matches.

    Returns:
        Target name (None to drop the tensor) and transform.

    Raises:
        ValueError: no rule matches; end a table with `Rule("*", "*")`.
    """
    for rule in rules:
        if match := _pattern(rule.source).fullmatch(name):
            target = None if rule.target is None else _fill(rule.target, match.groups())
            return target, rule.transform
    raise ValueError(f"no rule matches {name}")


@cache
def _pattern(pattern: str) -> re.Pattern[str]:
    escaped = re.escape(pattern).replace(r"\*", "(.+)")
    return re.compile(re.sub(r"(?<![^.])N(?![^\\])", r"(\\d+)", escaped))


def _fill(pattern: str, texts: Sequence[str]) -> str:
    remaining = iter(texts)
    return re.sub(r"\*|(?<![^.])N(?![^.])", lambda _: next(remaining), pattern)


def find_sources(name: str, rules: Sequence[Rule]) -> tuple[str, ...]:
    """Every name that the rules turn into `name`: the renaming backwards, whatever its layouts."""
    sources = []
    for rule in rules:
        match = _pattern(rule.target).fullmatch(name) if rule.target is not None else None
        if match and apply_rules(source := _fill(rule.source, match.groups()), rules)[0] == name:
            sources.append(source)
    return tuple(sources)


def target_shapes(expected: Mapping[str, Shape], rules: Sequence[Rule]) -> dict[str, Shape]:
    """Names and shapes after conversion, for a component with the source tensors `expected`."""
    shapes: dict[str, Shape] = {}
    for name, shape in expected.items():
        target, transform = apply_rules(name, rules)
        if target is not None:
            shapes[target] = transform.shape_of(shape)
    return shapes


def find_prefix(names: Iterable[str], anchor: str) -> str:
    """What stands before the model's own names in a file, such as `model.diffusion_model.`.

    Args:
        anchor: a tensor that every model of the kind has exactly once.

    Returns:
        The prefix with its final dot; "" if there is none or the anchor is absent.
    """
    ends = [name for name in names if name == anchor or name.endswith(f".{anchor}")]
    return ends[0].removesuffix(anchor) if len(ends) == 1 else ""


def strip_prefix(infos: Mapping[str, TensorInfo], prefix: str) -> dict[str, TensorInfo]:
    """The tensors under their names without `prefix`; each info keeps its full name.

    A name that lacks the prefix is kept whole, and so meets the rules as an unknown tensor.

    Raises:
        CheckpointError: two tensors would get the same name.
    """
    stripped: dict[str, TensorInfo] = {}
    for name, info in infos.items():
        other = stripped.setdefault(name.removeprefix(prefix), info)
        if other is not info:
            raise CheckpointError(
                f"{other.name} and {name} are the same tensor of a model, with and without {prefix!r}. "
                "The file holds two models; use one that holds the Wan model alone."
            )
    return stripped


def plan_moves(
    source: TensorSource, rules: Sequence[Rule], expected: Mapping[str, Shape]
) -> tuple[Move, ...]:
    """Decide for every tensor of a source where it goes; reads no data.

    Args:
        source: the component's tensors.
        rules: source name → target name and layout; the first match counts.
        expected: every source tensor that the component must have.

    Returns:
        One move for each tensor that is kept, in the source's order.

    Raises:
        CheckpointError: a tensor is missing, unknown or misshapen; the message names it and its file.
    """
    kept = {name: info for name, info in source.infos.items() if apply_rules(name, rules)[0] is not None}
    _check_names(source, kept, expected)
    _check_shapes(source, kept, expected)
    return tuple(_move(name, info, rules) for name, info in kept.items())


def _move(name: str, info: TensorInfo, rules: Sequence[Rule]) -> Move:
    target, transform = apply_rules(name, rules)
    assert target is not None
    return Move(info, target, transform.shape_of(info.shape), transform)


def _check_names(
    source: TensorSource, infos: Mapping[str, TensorInfo], expected: Mapping[str, Shape]
) -> None:
    missing = [name for name in expected if name not in infos]
    unknown = [info for name, info in infos.items() if name not in expected]
    problems = []
    if missing:
        problems.append(f"{_count(missing)} missing, first {missing[0]} {list(expected[missing[0]])}")
    if unknown:
        first = unknown[0]
        place = source.file_of(first.name).name
        problems.append(f"{_count(unknown)} unknown, first {first.title} {list(first.shape)} in {place}")
    if not problems:
        return
    cure = (
        "It holds another model or revision, or a LoRA; use the files of one Wan checkpoint."
        if unknown
        else "Part of the checkpoint is absent; fetch it again."
    )
    raise CheckpointError(f"{source.label}: {'; '.join(problems)}. {cure}")


def _check_shapes(
    source: TensorSource, infos: Mapping[str, TensorInfo], expected: Mapping[str, Shape]
) -> None:
    for name, info in infos.items():
        if info.shape != expected[name]:
            raise CheckpointError(
                f"{source.file_of(info.name).name}: {info.title} is {list(info.shape)}, expected "
                f"{list(expected[name])} from the sizes of the rest. The file is from another model; "
                "fetch it again."
            )


def _count(names: Sequence[object]) -> str:
    return f"{len(names)} tensor{'s' if len(names) != 1 else ''}"
