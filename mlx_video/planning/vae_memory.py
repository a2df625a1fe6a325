"""How much memory decoding and encoding take, from the sizes of the arrays that are alive together.

Three things add up: what layers keep of earlier frames, what earlier stages have made and later ones have not
taken yet, and what the layer at work needs. MLX takes memory for each operation of a graph when it walks the
graph, which is long before the first one is computed, so all arrays between two evaluations count together.

Counted are float32 arrays as on MLX's CPU backend, without the VAE's weights. The convolutions of a GPU need
other temporary arrays, not measured here: fewer where neighbours are gathered inside the kernel, more where
MLX convolves by Winograd's method, whose scratch is counted from its source. No two scratches exist together,
since each convolution by this method is evaluated before the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, pairwise
from math import prod

from mlx_video.config import VAEConfig
from mlx_video.latents.decode import ONE_BY_ONE, Pace
from mlx_video.latents.tiling import DECODER_STAGES, ENCODER_STAGES, Tile, cut_tiles, share_tiles
from mlx_video.models.dispatch import Limits
from mlx_video.models.vae.autoencoder import NETWORK_STRIDE
from mlx_video.models.vae.halves import LAST_STAGE, decoder_widths, encoder_widths
from mlx_video.planning.vae_layers import (
    Frame,
    Need,
    attention,
    causal_conv,
    downsampling,
    residual_block,
    upsampling,
)

COLOURS = 3


@dataclass(frozen=True, slots=True)
class Phase:
    """Bytes of several layers in a row: what they keep, and what else they hold at most."""

    kept: int
    working: int


def add_stages(stages: Iterable[Sequence[Need]]) -> Phase:
    """What several rows of layers take, of which each frame passes all before the next one comes."""
    kept = held = working = 0
    for layers in stages:
        # The first layer's input is what the stage before gave, which is held until all of it is taken.
        inputs = [0, *(layer.given for layer in layers[:-1])]
        for given, layer in zip(inputs, layers, strict=True):
            working = max(working, held + given + layer.working)
            kept += layer.kept
        held += layers[-1].given
    return Phase(kept, working)


def _whole_layers(frame: Frame, width: int, edge: Need, frames: int) -> Phase:
    """The layers that see whole frames: two residual blocks, attention and one convolution at an edge."""
    block, features = residual_block(frame, width, width, frames), frame.nbytes(width, frames)
    # Attention waits for all frames beside their norms and results.
    working = max(features + block.working, 3 * features + attention(frame, width).working, edge.working)
    return Phase(2 * block.kept + edge.kept, working)


def _decoder_stages(
    config: VAEConfig, tile: Tile, gpu: Limits | None, first_frames: int
) -> Iterator[list[Need]]:
    """Layers of the stages, the first of which takes so many frames at a time."""
    is_wan22, frames = _packing(config) > 1, _stage_frames(tile, gpu)
    for stage, (into, out) in enumerate(pairwise(decoder_widths(config.decoder_dim or 0))):
        # Wan2.1 halves the channels where it doubles rows and columns.
        before = into if is_wan22 or stage == 0 else into // 2
        count = first_frames if stage == 0 else 1
        widths = ((before, out), *[(out, out)] * 2)
        layers = [residual_block(frames[stage], *channels, count) for channels in widths]
        if stage < LAST_STAGE:
            after = out if is_wan22 else out // 2
            layers.append(upsampling(frames[stage], out, after, count, doubles_time=stage < 2))
        else:
            channels = _pixel_channels(config) * config.output_scale**2
            layers.append(causal_conv(frames[stage], out, channels))
        yield layers


def _encoder_stages(config: VAEConfig, tile: Tile, gpu: Limits | None) -> Iterator[list[Need]]:
    width, frames = config.encoder_dim or 0, _stage_frames(tile, gpu)
    for stage, (into, out) in enumerate(pairwise(encoder_widths(width))):
        layers = [residual_block(frames[stage], into, out), residual_block(frames[stage], out, out)]
        if stage == 0:
            layers.insert(0, causal_conv(frames[stage], _pixel_channels(config), width))
        if stage < LAST_STAGE:
            layers.append(downsampling(frames[stage], out, halves_time=stage > 0))
        yield layers


def decode_peak_bytes(
    config: VAEConfig,
    latent_height: int,
    latent_width: int,
    *,
    tile: int | None = None,
    pace: Pace = ONE_BY_ONE,
    gpu: Limits | None = None,
    processes: int = 1,
) -> int:
    """The most memory that :func:`mlx_video.latents.decode.decode_frames` takes, for a clip of any length.

    Args:
        config: widths and stride of the VAE.
        latent_height: rows of latent cells.
        latent_width: columns of latent cells.
        tile: as for `decode_frames`.
        pace: of the frames; only the first of its parts may be more than one.
        gpu: as for :class:`Frame`.
        processes: that decode together; counted is what one of them takes.

    Returns:
        Bytes beside the weights and the latents. Clips of one or two latent frames need less.
    """
    frame, count = Frame(latent_height, latent_width, gpu), pace.latents_per_push
    width = decoder_widths(config.decoder_dim or 0)[0]
    whole = _whole_layers(frame, width, causal_conv(frame, config.z_dim, width, count), count)
    features = frame.nbytes(width, count)
    grid = _decoder_tiles(latent_height, latent_width, tile, processes)
    stages_of = partial(_decoder_stages, config, gpu=gpu, first_frames=pace.parts[0])
    tiles = [
        (add_stages(stages_of(part)), features + _made(config, _core(part), count)) for part in chain(*grid)
    ]
    # Joined tiles are read, or gathered, put into rows, and these together.
    joined = 3 * _made(config, frame, count) if len(tiles) > 1 else 0
    if len(tiles) <= processes:
        stages, held = max(tiles, key=lambda one: one[0].kept + one[0].working + one[1])
        return whole.kept + stages.kept + max(whole.working, held + stages.working, joined)
    one_tile = max(stages.kept + stages.working + held for stages, held in tiles)
    return max(whole.kept + whole.working, one_tile, joined)


def _decoder_tiles(height: int, width: int, tile: int | None, processes: int) -> list[list[Tile]]:
    if processes > 1:
        return share_tiles(height, width, tile, processes)
    longest = max(height, width)
    return cut_tiles(DECODER_STAGES, height, width, min(tile or longest, longest))


def decode_kept_bytes(
    config: VAEConfig, latent_height: int, latent_width: int, *, gpu: Limits | None = None
) -> int:
    """What the decoder's layers keep from one latent frame to the next, where it works on whole frames.

    Args:
        config, latent_height, latent_width, gpu: as for :func:`decode_peak_bytes`.
    """
    frame, longest = Frame(latent_height, latent_width, gpu), max(latent_height, latent_width)
    width = decoder_widths(config.decoder_dim or 0)[0]
    ((tile,),) = cut_tiles(DECODER_STAGES, latent_height, latent_width, longest)
    stages = add_stages(_decoder_stages(config, tile, gpu, 1))
    return _whole_layers(frame, width, causal_conv(frame, config.z_dim, width, 1), 1).kept + stages.kept


def encode_peak_bytes(
    config: VAEConfig,
    latent_height: int,
    latent_width: int,
    *,
    tile: int | None = None,
    gpu: Limits | None = None,
) -> int:
    """The most memory that :func:`mlx_video.latents.encode.encode_chunks` takes, for a clip of any length.

    Args:
        config: widths and stride of the VAE.
        latent_height: rows of latent cells.
        latent_width: columns of latent cells.
        tile: as for `encode_chunks`.
        gpu: as for :class:`Frame`.

    Returns:
        Bytes beside the weights and the latents, for chunks of up to four frames. Clips of one or five frames
        need less.
    """
    frame = Frame(latent_height, latent_width, gpu)
    width = encoder_widths(config.encoder_dim or 0)[-1]
    whole = _whole_layers(frame, width, causal_conv(frame, width, 2 * config.z_dim), 1)
    side = max(latent_height, latent_width) if tile is None else tile
    grid = cut_tiles(ENCODER_STAGES, latent_height, latent_width, side)
    tiles = [add_stages(_encoder_stages(config, part, gpu)) for part in chain(*grid)]
    # The chunk; Wan2.2 packs all of it before the first stage takes a frame.
    pixels = _pixels(config, frame, 1) * (2 if _packing(config) > 1 else 1)
    if tile is None:
        return pixels + whole.kept + tiles[0].kept + max(whole.working, tiles[0].working)
    one_tile = max(stages.kept + stages.working for stages in tiles)
    return max(pixels + one_tile, whole.kept + whole.working + frame.nbytes(width))


def scratch_bytes(
    config: VAEConfig, latent_frames: int, latent_height: int, latent_width: int, *, encodes: bool = False
) -> int:
    """Size of the temporary file that tiles need.

    Args:
        config: widths and stride of the VAE.
        latent_frames: of the clip.
        latent_height: rows of latent cells.
        latent_width: columns of latent cells.
        encodes: for encoding; else for decoding.
    """
    width = (
        encoder_widths(config.encoder_dim or 0)[-1] if encodes else decoder_widths(config.decoder_dim or 0)[0]
    )
    frame = Frame(latent_height, latent_width)
    pixels = _pixels if encodes else _made
    return frame.nbytes(width, latent_frames) + pixels(config, frame, latent_frames)


def _packing(config: VAEConfig) -> int:
    return config.stride[1] // NETWORK_STRIDE


def _pixel_channels(config: VAEConfig) -> int:
    """Of a packed frame."""
    return COLOURS * _packing(config) ** 2


def _pixels(config: VAEConfig, frame: Frame, latents: int) -> int:
    """The pixel frames of so many latent frames of this size."""
    return frame.nbytes(COLOURS * prod(config.stride), latents)


def _made(config: VAEConfig, frame: Frame, latents: int) -> int:
    """Sizes of the frames, as large as the decoder makes them."""
    return _pixels(config, frame, latents) * config.output_scale**2


def _core(tile: Tile) -> Frame:
    return Frame(len(tile.rows.core), len(tile.columns.core))


def _stage_frames(tile: Tile, gpu: Limits | None) -> list[Frame]:
    """What goes into each stage, and what comes out of the last one."""
    return [
        Frame(len(rows), len(columns), gpu)
        for rows, columns in zip(tile.rows.spans, tile.columns.spans, strict=True)
    ]
