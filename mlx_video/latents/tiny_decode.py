"""Latents → frames by the tiny decoder, a few at a time and in memory that is the same for every clip."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx

from mlx_video.latents.frame_check import check_frames
from mlx_video.models.vae.stream import StreamState
from mlx_video.models.vae.tiny import WHOLE, TinyDecoder, TinyForm


def decode_tiny(decoder: TinyDecoder, latents: mx.array, form: TinyForm = WHOLE) -> Iterator[mx.array]:
    """Decode a clip and hand out its frames as they are ready.

    Args:
        decoder: of these latents.
        latents: [C, T, H, W] in latent cells, normalised, as the transformer makes them.
        form: what is enlarged.

    Returns:
        Chunks [f, h, w, 3] in [-1, 1], float32, evaluated: those of one latent frame each. In the decoder's
        whole form they are as many and as large as the VAE's.

    Raises:
        ValueError: the latents have another rank or number of channels.
        NonFiniteError, DeviceError: while frames are taken, when they cannot be what the latents stand for.

    Source: madebyollin/taehv taehv.py, TAEHV.decode_video.
    """
    if latents.ndim != 4 or latents.shape[0] != decoder.config.z_dim:
        raise ValueError(f"latents are {list(latents.shape)}, expected [{decoder.config.z_dim}, T, H, W].")
    return _chunks(decoder, latents.transpose(1, 2, 3, 0)[None], form)


def _chunks(decoder: TinyDecoder, latents: mx.array, form: TinyForm) -> Iterator[mx.array]:
    state = StreamState()
    for index in range(latents.shape[1]):
        latent = latents[:, index : index + 1].astype(mx.float32)
        raw = mx.concatenate(list(decoder.decode(latent, state, form)), axis=1)[0]
        frames = raw[form.frames_to_trim if index == 0 else 0 :] * 2 - 1
        check_frames(frames, latent)
        frames = mx.clip(frames, -1, 1)
        mx.eval(frames)
        yield frames
