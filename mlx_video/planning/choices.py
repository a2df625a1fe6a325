"""What a run keeps in memory, and what it reads again or computes in parts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MemoryChoices:
    """How a run stays within the machine's memory. None of these changes what it makes.

    Attributes:
        resident_blocks: how many of a transformer's blocks stay in memory, spread evenly; the others
            are read anew for every step, ahead of their turn. None keeps all of them.
        decode_tile, encode_tile: side in latent cells of the tiles in which the VAE works at its higher
            resolutions; None for whole frames.
    """

    resident_blocks: int | None = None
    decode_tile: int | None = None
    encode_tile: int | None = None
