"""Weight files in folders whose layout says nothing: which files they are, and the folders they lie in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mlx_video.files.unusable_paths import is_dangling, real_path

WEIGHT_ENDINGS = (".safetensors", ".sft", ".gguf", ".pth", ".pt", ".ckpt", ".bin")


def is_weight_name(name: str) -> bool:
    """Whether a file of this name may hold weights, of whatever model."""
    return name.lower().endswith(WEIGHT_ENDINGS)


def is_weight_file(path: Path) -> bool:
    """Whether a path is a file that may hold weights, by its ending; hidden files never count.

    A dangling link counts, so that whoever opens it says what is wrong.
    """
    is_file = path.is_file() or is_dangling(path)
    return is_weight_name(path.name) and not path.name.startswith(".") and is_file


def walk_folders(folder: Path, seen: set[Path], *, depth: int | None = None) -> Iterator[Path]:
    """A folder and those below it, sorted; links are followed, and no folder comes twice.

    Args:
        folder: where to begin.
        seen: folders that count as visited, resolved; those visited are added.
        depth: how many levels, the folder itself being the first; None for all.
    """
    resolved = real_path(folder)
    if resolved in seen:
        return
    seen.add(resolved)
    yield folder
    if depth == 1:
        return
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.name.startswith("."):
            yield from walk_folders(path, seen, depth=None if depth is None else depth - 1)
