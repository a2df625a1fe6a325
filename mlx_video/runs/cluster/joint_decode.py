"""Latents decoded by all machines, none of which waits for one that is lost."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx

from mlx_video.distributed.channel import Channel
from mlx_video.distributed.collectives import Collectives
from mlx_video.distributed.shared_decode import decode_shared
from mlx_video.events import TilesDecoded
from mlx_video.latents.decode import Pace
from mlx_video.models.vae.autoencoder import WanVAE


def decode_together(
    vae: WanVAE,
    latents: mx.array,
    collectives: Collectives,
    channel: Channel,
    tile: int | None,
    pace: Pace,
) -> Iterator[mx.array | TilesDecoded]:
    """Chunks of frames as from `distributed.shared_decode.decode_shared`, which every machine must take.

    Raises:
        ClusterError: a machine is lost.
    """
    chunks = decode_shared(
        vae,
        latents,
        collectives,
        tile=tile,
        latents_per_push=pace.latents_per_push,
        parts=pace.parts,
    )
    while True:
        with channel.collective():
            chunk = next(chunks, None)
        if chunk is None:
            return
        yield chunk
