"""Latents → frames, a few at a time and in memory that does not depend on the clip's length."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_video.config import VAEConfig
from mlx_video.events import TilesDecoded
from mlx_video.files.scratch import ScratchFile, Stored
from mlx_video.latents.frame_check import check_frames
from mlx_video.latents.tiling import DECODER_STAGES, Tile, cut_tiles, join_tiles
from mlx_video.models.dispatch import Limits
from mlx_video.models.vae.autoencoder import WanVAE
from mlx_video.models.vae.stream import FRAME_BY_FRAME, StreamState
from mlx_video.models.vae.winograd import LEAST_PIXELS


@dataclass(frozen=True, slots=True)
class Pace:
    """How many frames go through the decoder together: it changes speed, memory and rounding.

    Attributes:
        latents_per_push: latent frames that enter the network at once.
        parts: frames that each resolution takes at a time, lowest resolution first.
    """

    latents_per_push: int = 1
    parts: tuple[int, ...] = FRAME_BY_FRAME


ONE_BY_ONE = Pace()
PAIRS = Pace(2, (2, *FRAME_BY_FRAME[1:]))


def choose_pace(height: int, width: int, tile: int | None, gpu: Limits | None) -> Pace:
    """The pace for latents of this size: pairs, where one frame is too small for a GPU's faster method.

    Args:
        height, width: of the latents.
        tile: as for :func:`decode_chunks`.
        gpu: what was found of the GPU that decodes; None on a CPU.
    """
    is_whole = tile is None or tile >= max(height, width)
    gains = gpu is not None and gpu.pairs_latents and gpu.winograd and gpu.plane_convolutions
    reaches = height * width < LEAST_PIXELS <= PAIRS.latents_per_push * height * width
    return PAIRS if is_whole and gains and reaches else ONE_BY_ONE


def decode_frames(
    vae: WanVAE,
    latents: mx.array,
    *,
    tile: int | None = None,
    latents_per_push: int = 1,
    parts: Sequence[int] = FRAME_BY_FRAME,
    scratch_folder: Path | None = None,
) -> Iterator[mx.array]:
    """Decode a clip and hand out its frames as they are ready, as :func:`decode_chunks` without events.

    Returns:
        Chunks [f, h·H, w·W, 3] for a VAE of stride (4, h, w), or larger by its `output_scale`, in [-1, 1],
        float32, evaluated; 4T - 3 frames in all. With one latent frame per push, the first chunk has 1 frame
        and the others 4.

    Raises:
        ValueError, MLXVideoError: as :func:`decode_chunks`.
    """
    chunks = decode_chunks(
        vae,
        latents,
        tile=tile,
        latents_per_push=latents_per_push,
        parts=parts,
        scratch_folder=scratch_folder,
    )
    return (chunk for chunk in chunks if isinstance(chunk, mx.array))


def decode_chunks(
    vae: WanVAE,
    latents: mx.array,
    *,
    tile: int | None = None,
    latents_per_push: int = 1,
    parts: Sequence[int] = FRAME_BY_FRAME,
    scratch_folder: Path | None = None,
) -> Iterator[mx.array | TilesDecoded]:
    """Decode a clip; hand out its frames as they are ready, and events where they take long to come.

    Most of the memory is what the layers keep of the frames before, as much as several frames each. Whole
    frames need it for all pixels at once, but come one after another. Tiles are decoded each through the
    entire clip before the next begins, so only one tile's share is kept at a time; the layers that must see
    whole frames come first, once for all tiles. What they give, and the decoded tiles, wait in a temporary
    file (how large, says :func:`mlx_video.planning.vae_memory.scratch_bytes`), because frames leave in order
    of time: they are handed out when the last tile is done.

    Args:
        vae: with its decoder.
        latents: [C, T, H, W] in latent cells, normalised, as the transformer makes them.
        tile: side of the tiles in latent cells, at most; None, or no less than H and W, for whole frames.
        latents_per_push: latent frames that enter the network at once.
        parts: frames that each resolution takes at a time, lowest resolution first. Like `tile` and
            `latents_per_push`, it changes speed and memory, and the frames by rounding only.
        scratch_folder: for the temporary file of tiles; None for the system's.

    Returns:
        Chunks [f, h·H, w·W, 3] for a VAE of stride (4, h, w), or larger by its `output_scale`, in [-1, 1],
        float32, evaluated; before them, with tiles, an event for each part of the work.

    Raises:
        ValueError: the latents have another rank or number of channels, or `tile` or `latents_per_push` is
            less than 1.
        MediaError: while frames are taken, when the temporary file finds no room.
        NonFiniteError, DeviceError: while frames are taken, when they cannot be what the latents stand for.

    Source: Wan2.1 wan/modules/vae.py, WanVAE.decode; Wan2.2 wan/modules/vae2_2.py, Wan2_2_VAE.decode.
    """
    pushes = push_latents(latents, latents_per_push, vae.config)
    height, width = latents.shape[2:]
    if tile is None or tile >= max(height, width):
        return _decode_whole_frames(vae, pushes, parts)
    grid = cut_tiles(DECODER_STAGES, height, width, tile)
    return _decode_tile_by_tile(vae, pushes, grid, parts, scratch_folder)


def push_latents(latents: mx.array, latents_per_push: int, config: VAEConfig) -> list[mx.array]:
    """The clip as [1, t, H, W, C], some latent frames at a time, no longer normalised.

    Args:
        latents, latents_per_push: as for :func:`decode_chunks`.
        config: of the VAE.

    Raises:
        ValueError: as :func:`decode_chunks`.
    """
    if latents.ndim != 4 or latents.shape[0] != config.z_dim:
        raise ValueError(f"latents are {list(latents.shape)}, expected [{config.z_dim}, T, H, W].")
    if latents_per_push < 1:
        raise ValueError(f"latents_per_push is {latents_per_push}, must be at least 1.")
    return [
        denormalise(latents[:, start : start + latents_per_push].transpose(1, 2, 3, 0)[None], config)
        for start in range(0, latents.shape[1], latents_per_push)
    ]


class FrameStream:
    """Decodes a clip whose latents come little by little; its frames are those of :func:`decode_frames`.

    What the layers keep from one call to the next takes the same memory for a clip of any length.

    Args:
        vae: with its decoder.
    """

    def __init__(self, vae: WanVAE) -> None:
        self._vae = vae
        self._state = StreamState()

    def decode(self, latents: mx.array) -> Iterator[mx.array]:
        """Decode the clip's next latents.

        Args:
            latents: [C, T, H, W] in latent cells, normalised.

        Returns:
            Chunks [f, h·H, w·W, 3], one for each latent frame, as of :func:`decode_frames`.

        Raises:
            NonFiniteError, DeviceError: while frames are taken, as of :func:`decode_chunks`.
        """
        return _decode_pushes(
            self._vae, push_latents(latents, 1, self._vae.config), FRAME_BY_FRAME, self._state
        )


def _decode_whole_frames(vae: WanVAE, pushes: Iterable[mx.array], parts: Sequence[int]) -> Iterator[mx.array]:
    return _decode_pushes(vae, pushes, parts, StreamState())


def _decode_pushes(
    vae: WanVAE, pushes: Iterable[mx.array], parts: Sequence[int], state: StreamState
) -> Iterator[mx.array]:
    for push in pushes:
        yield _join_frames(vae.decode(push, state, parts), push)


def _join_frames(chunks: Iterable[mx.array], latents: mx.array) -> mx.array:
    """What one push of latents gave, [1, f, H, W, 3] each, as frames [F, H, W, 3] in [-1, 1]."""
    frames = mx.concatenate(list(chunks), axis=1)[0].astype(mx.float32)
    check_frames(frames, latents)
    frames = mx.clip(frames, -1, 1)
    mx.eval(frames)
    return frames


def _decode_tile_by_tile(
    vae: WanVAE,
    pushes: Sequence[mx.array],
    grid: Sequence[Sequence[Tile]],
    parts: Sequence[int],
    scratch_folder: Path | None,
) -> Iterator[mx.array | TilesDecoded]:
    with ScratchFile(scratch_folder) as scratch:
        decoded = yield from decode_to_scratch(vae, pushes, list(chain(*grid)), parts, scratch)
        for chunks in zip(*decoded, strict=True):
            yield join_tiles(grid, map(scratch.get, chunks))


def decode_to_scratch(
    vae: WanVAE,
    pushes: Sequence[mx.array],
    tiles: Sequence[Tile],
    parts: Sequence[int],
    scratch: ScratchFile,
) -> Generator[TilesDecoded, None, list[list[Stored]]]:
    """Decode tiles one after another, each through the entire clip.

    Args:
        vae: with its decoder.
        pushes: the clip, from :func:`push_latents`.
        tiles: of its frames.
        parts: frames that each resolution takes at a time.
        scratch: takes what is not needed at once.

    Yields:
        What is done.

    Returns:
        Where the chunks of each tile lie, one for each push.
    """
    features = _store_features(vae, pushes, scratch)
    decoded: list[list[Stored]] = []
    for tile in tiles:
        decoded.append([])
        for chunk in decode_tile(vae, zip(map(scratch.get, features), pushes, strict=True), tile, parts):
            decoded[-1].append(scratch.put(chunk))
            done = (len(decoded) - 1) * len(features) + len(decoded[-1])
            yield TilesDecoded(done, len(tiles) * len(features))
    return decoded


def _store_features(vae: WanVAE, pushes: Iterable[mx.array], scratch: ScratchFile) -> list[Stored]:
    state = StreamState()
    return [scratch.put(vae.decode_whole(push, state)) for push in pushes]


def decode_tile(
    vae: WanVAE, clip: Iterable[tuple[mx.array, mx.array]], tile: Tile, parts: Sequence[int]
) -> Iterator[mx.array]:
    """Decode one tile of a clip.

    Args:
        vae: with its decoder.
        clip: features of whole frames, from `vae.decode_whole`, and the push that they were made of.
        tile: of the frames.
        parts: frames that each resolution takes at a time.

    Yields:
        [f, h·H, w·W, 3] of the tile for each push, as from :func:`decode_chunks`.
    """
    state = StreamState()
    rows, columns = tile.crop_input()
    for features, latents in clip:
        chunks = vae.decode_features(features[:, :, rows, columns], state, parts, tile.crops)
        yield _join_frames(chunks, latents[:, :, rows, columns])


def denormalise(latents: mx.array, config: VAEConfig) -> mx.array:
    """Undo the scaling that makes latents of zero mean and unit variance.

    Args:
        latents: [..., C], normalised.
        config: holds mean and standard deviation per channel.

    Returns:
        [..., C] as the VAE's own encoder gives them, float32.
    """
    return latents.astype(mx.float32) * mx.array(config.latent_std) + mx.array(config.latent_mean)


def to_uint8(frames: mx.array) -> np.ndarray:
    """Map [-1, 1] to 0…255.

    Args:
        frames: any shape, float32, in [-1, 1].

    Returns:
        Same shape, uint8. Cut off, not rounded, as the official writer does.

    Source: Wan2.1 wan/utils/utils.py, cache_video.
    """
    return np.array(((frames + 1) / 2 * 255).astype(mx.uint8))


def to_uint8_rounded(frames: mx.array) -> np.ndarray:
    """Map [-1, 1] to 0…255 for a single picture.

    Args:
        frames: any shape, float32, in [-1, 1].

    Returns:
        Same shape, uint8. Rounded, as the official writer does with pictures, unlike videos.

    Source: Wan2.1 wan/utils/utils.py, cache_image.
    """
    return np.array(mx.clip((frames + 1) / 2 * 255 + 0.5, 0, 255).astype(mx.uint8))
