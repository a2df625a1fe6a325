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
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from math import prod

from mlx_video.config import VAEConfig
from mlx_video.latents.tiling import DECODER_STAGES, ENCODER_STAGES, Tile, cut_tiles
from mlx_video.models.vae.autoencoder import NETWORK_STRIDE
from mlx_video.models.vae.convolutions import MIN_CHANNELS_OF_SHIFTED
from mlx_video.models.vae.halves import decoder_widths, encoder_widths
from mlx_video.models.vae.layers import QUERIES_AT_A_TIME
from mlx_video.models.vae.winograd import takes_winograd, winograd_bytes

ITEM_BYTES = 4
COLOURS = 3
LAST_STAGE = 3  # the one without resampling
TAPS = 3
KERNEL_PIXELS = 9
KEPT = TAPS - 1  # frames that a kernel of three taps keeps


@dataclass(frozen=True, slots=True)
class Frame:
    """Rows and columns of a frame at one resolution.

    Attributes:
        winograd: whether MLX convolves such frames by Winograd's method where it can, as on a GPU.
    """

    height: int
    width: int
    winograd: bool = False

    def nbytes(self, channels: int, frames: int = 1) -> int:
        """Of so many frames of so many channels."""
        return self.height * self.width * channels * frames * ITEM_BYTES

    def grown(self, rows: int, columns: int) -> Frame:
        """With padding."""
        return replace(self, height=self.height + rows, width=self.width + columns)


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes of one layer.

    Attributes:
        working: while it runs, beside its input and what layers keep.
        kept: of earlier frames, afterwards.
        given: its output.
    """

    working: int
    kept: int
    given: int


def causal_conv(frame: Frame, into: int, out: int, frames: int = 1) -> Need:
    """Norm, SiLU and a 3×3×3 convolution."""
    entry = frame.nbytes(into, frames)
    # Norm or SiLU beside its result, and what no longer is kept. One frame is kept as it is, several are
    # copied: then the result and the window of all taps count too.
    before = entry + frame.nbytes(into) if frames == 1 else 2 * entry + frame.nbytes(into, frames + KEPT)
    if into < MIN_CHANNELS_OF_SHIFTED:
        # For each tap the padded frames, the neighbours of every pixel, and the result.
        taps = TAPS * (
            frame.grown(2, 2).nbytes(into, frames) + KERNEL_PIXELS * entry + frame.nbytes(out, frames)
        )
    elif frame.winograd and takes_winograd(frame.height * frame.width * frames, into, out):
        # The scratch; what was added before, the result, and their sum.
        taps = winograd_bytes(frame.height, frame.width, into, out, frames) + 3 * frame.nbytes(out, frames)
    else:
        # The padded frames of a tap; sums before a product, after it, and one that is being released; and the
        # matrix of one kernel pixel, which MLX copies out of the kernel.
        sums = 3 * frame.grown(0, 2).nbytes(out, frames)
        taps = frame.grown(3, 2).nbytes(into, frames) + sums + into * out * ITEM_BYTES
    return Need(before + taps, frame.nbytes(into, KEPT), frame.grown(0, 2).nbytes(out, frames))


def residual_block(frame: Frame, into: int, out: int, frames: int = 1) -> Need:
    """Two convolutions, the second of which runs while the block's input waits."""
    first, second = causal_conv(frame, into, out, frames), causal_conv(frame, out, out, frames)
    working = max(first.working, first.given + second.working)
    return Need(working, first.kept + second.kept, frame.nbytes(out, frames))


def attention(frame: Frame, channels: int) -> Need:
    """Attention of one frame: norm, query, key and value and copies of each, rows of scores, result."""
    positions = frame.height * frame.width
    chunks = -(-positions // QUERIES_AT_A_TIME)
    scores = -(-positions // chunks) * positions * ITEM_BYTES
    return Need(9 * frame.nbytes(channels) + scores, 0, frame.nbytes(channels))


def upsampling(frame: Frame, into: int, out: int, *, doubles_time: bool) -> Need:
    """One frame becomes one or two of twice the rows and columns."""
    count = 2 if doubles_time else 1
    # Four of 2×2 pixels; to make them takes sums and pairs of rows, then of columns.
    kernels, made = 16 * into * out * ITEM_BYTES, 58 * into * out * ITEM_BYTES
    doubled, given = frame.nbytes(into, count) if doubles_time else 0, 4 * frame.nbytes(out)
    padded, phases = frame.grown(2, 2).nbytes(into), frame.grown(1, 1)
    # Padded and copied, four neighbours of every pixel, four phases, their pairs, all together.
    one = 2 * padded + phases.nbytes(4 * into) + phases.nbytes(4 * out) + 2 * given
    # Sums of the three taps and of frames in order; the frames before this one, or all once more.
    in_time = TAPS * frame.nbytes(2 * into) + doubled if doubles_time else 0
    working = max(in_time + made, doubled + kernels + one + (count - 1) * given, 2 * count * given)
    return Need(working, frame.nbytes(into, KEPT) if doubles_time else 0, count * given)


def downsampling(frame: Frame, channels: int, *, halves_time: bool) -> Need:
    """One frame of half the rows and columns; two of them, or one and the next, become one."""
    halved = replace(frame, height=frame.height // 2, width=frame.width // 2)
    padded = frame.grown(1, 1).nbytes(channels)
    working = 2 * padded + 10 * halved.nbytes(channels)
    return Need(working, halved.nbytes(channels, KEPT) if halves_time else 0, halved.nbytes(channels))


@dataclass(frozen=True, slots=True)
class Phase:
    """Bytes of several layers in a row: what they keep, and what else they hold at most."""

    kept: int
    working: int


def _add_stages(stages: Iterable[Sequence[Need]]) -> Phase:
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


def _decoder_stages(config: VAEConfig, tile: Tile, winograd: bool) -> Iterator[list[Need]]:
    is_wan22, frames = _packing(config) > 1, _stage_frames(tile, winograd)
    for stage, (into, out) in enumerate(pairwise(decoder_widths(config.decoder_dim or 0))):
        # Wan2.1 halves the channels where it doubles rows and columns.
        before = into if is_wan22 or stage == 0 else into // 2
        layers = [residual_block(frames[stage], *channels) for channels in ((before, out), *[(out, out)] * 2)]
        if stage < LAST_STAGE:
            after = out if is_wan22 else out // 2
            layers.append(upsampling(frames[stage], out, after, doubles_time=stage < 2))
        else:
            channels = _pixel_channels(config) * config.output_scale**2
            layers.append(causal_conv(frames[stage], out, channels))
        yield layers


def _encoder_stages(config: VAEConfig, tile: Tile, winograd: bool) -> Iterator[list[Need]]:
    width, frames = config.encoder_dim or 0, _stage_frames(tile, winograd)
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
    latents_per_push: int = 1,
    winograd: bool = False,
) -> int:
    """The most memory that :func:`mlx_video.latents.decode.decode_frames` takes, for a clip of any length.

    Args:
        config: widths and stride of the VAE.
        latent_height: rows of latent cells.
        latent_width: columns of latent cells.
        tile: as for `decode_frames`.
        latents_per_push: as for `decode_frames`.
        winograd: as for :class:`Frame`.

    Returns:
        Bytes beside the weights and the latents. Clips of one or two latent frames need less.
    """
    frame, count = Frame(latent_height, latent_width, winograd), latents_per_push
    width = decoder_widths(config.decoder_dim or 0)[0]
    whole = _whole_layers(frame, width, causal_conv(frame, config.z_dim, width, count), count)
    features = frame.nbytes(width, count)
    longest = max(latent_height, latent_width)
    grid = cut_tiles(DECODER_STAGES, latent_height, latent_width, min(tile or longest, longest))
    tiles = [
        (_add_stages(_decoder_stages(config, part, winograd)), features + _made(config, _core(part), count))
        for part in chain(*grid)
    ]
    if len(tiles) == 1:
        stages, held = tiles[0]
        return whole.kept + stages.kept + max(whole.working, held + stages.working)
    one_tile = max(stages.kept + stages.working + held for stages, held in tiles)
    # Joined tiles are read, put into rows, and these together.
    return max(whole.kept + whole.working, one_tile, 3 * _made(config, frame, count))


def encode_peak_bytes(
    config: VAEConfig,
    latent_height: int,
    latent_width: int,
    *,
    tile: int | None = None,
    winograd: bool = False,
) -> int:
    """The most memory that :func:`mlx_video.latents.encode.encode_chunks` takes, for a clip of any length.

    Args:
        config: widths and stride of the VAE.
        latent_height: rows of latent cells.
        latent_width: columns of latent cells.
        tile: as for `encode_chunks`.
        winograd: as for :class:`Frame`.

    Returns:
        Bytes beside the weights and the latents, for chunks of up to four frames. Clips of one or five frames
        need less.
    """
    frame = Frame(latent_height, latent_width, winograd)
    width = encoder_widths(config.encoder_dim or 0)[-1]
    whole = _whole_layers(frame, width, causal_conv(frame, width, 2 * config.z_dim), 1)
    side = max(latent_height, latent_width) if tile is None else tile
    grid = cut_tiles(ENCODER_STAGES, latent_height, latent_width, side)
    tiles = [_add_stages(_encoder_stages(config, part, winograd)) for part in chain(*grid)]
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


def _stage_frames(tile: Tile, winograd: bool) -> list[Frame]:
    """What goes into each stage, and what comes out of the last one."""
    return [
        Frame(len(rows), len(columns), winograd)
        for rows, columns in zip(tile.rows.spans, tile.columns.spans, strict=True)
    ]
