"""Results for an address: made here whole, then uploaded, and kept here where that fails."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import mlx.core as mx

from mlx_video.addresses import remote_address
from mlx_video.errors import MediaError, RequestError
from mlx_video.events import Event, FileUploaded, FileWritten, Value, Work, with_events
from mlx_video.files.cache_folder import cache_folder
from mlx_video.request import GenerateRequest
from mlx_video.runs.run import Run
from mlx_video.runs.segments import Prepare, generate_segments
from mlx_video.runs.stages.decode import FrameSink


@dataclass(frozen=True, slots=True)
class Upload:
    """Where results go that are made here first.

    Attributes:
        folder: in which they are made.
        address: of the folder that they go to.
    """

    folder: Path
    address: str

    def uploaded(self, work: Work[Value]) -> Work[Value]:
        """Let work go on, and upload every result that it writes to this folder."""
        return (yield from with_events(work, self._pass_on))

    def _pass_on(self, event: Event) -> Iterator[Event]:
        if isinstance(event, FileWritten) and event.path.parent == self.folder:
            yield FileUploaded(self._put(event.path))
        else:
            yield event

    def _put(self, path: Path) -> str:
        address = f"{self.address}/{path.name}"
        try:
            system, place = _open_system(address)
            system.put(str(path), place, recursive=path.is_dir())
        except Exception as error:  # every service has errors of its own
            raise MediaError(
                f"{address}: the upload failed ({error or type(error).__name__}). The result is kept in "
                f"{path}: copy it there by other means, or check the address and your access and run again."
            ) from error
        _remove(path)
        return address


def staged(request: GenerateRequest) -> tuple[GenerateRequest, Upload | None]:
    """A request whose results are written here, and where they go after that; None where they stay.

    The place here follows from the address alone, so that an interrupted run finds its state again.

    Raises:
        RequestError: nothing can be written to the address.
    """
    address = remote_address(request.output_path)
    if address is None:
        return request, None
    _check_address(address)
    parent, name = address.rsplit("/", 1)
    folder = cache_folder() / "uploads" / hashlib.sha256(parent.encode()).hexdigest()[:12]
    return replace(request, output_path=folder / name), Upload(folder, parent)


def make_anywhere(
    request: GenerateRequest, prepare: Prepare, extra_sinks: Sequence[FrameSink] = ()
) -> Work[tuple[Run, mx.array]]:
    """Make a video as `generate_segments` does, whose results may be for an address.

    Raises:
        MLXVideoError: as there; or the upload failed, and the message says where the result is kept.
    """
    local, upload = staged(request)
    work = generate_segments(local, prepare, extra_sinks)
    return (yield from work if upload is None else upload.uploaded(work))


def _check_address(address: str) -> None:
    name = PurePosixPath(address.split("://", 1)[1])
    if len(name.parts) < 2 or address.endswith("/"):
        raise RequestError(
            "output_path", f"{address}: names no file. Write one such as {address.rstrip('/')}/a.mp4."
        )
    try:
        _open_system(address)
    except ImportError as error:
        raise RequestError(
            "output_path",
            f"{address}: a package is missing for such addresses ({error}). Install it, or give a path here.",
        ) from error
    except Exception as error:
        raise RequestError(
            "output_path", f"{address}: cannot be opened ({error}). Check the address, or give a path here."
        ) from error


def _open_system(address: str) -> tuple[Any, str]:
    """The service of an address, and the place there."""
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise ImportError("fsspec; pip install 'mlx-video[remote]'") from error
    system, place = url_to_fs(address)
    return system, place


def _remove(path: Path) -> None:
    for each in path.iterdir() if path.is_dir() else ():
        each.unlink()
    if path.is_dir():
        path.rmdir()
    else:
        path.unlink()
