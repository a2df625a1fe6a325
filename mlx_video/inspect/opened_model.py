"""What an opened model is, for people: title, precision, sizes, defaults, files, and what is in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mlx_video.config import ModelConfig, QuantizationConfig, SamplingDefaults
from mlx_video.errors import MLXVideoError
from mlx_video.files.file_bytes import describe_bytes
from mlx_video.formats.tensor_source import open_tensors
from mlx_video.layouts.components import find_component
from mlx_video.layouts.model_folder import ModelFolder
from mlx_video.planning.choices import NETWORK_TITLES
from mlx_video.request import GenerateRequest
from mlx_video.runs.sampling.recipe_choice import choose_recipe, read_choices
from mlx_video.tables import html_lines, html_table, text_table
from mlx_video.variants.registry import find_variant

_PRECISIONS = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "U32": "quantized"}
_HEAD = ("component", "precision", "size", "file")


@dataclass(frozen=True, slots=True)
class ComponentFacts:
    """A component of an opened model.

    Attributes:
        title: for people.
        place: its file or folder.
        nbytes: on disk; None where it is not there any more.
        precision: of its numbers; "" where that is not told by one file.
    """

    title: str
    place: Path
    nbytes: int | None
    precision: str = ""

    def row(self, folder: Path) -> tuple[str, str, str, str]:
        """Cells of a table, its place as seen from the model's folder."""
        is_inside = self.place.is_relative_to(folder)
        place = str(self.place.relative_to(folder) if is_inside else self.place)
        size = "missing" if self.nbytes is None else describe_bytes(self.nbytes)
        return self.title, self.precision, size, place


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """An opened model, ready to be shown.

    Attributes:
        title: of its variant.
        folder: its own.
        components: transformers first.
        defaults: what a run takes without options.
        recipe: of these defaults.
        in_memory: title of every network in memory → bytes.
    """

    title: str
    folder: Path
    components: tuple[ComponentFacts, ...]
    defaults: SamplingDefaults
    recipe: str
    in_memory: Mapping[str, int]

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(one.nbytes or 0 for one in self.components)

    @property
    def defaults_text(self) -> str:
        """The defaults in one line."""
        made = self.defaults
        scale = ",".join(f"{scale:g}" for scale in dict.fromkeys(made.guide_scale))
        size = f"{made.width}x{made.height}, {made.num_frames} frames at {made.fps} fps"
        boundary = f", boundary {made.boundary:g}" if made.boundary else ""
        return (
            f"{size}, {made.steps} steps, guide_scale {scale}, shift {made.shift:g}{boundary}, "
            f"recipe {self.recipe}"
        )

    @property
    def memory_text(self) -> str:
        """The networks in memory in one line."""
        held = ", ".join(f"{title} ({describe_bytes(size)})" for title, size in self.in_memory.items())
        return held or "nothing yet; networks are loaded when they are first needed"

    def summary(self) -> str:
        """One line."""
        held = ", ".join(self.in_memory) or "nothing"
        return (
            f"{self.title}, {self.components[0].precision}, {describe_bytes(self.nbytes)} on disk, "
            f"{self.defaults_text}; in memory: {held}"
        )

    def __str__(self) -> str:
        """A table for a terminal."""
        rows = [_HEAD, *(one.row(self.folder) for one in self.components)]
        return "\n".join([self._headline, *self._lines(), *text_table(rows)])

    def _repr_html_(self) -> str:
        rows = (one.row(self.folder) for one in self.components)
        return f"{html_lines([self._headline, *self._lines()])}{html_table(rows, _HEAD)}"

    @property
    def _headline(self) -> str:
        return f"{self.title}: {self.folder} ({describe_bytes(self.nbytes)})"

    def _lines(self) -> Iterator[str]:
        yield f"defaults: {self.defaults_text}"
        yield f"in memory: {self.memory_text}"


def describe_opened(model: ModelFolder, config: ModelConfig, in_memory: Mapping[str, int]) -> OpenedModel:
    """Look at the headers of a model's files.

    Args:
        model: its files.
        config: what its config.json says.
        in_memory: name of a network → bytes.
    """
    variant, request = find_variant(config), GenerateRequest("")
    chosen = choose_recipe(request, read_choices(request, config), config, variant)
    return OpenedModel(
        variant.title,
        model.path,
        tuple(_find_components(model, config.quantization)),
        chosen.defaults,
        chosen.preset.name,
        {NETWORK_TITLES.get(name, name): size for name, size in in_memory.items()},
    )


def _find_components(model: ModelFolder, quantization: QuantizationConfig | None) -> Iterator[ComponentFacts]:
    for name, path in model.transformers.items():
        facts = _look_at(NETWORK_TITLES[name], path)
        if quantization:  # shapes alone do not tell 8 bits in groups of 32 from 4 in groups of 64
            words = f"{quantization.bits} bits in groups of {quantization.group_size}"
            facts = replace(facts, precision=words)
        yield facts
    for name, path in model.parts.items():
        yield _look_at(find_component(name).words, path)
    for name, path in model.second_files.items():
        yield _look_at(f"{find_component(name).words}, second file", path)
    if model.tokenizer is not None:
        yield ComponentFacts("tokenizer", model.tokenizer, _size_of(model.tokenizer))


def _look_at(title: str, path: Path) -> ComponentFacts:
    return ComponentFacts(title, path, _size_of(path), _read_precision(path))


def _size_of(path: Path) -> int | None:
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size if path.exists() else None


def _read_precision(path: Path) -> str:
    """How most numbers of a file are stored; "" for what is no weight file any more."""
    if not path.is_file():
        return ""
    try:
        with open_tensors(path) as source:
            infos = [*source.infos.values()]
    except MLXVideoError:
        return "cannot be read"
    counts: Counter[str] = Counter()
    for info in infos:
        counts[info.dtype] += info.nbytes
    dtype = counts.most_common(1)[0][0] if counts else ""
    return _PRECISIONS.get(dtype, dtype)
