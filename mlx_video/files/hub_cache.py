"""The cache of huggingface_hub: where a repository's files lie, and whose files a folder in it holds."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlx_video.errors import CheckpointError
from mlx_video.files.unusable_paths import real_path

COMMIT = re.compile(r"[0-9a-f]{40}")
_PREFIX = "models--"
_SNAPSHOTS = "snapshots"


class NotInCacheError(CheckpointError):
    """What is named on the Hub is not in the cache, and only the cache can be asked.

    Args:
        place: owner/name, perhaps with the path of a file or folder behind it.
        message: the rest of the sentence.
    """

    def __init__(self, place: str, message: str) -> None:
        super().__init__(f"{place}: {message}")
        self.place = place


def storage_folder(place: str) -> Path:
    """The folder in the cache of a repository, given as owner/name, perhaps with a path in it."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    repository = "/".join(place.split("/")[:2])
    return Path(HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model")


def find_in_cache(repository: str, revision: str) -> Path | None:
    """The folder of a repository whose download was finished; None where there is none."""
    storage = storage_folder(repository)
    reference = storage / "refs" / revision
    commit = reference.read_text().strip() if reference.is_file() else revision
    folder = storage / _SNAPSHOTS / commit
    return folder if COMMIT.fullmatch(commit) and folder.is_dir() else None


@contextmanager
def nothing_downloaded() -> Iterator[None]:
    """Take repositories from the cache alone for the length of a `with` block, as if there were no network.

    Raises:
        CheckpointError: what is needed is not in the cache.
    """
    from huggingface_hub import constants

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    except NotInCacheError as error:
        if before:
            raise
        owner, name, *file = error.place.split("/", 2)
        command = " ".join(["hf download", f"{owner}/{name}", *map(shlex.quote, file)])
        raise CheckpointError(
            f"{error.place}: is not here, nor whole in the cache of the Hub ({storage_folder(error.place)}), "
            f"and a plan downloads nothing. Check the path, or download it first: {command}"
        ) from error
    finally:
        constants.HF_HUB_OFFLINE = before


def published_name(path: Path) -> str:
    """What a model or an adapter is called: by its folder or file, in the cache by its repository.

    Args:
        path: of a folder or a file; a folder in the cache is
            models--<owner>--<name>/snapshots/<commit>.

    Returns:
        owner/name for a folder in the cache, with the folders below it; else the last part of the path.
    """
    # A file's own link is not followed: in the cache it leads to a name that is a checksum.
    place = path if path.is_file() else real_path(path)
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
