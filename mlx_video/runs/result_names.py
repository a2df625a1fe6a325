"""No result takes the place of another, of a file that the run reads, or of one that no run has made."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mlx_video.errors import RequestError
from mlx_video.files.unusable_paths import real_path
from mlx_video.latents.block_file import block_path, is_block_file
from mlx_video.latents.latents_file import is_latents_file
from mlx_video.latents.run_state import find_state_path, is_state_file
from mlx_video.media.earlier_result import FOREIGN, is_replaceable, is_vacant
from mlx_video.media.image import frame_name, is_frame_name, numbered_frames
from mlx_video.media.preview_file import SUFFIXES as PREVIEW_SUFFIXES
from mlx_video.media.video import SUFFIXES
from mlx_video.request import GenerateRequest, flag_of
from mlx_video.runs.profile import is_profile
from mlx_video.runs.state.kept_segments import is_segment_file, segment_path

OUTPUTS = {
    "output_path": "video_path",
    "save_frames": "frames_path",
    "save_latents": "latents_path",
    "profile": "profile",
    "preview": "preview",
}
"""Options that name results → the request's attribute that says where each lies."""
Entry = tuple[object, str]


@dataclass(frozen=True, slots=True)
class _Result:
    """One file that a run writes or removes.

    Attributes:
        option: that it comes from.
        path: its name.
        may_replace: whether what has this name now may go.
        what: begins the message about it; "" for a file that the user named.
    """

    option: str
    path: Path
    may_replace: Callable[[Path], bool]
    what: str = ""


def check_result_names(request: GenerateRequest, num_frames: int, read: Iterable[tuple[str, Path]]) -> None:
    """Make sure that the results spoil nothing.

    Args:
        request: names the results.
        num_frames: pixel frames that are written.
        read: flags and paths of the files that the run reads.

    Raises:
        RequestError: two results have the same name, or one that of the run's state or of a file that is
            read; or a file of this name is no earlier result.
        MediaError: a video of this name cannot be looked into, since ffmpeg is missing.
    """
    _check_different(request)
    results = list(_results(request, num_frames))
    _check_not_read(results, read)
    for result in results:
        if not result.may_replace(result.path):
            raise RequestError(result.option, f"{result.path}: {result.what}{FOREIGN}")


def result_entries(request: GenerateRequest) -> Iterator[tuple[str, Path, Entry]]:
    """Files and folders that a run writes, with its state.

    Each comes behind the option that names it, and before what tells its name from others.
    """
    named = [(_option_of(request, name), getattr(request, attribute)) for name, attribute in OUTPUTS.items()]
    for option, path in (*named, ("output_path", find_state_path(request))):
        if isinstance(path, Path):
            yield option, path, _entry(path)


def _results(request: GenerateRequest, num_frames: int) -> Iterator[_Result]:
    if request.video_path:
        yield _Result("output_path", request.video_path, _may_replace_video)
    if request.output_path:
        for number in range(1, 1 if request.decode_only else request.segments):
            path = segment_path(request.output_path, number)
            what = "the run keeps a segment here, but this file "
            yield _Result("output_path", path, _may_replace_segment, what)
    if request.latents_path:
        yield _Result(_option_of(request, "save_latents"), request.latents_path, _may_replace_latents)
    if request.profile:
        yield _Result("profile", request.profile, _may_replace_profile)
    if isinstance(request.preview, Path):
        yield _Result("preview", request.preview, _may_replace_preview)
    if (state := find_state_path(request)) and not request.decode_only:
        # Going on from a state reads it, and tells better what is wrong with it.
        may_replace = _anything if request.resume else _may_replace_state
        yield _Result("output_path", state, may_replace, "the run keeps its state here, but this file ")
    if request.output_path and request.kv_cache_frames is not None:
        what = "the run keeps finished blocks here, but this file "
        yield _Result("output_path", block_path(request.output_path), _may_replace_blocks, what)
    if folder := request.frames_path:
        option = _option_of(request, "save_frames")
        for index in range(num_frames):
            yield _Result(option, folder / frame_name(index), is_replaceable)
        for index, path in numbered_frames(folder):
            if index >= num_frames:  # removed where it is of a longer earlier run, else left alone
                yield _Result(option, path, _anything)


def _option_of(request: GenerateRequest, name: str) -> str:
    """The option that a result's name comes from: its own, or that of the output that it is."""
    return "output_path" if getattr(request, name) is None else name


def _may_replace_video(path: Path) -> bool:
    is_refused_later = path.is_dir() or path.suffix.lower() not in SUFFIXES
    return is_refused_later or is_replaceable(path)


def _may_replace_preview(path: Path) -> bool:
    is_refused_later = path.is_dir() or path.suffix.lower() not in PREVIEW_SUFFIXES
    return is_refused_later or is_replaceable(path)


def _may_replace_latents(path: Path) -> bool:
    is_refused_later = path.is_dir()
    return is_refused_later or is_vacant(path) or is_latents_file(path)


def _may_replace_profile(path: Path) -> bool:
    is_refused_later = path.is_dir()
    return is_refused_later or is_vacant(path) or is_profile(path)


def _may_replace_state(path: Path) -> bool:
    return is_vacant(path) or is_state_file(path)


def _may_replace_blocks(path: Path) -> bool:
    return is_vacant(path) or is_block_file(path)


def _may_replace_segment(path: Path) -> bool:
    return is_vacant(path) or is_segment_file(path)


def _anything(path: Path) -> bool:
    return True


def _check_different(request: GenerateRequest) -> None:
    owners: dict[Entry, str] = {}
    if request.decode_only:
        owners[_entry(request.decode_only)] = "--decode-only has the same name"
    elif state := find_state_path(request):
        owners[_entry(state)] = "the run keeps its state under this name, beside --output-path"
    for name, attribute in OUTPUTS.items():
        path = getattr(request, attribute)
        if not isinstance(path, Path):
            continue
        option = _option_of(request, name)
        owner = owners.get(_entry(path)) or _describe_frame(request, path)
        if owner:
            raise RequestError(option, f"{path}: {owner}. Choose another for one of them.")
        owners[_entry(path)] = f"{flag_of(option)} has the same name"


def _describe_frame(request: GenerateRequest, path: Path) -> str:
    folder = request.frames_path
    is_in_folder = folder is not None and _entry(real_path(path).parent) == _entry(folder)
    return "--save-frames writes pictures of such names" if is_in_folder and is_frame_name(path.name) else ""


def _entry(path: Path) -> Entry:
    """What two names of one file have in common, also on disks that do not tell capitals apart."""
    final = real_path(path)
    status = _status(final.parent)
    folder = (status.st_dev, status.st_ino) if status else str(final.parent).casefold()
    return folder, unicodedata.normalize("NFC", final.name).casefold()


def _status(path: Path) -> os.stat_result | None:
    with suppress(OSError):
        return path.stat()
    return None


def _check_not_read(results: Iterable[_Result], read: Iterable[tuple[str, Path]]) -> None:
    """Refuse to write over a file that is read, whatever links lead to it."""
    sources = {(s.st_dev, s.st_ino): f"{flag} {path}" for flag, path in read if (s := _status(path))}
    for result in results:
        status = _status(result.path)
        source = sources.get((status.st_dev, status.st_ino)) if status else None
        if source:
            raise RequestError(
                result.option,
                f"{result.path}: the run reads this file ({source}). Choose another name for the result.",
            )
