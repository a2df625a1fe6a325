"""Where results go, checked before hours of work: names, folders, programs, free space."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from mlx_video.errors import MediaError
from mlx_video.files.file_bytes import describe_two_sizes
from mlx_video.files.whole_file import check_file, check_folder, remove_leftovers
from mlx_video.geometry import VideoGeometry
from mlx_video.latents.run_state import find_state_path
from mlx_video.media.preview_file import check_preview
from mlx_video.media.video import check_output
from mlx_video.request import GenerateRequest
from mlx_video.runs.result_names import check_result_names

# Bytes of a pixel, generous for real pictures; only noise takes more.
BYTES_PER_PIXEL = {".mp4": 0.5, ".gif": 1.0, ".webp": 0.5}
STILL_BYTES_PER_PIXEL = 2.5
KEPT_BYTES_PER_PIXEL = 3
LATENT_BYTES = 4
# A state holds the latents and up to three predictions; an old one stays until the new one is complete.
STATE_ARRAYS = 2 * 4


def check_outputs(
    request: GenerateRequest,
    geometry: VideoGeometry,
    read: Iterable[tuple[str, Path]] = (),
    num_frames: int | None = None,
) -> None:
    """Make sure that every result can be written; creates their folders, clears away what killed runs left.

    Args:
        request: names the results.
        geometry: of the video, or of one of its segments.
        read: flags and paths of the files that the run reads.
        num_frames: of the finished video; None for those of `geometry`.

    Raises:
        RequestError: a name is that of another result, of a file that is read, or of one that no run has
            made; or the video's ending is unknown or a picture's.
        MediaError: a name is a folder's, a folder takes no files, ffmpeg is missing, or the disk is too full.
    """
    if num_frames is None:
        num_frames = geometry.num_frames - request.trim_first_frames
    check_result_names(request, num_frames, read)
    if request.video_path:
        check_output(request.video_path, num_frames)
    if request.output_path:  # its state lies there, whatever the output's type
        check_folder(request.output_path.parent)
        remove_leftovers(request.output_path.parent)
    if request.frames_path:
        check_folder(request.frames_path)
        remove_leftovers(request.frames_path)
    if request.latents_path:
        check_file(request.latents_path)
        remove_leftovers(request.latents_path.parent)
    if request.profile:
        check_file(request.profile)
        remove_leftovers(request.profile.parent)
    if isinstance(request.preview, Path):
        check_preview(request.preview)
    _check_free_space(request, geometry, num_frames)


def _check_free_space(request: GenerateRequest, geometry: VideoGeometry, num_frames: int) -> None:
    needed: dict[int, int] = defaultdict(int)
    places: dict[int, Path] = {}
    for folder, nbytes in _count_bytes(request, geometry, num_frames):
        disk = folder.stat().st_dev
        needed[disk] += nbytes
        places.setdefault(disk, folder)
    for disk, folder in places.items():
        _check_room(
            folder, needed[disk], "the results of this run can take", "choose a folder on another disk"
        )


def check_scratch_space(nbytes: int, *, needs_tiles: bool) -> None:
    """Make sure that there is room for the temporary file in which the VAE's tiles wait.

    Args:
        nbytes: its size; 0 without tiles.
        needs_tiles: whether whole frames would not fit in memory.

    Raises:
        MediaError: the disk of temporary files is too full.
    """
    cure = "set TMPDIR to a folder on another disk"
    cure += "" if needs_tiles else ", or decode whole frames with --tiling none"
    _check_room(Path(tempfile.gettempdir()), nbytes, "the VAE's tiles take", cure)


def _check_room(folder: Path, nbytes: int, what: str, cure: str) -> None:
    free = shutil.disk_usage(folder).free
    if free < nbytes:
        texts = describe_two_sizes(nbytes, free)
        raise MediaError(
            f"{folder.absolute()}: {what} {texts[0]}, {texts[1]} are free. Free some space, or {cure}."
        )


def _count_bytes(
    request: GenerateRequest, geometry: VideoGeometry, num_frames: int
) -> Iterator[tuple[Path, int]]:
    """Folders of the results, and how many bytes each result can take."""
    pixels = math.prod(geometry.output_size) * num_frames
    latents = LATENT_BYTES * math.prod(geometry.latent_shape)
    if video := request.video_path:
        rate = BYTES_PER_PIXEL.get(video.suffix.lower(), STILL_BYTES_PER_PIXEL)
        # The one that holds the segments before the last stays until the new one is complete.
        replaced = num_frames - geometry.num_frames + 1 if request.segments > 1 else 0
        yield video.parent, round(rate * (pixels + math.prod(geometry.output_size) * replaced))
    if request.frames_path:
        yield request.frames_path, round(STILL_BYTES_PER_PIXEL * pixels)
    if request.latents_path:
        yield request.latents_path.parent, latents
    if (state := find_state_path(request)) and not request.decode_only:
        sampled = geometry.with_leading(request.extra_frames)
        yield state.parent, STATE_ARRAYS * LATENT_BYTES * math.prod(sampled.latent_shape)
    if request.segments > 1 and not request.decode_only:
        # All segments but the last wait as they are, in a folder of temporary files where no video is named.
        folder = video.parent if video else Path(tempfile.gettempdir())
        kept = (request.segments - 1) * geometry.num_frames * math.prod(geometry.output_size)
        yield folder, KEPT_BYTES_PER_PIXEL * kept
