"""Repositories on the Hub in place of folders: what is needed of them is downloaded, once."""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mlx_video.addresses import (
    REPOSITORY,
    AddressError,
    HubPath,
    find_page,
    is_plain_name,
    local_path,
)
from mlx_video.errors import CheckpointError, RequestError
from mlx_video.events import Event, Notice, Work
from mlx_video.files.file_bytes import describe_bytes, refuse_dangling
from mlx_video.files.hub_cache import COMMIT, NotInCacheError, find_in_cache, storage_folder
from mlx_video.files.unusable_paths import is_dangling
from mlx_video.hub.answers import UnusableAnswer, stated_wait
from mlx_video.hub.download import (
    DamagedDownload,
    bytes_here,
    download_files,
    fetch_file,
    has_file,
)
from mlx_video.hub.files import Use, choose_files
from mlx_video.hub.listing import HubFile, Snapshot, read_snapshot
from mlx_video.hub.parts import Part, choose_part
from mlx_video.layouts.folder_layout import TOKENIZER_FILES, read_json_object
from mlx_video.layouts.listing import ReadJson
from mlx_video.layouts.loose_files import is_weight_name
from mlx_video.layouts.staging import check_free_space

TOKENIZER_REPOSITORY = "google/umt5-xxl"

_SHOWN_DIGITS = 8
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)

Choose = Callable[[Collection[str], ReadJson], Sequence[str]]


def is_repository(place: Path) -> bool:
    """Whether a path is none here and looks like owner/name of a repository."""
    is_here = place.exists() or is_dangling(place)
    return REPOSITORY.fullmatch(place.as_posix()) is not None and not is_here


def find_hub_path(place: Path) -> HubPath | None:
    """What a path names on the Hub; None where it is one here.

    Args:
        place: owner/name, perhaps with the path of a file or folder in it; or the address of a page. What
            begins with a folder that exists here is a path, unless it is an address.

    Raises:
        CheckpointError: the address is of nothing that can be read.
    """
    try:
        page = find_page(place)
    except AddressError as error:
        raise CheckpointError(str(error)) from error
    owner, *rest = place.parts or ("",)
    if page is not None or not rest or Path(owner).exists() or is_dangling(place):
        return page
    repository, name = f"{owner}/{rest[0]}", "/".join(rest[1:])
    is_place = REPOSITORY.fullmatch(repository) and (not name or is_plain_name(name))
    return HubPath(repository, name) if is_place else None


def fetch_folder(place: Path, revision: str | None, use: Use, given: Collection[str] = ()) -> Work[Path]:
    """Give the folder that a user named; one that is a repository on the Hub is downloaded first.

    Args:
        place: an existing folder; or owner/name of a repository, or the address of its page; perhaps with a
            folder in it; to be converted also with a file in it.
        revision: branch, tag or commit of the repository; None for that of the address, or its main branch.
        use: "convert" for a checkpoint to be converted, "run" for a folder that is converted.
        given: components that the user has elsewhere, by the names of their options; they are left out.

    Yields:
        What is downloaded, with its progress; nothing where all is in the cache.

    Returns:
        The folder, or the repository's in the cache of huggingface_hub.

    Raises:
        CheckpointError: the repository cannot be had or holds no such model, or the disk is too full.
        RequestError: a revision is given for a folder, or another than the address names.
    """
    found = HubPath(place.as_posix()) if is_repository(place) else find_hub_path(place)
    if found is None:
        if revision is not None:
            message = f"{revision}: {place} is a path, not a repository on the Hub. Leave the option out."
            raise RequestError("revision", message)
        return _here(place)
    revision = _agree(found, revision)
    if use == "convert" and is_weight_name(found.name):
        return (yield from _fetch_part(found, revision, "component"))
    choose = partial(_choose_in_folder, found, use=use, given=given)
    folder = yield from fetch_repository(found.repository, revision, choose)
    return _existing(folder, found)


def _here(place: Path) -> Path:
    """The path of what is no place on the Hub, however it is written."""
    try:
        return local_path(place)
    except AddressError as error:
        raise CheckpointError(str(error)) from error


def _agree(place: HubPath, revision: str | None) -> str | None:
    """The one revision that an address and the option name."""
    if revision and place.revision not in (None, revision):
        raise RequestError(
            "revision", f"{revision}: the address of {place} names {place.revision}. Give one of the two."
        )
    found = revision or place.revision
    if found is not None and not is_plain_name(found):
        raise RequestError("revision", f"{found!r}: is no branch, tag or commit. Check its spelling.")
    return found


def _choose_in_folder(
    place: HubPath, names: Collection[str], read_json: ReadJson, *, use: Use, given: Collection[str]
) -> list[str]:
    """The files of a model, which lies in a repository or in a folder of it."""
    if not place.name:
        return choose_files(place.repository, names, read_json, use=use, given=given)
    folder = f"{place.name}/"
    own = [name.removeprefix(folder) for name in names if name.startswith(folder)]
    if not own:
        what = "is a file, not the folder of a model" if place.name in names else "there is no such folder"
        folders = sorted({name.partition("/")[0] for name in names if "/" in name})
        listed = f"Folders there: {', '.join(folders)}." if folders else "Leave the folder's name out."
        raise CheckpointError(f"{place}: {what}. {listed}")
    chosen = choose_files(str(place), own, lambda name: read_json(folder + name), use=use, given=given)
    return [folder + name for name in chosen]


def fetch_part(place: Path, part: Part = "component") -> Work[Path]:
    """Give the file or folder of one component or adapter; one on the Hub is downloaded first.

    Args:
        place: a path, or owner/name with the path of a file or folder in that repository behind it, or its
            address. What begins with a folder that exists here is a path.
        part: what it is; of a folder in a repository no more than that is downloaded.

    Yields:
        What is downloaded, with its progress; nothing where all is in the cache.

    Returns:
        The path itself, or that in the cache of huggingface_hub.

    Raises:
        CheckpointError: the repository cannot be had, holds no such file, or the disk is too full; or it is
            the address of something else.
        RequestError: the address names no possible revision.
    """
    found = find_hub_path(place)
    if found is None or (str(found) == place.as_posix() and not found.name and is_weight_name(place.name)):
        return _here(place)
    return (yield from _fetch_part(found, _agree(found, None), part))


def _fetch_part(place: HubPath, revision: str | None, part: Part) -> Work[Path]:
    choose = partial(choose_part, place.repository, place.name, part=part)
    folder = yield from fetch_repository(place.repository, revision, choose)
    return _existing(folder, place)


def _existing(folder: Path, place: HubPath) -> Path:
    if not (folder / place.name).exists():
        raise NotInCacheError(
            str(place), f"is not in the cache ({folder}), and the Hub cannot be reached. Go online once."
        )
    return folder / place.name


def fetch_tokenizer() -> Work[Path]:
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


def fetch_repository(repository: str, revision: str | None, choose: Choose) -> Work[Path]:
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
        snapshot = read_snapshot(repository, revision)
    except CheckpointError:
        raise
    except Exception as error:
        folder = find_in_cache(repository, revision)
        if folder is None or not _is_unreachable(error):
            raise _explain(error, repository, revision) from error
        yield from _report_cached(repository, error)
        return folder
    try:
        names = choose(snapshot.entries, lambda name: _read_json(snapshot, name))
        yield from _download(snapshot, [snapshot.file(name) for name in names], revision)
    except CheckpointError:
        raise
    except Exception as error:
        raise _explain(error, repository, revision) from error
    _remember_revision(snapshot, revision)
    return snapshot.folder


def _read_json(snapshot: Snapshot, name: str) -> dict[str, Any]:
    return read_json_object(fetch_file(snapshot, snapshot.file(name)))


def _download(snapshot: Snapshot, files: Sequence[HubFile], revision: str) -> Iterator[Event]:
    absent = [file for file in files if not has_file(snapshot, file)]
    if not absent:
        return
    total, begun = sum(f.nbytes for f in absent), sum(bytes_here(snapshot, f) for f in absent)
    check_free_space(
        snapshot.storage, total - begun, advice="Free some space, or set HF_HOME to a folder on another disk."
    )
    here = f", of which {describe_bytes(begun)} are here already" if begun else ""
    yield Notice(
        f"Downloading {len(absent)} file{'s' * (len(absent) > 1)} of {snapshot.repository} ({revision}, "
        f"{snapshot.commit[:_SHOWN_DIGITS]}), {describe_bytes(total)}{here}, into {snapshot.storage}."
    )
    yield from download_files(snapshot, absent)


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


def _response(error: Exception) -> Any:
    """The answer that an error of huggingface_hub is about; None for none."""
    return getattr(error, "response", None)


def _status(error: Exception) -> int | None:
    """The HTTP status that an error of huggingface_hub carries."""
    return getattr(_response(error), "status_code", None)


def _is_unreachable(error: Exception) -> bool:
    """Whether the Hub gave no answer, or none of its own."""
    from huggingface_hub.errors import HfHubHTTPError

    status = _status(error) or 0
    return not isinstance(error, HfHubHTTPError) or status >= 500 or status == 429


def _explain(error: Exception, repository: str, revision: str) -> Exception:
    """The error for the user; a full disk stays what it is."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    while error.__cause__ is not None and type(error).__name__ == "LocalEntryNotFoundError":
        error = error.__cause__  # type: ignore[assignment]
    if isinstance(error, OSError) and error.errno in _FULL_DISK:
        return error
    text = _describe_failure(error, repository, revision)
    if isinstance(error, OfflineModeIsEnabled):
        return NotInCacheError(repository, text)
    return CheckpointError(f"{repository}: {text}")


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
            return (
                f"{error}. Run the same command again; if that happens again, the connection changes what it "
                "carries, or a mirror that HF_ENDPOINT names."
            )
        case UnusableAnswer():
            return f"the Hub sends {error}. Is HF_ENDPOINT a mirror? Leave it out, or run the command again."
        case _ if status == 429:
            seconds = stated_wait(_response(error).headers)
            asks = f" and asks to wait {seconds:,} s" if seconds else ""
            return (
                f"the Hub has had too many requests (HTTP 429){asks}. Run the same command again later: it "
                f"goes on with what has come in. More are allowed to those who {login}."
            )
        case _ if status == 403:
            return f"the Hub refuses access (HTTP {status}). Check that your token may read it, or {login}."
    return (
        f"is not here, and downloading it from the Hub failed ({type(error).__name__}: "
        f"{_reason(error)}). Check the path or the network, and run the same command again: it goes on with "
        "what has come in."
    )
