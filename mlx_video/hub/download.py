"""Files from the Hub into its cache, each checked; a large one goes on where an earlier run ended."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from io import FileIO
from pathlib import Path
from typing import Any

from mlx_video.events import BytesChecked, BytesDownloaded
from mlx_video.hub.answers import ask, seconds_to_wait
from mlx_video.hub.listing import HubFile, Snapshot

_WORKERS = 4
_POLL_SECONDS = 0.2
_CHUNK_BYTES = 2**22
_PARTIAL_CONTENT = 206
# How often a file is asked for again without a byte coming.
_TRIES = 6
_RETRY_SECONDS = 1.0
_SHOWN_DIGITS = 8


class DamagedDownload(Exception):
    """A file is not what the Hub says it is; what was here of it is removed."""


class DownloadStopped(Exception):
    """The run ended while a file was coming in."""


def has_file(snapshot: Snapshot, file: HubFile) -> bool:
    """Whether a file is in the cache, with the size that it must have."""
    with suppress(OSError):
        return (snapshot.folder / file.name).stat().st_size == file.nbytes
    return False


def bytes_here(snapshot: Snapshot, file: HubFile) -> int:
    """Bytes of a file that are in the cache."""
    for place in (snapshot.folder / file.name, snapshot.content(file)):
        with suppress(OSError):
            if place.stat().st_size == file.nbytes:
                return file.nbytes
    with suppress(OSError):
        return min(snapshot.partial(file).stat().st_size, file.nbytes)
    return 0


def fetch_file(snapshot: Snapshot, file: HubFile) -> Path:
    """Put one small file into the cache, if it is not there, and check it.

    Raises:
        DamagedDownload: it is not what the Hub says it is.
        Exception: whatever huggingface_hub raises where a download fails.
    """
    if not has_file(snapshot, file):
        _Download(snapshot, [file]).fetch(file)
    return snapshot.folder / file.name


def download_files(snapshot: Snapshot, files: Sequence[HubFile]) -> Iterator[BytesDownloaded | BytesChecked]:
    """Fetch files into the cache, several at a time, and compare each with its checksum.

    When the iteration ends early the connections are closed; what has come so far stays.

    Args:
        snapshot: the repository at the commit that the files are of.
        files: those that are not in the cache.

    Yields:
        Bytes of all files that are in the cache, from time to time; when all are, how many are checked.

    Raises:
        DamagedDownload: a file is not what the Hub says it is.
        Exception: whatever huggingface_hub raises where a download fails.
    """
    download = _Download(snapshot, files)
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="download") as pool:
        # Small ones first: they tell early whether the repository may be read at all.
        ordered = sorted(files, key=lambda file: (file.kind == "sha256", file.nbytes))
        futures = [pool.submit(download.fetch, file) for file in ordered]
        try:
            yield from download.watch(futures)
        finally:
            download.stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)


class _Download:
    """Files that come in together, in threads that end when `stopped` is set."""

    def __init__(self, snapshot: Snapshot, files: Sequence[HubFile]) -> None:
        self.snapshot = snapshot
        self.files = files
        self.stopped = threading.Event()
        self.checked = dict.fromkeys((file.name for file in files), 0)

    def watch(self, futures: Sequence[Future[None]]) -> Iterator[BytesDownloaded | BytesChecked]:
        """Progress, until all is done or anything fails."""
        waiting: set[Future[None]] = set(futures)
        total, here = sum(file.nbytes for file in self.files), 0
        while waiting:
            done, waiting = wait(waiting, timeout=_POLL_SECONDS, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
            if here < total:
                # A file that just gets its final name is nowhere for a moment.
                here = max(here, sum(bytes_here(self.snapshot, file) for file in self.files))
                yield BytesDownloaded(here, total)
            else:
                yield BytesChecked(sum(self.checked.values()), total)
        yield BytesChecked(total, total)

    def fetch(self, file: HubFile) -> None:
        """Fetch one file, check it, and put it into the snapshot.

        Raises:
            DamagedDownload: it is not what the Hub says it is.
            DownloadStopped: nobody waits for it any more.
        """
        content = self.snapshot.content(file)
        if not _is_plain_download(file):
            self._receive_huge(file)
        with self._hold_lock(file):
            self._remove_damaged(file)
            if not content.exists():
                self._receive(file)
                self._check(file, self.snapshot.partial(file))
                os.replace(self.snapshot.partial(file), content)
            self._link(file)
        self.checked[file.name] = file.nbytes

    @contextmanager
    def _hold_lock(self, file: HubFile) -> Iterator[None]:
        """Hold a file's lock, that of huggingface_hub, as soon as no other process fetches the file."""
        from huggingface_hub.utils import WeakFileLock

        storage = self.snapshot.storage
        lock = storage.parent / ".locks" / storage.name / f"{file.checksum}.lock"
        for folder in (lock.parent, self.snapshot.content(file).parent):
            folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as held:
            while not self.stopped.is_set():
                try:
                    held.enter_context(WeakFileLock(lock, timeout=_POLL_SECONDS))
                except TimeoutError:
                    continue
                yield
                return
        raise DownloadStopped

    def _remove_damaged(self, file: HubFile) -> None:
        """Remove what is in the cache under a file's name and has another size, from whatever program."""
        for place in (self.snapshot.folder / file.name, self.snapshot.content(file)):
            if place.is_symlink() or place.exists():
                with suppress(OSError):
                    if place.stat().st_size == file.nbytes:
                        continue
                place.unlink()

    def _receive(self, file: HubFile) -> None:
        """Fetch a file's content, from the byte on at which an earlier run ended.

        huggingface_hub itself begins such a file anew in every process, and cannot be stopped within one.
        """
        partial, tries = self.snapshot.partial(file), _TRIES
        with _StoppableFile(partial, self.stopped, file) as growing:
            while (begun := growing.tell()) < file.nbytes:
                try:
                    self._request(file, growing)
                    break
                except Exception as error:
                    tries = _TRIES if growing.tell() > begun else tries - 1
                    seconds = seconds_to_wait(error, _RETRY_SECONDS) if tries else None
                    if seconds is None:
                        raise
                if self.stopped.wait(seconds):
                    raise DownloadStopped
            if growing.tell() != file.nbytes:
                raise _remove(file, partial, f"{growing.tell()} bytes, {file.nbytes} stated")
            os.fsync(growing.fileno())  # or a power cut could leave zeros under the final name

    def _request(self, file: HubFile, growing: _StoppableFile) -> None:
        """Append to a file what it still lacks, as far as the connection holds."""
        from huggingface_hub import hf_hub_url

        url = hf_hub_url(self.snapshot.repository, file.name, revision=self.snapshot.commit)
        with ask(url, {"Range": f"bytes={growing.tell()}-"} if growing.tell() else None) as response:
            if response.status_code != _PARTIAL_CONTENT:
                growing.begin_anew()
            # Chunks as they come: a stop is noticed at each, and what came before it stays.
            for chunk in response.iter_bytes():
                growing.write(chunk)

    def _receive_huge(self, file: HubFile) -> None:
        """Fetch a file that is too large for one connection, by the other way that huggingface_hub has.

        It takes the file's lock itself.
        """
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

        snapshot = self.snapshot
        if bytes_here(snapshot, file) == file.nbytes:
            return
        found = get_hf_file_metadata(hf_hub_url(snapshot.repository, file.name, revision=snapshot.commit))
        # It takes names of files from these.
        if (found.etag, found.commit_hash) != (file.checksum, snapshot.commit):
            raise DamagedDownload(
                f"{file.name} is {found.etag} of {found.commit_hash} by its address, but {file.checksum} of "
                f"{snapshot.commit} by the list of files; it was not fetched"
            )
        hf_hub_download(snapshot.repository, file.name, revision=snapshot.commit, tqdm_class=_silent_bar())
        content = snapshot.content(file)
        os.replace(content if content.exists() else snapshot.folder / file.name, snapshot.partial(file))

    def _check(self, file: HubFile, path: Path) -> None:
        """Compare content with its checksum."""
        digest = _begin_digest(file)
        with path.open("rb") as content:
            while chunk := content.read(_CHUNK_BYTES):
                if self.stopped.is_set():
                    raise DownloadStopped
                digest.update(chunk)
                self.checked[file.name] += len(chunk)
        found = digest.hexdigest()
        if found != file.checksum:
            name = "sha256" if file.kind == "sha256" else "git checksum"
            shown = f"{name} {found[:_SHOWN_DIGITS]}..., {file.checksum[:_SHOWN_DIGITS]}... stated"
            raise _remove(file, path, shown)

    def _link(self, file: HubFile) -> None:
        """Show content under its own name in the snapshot; it moves there where there are no links."""
        from huggingface_hub import constants

        link, content = self.snapshot.folder / file.name, self.snapshot.content(file)
        link.parent.mkdir(parents=True, exist_ok=True)
        if link.exists():
            return
        if getattr(constants, "HF_HUB_DISABLE_SYMLINKS", False):
            os.replace(content, link)
            return
        try:
            link.symlink_to(os.path.relpath(content, link.parent))
        except FileExistsError:
            raise
        except OSError:  # the disk has no links, as one that Windows shares
            os.replace(content, link)


def _is_plain_download(file: HubFile) -> bool:
    """Whether one connection may carry the file; the Hub refuses that for the very largest."""
    from huggingface_hub.constants import MAX_HTTP_DOWNLOAD_SIZE

    return file.nbytes <= MAX_HTTP_DOWNLOAD_SIZE


def _begin_digest(file: HubFile) -> Any:
    """The checksum of nothing yet; git counts a header of its own."""
    if file.kind == "sha256":
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % file.nbytes, usedforsecurity=False)


def _remove(file: HubFile, path: Path, difference: str) -> DamagedDownload:
    path.unlink(missing_ok=True)
    return DamagedDownload(f"{file.name} came in damaged ({difference}) and was removed")


class _StoppableFile(FileIO):
    """A file that grows at its end until the run is stopped."""

    def __init__(self, path: Path, stopped: threading.Event, file: HubFile) -> None:
        super().__init__(path, "ab+")
        self.path, self.stopped, self.file = path, stopped, file
        if self.seek(0, os.SEEK_END) > file.nbytes:  # of no use to anyone
            self.begin_anew()

    def begin_anew(self) -> None:
        """Forget what is there."""
        self.seek(0)
        self.truncate()

    def write(self, data: Any, /) -> int:
        """Append bytes.

        Raises:
            DownloadStopped: nobody waits for them any more.
            DamagedDownload: more come than the file has.
        """
        if self.stopped.is_set():
            raise DownloadStopped
        if self.tell() + len(data) > self.file.nbytes:
            raise _remove(self.file, self.path, f"more than the {self.file.nbytes} bytes stated")
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
