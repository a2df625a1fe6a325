"""What the Hub says of a repository: its commit, its files and their checksums, checked before use."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from mlx_video.addresses import is_plain_name
from mlx_video.errors import CheckpointError
from mlx_video.files.hub_cache import COMMIT, storage_folder
from mlx_video.hub.answers import ask_for_json

_SHA256 = re.compile(r"[0-9a-f]{64}")
_MOST_BYTES = 2**63
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
        if not (type(size) is int and 0 <= size < _MOST_BYTES):  # true is an int, too
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
    from huggingface_hub import constants

    place = f"/api/models/{repository}/revision/{quote(revision, safe='')}?blobs=true"
    info = ask_for_json(constants.ENDPOINT + place)
    commit, files = info.get("sha"), info.get("siblings") or []
    if not (isinstance(commit, str) and COMMIT.fullmatch(commit)):
        raise CheckpointError(
            f"{repository}: the Hub gives {commit!r} for the commit of {revision}, which is none. {_MIRROR}"
        )
    try:
        entries = {_name_of(entry): entry for entry in files}
    except TypeError as error:
        raise CheckpointError(f"{repository}: the Hub's list of files is none. {_MIRROR}") from error
    return Snapshot(repository, commit, storage_folder(repository), entries)


def _name_of(entry: Any) -> str:
    name = entry["rfilename"] if isinstance(entry, dict) and "rfilename" in entry else None
    if not isinstance(name, str):
        raise TypeError(f"{name!r} is no name")
    return name


def _read_entry(entry: Mapping[str, Any]) -> tuple[Any, Any, re.Pattern[str]]:
    """Size and checksum of a file, and how the checksum must look."""
    large = entry.get("lfs")
    if isinstance(large, dict):
        return large.get("size"), large.get("sha256"), _SHA256
    return entry.get("size"), entry.get("blobId"), COMMIT
