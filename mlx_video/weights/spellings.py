"""One spelling for every component: the Wan original's names, whatever the files call their tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx

from mlx_video.errors import CheckpointError
from mlx_video.formats.tensor_source import TensorSource
from mlx_video.weights.names import (
    animate_names,
    audio_encoder_names,
    image_encoder_names,
    longcat_names,
    motion_names,
    text_encoder_names,
    tiny_vae_names,
    transformer_names,
    vae_names,
)
from mlx_video.weights.renamed import RenamedTensors
from mlx_video.weights.rules import Rule, drop, find_prefix
from mlx_video.weights.stored.empty_weights import looks_empty, sample_rows
from mlx_video.weights.stored.stacked import Stack, StackedTensors
from mlx_video.weights.stored.unfolded import TRANSFORMER_KERNELS, VAE_KERNELS, unfold

KEEP = (Rule("*", "*"),)
# Of three axes, the first of length one: ends of names.
_WITH_AXIS_OF_ONE = ("modulation", "emb_pos")


@dataclass(frozen=True, slots=True)
class Spelling:
    """One way to name a component's tensors.

    Attributes:
        anchors: names that only this spelling has, each once; the first one found tells the prefix.
        rules: the source → rules that lead to the original names.
        rebuild: what is left to do where more than names differ.
    """

    anchors: tuple[str, ...]
    rules: Callable[[TensorSource], Sequence[Rule]]
    rebuild: Callable[[TensorSource], TensorSource] = lambda source: source


def respell(source: TensorSource, known: Sequence[Spelling]) -> TensorSource:
    """The tensors of a component under the Wan original's names, without a prefix, in the original layout.

    Args:
        source: the component's tensors; the caller closes it.
        known: spellings of the component; the first of which an anchor is there counts.

    Raises:
        CheckpointError: two tensors would get the same name, or copies of one tensor differ.
    """
    for spelling in known:
        for anchor in spelling.anchors:
            prefix = _find_prefix(source.infos, anchor)
            if prefix is not None:
                renamed = RenamedTensors(source, spelling.rules(source), prefix=prefix)
                return spelling.rebuild(renamed)
    return source


def _find_prefix(names: Iterable[str], anchor: str) -> str | None:
    """The prefix before an anchor; None where it is absent."""
    known = set(names)
    prefix = find_prefix(known, anchor)
    return prefix if prefix + anchor in known else None


def _text_encoder_rules(source: TensorSource) -> Sequence[Rule]:
    """Of two copies of the token table one is taken: that with numbers, or either if they are equal."""
    tables = _find_token_tables(source)
    if len(tables) != len(text_encoder_names.HF_TOKEN_TABLES):
        return text_encoder_names.HF_RULES
    first, second = tables
    empty = find_empty_table(source)
    if empty is not None:
        return (drop(text_encoder_names.HF_TOKEN_TABLES[tables.index(empty)]), *text_encoder_names.HF_RULES)
    if not have_equal_rows(source, source, first, second):
        raise CheckpointError(
            f"{source.label}: {first} and {second} differ; they should be the same table of tokens. "
            "The file is damaged or not a UMT5 encoder; fetch it from a Wan-AI repository."
        )
    return (drop(text_encoder_names.HF_TOKEN_TABLES[1]), *text_encoder_names.HF_RULES)


def _find_token_tables(source: TensorSource) -> list[str]:
    tables = text_encoder_names.HF_TOKEN_TABLES
    return [name for table in tables for name in source.infos if _ends(name, table)]


def find_empty_table(source: TensorSource) -> str | None:
    """The token table that holds nothing but zeros, of two of which the other has numbers; else None."""
    tables = _find_token_tables(source)
    empty = [name for name in tables if len(tables) > 1 and looks_empty(source, name)]
    return empty[0] if len(empty) == 1 else None


def report_empty_table(source: TensorSource) -> Iterator[str]:
    """Say so where one of a text encoder's two token tables is empty, so that the other is taken.

    Args:
        source: the encoder's tensors as they are stored.
    """
    empty = find_empty_table(source)
    if empty is not None:
        (other,) = (name for name in _find_token_tables(source) if name != empty)
        yield f"{source.label}: {empty} holds nothing but zeros; {other}, the same table, is taken."


def _ends(name: str, anchor: str) -> bool:
    return name == anchor or name.endswith(f".{anchor}")


def have_equal_rows(source: TensorSource, other: TensorSource, name: str, other_name: str = "") -> bool:
    """Whether two tensors are equal, told by their sizes and by rows spread over them; reads little.

    Args:
        source: holds the one.
        other: holds the other.
        name: of the tensor in `source`.
        other_name: of the tensor in `other`, where it is not `name`.
    """
    other_name = other_name or name
    info, other_info = source.infos[name], other.infos[other_name]
    if (info.shape, info.dtype) != (other_info.shape, other_info.dtype):
        return False
    return all(
        mx.array_equal(source.read(name, rows), other.read(other_name, rows)).item()
        for rows in sample_rows(info.shape)
    )


def _stack_projections(source: TensorSource) -> TensorSource:
    """Hugging Face keeps queries, keys and values of CLIP apart, and its two tables without leading axes."""
    stacks = {"cls_embedding": Stack(("cls_embedding",), 2), "pos_embedding": Stack(("pos_embedding",), 1)}
    for name in source.infos:
        if match := re.fullmatch(r"(transformer\.\d+\.attn)\.q\.(weight|bias)", name):
            path, part = match.groups()
            stacks[f"{path}.to_qkv.{part}"] = Stack(tuple(f"{path}.{letter}.{part}" for letter in "qkv"))
    # Where a part is absent or no table, planning finds the tensor missing.
    whole = {
        name: stack
        for name, stack in stacks.items()
        if all(part in source.infos and source.infos[part].shape for part in stack.parts)
    }
    return StackedTensors(source, whole)


def _restore_axes(source: TensorSource) -> TensorSource:
    """GGUF's tools fold the first kernel, and drop a first axis of length one."""
    stacks = {
        name: Stack((name,), 1)
        for name, info in source.infos.items()
        if name.rpartition(".")[2] in _WITH_AXIS_OF_ONE and len(info.shape) == 2
    }
    unfolded = unfold(source, TRANSFORMER_KERNELS)
    stacks |= animate_names.find_stacks(source.infos)
    return StackedTensors(unfolded, stacks) if stacks else unfolded


def _unfold_vae(source: TensorSource) -> TensorSource:
    return unfold(source, VAE_KERNELS)


def _keep(*anchors: str, rebuild: Callable[[TensorSource], TensorSource] = lambda source: source) -> Spelling:
    """The original names."""
    return Spelling(anchors, lambda _: KEEP, rebuild)


# Foreign spellings first, in all of these: some names of the original one occur in them too.
def spell_transformer(extra_diffusers_rules: Sequence[Rule] = ()) -> tuple[Spelling, ...]:
    """The spellings of a transformer.

    Args:
        extra_diffusers_rules: for tensors that the plain transformer lacks.
    """
    rules = (*extra_diffusers_rules, *transformer_names.DIFFUSERS_RULES)
    return (
        Spelling(longcat_names.AUTHORS_ANCHORS, lambda _: longcat_names.AUTHORS_RULES, _restore_axes),
        Spelling(transformer_names.DIFFUSERS_ANCHORS, lambda _: rules, _restore_axes),
        _keep(transformer_names.ANCHOR, transformer_names.BIAS_ANCHOR, rebuild=_restore_axes),
    )


TEXT_ENCODER = (
    Spelling(text_encoder_names.HF_ANCHORS, _text_encoder_rules),
    Spelling(text_encoder_names.GGUF_ANCHORS, lambda _: text_encoder_names.GGUF_RULES),
    _keep(text_encoder_names.ANCHOR),
)
IMAGE_ENCODER = (
    Spelling(image_encoder_names.HF_ANCHORS, lambda _: image_encoder_names.HF_RULES, _stack_projections),
    _keep(image_encoder_names.ANCHOR),
)
AUDIO_ENCODER = (
    Spelling((audio_encoder_names.ANCHOR,), lambda _: audio_encoder_names.HF_RULES),
    _keep(audio_encoder_names.ANCHOR),
)
MOTION_CONTROLLER = (_keep(motion_names.ANCHOR),)
VAE = (
    Spelling(
        vae_names.DIFFUSERS_ANCHORS, lambda source: vae_names.diffusers_rules(source.infos), _unfold_vae
    ),
    _keep(vae_names.ANCHOR, rebuild=_unfold_vae),
)
TINY_VAE = (_keep(*tiny_vae_names.ANCHORS),)
