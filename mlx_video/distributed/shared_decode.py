"""Latents → frames by several processes, each of which decodes its own tiles of every frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import mlx.core as mx

from mlx_video.config import VAEConfig
from mlx_video.distributed.collectives import Collectives
from mlx_video.events import TilesDecoded
from mlx_video.files.scratch import ScratchFile
from mlx_video.latents.decode import decode_tile, decode_to_scratch, push_latents
from mlx_video.latents.tiling import Tile, join_tiles, share_tiles
from mlx_video.models.vae.autoencoder import WanVAE
from mlx_video.models.vae.stream import FRAME_BY_FRAME, StreamState
from mlx_video.weights.block_shares import share_evenly

COLOURS = 3
TIME_STRIDE = 4


def decode_shared(
    vae: WanVAE,
    latents: mx.array,
    collectives: Collectives,
    *,
    tile: int | None = None,
    latents_per_push: int = 1,
    parts: Sequence[int] = FRAME_BY_FRAME,
    scratch_folder: Path | None = None,
) -> Iterator[mx.array | TilesDecoded]:
    """Decode a clip as `latents.decode.decode_chunks` does; every process hands out all frames.

    Layers that must see whole frames run everywhere; all others on tiles. Where there is one tile for each
    process, frames leave as they are ready, without a temporary file.

    Args:
        vae: with its decoder.
        latents: [C, T, H, W] in latent cells, normalised, the same everywhere.
        collectives: exchanges among the processes, all of which must take all frames.
        tile: side of the tiles, in latent cells, that fit in the memory of every process; None where whole
            frames do.
        latents_per_push, parts, scratch_folder: as for `decode_chunks`.

    Returns:
        What `decode_chunks` gives, but for rounding.

    Raises:
        ValueError, MediaError, NonFiniteError, DeviceError: as `decode_chunks`.
    """
    pushes = push_latents(latents, latents_per_push, vae.config)
    grid = share_tiles(latents.shape[2], latents.shape[3], tile, collectives.size)
    tiles, rank, size = list(chain(*grid)), collectives.rank, collectives.size
    own = [tiles[index] for index in share_evenly(len(tiles), rank, size)]
    exchange = TileExchange(grid, collectives, vae.config)
    if len(tiles) <= size:
        return map(exchange.join, pushes, _decode_at_once(vae, pushes, own, parts))
    return _decode_in_turns(vae, pushes, own, parts, exchange, scratch_folder)


def _decode_at_once(
    vae: WanVAE, pushes: Sequence[mx.array], own: Sequence[Tile], parts: Sequence[int]
) -> Iterator[Sequence[mx.array]]:
    """Chunks of the tile of this process, which may have none, for each push."""
    if not own:
        return iter([()] * len(pushes))
    state = StreamState()
    clip = ((vae.decode_whole(push, state), push) for push in pushes)
    return ([chunk] for chunk in decode_tile(vae, clip, own[0], parts))


def _decode_in_turns(
    vae: WanVAE,
    pushes: Sequence[mx.array],
    own: Sequence[Tile],
    parts: Sequence[int],
    exchange: TileExchange,
    scratch_folder: Path | None,
) -> Iterator[mx.array | TilesDecoded]:
    with ScratchFile(scratch_folder) as scratch:
        decoded = yield from decode_to_scratch(vae, pushes, own, parts, scratch)
        for push, chunks in zip(pushes, zip(*decoded, strict=True), strict=True):
            yield exchange.join(push, [scratch.get(stored) for stored in chunks])


class TileExchange:
    """Puts tiles of all processes together, each of which has some neighbours among them.

    Args:
        grid: rows of tiles.
        collectives: exchanges among the processes.
        config: of the VAE.
    """

    def __init__(self, grid: Sequence[Sequence[Tile]], collectives: Collectives, config: VAEConfig) -> None:
        self._grid = grid
        self._collectives = collectives
        self._pixels = [_count_pixels(tile, config) for tile in chain(*grid)]
        self._has_begun = False

    def join(self, push: mx.array, own: Sequence[mx.array]) -> mx.array:
        """Frames of one push.

        Args:
            push: latents [1, t, H, W, C]; all come in order.
            own: [f, h, w, 3] of each tile of this process.

        Returns:
            [F, H, W, 3], evaluated.
        """
        size, count = self._collectives.size, len(self._pixels)
        slots = -(-count // size)  # of each process; the last ones may have fewer tiles
        frames = TIME_STRIDE * push.shape[1] - (0 if self._has_begun else TIME_STRIDE - 1)
        self._has_begun = True
        slot = (frames, *map(max, zip(*self._pixels, strict=True)), COLOURS)
        sent = mx.stack([*(_pad(chunk, slot) for chunk in own), *[mx.zeros(slot)] * (slots - len(own))])
        mx.eval(sent)
        gathered = self._collectives.gather(sent)
        mx.eval(gathered)
        filled = chain(
            *(
                range(slots * rank, slots * rank + len(share_evenly(count, rank, size)))
                for rank in range(size)
            )
        )
        tiles = (
            gathered[place, :, :rows, :columns]
            for place, (rows, columns) in zip(filled, self._pixels, strict=True)
        )
        return join_tiles(self._grid, tiles)


def _count_pixels(tile: Tile, config: VAEConfig) -> tuple[int, int]:
    """Rows and columns that a tile gives."""
    _, rows, columns = (step * config.output_scale for step in config.stride)
    return rows * len(tile.rows.core), columns * len(tile.columns.core)


def _pad(chunk: mx.array, shape: Sequence[int]) -> mx.array:
    return mx.pad(chunk, [(0, length - own) for length, own in zip(shape, chunk.shape, strict=True)])
