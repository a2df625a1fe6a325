"""The cache of huggingface_hub: where a repository's files lie, and whose files a folder in it holds."""

from __future__ import annotations

import re
from pathlib import Path

COMMIT = re.compile(r"[0-9a-f]{40}")
_PREFIX = "models--"
_SNAPSHOTS = "snapshots"


def storage_folder(repository: str) -> Path:
    """The repository's folder in the cache."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    return Path(HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model")


def find_in_cache(repository: str, revision: str) -> Path | None:
    """The folder of a repository whose download was finished; None where there is none."""
    storage = storage_folder(repository)
    reference = storage / "refs" / revision
    commit = reference.read_text().strip() if reference.is_file() else revision
    folder = storage / _SNAPSHOTS / commit
    return folder if COMMIT.fullmatch(commit) and folder.is_dir() else None


def published_name(path: Path) -> str:
    """What a model or an adapter is called: by its folder or file, in the cache by its repository.

    Args:
        path: of a folder or a file; a folder in the cache is
            models--<owner>--<name>/snapshots/<commit>.

    Returns:
        owner/name for a folder in the cache, with the folders below it; else the last part of the path.
    """
    # A file's own link is not followed: in the cache it leads to a name that is a checksum.
    place = path if path.is_file() else path.resolve()
    snapshot = place if path.is_file() else _snapshot_around(place)
    if snapshot.parent.name != _SNAPSHOTS:
        return place.name
    repository = snapshot.parent.parent.name.removeprefix(_PREFIX).replace("--", "/", 1)
    return (Path(repository) / place.relative_to(snapshot)).as_posix()


def _snapshot_around(folder: Path) -> Path:
    """The folder of the repository at one commit in which a folder lies, or the folder itself."""
    for place in (folder, *folder.parents):
        if place.parent.name == _SNAPSHOTS and place.parent.parent.name.startswith(_PREFIX):
            return place
    return folder
