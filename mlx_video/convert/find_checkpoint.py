"""The files of the checkpoint to convert: from a folder of any layout, and from those named one by one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlx_video.convert.proposals import describe_transformers_below, name_below, propose_transformers
from mlx_video.convert.recognise_transformers import refuse_other_models
from mlx_video.errors import CheckpointError, MissingPartError, RequestError
from mlx_video.files.unusable_paths import explain_missing
from mlx_video.layouts.checkpoint_files import CheckpointFiles, PartName, SamplingHints
from mlx_video.layouts.components import (
    EXPERTS,
    VAE,
    Component,
    TransformerRole,
    find_component,
    find_role,
    list_parts,
)
from mlx_video.layouts.expert_names import find_sure_expert, guess_expert_of_file
from mlx_video.layouts.folder_layout import find_tokenizer, is_tokenizer_folder, recognise_layout
from mlx_video.layouts.open_checkpoint import open_checkpoint
from mlx_video.layouts.original_folder import check_tokenizer, has_named_transformers
from mlx_video.loading.found_files import FoundFiles, Scan, read_component, scan_folder
from mlx_video.request import ConvertRequest
from mlx_video.weights.stored.fix_5d_file import describe_fix_5d_file, is_fix_5d_file

# Layouts whose file names say nothing, so that the tensors are asked.
_NAMELESS = ("comfy", "lightx2v", "unknown")
# Layouts that a config.json or folders suffice for, so that the transformers may have any name.
_NAMED = ("original", "original_dual")
_CONVERTED = "is converted already. Give the file that it was made from."


def find_checkpoint(request: ConvertRequest) -> CheckpointFiles:
    """Find every file that a conversion reads.

    Args:
        request: a folder or file, and components that take the place of what is in it.

    Returns:
        All files but an image encoder's, which only some transformers need.

    Raises:
        CheckpointError: a component is missing, damaged, or there in several files without a pair's names.
        RequestError: a file is not what its option says, or options do not fit the folder.
    """
    chosen = {
        name: _read_option(name, path) for name, path in request.components.items() if name != "tokenizer"
    }
    base = _open_base(request, chosen)
    files = _with_options(base, chosen)
    if request.tokenizer is not None:
        files = replace(files, tokenizer=request.tokenizer)
    return replace(files, called=request.called or "")


def check_component(name: str, path: Path) -> None:
    """Refuse a component that is not what its option says, from its header alone.

    Args:
        name: of the option.
        path: its file or folder, here.

    Raises:
        CheckpointError: it is damaged.
        RequestError: it is absent, or something else.
    """
    if name == "tokenizer":
        _check_tokenizer_folder(path)
    else:
        _read_option(name, path)


def _read_option(name: str, path: Path) -> FoundFiles:
    """The file behind an option, which must hold what the option says."""
    if not path.exists():
        reason = explain_missing(path, "no such file. Check the path, or download the file.")
        raise RequestError(name, f"{path}: {reason}")
    if path.is_dir() and recognise_layout(path) == "converted":
        raise RequestError(name, f"{path}: {_CONVERTED}")
    found = read_component(path)
    component = next((row.name for row in list_parts() if row.option == name), "transformer")
    if found.is_converted:
        raise RequestError(name, f"{path}: {_CONVERTED}")
    if component in found.kinds:
        return found
    if not path.is_dir() and is_fix_5d_file(path):
        raise RequestError(name, f"{path}: {describe_fix_5d_file()}")
    if not found.kinds:
        raise RequestError(
            name,
            f"{path}: holds no part of a Wan model (first tensor {found.first_tensor}). "
            f"Give the file of the {component.replace('_', ' ')}.",
        )
    other = next(iter(found.kinds.values()))
    raise RequestError(
        name, f"{path}: holds another part ({other.title}). Give it as {_flag_of(other.component)}."
    )


def _flag_of(component: str) -> str:
    """The option that takes a component's file."""
    return "--lora" if component == "adapter" else find_component(component).flag


def _given_parts(chosen: Mapping[str, FoundFiles]) -> set[PartName]:
    """What the checkpoint's folder may lack."""
    given: set[PartName] = set()
    if "transformer" in chosen or set(EXPERTS) <= chosen.keys():
        given |= {"model", *EXPERTS}
    given |= {expert for expert in EXPERTS if expert in chosen}
    return given | {row.name for row in list_parts() if row.option in chosen}


def _open_base(request: ConvertRequest, chosen: Mapping[str, FoundFiles]) -> CheckpointFiles:
    given = _given_parts(chosen)
    path = request.checkpoint_dir
    if path is None:
        first = next(chosen[name] for name in ("transformer", *reversed(EXPERTS)) if name in chosen)
        return _choose(first.paths[0], Scan(()), given, chosen)
    if path.is_file():
        return _choose(path, Scan((_read_lone_file(path),)), given, chosen)
    layout = recognise_layout(path) if path.is_dir() else None
    if layout in _NAMELESS or (layout in _NAMED and not has_named_transformers(path, given)):
        scan = scan_folder(path)
        if "model" not in given and not scan.unreadable and not _all_of(scan, "transformer"):
            _refuse_folder_above(path)
        if layout in ("comfy", "lightx2v") or scan.found or scan.unreadable or given:
            return _choose(path, scan, given, chosen)
    files = open_checkpoint(path, given)
    _check_experts(path, files.transformers.keys() | (chosen.keys() & set(EXPERTS)))
    return files


def _refuse_folder_above(path: Path) -> None:
    below = describe_transformers_below(path)
    if below:
        raise MissingPartError(f"{path}: {below}")


def _read_lone_file(path: Path) -> FoundFiles:
    found = read_component(path)
    if is_fix_5d_file(path):
        raise CheckpointError(f"{path}: {describe_fix_5d_file()}")
    if not found.kinds:
        raise CheckpointError(
            f"{path}: holds no part of a Wan model (first tensor {found.first_tensor}). "
            "Give the folder of a checkpoint, or the file of a transformer."
        )
    if found.is_converted:
        raise CheckpointError(f"{path}: {_CONVERTED}")
    if "adapter" in found.kinds:
        raise CheckpointError(
            f"{path}: is an adapter, not a model. Convert its base model and give this file as --lora."
        )
    return found


def _choose(
    path: Path, scan: Scan, given: set[PartName], chosen: Mapping[str, FoundFiles]
) -> CheckpointFiles:
    """Decide which of the files found is which component; what lacks or could be several is an error."""
    transformers = _choose_transformers(path, _all_of(scan, "transformer"), given)
    readers = [*transformers.values(), *(found for found in chosen.values() if "transformer" in found.kinds)]
    wanted = [row for row in list_parts() if row is not VAE and _is_wanted(row, readers)]
    absent = [row for row in wanted if row.name not in given]
    encoders = {row.name: _choose_encoder(path, scan, row, readers) for row in absent}
    vaes = () if "vae" in given else _all_of(scan, "vae")
    files = CheckpointFiles(
        path=path,
        transformers={name: found.paths for name, found in transformers.items()},
        transformer_configs={name: found.config for name, found in transformers.items()},
        parts={name: found.paths for name, found in encoders.items() if found},
        vaes={str(found.paths[0]): found.paths for found in vaes},
        tokenizer=find_tokenizer(path),
    )
    _check_complete(files, scan, given, wanted)
    return replace(files, notices=_report_found(path, files))


def _is_wanted(row: Component, readers: Sequence[FoundFiles]) -> bool:
    """Whether every model has a component, these transformers read it, or it is nothing that one reads."""
    return row.is_needed or row.width is None or any(row.name in reader.reads for reader in readers)


def _all_of(scan: Scan, component: str) -> tuple[FoundFiles, ...]:
    return tuple(found for found in scan.found if component in found.kinds and not found.is_converted)


def _choose_transformers(
    path: Path, candidates: Sequence[FoundFiles], given: set[PartName]
) -> dict[str, FoundFiles]:
    if "model" in given or not candidates:
        return {}
    named = {guess_expert_of_file(found.paths[0]): found for found in candidates}
    wanted = [expert for expert in EXPERTS if expert not in given]
    if len(candidates) == 1:
        only = candidates[0]
        expert = guess_expert_of_file(only.paths[0])
        if len(wanted) == 1 and expert != wanted[0]:
            raise RequestError(
                wanted[0],
                f"is not given, and the name of {_list(path, candidates)} in {path} does not say that it is "
                "this expert. Give the file by this option.",
            )
        return {find_sure_expert(only.paths[0]) or "model": only}
    if len(candidates) <= 2 and all(expert in named for expert in wanted):
        return {expert: named[expert] for expert in wanted}
    choice = "--transformer FILE, or for a Wan2.2 A14B model with --high-noise FILE and --low-noise FILE"
    if len(wanted) == 1:
        choice = f"--{wanted[0].replace('_', '-')} FILE"
    raise CheckpointError(
        f"{path}: holds several transformers: {_list(path, candidates)}. Choose with {choice}, such as:"
        f"{propose_transformers(path, candidates, wanted)}"
    )


def _choose_encoder(
    path: Path, scan: Scan, row: Component, readers: Sequence[FoundFiles]
) -> FoundFiles | None:
    """The only file of a component, or the only one that the transformers can read."""
    candidates = _all_of(scan, row.name)
    # Where none fits, the one that is there is taken and refused for what it is.
    fitting = [found for found in candidates if _fits(found, row.name, readers)] or list(candidates)
    if len(fitting) > 1:
        raise CheckpointError(
            f"{path}: holds several {row.words}s: {_list(path, fitting)}. "
            + (f"Choose one with {row.flag} FILE." if row.flag else "Leave one.")
        )
    return fitting[0] if fitting else None


def _fits(found: FoundFiles, component: str, readers: Sequence[FoundFiles]) -> bool:
    taken = {reader.reads.get(component) for reader in readers}
    widths = (None, found.widths.get(component))
    return not found.is_other_text_encoder and all(width in widths for width in taken)


def _list(path: Path, candidates: Iterable[FoundFiles]) -> str:
    return ", ".join(name_below(path, found.paths[0]) for found in candidates)


def _check_complete(
    files: CheckpointFiles, scan: Scan, given: set[PartName], wanted: Sequence[Component]
) -> None:
    """Name all that is missing at once, with the option that would give it."""
    experts = [expert for expert in EXPERTS if expert in files.transformers or expert in given]
    needed: list[PartName] = list(EXPERTS) if experts and "model" not in files.transformers else ["model"]
    needed = [name for name in needed if name not in files.transformers]
    missing = [_name_with_option(find_role(name)) for name in needed if name not in given]
    absent = [row for row in wanted if row.name not in files.parts and row.name not in given]
    parts = [row for row in absent if row.is_needed]
    parts += [] if files.vaes or "vae" in given else [VAE]
    # Of an encoder that is not there at all, who reads images through it tells more.
    parts += [row for row in absent if row.width and not (row.is_needed or row.is_extra) and scan.unreadable]
    missing += map(_name_with_option, parts)
    if not missing:
        return
    refuse_other_models(files)
    kinds = [kind.title for found in scan.found for kind in found.kinds.values()]
    holds = f"holds {', '.join(sorted(set(kinds)))}; " if kinds else ""
    unreadable = "".join(f"\nNot readable: {text}" for text in scan.unreadable)
    raise MissingPartError(
        f"{files.path}: {holds}not found: {'; '.join(missing)}. Add the options, or the files.{unreadable}"
    )


def _name_with_option(row: Component | TransformerRole) -> str:
    title = row.words if isinstance(row, Component) else row.title
    return f"{title} ({row.flag} FILE)" if row.flag else title


def _report_found(path: Path, files: CheckpointFiles) -> tuple[str, ...]:
    """Say which file became what, since no name did."""
    parts = {**files.transformers, **files.parts}
    found = {name: name_below(path, paths[0]) for name, paths in parts.items() if paths}
    told = [f"{name if name != 'model' else 'transformer'} {file}" for name, file in found.items()]
    return (f"Found by their tensors: {', '.join(told)}.",) if told else ()


def _with_options(files: CheckpointFiles, chosen: Mapping[str, FoundFiles]) -> CheckpointFiles:
    """The checkpoint with the components that the user named in their places."""
    experts = [expert for expert in EXPERTS if expert in chosen]
    found: dict[str, FoundFiles] = {expert: chosen[expert] for expert in experts}
    if "transformer" in chosen:
        found = {"model": chosen["transformer"]}
    notices = tuple(text for part in chosen.values() for text in part.notices)
    changes: dict[str, Any] = {"notices": (*files.notices, *notices)}
    if found:
        kept = {name: paths for name, paths in files.transformers.items() if name in EXPERTS and experts}
        configs = {name: files.transformer_configs[name] for name in kept}
        transformers = kept | {name: part.paths for name, part in found.items()}
        changes["transformers"] = {n: transformers[n] for n in ("model", *EXPERTS) if n in transformers}
        # Both experts are of the same sizes, and a file alone does not state those that no tensor shows.
        usual: Mapping[str, Any] = next(iter(configs.values()), {})
        changes["transformer_configs"] = configs | {n: part.config or usual for n, part in found.items()}
        if not kept:  # then nothing that the folder says of sampling is about these transformers
            changes |= {"hints": SamplingHints(), "names_transformers": False}
    named = {row.name: chosen[row.option].paths for row in list_parts() if row.option in chosen}
    if "vae" in named:
        changes |= {"vaes": {"vae": named.pop("vae")}, "vae_config": {}}
    changes["parts"] = {**files.parts, **named}
    return replace(files, **changes)


def _check_experts(path: Path, names: Iterable[str]) -> None:
    """One expert cannot take the place of a single transformer."""
    experts = [expert for expert in EXPERTS if expert in names]
    if len(experts) == 1:
        other = next(expert for expert in EXPERTS if expert not in experts)
        raise RequestError(
            experts[0],
            f"{path} has one transformer, not two. Add --{other.replace('_', '-')}, or give the file as "
            "--transformer.",
        )


def _check_tokenizer_folder(folder: Path) -> None:
    if not folder.is_dir():
        what = "is a file, its folder is expected" if folder.exists() else "no such folder"
        reason = explain_missing(folder, f"{what}. Give the checkpoint's google/umt5-xxl.")
        raise RequestError("tokenizer", f"{folder}: {reason}")
    if not is_tokenizer_folder(folder):
        raise RequestError(
            "tokenizer", f"{folder}: holds neither tokenizer.json nor spiece.model. Give google/umt5-xxl."
        )
    check_tokenizer(folder)
