"""A video that another machine makes: what is asked for and the files that it reads, and its results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlx_video.distributed.values import pack, unpack
from mlx_video.files.whole_file import written_whole
from mlx_video.media.image import numbered_frames
from mlx_video.request import GenerateRequest, options_of
from mlx_video.request.kinds import FILE, IMAGE, PICTURES, VIDEO
from mlx_video.runs.batch.finished import result_paths

_READ = (FILE, IMAGE, PICTURES, VIDEO)


@dataclass(frozen=True, slots=True)
class SentFile:
    """A file, or one of a folder.

    Attributes:
        owner: option that names it, or number of the result.
        part: which of several that the option names.
        name: of the file; within its folder where it is one of a folder's.
        in_folder: whether the folder is meant.
    """

    owner: str
    part: int
    name: str
    in_folder: bool

    def as_json(self) -> list[Any]:
        """The description, to be sent."""
        return [self.owner, self.part, self.name, self.in_folder]


def reads_files(request: GenerateRequest) -> bool:
    """Whether a request names files that are read, adapters not among them."""
    return any(True for _ in _read_paths(request))


def pack_request(request: GenerateRequest) -> tuple[Any, list[SentFile], list[bytes]]:
    """A request as JSON, and the files that it reads.

    Raises:
        ValueError: it holds pictures in memory.
        OSError: a file cannot be read.
    """
    files, blobs = read_files((name, part, path) for name, part, path in _read_paths(request))
    return pack(replace(request, parallel="auto"), []), files, blobs


def unpack_request(
    packed: Any, files: Sequence[Any], blobs: Sequence[bytes], folder: Path
) -> tuple[GenerateRequest, GenerateRequest]:
    """The request as it was asked for, and as it is made in a folder here, with its files there."""
    asked: GenerateRequest = unpack(packed, [])
    places: dict[tuple[str, int], Path] = {}
    for (owner, part, name, in_folder), blob in zip(files, blobs, strict=True):
        own = folder / "given" / owner / str(part)
        path = own / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(blob)
        places[owner, part] = own / Path(name).parts[0] if in_folder else path
    return asked, replace(asked, **_results_in(asked, folder / "made"), **_placed(asked, places))


def read_files(paths: Iterator[tuple[str, int, Path]]) -> tuple[list[SentFile], list[bytes]]:
    """Files and folders, read: (owner, part, path) each."""
    files: list[SentFile] = []
    blobs: list[bytes] = []
    for owner, part, path in paths:
        inside = [each for each in sorted(path.rglob("*")) if each.is_file()] if path.is_dir() else [path]
        for each in inside:
            name = str(each.relative_to(path.parent))
            files.append(SentFile(owner, part, name, path.is_dir()))
            blobs.append(each.read_bytes())
    return files, blobs


def read_results(made: GenerateRequest) -> tuple[list[SentFile], list[bytes]]:
    """The results of a request that was made."""
    return read_files((str(number), 0, path) for number, path in enumerate(result_paths(made)))


def write_results(asked: GenerateRequest, files: Sequence[Any], blobs: Sequence[bytes]) -> Iterator[Path]:
    """Write results where they were asked for; gives each name once it is complete.

    Raises:
        MediaError: one cannot be written.
    """
    paths = result_paths(asked)
    for number, path in enumerate(paths):
        own = [
            (name, blob)
            for (owner, _, name, _), blob in zip(files, blobs, strict=True)
            if owner == str(number)
        ]
        for name, blob in own:
            place = path.parent / path.name / Path(*Path(name).parts[1:])
            with written_whole(place) as temporary:
                temporary.write_bytes(blob)
        _drop_frames_behind(path, len(own))
        yield path


def _drop_frames_behind(path: Path, count: int) -> None:
    """Remove frames of an earlier, longer video from a folder of frames."""
    if path.is_dir():
        for index, frame in numbered_frames(path):
            if index >= count:
                with suppress(OSError):
                    frame.unlink()


def _read_paths(request: GenerateRequest) -> Iterator[tuple[str, int, Path]]:
    for name, declared in options_of(GenerateRequest).items():
        value = getattr(request, name)
        if declared.kind in _READ:
            for part, path in enumerate(value if isinstance(value, tuple) else (value,)):
                if isinstance(path, Path) and path.exists():
                    yield name, part, path


def _placed(asked: GenerateRequest, places: Mapping[tuple[str, int], Path]) -> dict[str, Any]:
    """Options that name files, with the places of these here."""
    found: dict[str, Any] = {}
    for owner in {owner for owner, _ in places}:
        value = getattr(asked, owner)
        if isinstance(value, tuple):
            found[owner] = tuple(places.get((owner, part), path) for part, path in enumerate(value))
        else:
            found[owner] = places[owner, 0]
    return found


def _results_in(asked: GenerateRequest, folder: Path) -> dict[str, Any]:
    """Options of results, in a folder here; nothing is shown or kept."""
    names = {
        name: folder / name / getattr(asked, name).name
        for name in ("output_path", "save_frames", "save_latents", "profile")
        if getattr(asked, name) is not None
    }
    return {**names, "preview": None, "resume": False, "keep_state": False, "checkpoint_every": 0}
