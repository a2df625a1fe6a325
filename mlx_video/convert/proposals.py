"""Options filled in, where several files could be meant and the choice is the user's."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from pathlib import Path

from mlx_video.layouts.components import Expert, find_role, list_parts
from mlx_video.layouts.expert_names import guess_expert_of_file
from mlx_video.layouts.filled_options import list_options, name_transformers
from mlx_video.layouts.folder_layout import ORIGINAL_TOKENIZER, find_tokenizer
from mlx_video.loading.found_files import FoundFiles, find_transformers_below, scan_folder


def propose_transformers(folder: Path, candidates: Sequence[FoundFiles], wanted: Collection[Expert]) -> str:
    """Lines of options of which each would settle which transformers are meant.

    Args:
        folder: in which they lie.
        candidates: the transformers.
        wanted: the experts that the user has not given; both where none was given.
    """
    values = {name_below(folder, found.paths[0]): _name(found) for found in candidates}
    if len(wanted) == 1:
        (expert,) = wanted
        named = [place for place in values if guess_expert_of_file(Path(place)) == expert]
        return list_options(f"{find_role(expert).flag} {values[place]}" for place in named or values)
    return list_options(name_transformers(values))


def describe_transformers_below(folder: Path) -> str:
    """Say which transformers lie in the folders of a folder that has none; "" where none does."""
    below = find_transformers_below(folder)
    if not below:
        return ""
    options = dict.fromkeys(_choose_below(folder, found) for found in below)
    return f"no transformer lies here, but in its folders. Name one:{list_options(options)}"


def _choose_below(folder: Path, found: FoundFiles) -> str:
    """The options for a transformer in a folder of the checkpoint's."""
    place = found.paths[0].parent
    held = [part for part in scan_folder(place).found if not part.is_converted]
    kinds = {kind for part in held for kind in part.kinds}
    is_alone = sum("transformer" in part.kinds for part in held) == 1
    if not (is_alone and kinds >= {row.name for row in list_parts() if row.is_needed}):
        return f"--checkpoint-dir {_quote(folder)} --transformer {_name(found)}"
    tokenizer = folder / ORIGINAL_TOKENIZER
    needs_tokenizer = find_tokenizer(place) is None and find_tokenizer(folder) == tokenizer
    return f"--checkpoint-dir {_quote(place)}" + (
        f" --tokenizer {_quote(tokenizer)}" if needs_tokenizer else ""
    )


def _name(found: FoundFiles) -> str:
    """A transformer as the value of an option: its file, or the folder of one that was split."""
    return _quote(found.paths[0].parent if found.is_split else found.paths[0])


def name_below(folder: Path, path: Path) -> str:
    """File name with its folders below `folder`; the name alone where the file lies elsewhere."""
    is_below = path.is_relative_to(folder) and path != folder
    return path.relative_to(folder).as_posix() if is_below else path.name


def _quote(path: Path) -> str:
    return shlex.quote(str(path))
