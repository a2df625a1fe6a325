"""What the Hub says of a repository: its commit, its files and their checksums, checked before use."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mlx_video.addresses import is_plain_name
from mlx_video.errors import CheckpointError
from mlx_video.files.hub_cache import COMMIT, storage_folder

_SHA256 = re.compile(r"[0-9a-f]{64}")
_MIRROR = "Is HF_ENDPOINT a mirror? Leave it out, or set it to one that you trust."


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of a repository at one commit.

    Attributes:
        name: with its folders, by slashes; relative, and without a step upwards.
        nbytes: its size.
        checksum: hexadecimal; the cache calls the content by it.
        kind: "sha256" of the content of a large file; "git" for git's own number of a small one.
    """

    name: str
    nbytes: int
    checksum: str
    kind: Literal["sha256", "git"]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A repository at one commit, and where its files lie in the cache.

    Attributes:
        repository: owner/name.
        commit: forty hexadecimal digits.
        storage: the repository's folder in the cache.
        entries: name of a file → what the Hub says of it, unchecked.
    """

    repository: str
    commit: str
    storage: Path
    entries: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        """The files under their own names, each a link to its content."""
        return self.storage / "snapshots" / self.commit

    def file(self, name: str) -> HubFile:
        """One of the files, with its size and checksum.

        Raises:
            CheckpointError: name, size or checksum are not what they must be.
        """
        entry, where = self.entries[name], f"{self.repository}: {name!r} in the Hub's list of files"
        if not is_plain_name(name):
            raise CheckpointError(f"{where} leads out of the repository. {_MIRROR}")
        size, checksum, pattern = _read_entry(entry)
        if not (isinstance(size, int) and size >= 0):
            raise CheckpointError(f"{where} has the size {size!r}. {_MIRROR}")
        if not (isinstance(checksum, str) and pattern.fullmatch(checksum)):
            raise CheckpointError(
                f"{where} has the checksum {checksum!r}, which is none, so that the download could not be "
                f"checked. {_MIRROR}"
            )
        return HubFile(name, size, checksum, "sha256" if pattern is _SHA256 else "git")

    def content(self, file: HubFile) -> Path:
        """Where the content of a file lies."""
        return self.storage / "blobs" / file.checksum

    def partial(self, file: HubFile) -> Path:
        """Where the content of a file grows."""
        return self.storage / "blobs" / f"{file.checksum}.incomplete"


def read_snapshot(repository: str, revision: str) -> Snapshot:
    """Ask the Hub for a repository's commit and files.

    Raises:
        CheckpointError: the answer names no commit.
        Exception: whatever huggingface_hub raises where there is no answer.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.constants import HF_HUB_DOWNLOAD_TIMEOUT

    info = HfApi().model_info(
        repository, revision=revision, files_metadata=True, timeout=HF_HUB_DOWNLOAD_TIMEOUT
    )
    if not (isinstance(info.sha, str) and COMMIT.fullmatch(info.sha)):
        raise CheckpointError(
            f"{repository}: the Hub gives {info.sha!r} for the commit of {revision}, which is none. {_MIRROR}"
        )
    entries = {entry.rfilename: entry for entry in info.siblings or ()}
    return Snapshot(repository, info.sha, storage_folder(repository), entries)


def _read_entry(entry: Any) -> tuple[Any, Any, re.Pattern[str]]:
    """Size and checksum of a file, and how the checksum must look."""
    if entry.lfs:
        return entry.lfs.size, entry.lfs.sha256, _SHA256
    return entry.size, entry.blob_id, COMMIT
