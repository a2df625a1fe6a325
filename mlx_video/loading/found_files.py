"""Weight files told by what they hold: those in a folder, or one that the user names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mlx_video.errors import CheckpointError
from mlx_video.files.unusable_paths import explain_missing, is_dangling, real_path
from mlx_video.formats.file_kind import refuse_stand_in
from mlx_video.formats.tensor_info import TensorInfo
from mlx_video.formats.tensor_source import TensorSource, open_tensors
from mlx_video.layouts.components import ENCODER_STEM, ORIGINAL_STEM, list_parts
from mlx_video.layouts.diffusers_folder import read_transformer_sizes
from mlx_video.layouts.expert_names import guess_expert_of_name
from mlx_video.layouts.folder_layout import CONFIG_FILE, SPLIT_REST, read_json_object
from mlx_video.layouts.loose_files import is_weight_file, walk_folders
from mlx_video.layouts.shards import FoundWeights, check_shards, find_weights, split_files
from mlx_video.layouts.weight_sets import SHARD
from mlx_video.weights.component_kind import (
    ComponentKind,
    find_components,
    is_other_text_encoder,
)
from mlx_video.weights.component_networks import as_original
from mlx_video.weights.stored.all_in_one import pick_component
from mlx_video.weights.stored.fix_5d_file import is_fix_5d_file, with_fix_5d_file

# Where ComfyUI looks for models, the folders that matter here; they may hold folders themselves.
TREE_FOLDERS = (
    "diffusion_models", "unet", "checkpoints", "text_encoders", "clip", "vae", "clip_vision",
    "audio_encoders",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class FoundFiles:
    """One file or the shards of one, and what they hold.

    Attributes:
        paths: all of them.
        kinds: component → how it lies there; empty for a file of another model.
        widths: component → channels of its features, as far as tensors tell.
        reads: of a transformer: component → channels of the features of it that it takes.
        is_other_text_encoder: whether its text encoder is T5 v1.1.
        config: what a config.json beside a transformer's shards says.
        first_tensor: a name for messages.
        notices: which of several copies they are.
    """

    paths: tuple[Path, ...]
    kinds: Mapping[str, ComponentKind]
    widths: Mapping[str, int] = field(default_factory=dict)
    reads: Mapping[str, int] = field(default_factory=dict)
    is_other_text_encoder: bool = False
    config: Mapping[str, Any] = field(default_factory=dict)
    first_tensor: str = ""
    notices: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What messages call it."""
        more = f" and {len(self.paths) - 1} more" if len(self.paths) > 1 else ""
        return f"{self.paths[0].name}{more}"

    @property
    def is_split(self) -> bool:
        """Whether it is a transformer that LightX2V split into its blocks."""
        return self.paths[0].name == SPLIT_REST

    @property
    def is_converted(self) -> bool:
        """Whether it is of a folder that was converted for MLX."""
        return any(kind.is_converted for kind in self.kinds.values())


@dataclass(frozen=True, slots=True)
class Scan:
    """What lies in a folder.

    Attributes:
        found: files of Wan models and adapters; those of other models are not among them.
        unreadable: why files could not be read, one sentence each.
    """

    found: tuple[FoundFiles, ...]
    unreadable: tuple[str, ...] = ()


def scan_folder(folder: Path) -> Scan:
    """Look into every weight file of a ComfyUI tree, or of a folder of loose files.

    Args:
        folder: only the folders that ComfyUI knows, and those of two experts, are entered.

    Raises:
        CheckpointError: a split transformer lacks files.
    """
    lost = sorted(path for path in folder.iterdir() if _is_entered(path) and is_dangling(path))
    found, unreadable = [], [f"{path}: {explain_missing(path, '')}" for path in lost]
    for paths in _group_files(folder):
        try:
            files = read_files(paths)
            if "transformer" in files.kinds:
                files = replace(files, config=_find_config(paths[0].parent, folder))
        except CheckpointError as error:
            unreadable.append(str(error))
            continue
        if files.kinds:
            found.append(files)
    return Scan(tuple(found), tuple(unreadable))


def find_transformers_below(folder: Path) -> tuple[FoundFiles, ...]:
    """The transformers that lie directly in the folders of a folder, as in repositories of several copies."""
    places = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    found = [files for place in places for files in _readable_files(place)]
    return tuple(files for files in found if "transformer" in files.kinds and not files.is_converted)


def _readable_files(place: Path) -> list[FoundFiles]:
    """What lies directly in a folder, without what is damaged or may not be read."""
    found: list[FoundFiles] = []
    with suppress(CheckpointError, OSError):
        groups = list(_group_direct(place))
        for paths in groups:
            with suppress(CheckpointError):
                found.append(read_files(paths))
    return found


def _find_config(place: Path, folder: Path) -> dict[str, Any]:
    """What a config.json says of a transformer: beside its file, or above the folders of two experts."""
    return _read_config(place) or (_read_config(folder) if is_expert_folder(place) else {})


def is_expert_folder(path: Path) -> bool:
    """Whether a folder is called as one of two experts."""
    return guess_expert_of_name(path.name) is not None


def _is_entered(path: Path) -> bool:
    """Whether a folder of a checkpoint's holds components; QuantStack writes VAE in capitals."""
    return path.name.lower() in TREE_FOLDERS or is_expert_folder(path)


def read_component(path: Path) -> FoundFiles:
    """Look into a file, or into the shards of a folder.

    Args:
        path: a file of any name, or a folder that holds the weights of one component alone.

    Raises:
        CheckpointError: it is absent or damaged, or the folder holds more than one component.
    """
    if not path.is_dir():
        refuse_stand_in(path)  # before other shards of what is none are asked for
        return read_files(_with_other_shards(path))
    weights = _files_of_folder(path)
    return replace(read_files(weights.paths, _read_config(path)), notices=weights.notices)


def read_files(paths: tuple[Path, ...], config: Mapping[str, Any] | None = None) -> FoundFiles:
    """Look into the headers of one file, or of shards.

    Args:
        paths: all shards. A file beside a GGUF file joins it where its converter left a tensor there.
        config: what a config.json beside them says.

    Raises:
        CheckpointError: a file is absent, damaged or of an unknown format, or a shard is absent.
    """
    check_shards(paths)
    paths = with_fix_5d_file(paths)
    with open_tensors(paths) as source:
        kinds: dict[str, ComponentKind] = {kind.component: kind for kind in find_components(source.infos)}
        widths, reads = _read_widths(source, kinds)
        return FoundFiles(
            paths=paths,
            kinds=kinds,
            widths=widths,
            reads=reads,
            is_other_text_encoder="text_encoder" in kinds and is_other_text_encoder(source.infos),
            config=config or {},
            first_tensor=next(iter(source.infos), "none"),
        )


def _read_widths(
    source: TensorSource, kinds: Mapping[str, ComponentKind]
) -> tuple[dict[str, int], dict[str, int]]:
    """The widths of the features that components have, and of those that a transformer takes."""
    widths, reads = {}, {}
    for component in kinds.keys() - {"adapter"}:
        infos = as_original(pick_component(source, component), component).infos
        for row in filter(lambda row: row.width, list_parts()):
            own, taken = _find_length(infos, row.width), _find_length(infos, row.read_by)
            if own and row.name == component:
                widths[component] = own
            if taken and component == "transformer":
                reads[row.name] = taken
    return widths, reads


def _find_length(infos: Mapping[str, TensorInfo], place: tuple[str, int] | None) -> int | None:
    """The length of a tensor's axis; None where it is absent or misshapen."""
    name, axis = place or ("", 0)
    shape = infos[name].shape if name in infos else ()
    return shape[axis] if -len(shape) <= axis < len(shape) else None


def _group_files(folder: Path) -> Iterator[tuple[Path, ...]]:
    """The weight files below a folder, shards together."""
    yield from _group_direct(folder)
    seen = {real_path(folder)}
    for tree in sorted(path for path in folder.iterdir() if path.is_dir() and _is_entered(path)):
        for place in walk_folders(tree, seen):
            yield from _group_direct(place)


def _group_direct(folder: Path) -> Iterator[tuple[Path, ...]]:
    split = split_files(folder)
    if split:
        yield split
    groups: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path not in split and is_weight_file(path):
            groups.setdefault(SHARD.sub("", path.name), []).append(path)
    yield from (tuple(paths) for paths in groups.values())


def _with_other_shards(path: Path) -> tuple[Path, ...]:
    """A file with those that its name says belong to it."""
    if not SHARD.search(path.name) or not path.is_file():
        return (path,)
    stem = SHARD.sub("", path.name)
    return tuple(p for p in sorted(path.parent.iterdir()) if SHARD.sub("", p.name) == stem and p.is_file())


def _files_of_folder(folder: Path) -> FoundWeights:
    if split := split_files(folder):
        return FoundWeights(split)
    for stem in (ORIGINAL_STEM, ENCODER_STEM):
        if any(folder.glob(f"{stem}*.safetensors")):
            return find_weights(folder, stem, component="component")
    groups = list(_group_direct(folder))
    if len(groups) > 1:
        groups = [paths for paths in groups if not is_fix_5d_file(paths[0])]
    if len(groups) != 1:
        names = ", ".join(paths[0].name for paths in groups) or "none"
        raise CheckpointError(
            f"{folder}: the weight files of one component are expected there, found {names}. Give the file."
        )
    return FoundWeights(groups[0])


def _read_config(folder: Path) -> dict[str, Any]:
    """Sizes of a transformer in the original's words; nothing where another component's file lies."""
    file = folder / CONFIG_FILE
    config = read_json_object(file) if file.is_file() else {}
    name = str(config.get("_class_name", ""))
    if "Transformer3DModel" in name:
        return read_transformer_sizes(folder)
    return config if name.endswith("WanModel") or "in_dim" in config else {}
