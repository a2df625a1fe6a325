"""Repositories on the Hub in place of folders: what is needed of them is downloaded, once."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from functools import partial
from pathlib import Path

from mlx_video.checkpoint.file_bytes import describe_bytes, refuse_dangling
from mlx_video.checkpoint.folder_layout import TOKENIZER_FILES, read_json_object
from mlx_video.checkpoint.hub_cache import COMMIT, find_in_cache, storage_folder
from mlx_video.checkpoint.hub_download import (
    DamagedDownload,
    HubFile,
    Snapshot,
    download_files,
    link_file,
)
from mlx_video.checkpoint.hub_files import ReadJson, Use, choose_files
from mlx_video.checkpoint.hub_parts import Part, choose_part
from mlx_video.checkpoint.loose_files import is_weight_name
from mlx_video.checkpoint.staging import check_free_space
from mlx_video.errors import CheckpointError, RequestError
from mlx_video.events import BytesDownloaded, Event, Notice
from mlx_video.unusable_paths import is_dangling

TOKENIZER_REPOSITORY = "google/umt5-xxl"

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_PART = re.compile(rf"(?P<repository>{_REPOSITORY.pattern})(/(?P<name>.+))?")
_SHOWN_DIGITS = 8
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)

Choose = Callable[[Collection[str], ReadJson], Sequence[str]]


def is_repository(place: Path) -> bool:
    """Whether a path is none here and looks like owner/name of a repository."""
    is_here = place.exists() or is_dangling(place)
    return _REPOSITORY.fullmatch(place.as_posix()) is not None and not is_here


def fetch_folder(
    place: Path, revision: str | None, use: Use, given: Collection[str] = ()
) -> Generator[Event, None, Path]:
    """Give the folder that a user named; one that is a repository on the Hub is downloaded first.

    Args:
        place: an existing folder, or owner/name; to be converted also owner/name/file.
        revision: branch, tag or commit of the repository; None for its main branch.
        use: "convert" for a checkpoint to be converted, "run" for a folder that is converted.
        given: components that the user has elsewhere, by the names of their options; they are left out.

    Yields:
        What is downloaded, with its progress; nothing where all is in the cache.

    Returns:
        The folder, or the repository's in the cache of huggingface_hub.

    Raises:
        CheckpointError: the repository cannot be had or holds no such model, or the disk is too full.
        RequestError: a revision is given for a folder.
    """
    if is_repository(place):
        repository = place.as_posix()
        choose = partial(choose_files, repository, use=use, given=given)
        return (yield from fetch_repository(repository, revision, choose))
    if revision is not None:
        raise RequestError(
            "revision", f"{revision}: {place} is a path, not a repository on the Hub. Leave the option out."
        )
    if use == "convert" and is_weight_name(place.name):
        return (yield from fetch_part(place))
    return place


def fetch_part(place: Path, part: Part = "component") -> Generator[Event, None, Path]:
    """Give the file or folder of one component or adapter; one on the Hub is downloaded first.

    Args:
        place: a path, or owner/name with the path of a file or folder in that repository behind it. What
            begins with a folder that exists here is a path.
        part: what it is; of a folder in a repository no more than that is downloaded.

    Yields:
        What is downloaded, with its progress; nothing where all is in the cache.

    Returns:
        The path itself, or that in the cache of huggingface_hub.

    Raises:
        CheckpointError: the repository cannot be had, holds no such file, or the disk is too full.
    """
    found = _PART.fullmatch(place.as_posix())
    is_file_name = found is not None and found["name"] is None and is_weight_name(place.name)
    if found is None or is_file_name or Path(place.parts[0]).exists() or is_dangling(place):
        return place
    repository, name = found["repository"], found["name"] or ""
    choose = partial(choose_part, repository, name, part=part)
    folder = yield from fetch_repository(repository, None, choose)
    if not (folder / name).exists():
        raise CheckpointError(
            f"{place}: is not in the cache ({folder}), and the Hub cannot be reached. Go online once."
        )
    return folder / name


def fetch_tokenizer() -> Generator[Event, None, Path]:
    """Give the folder of UMT5's tokenizer in the cache, downloaded if need be.

    Raises:
        CheckpointError: it is not in the cache and cannot be downloaded.
    """
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(TOKENIZER_REPOSITORY, TOKENIZER_FILES[0])
    if isinstance(cached, str):
        return Path(cached).parent
    choose = partial(choose_part, TOKENIZER_REPOSITORY, "", part="tokenizer")
    return (yield from fetch_repository(TOKENIZER_REPOSITORY, None, choose))


def fetch_repository(repository: str, revision: str | None, choose: Choose) -> Generator[Event, None, Path]:
    """Download some files of a repository into the cache of huggingface_hub.

    Its environment variables hold: HF_HOME, HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE and the others.

    Args:
        repository: owner/name.
        revision: branch, tag or commit; None for the main branch.
        choose: picks the files by the names of all.

    Yields:
        What is downloaded, with its progress; nothing where all is in the cache.

    Returns:
        The folder that holds them, at one commit.

    Raises:
        CheckpointError: the repository cannot be had, or the disk is too full.
    """
    from huggingface_hub.constants import DEFAULT_REVISION

    revision = revision or DEFAULT_REVISION
    refuse_dangling(storage_folder(repository))
    try:
        snapshot, listing = _list_files(repository, revision)
    except Exception as error:
        folder = find_in_cache(repository, revision)
        if folder is None or not _is_unreachable(error):
            raise _explain(error, repository, revision) from error
        yield from _report_cached(repository, error)
        return folder
    try:
        names = choose(listing, lambda name: read_json_object(link_file(snapshot, name)))
        files = [listing[name] for name in names]
        yield from _download(snapshot, files, revision)
    except CheckpointError:
        raise
    except Exception as error:
        raise _explain(error, repository, revision) from error
    _remember_revision(snapshot, revision)
    return snapshot.folder


def _list_files(repository: str, revision: str) -> tuple[Snapshot, dict[str, HubFile]]:
    from huggingface_hub import HfApi
    from huggingface_hub.constants import HF_HUB_DOWNLOAD_TIMEOUT

    info = HfApi().model_info(
        repository, revision=revision, files_metadata=True, timeout=HF_HUB_DOWNLOAD_TIMEOUT
    )
    files = [
        HubFile(entry.rfilename, entry.size or 0, entry.lfs.sha256 if entry.lfs else None)
        for entry in info.siblings or ()
    ]
    snapshot = Snapshot(repository, str(info.sha), storage_folder(repository))
    return snapshot, {file.name: file for file in files}


def _download(snapshot: Snapshot, files: Sequence[HubFile], revision: str) -> Iterator[Event]:
    absent = [file for file in files if not snapshot.has(file)]
    if not absent:
        return
    total, begun = sum(f.nbytes for f in absent), sum(map(snapshot.bytes_here, absent))
    check_free_space(
        snapshot.storage, total - begun, advice="Free some space, or set HF_HOME to a folder on another disk."
    )
    here = f", of which {describe_bytes(begun)} are here already" if begun else ""
    yield Notice(
        f"Downloading {len(absent)} file{'s' * (len(absent) > 1)} of {snapshot.repository} ({revision}, "
        f"{snapshot.commit[:_SHOWN_DIGITS]}), {describe_bytes(total)}{here}, into {snapshot.storage}."
    )
    for done in download_files(snapshot, absent):
        yield BytesDownloaded(done, total)


def _remember_revision(snapshot: Snapshot, revision: str) -> None:
    """Note which commit a branch is at, only now: without network it stands for a finished download."""
    if COMMIT.fullmatch(revision):
        return
    reference = snapshot.storage / "refs" / revision
    if not reference.is_file() or reference.read_text() != snapshot.commit:
        reference.parent.mkdir(parents=True, exist_ok=True)
        reference.write_text(snapshot.commit)


def _report_cached(repository: str, error: Exception) -> Iterator[Event]:
    from huggingface_hub.errors import OfflineModeIsEnabled

    if not isinstance(error, OfflineModeIsEnabled):  # that is what the user wants
        yield Notice(f"{repository}: the Hub cannot be reached ({_reason(error)}); the cached copy is used.")


def _reason(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def _status(error: Exception) -> int | None:
    """The HTTP status that an error of huggingface_hub carries."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _is_unreachable(error: Exception) -> bool:
    """Whether the Hub gave no answer, or none of its own."""
    from huggingface_hub.errors import HfHubHTTPError

    return not isinstance(error, HfHubHTTPError) or (_status(error) or 0) >= 500


def _explain(error: Exception, repository: str, revision: str) -> Exception:
    """The error for the user; a full disk stays what it is."""
    while error.__cause__ is not None and type(error).__name__ == "LocalEntryNotFoundError":
        error = error.__cause__  # type: ignore[assignment]
    if isinstance(error, OSError) and error.errno in _FULL_DISK:
        return error
    return CheckpointError(f"{repository}: {_describe_failure(error, repository, revision)}")


def _describe_failure(error: Exception, repository: str, revision: str) -> str:
    from huggingface_hub import errors

    status = _status(error)
    login = "log in with `hf auth login` or set HF_TOKEN"
    match error:
        case errors.OfflineModeIsEnabled():
            return (
                "is not here, and as a repository on the Hub it is not whole in the cache "
                f"(revision {revision}, {storage_folder(repository)}) while HF_HUB_OFFLINE is set. "
                "Check the path, or go online once."
            )
        case errors.GatedRepoError():
            return f"is gated (HTTP {status}). Accept the conditions on its page on the Hub, then {login}."
        case _ if isinstance(error, errors.RepositoryNotFoundError) or status == 401:
            return (
                "is neither here nor a repository on the Hub that you may read "
                f"(HTTP {status}). Check the path, or the spelling of owner/name; "
                f"for a private repository {login} with a valid token."
            )
        case errors.RevisionNotFoundError():
            return (
                f"has no revision {revision} (HTTP {status}). Give a branch, tag or commit of it, or leave "
                "--revision out for its main branch."
            )
        case DamagedDownload():
            return f"{error} came in damaged and was removed. Run the same command again."
        case _ if status == 403:
            return f"the Hub refuses access (HTTP {status}). Check that your token may read it, or {login}."
    return (
        f"is not here, and downloading it from the Hub failed ({type(error).__name__}: "
        f"{_reason(error)}). Check the path or the network, and run the same command again: it goes on with "
        "what has come in."
    )
