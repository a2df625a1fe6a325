"""What a run keeps in memory, and what it reads again or computes in parts."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

TEXT_ENCODER, IMAGE_ENCODER = "text_encoder", "image_encoder"
AUDIO_ENCODER, MOTION_CONTROLLER = "audio_encoder", "motion_controller"
VAE_ENCODER, VAE_DECODER = "vae_encoder", "vae_decoder"
NETWORK_TITLES = {
    "model": "transformer",
    "high_noise": "high-noise expert",
    "low_noise": "low-noise expert",
    TEXT_ENCODER: "text encoder",
    IMAGE_ENCODER: "image encoder",
    AUDIO_ENCODER: "audio encoder",
    MOTION_CONTROLLER: "motion controller",
    VAE_ENCODER: "VAE encoder",
    VAE_DECODER: "VAE decoder",
}
"""Name of a network → what people read; transformers have the names that their model folder gives them."""


@dataclass(frozen=True, slots=True)
class MemoryChoices:
    """How a run stays within the machine's memory. None of these changes what it makes.

    Attributes:
        resident_blocks: how many of a transformer's blocks stay in memory, spread evenly; the others
            are read anew for every step, ahead of their turn. None keeps all of them.
        windows_at_once: how many context windows go through streamed blocks together, each of which is read
            once for all of them.
        decode_tile, encode_tile: side in latent cells of the tiles in which the VAE works at its higher
            resolutions; None for whole frames.
        kept: networks that stay in memory between their uses: names of the run's own, and whatever stands for
            those of earlier runs.
    """

    resident_blocks: int | None = None
    windows_at_once: int = 1
    decode_tile: int | None = None
    encode_tile: int | None = None
    kept: frozenset[Hashable] = frozenset()


@dataclass(frozen=True, slots=True)
class KeptNetwork:
    """A network in memory between its uses.

    Attributes:
        ref: as in :attr:`MemoryChoices.kept`.
        name: of the network.
        nbytes: that it takes while it is not at work.
    """

    ref: Hashable
    name: str
    nbytes: int

    @property
    def title(self) -> str:
        """What people read."""
        return NETWORK_TITLES.get(self.name, self.name)
