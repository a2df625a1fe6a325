"""What a file or folder was found to be: for people as text, for programs as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from mlx_video.files.file_bytes import describe_bytes
from mlx_video.layouts.components import list_components

Kind = Literal["checkpoint", "converted model", "component", "adapter", "latents", "run state", "unknown"]
FORMAT = 1


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """What an adapter's names and shapes tell.

    Attributes:
        dialect: how it spells layers and pairs.
        pairs: number of low-rank pairs, of any kind.
        ranks: smallest and largest rank; None without pairs.
        alpha: where its alpha stands; "absent" if nowhere.
        made_for: which model it looks made for.
        expert: which expert it is for, where its name or its keys tell; "" if not.
        unmatched: keys that fit no transformer of the family.
        layers: how many it changes, those of two experts counted one by one.
        zero_layers: how many of these it does not change, because what it holds for them is zero.
        halves: "high_noise" and "low_noise" where it holds an adapter for each of two experts.
        remarks: what else is good to know.
    """

    dialect: str
    pairs: int
    ranks: tuple[int, int] | None
    alpha: str
    made_for: str
    expert: str
    unmatched: int
    layers: int = 0
    zero_layers: int = 0
    halves: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FilePart:
    """What one file, or one set of shards, holds of a kind.

    Attributes:
        component: the name of its row in `layouts.components`, or "adapter", "latents", "run state" or
            "unknown".
        files: below the inspected path.
        spelling: whose names the tensors have.
        model: which model it is of, as far as that is known.
        variant: the name of that model's variant; "" for other components and unknown models.
        reads: of a transformer: the components whose features it takes.
        has_tokenizer: whether it is a text encoder's file that holds the tokenizer too.
        expert: "high_noise" or "low_noise", where names tell; else "".
        tensors: how many.
        parameters: weights, whatever they are packed into.
        nbytes: of the tensors as they are stored.
        precision: type → parameters stored in it.
        storage: how they are packed or scaled; "" for plain numbers.
        notices: what else is known.
        problem: why it cannot be used; "" if nothing is wrong.
        adapter: of an adapter.
    """

    component: str
    files: tuple[str, ...]
    spelling: str = ""
    model: str = ""
    variant: str = ""
    reads: tuple[str, ...] = ()
    has_tokenizer: bool = False
    expert: str = ""
    tensors: int = 0
    parameters: int = 0
    nbytes: int = 0
    precision: Mapping[str, int] = field(default_factory=dict)
    storage: str = ""
    notices: tuple[str, ...] = ()
    problem: str = ""
    adapter: AdapterFacts | None = None


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a path was found to be.

    Attributes:
        path: as it was given.
        kind: what it is as a whole.
        layout: of a folder; of a file, its format.
        model: the title of its variant; "" where it is not known.
        variant: the variant's name.
        task: the official code's task name.
        model_version: "2.1" or "2.2".
        parts: everything found.
        tokenizer: where the tokenizer is, below the path; "" if nowhere.
        missing: what a complete one has besides, with the way to get it.
        problems: what is wrong.
        notices: what is good to know.
        command: what to do with it; "" if nothing can be done.
    """

    path: Path
    kind: Kind
    layout: str
    model: str = ""
    variant: str = ""
    task: str = ""
    model_version: str = ""
    parts: tuple[FilePart, ...] = ()
    tokenizer: str = ""
    missing: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    command: str = ""

    @property
    def parameters(self) -> int:
        """Of all parts."""
        return sum(part.parameters for part in self.parts)

    @property
    def nbytes(self) -> int:
        """Of all tensors, as they are stored."""
        return sum(part.nbytes for part in self.parts)


def inspection_to_json(inspection: Inspection) -> str:
    """Everything, for programs; keys are the attributes' names."""
    data: dict[str, Any] = {"format": FORMAT, **asdict(inspection)}
    data |= {"parameters": inspection.parameters, "nbytes": inspection.nbytes}
    return json.dumps(data, indent=2, default=str)


def inspection_to_text(inspection: Inspection) -> str:
    """Everything, for people."""
    return "\n".join(_lines(inspection))


def _lines(inspection: Inspection) -> Iterator[str]:
    yield f"{inspection.path}: {inspection.kind}, {inspection.layout}"
    if inspection.model:
        version, task = inspection.model_version, inspection.task
        yield f"  model: {inspection.model} ({inspection.variant}, version {version}, task {task})"
    for part in inspection.parts:
        yield from _part_lines(part)
    if inspection.tokenizer:
        yield f"  tokenizer: {inspection.tokenizer}"
    if len(inspection.parts) > 1:
        size = describe_bytes(inspection.nbytes)
        yield f"  in all: {describe_count(inspection.parameters)} parameters, {size}"
    shown = {part.problem for part in inspection.parts} | {
        text for p in inspection.parts for text in p.notices
    }
    for label in ("missing", "problems", "notices"):
        for text in getattr(inspection, label):
            if text not in shown:
                yield f"  {label.rstrip('s')}: {text}"
    if inspection.command:
        yield f"  use: {inspection.command}"


def _part_lines(part: FilePart) -> Iterator[str]:
    name = " ".join(filter(None, (part.component, part.expert and f"({part.expert})")))
    known = ", ".join(filter(None, (part.model, part.spelling)))
    if part.adapter:
        known = _describe_adapter(part.adapter)
    of_model = {"unknown", *(row.name for row in list_components())}
    unknown = "of no known model" if part.component in of_model else "see below"
    yield f"  {name}: {known or unknown}"
    yield f"    files: {_describe_files(part.files)}"
    if part.tensors:
        sizes = (
            "1 tensor" if part.tensors == 1 else f"{part.tensors:,} tensors",
            f"{describe_count(part.parameters)} parameters",
            describe_bytes(part.nbytes),
        )
        yield f"    {', '.join(sizes)}: {_describe_precision(part)}"
    for text in part.notices:
        yield f"    note: {text}"
    if part.problem:
        yield f"    problem: {part.problem}"


def describe_count(count: int) -> str:
    """A number of parameters for people: 14.29 billion, 507.6 million, 1,024."""
    if count >= 10**9:
        return f"{count / 1e9:.2f} billion"
    return f"{count / 1e6:.1f} million" if count >= 10**6 else f"{count:,}"


def _describe_files(files: tuple[str, ...]) -> str:
    if len(files) < 3:
        return ", ".join(files)
    return f"{files[0]} to {files[-1]} ({len(files)} files)"


def _describe_precision(part: FilePart) -> str:
    """Types by their share of the parameters, largest first."""
    ranked = sorted(part.precision.items(), key=lambda entry: -entry[1])
    total = max(part.parameters, 1)
    types = ranked[0][0] if len(ranked) == 1 else ", ".join(f"{n} {100 * c / total:.3g} %" for n, c in ranked)
    return "; ".join(filter(None, (types, part.storage)))


def _describe_adapter(adapter: AdapterFacts) -> str:
    rank = "no pairs"
    if adapter.ranks:
        low, high = adapter.ranks
        rank = f"{adapter.pairs} pairs of rank {low if low == high else f'{low} to {high}'}"
    texts = [adapter.dialect, rank, f"alpha {adapter.alpha}", f"looks made for {adapter.made_for}"]
    if adapter.unmatched:
        texts.append(f"{adapter.unmatched} keys fit no Wan transformer")
    return ", ".join(texts)
