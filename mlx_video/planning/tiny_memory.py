"""How much memory the tiny decoder takes, counted as that of the VAEs is; see :mod:`.vae_memory`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

from mlx_video.config import TinyVAEConfig
from mlx_video.models.vae.tiny import BLOCKS, COLOURS, WHOLE, TinyForm
from mlx_video.models.vae.winograd import winograd_bytes
from mlx_video.planning.vae_layers import KERNEL_PIXELS, Frame, Need, upsampling
from mlx_video.planning.vae_memory import add_stages


def tiny_peak_bytes(config: TinyVAEConfig, frame: Frame, form: TinyForm = WHOLE) -> int:
    """The most memory that decoding takes, for a clip of any length.

    Args:
        config: widths of the decoder.
        frame: rows and columns of latent cells.
        form: what is enlarged.

    Returns:
        Bytes beside the weights, the latents and the frames that are taken.
    """
    stages = add_stages(_stages(config, frame, form))
    last = frame if not any(form.space) else _grown(frame, 2 ** sum(form.space))
    pixels = last.nbytes(COLOURS * config.patch_size**2, form.frames_per_latent)
    # Of one latent frame, joined, scaled and cut off.
    return stages.kept + stages.working + 3 * pixels


def _stages(config: TinyVAEConfig, frame: Frame, form: TinyForm) -> Iterator[Sequence[Need]]:
    entry = [_convolution(frame, config.z_dim, config.widths[0])]
    for (into, out), in_time, in_space in zip(pairwise(config.widths), form.time, form.space, strict=True):
        blocks = [_memory_block(frame, into)] * BLOCKS
        yield [*entry, *blocks, _enlarging(frame, into, out, in_time, in_space)]
        entry, frame = [], _grown(frame, 1 + in_space)
    yield [_convolution(frame, config.widths[-1], COLOURS * config.patch_size**2)]


def _grown(frame: Frame, times: int) -> Frame:
    return replace(frame, height=times * frame.height, width=times * frame.width)


def _convolution(frame: Frame, into: int, out: int) -> Need:
    """A positive part and 3×3 convolution of one frame, with bias."""
    entry, given = frame.nbytes(into), frame.nbytes(out)
    if frame.by_winograd(into, out):
        scratch = winograd_bytes(frame.height, frame.width, into, out)
    else:
        # The padded frame, and on a CPU the neighbours of every pixel.
        scratch = frame.grown(2, 2).nbytes(into) + (0 if frame.gpu else KERNEL_PIXELS * entry)
    return Need(entry + scratch + 2 * given, 0, given)


def _memory_block(frame: Frame, channels: int) -> Need:
    """A frame beside the one before, through three convolutions; the frame waits, and is kept."""
    first = _convolution(frame, 2 * channels, channels)
    return Need(frame.nbytes(2 * channels) + first.working, frame.nbytes(channels), frame.nbytes(channels))


def _enlarging(frame: Frame, into: int, out: int, in_time: bool, in_space: bool) -> Need:
    """One frame becomes one or two, and these larger."""
    frames = 1 + in_time
    grown = 2 * frame.nbytes(into, frames)
    if in_space:
        larger = upsampling(frame, into, out, frames, doubles_time=False)
    else:
        one = _convolution(frame, into, out)
        larger = Need(one.working * frames, 0, one.given * frames)
    return Need(grown + larger.working, 0, larger.given)
