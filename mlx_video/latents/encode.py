"""Frames → latents, in memory that does not depend on the clip's length."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import mlx.core as mx

from mlx_video.config import VAEConfig
from mlx_video.files.scratch import ScratchFile, Stored
from mlx_video.geometry import latent_frames, pixel_frames
from mlx_video.latents.tiling import ENCODER_STAGES, Tile, cut_tiles, join_tiles
from mlx_video.models.vae.autoencoder import WanVAE
from mlx_video.models.vae.stream import StreamState

Encoding = Generator[int, None, mx.array]
"""Work that says how many frames it has encoded, and returns the latents."""

# As many as make one latent frame; a chunk of a clip may have any number.
FRAMES_AT_A_TIME = 4


def encode_video(
    vae: WanVAE,
    frames: mx.array | Iterable[mx.array],
    *,
    tile: int | None = None,
    scratch_folder: Path | None = None,
) -> mx.array:
    """Encode a clip into the latents that the transformer works on; see :func:`encode_chunks`.

    Args:
        vae: with its encoder.
        frames: [F, H, W, 3] in [-1, 1], or chunks of it.
        tile: side of the tiles in latent cells, at most; None for whole frames.
        scratch_folder: for the temporary file of tiles; None for the system's.

    Returns:
        [C, T, H/h, W/w], float32: the normalised means. T is 1 + (F - 1) / 4.

    Raises:
        ValueError: F is not 4n + 1, the height or width is no multiple of the stride, or `tile` is less
            than 1.
        MediaError: the temporary file finds no room.
    """
    if isinstance(frames, mx.array):
        _check_count(len(frames), vae.config.stride[0])  # before the work rather than after
        frames = [frames]
    work = encode_chunks(vae, frames, tile=tile, scratch_folder=scratch_folder)
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


def encode_chunks(
    vae: WanVAE,
    frames: Iterable[mx.array],
    *,
    tile: int | None = None,
    scratch_folder: Path | None = None,
) -> Encoding:
    """Encode a clip that comes in chunks into the latents that the transformer works on.

    Tiles save memory as in :func:`mlx_video.latents.decode.decode_frames`: each goes through the entire clip
    before the next begins, and the layers that must see whole frames come last, once for all tiles. The clip
    and the encoded tiles wait in a temporary file.

    Args:
        vae: with its encoder.
        frames: chunks [f, H, W, 3] in [-1, 1], in order, of any lengths; 4n + 1 frames in all, H and W
            multiples of the VAE's stride (4, h, w).
        tile: side of the tiles in latent cells, at most; None, or no less than H/h and W/w, for whole frames.
            It changes the latents by rounding only.
        scratch_folder: for the temporary file of tiles; None for the system's.

    Yields:
        How many frames are encoded; those of a tile count in proportion to the tiles.

    Returns:
        [C, T, H/h, W/w], float32: the normalised means. T is 1 + n.

    Raises:
        ValueError, MediaError: as for :func:`encode_video`.

    Source: Wan2.1 wan/modules/vae.py, WanVAE.encode; Wan2.2 wan/modules/vae2_2.py, Wan2_2_VAE.encode.
    """
    chunks = _checked(frames, vae.config)
    if tile is None:
        means = yield from _encode_whole_frames(vae, chunks)
    else:
        with ScratchFile(scratch_folder) as scratch:
            means = yield from _encode_tile_by_tile(vae, chunks, tile, scratch)
    return normalise(mx.concatenate(means), vae.config).transpose(3, 0, 1, 2)


def _checked(frames: Iterable[mx.array], config: VAEConfig) -> Iterator[mx.array]:
    """The chunks as they come, checked; their number at the end."""
    num_frames = 0
    for chunk in frames:
        _check_chunk(chunk, config)
        num_frames += chunk.shape[0]
        yield chunk
    _check_count(num_frames, config.stride[0])


def _encode_whole_frames(vae: WanVAE, chunks: Iterable[mx.array]) -> Generator[int, None, list[mx.array]]:
    state, means, done = StreamState(), [], 0
    for chunk in chunks:
        for mean in vae.encode(chunk[None], state):
            mx.eval(mean)
            means.append(mean[0])
        done += len(chunk)
        yield done
    return means


def _encode_tile_by_tile(
    vae: WanVAE, chunks: Iterable[mx.array], side: int, scratch: ScratchFile
) -> Generator[int, None, list[mx.array]]:
    clip = _store_clip(chunks, scratch)
    num_frames, (height, width) = sum(part.shape[0] for part in clip), clip[0].shape[1:3]
    _, step_h, step_w = vae.config.stride
    grid = cut_tiles(ENCODER_STAGES, height // step_h, width // step_w, side)
    count, features = sum(map(len, grid)), []
    for index, tile in enumerate(chain(*grid), 1):
        features.append(_encode_tile(vae, tile, clip, scratch))
        yield num_frames * index // count
    state, means = StreamState(), []
    for parts in zip(*features, strict=True):
        whole = join_tiles(grid, map(scratch.get, parts))
        means.append(vae.encode_whole(whole[None], state)[0])
        mx.eval(means[-1])
    return means


def _store_clip(chunks: Iterable[mx.array], scratch: ScratchFile) -> list[Stored]:
    """Set a clip aside, a few frames at a time, because all of them are read for every tile."""
    return [
        scratch.put(chunk[start : start + FRAMES_AT_A_TIME])
        for chunk in chunks
        for start in range(0, len(chunk), FRAMES_AT_A_TIME)
    ]


def _encode_tile(vae: WanVAE, tile: Tile, clip: Sequence[Stored], scratch: ScratchFile) -> list[Stored]:
    """Encode one tile of the clip; features of one latent frame each."""
    state, features = StreamState(), []
    rows, columns = tile.crop_input(vae.packing)
    for stored in clip:
        part = scratch.get(stored)[None, :, rows, columns]
        features += [scratch.put(y[0]) for y in vae.encode_features(part, state, crops=tile.crops)]
    return features


def normalise(latents: mx.array, config: VAEConfig) -> mx.array:
    """Scale latents to zero mean and unit variance.

    Args:
        latents: [..., C], as the VAE's encoder gives them.
        config: holds mean and standard deviation per channel.

    Returns:
        [..., C], float32.
    """
    return (latents.astype(mx.float32) - mx.array(config.latent_mean)) / mx.array(config.latent_std)


def _check_chunk(chunk: mx.array, config: VAEConfig) -> None:
    _, step_h, step_w = config.stride
    if chunk.ndim != 4 or chunk.shape[-1] != 3:
        raise ValueError(f"frames are {list(chunk.shape)}, expected [F, H, W, 3].")
    height, width = chunk.shape[1:3]
    if height % step_h or width % step_w:
        raise ValueError(f"frames are {width}x{height}, both sides must be multiples of {step_w}x{step_h}.")


def _check_count(num_frames: int, step: int) -> None:
    below = pixel_frames(latent_frames(num_frames, step), step) if num_frames else 1
    if num_frames != below:
        nearest = f"{below} or {below + step}" if num_frames else str(below)
        raise ValueError(
            f"{num_frames} frames: must be {step}n+1, because the VAE packs {step} frames into one. "
            f"Nearest: {nearest}."
        )
