"""What each process of the tests of shared decoding does: clips alone, then together with the others."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass

import mlx.core as mx

from mlx_video.config import VAEConfig
from mlx_video.distributed.cluster import join_cluster
from mlx_video.distributed.collectives import Collectives
from mlx_video.distributed.shared_decode import decode_shared
from mlx_video.events import TilesDecoded
from mlx_video.latents.decode import decode_frames
from tests.models.vae.tiny_vae import TINY, TINY22, TINY_2X, build_vae, largest_difference


@dataclass(frozen=True)
class Clip:
    """A clip to decode.

    Attributes:
        config: of the VAE.
        size: latent frames, rows and columns.
        tile: in which it is decoded.
        latents_per_push: latent frames at once.
    """

    config: VAEConfig
    size: tuple[int, int, int]
    tile: int | None = None
    latents_per_push: int = 1


CLIPS = {
    "wide": Clip(TINY, (3, 3, 7)),
    "high": Clip(TINY, (2, 7, 2), tile=7),
    "in tiles": Clip(TINY, (2, 5, 7), tile=2),
    "two latents at once": Clip(TINY, (3, 3, 4), latents_per_push=2),
    "fewer columns than processes": Clip(TINY, (2, 1, 2)),
    "wan2.2": Clip(TINY22, (2, 3, 4)),
    "twice as large": Clip(TINY_2X, (1, 3, 4)),
}


def main() -> None:
    """Write what was found."""
    cluster = join_cluster()
    assert cluster.group is not None
    collectives = Collectives(cluster.group)
    sys.stdout.write(json.dumps({name: compare(clip, collectives) for name, clip in CLIPS.items()}))


def compare(clip: Clip, collectives: Collectives) -> dict[str, object]:
    """How far the frames of all are from those of one process, and what was sent."""
    vae = build_vae(clip.config)
    latents = mx.random.normal((clip.config.z_dim, *clip.size), key=mx.random.key(0))
    alone = list(decode_frames(vae, latents, latents_per_push=clip.latents_per_push))
    before = collectives.traffic.nbytes
    together = list(
        decode_shared(vae, latents, collectives, tile=clip.tile, latents_per_push=clip.latents_per_push)
    )
    shared = [chunk for chunk in together if isinstance(chunk, mx.array)]
    assert [chunk.shape for chunk in shared] == [chunk.shape for chunk in alone]
    return {
        "error": max(map(largest_difference, shared, alone)),
        "sent": collectives.traffic.nbytes - before,
        "frames": sum(chunk.nbytes for chunk in shared),
        "tiles": sum(isinstance(one, TilesDecoded) for one in together),
    }


if __name__ == "__main__":
    main()
