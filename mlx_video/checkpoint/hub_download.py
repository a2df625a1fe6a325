"""Files from the Hub into the cache of huggingface_hub; a large one goes on where an earlier run ended."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from io import FileIO
from pathlib import Path
from typing import Any

_WORKERS = 4
_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of a repository at one commit.

    Attributes:
        name: with its folders, by slashes.
        nbytes: its size.
        sha256: of its content, where it is one of the large files; None for the small ones, in git itself.
    """

    name: str
    nbytes: int
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A repository at one commit, and where its files lie in the cache.

    Attributes:
        repository: owner/name.
        commit: forty hexadecimal digits.
        storage: the repository's folder in the cache.
    """

    repository: str
    commit: str
    storage: Path

    @property
    def folder(self) -> Path:
        """The files under their own names, each a link to its content."""
        return self.storage / "snapshots" / self.commit

    def has(self, file: HubFile) -> bool:
        """Whether a file is complete in the cache."""
        return (self.folder / file.name).is_file()

    def partial(self, file: HubFile) -> Path:
        """Where the content of a large file grows; older versions of huggingface_hub use the same name."""
        return self.storage / "blobs" / f"{file.sha256}.incomplete"

    def bytes_here(self, file: HubFile) -> int:
        """Bytes of a file that are in the cache."""
        with suppress(OSError):
            if self.has(file) or (file.sha256 and (self.storage / "blobs" / file.sha256).is_file()):
                return file.nbytes
            return min(self.partial(file).stat().st_size, file.nbytes)
        return 0


def download_files(snapshot: Snapshot, files: Sequence[HubFile]) -> Iterator[int]:
    """Fetch files into the cache, several at a time.

    When the iteration ends early the connections are closed; what has come so far stays.

    Args:
        snapshot: the repository at the commit that the files are of.
        files: those that are not in the cache.

    Yields:
        Bytes of all files that are in the cache, from time to time.

    Raises:
        Exception: whatever huggingface_hub raises where a download fails.
    """
    stopped = threading.Event()
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="download") as pool:
        # Small ones first: they tell early whether the repository may be read at all.
        ordered = sorted(files, key=lambda file: (file.sha256 is not None, file.nbytes))
        futures = [pool.submit(_download, snapshot, file, stopped) for file in ordered]
        try:
            yield from _watch(snapshot, files, futures)
        finally:
            stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)


def _watch(snapshot: Snapshot, files: Sequence[HubFile], futures: Sequence[Future[None]]) -> Iterator[int]:
    waiting: set[Future[None]] = set(futures)
    while waiting:
        done, waiting = wait(waiting, timeout=_POLL_SECONDS, return_when=FIRST_EXCEPTION)
        for future in done:
            future.result()
        yield sum(snapshot.bytes_here(file) for file in files)


def _download(snapshot: Snapshot, file: HubFile, stopped: threading.Event) -> None:
    if stopped.is_set():
        return
    if file.sha256 is not None and _is_plain_download(file):
        _fetch_content(snapshot, file, stopped)
    link_file(snapshot, file.name)


def _is_plain_download(file: HubFile) -> bool:
    """Whether one connection may carry the file; the Hub refuses that for the very largest."""
    from huggingface_hub.constants import MAX_HTTP_DOWNLOAD_SIZE

    return file.nbytes <= MAX_HTTP_DOWNLOAD_SIZE


def link_file(snapshot: Snapshot, name: str) -> Path:
    """Put a file into the snapshot: by a link where its content is in the cache, else by fetching it.

    Raises:
        Exception: whatever huggingface_hub raises where that fails.
    """
    from huggingface_hub import hf_hub_download

    return Path(
        hf_hub_download(snapshot.repository, name, revision=snapshot.commit, tqdm_class=_silent_bar())
    )


def _fetch_content(snapshot: Snapshot, file: HubFile, stopped: threading.Event) -> None:
    """Fetch a large file's content, from the byte on at which an earlier run ended.

    huggingface_hub itself begins such a file anew in every process.

    Source: huggingface_hub src/huggingface_hub/file_download.py, _hf_hub_download_to_cache_dir.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    partial = snapshot.partial(file)
    content = partial.with_suffix("")
    lock = snapshot.storage.parent / ".locks" / snapshot.storage.name / f"{file.sha256}.lock"
    for folder in (lock.parent, partial.parent):
        folder.mkdir(parents=True, exist_ok=True)
    with _hold(lock, stopped):
        if content.exists():
            return
        with _StoppableFile(partial, stopped, file.nbytes) as growing:
            begun = growing.tell()
            http_get(
                hf_hub_url(snapshot.repository, file.name, revision=snapshot.commit),
                growing,
                resume_size=begun,
                headers=build_hf_headers(),
                expected_size=file.nbytes,
                tqdm_class=_silent_bar(),
            )
        if begun:
            _check_content(file, partial)
        os.replace(partial, content)


@contextmanager
def _hold(lock: Path, stopped: threading.Event) -> Iterator[None]:
    """Hold a file's lock, as soon as no other process fetches it.

    Raises:
        DownloadStopped: nobody waits for the file any more.
    """
    from huggingface_hub.utils import WeakFileLock

    with ExitStack() as held:
        while not stopped.is_set():
            try:
                held.enter_context(WeakFileLock(lock, timeout=_POLL_SECONDS))
            except TimeoutError:
                continue
            yield
            return
    raise DownloadStopped


def _check_content(file: HubFile, partial: Path) -> None:
    """Refuse content whose beginning, from an earlier run, is not what it should be, as after a power cut."""
    with partial.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    if digest != file.sha256:
        partial.unlink()
        raise DamagedDownload(file.name)


class DamagedDownload(Exception):
    """A file does not have the checksum that the Hub states; what was here of it is removed."""


class DownloadStopped(Exception):
    """The run ended while a file was coming in."""


class _StoppableFile(FileIO):
    """A file that grows at its end until the run is stopped."""

    def __init__(self, path: Path, stopped: threading.Event, expected_bytes: int) -> None:
        super().__init__(path, "ab+")
        self.stopped = stopped
        if self.seek(0, os.SEEK_END) > expected_bytes:  # of no use to anyone
            self.seek(0)
            self.truncate()

    def write(self, data: Any, /) -> int:
        """Append bytes.

        Raises:
            DownloadStopped: nobody waits for them any more.
        """
        if self.stopped.is_set():
            raise DownloadStopped
        rest = memoryview(data)
        while rest:
            rest = rest[super().write(rest) :]
        return len(data)


@cache
def _silent_bar() -> type:
    """A progress bar that shows nothing: progress goes out as events."""
    from tqdm import tqdm

    class SilentBar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            options.pop("name", None)
            super().__init__(*args, **(options | {"disable": True}))

    return SilentBar
