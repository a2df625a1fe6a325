"""How much memory a video takes that is made block by block: transformer and VAE work in turns."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mlx_video.config import VAEConfig
from mlx_video.geometry import Triple
from mlx_video.models.dispatch import Limits
from mlx_video.models.peak import WIDE, Peak
from mlx_video.models.transformer_memory import ForwardSize, context_cache_bytes
from mlx_video.planning.stage_peaks import LATENTS_OF_A_STEP
from mlx_video.planning.vae_memory import decode_kept_bytes, decode_peak_bytes, encode_peak_bytes
from mlx_video.sampling.blocks import BlockPlan
from mlx_video.weights.network import TransformerNetwork

COLOURS = 3
CHUNK = 4
"""Frames that leave the decoder together."""


@dataclass(frozen=True, slots=True)
class BlockSizes:
    """What decides the memory of a block.

    Attributes:
        plan: of the video.
        latent_size: [C, h, w] of a latent frame.
        vae: its sizes.
        vae_bytes: of its weights in memory.
        gpu: what was found of the GPU; None on a CPU.
    """

    plan: BlockPlan
    latent_size: Triple
    vae: VAEConfig
    vae_bytes: int
    gpu: Limits | None

    @property
    def held(self) -> int:
        """Bytes that stay from block to block: the VAE, what its layers keep, frames that are seen again."""
        _, height, width = self.latent_size
        kept = decode_kept_bytes(self.vae, height, width, gpu=self.gpu)
        return self.vae_bytes + kept + self.plan.context * (self._frame_bytes + self._latent_bytes)

    @property
    def vae_work(self) -> int:
        """Most bytes beside these while the VAE works, with the frames that it makes of a latent frame."""
        _, height, width = self.latent_size
        work = decode_peak_bytes(self.vae, height, width, gpu=self.gpu)
        work -= decode_kept_bytes(self.vae, height, width, gpu=self.gpu)
        if self.plan.encodes:
            work = max(work, encode_peak_bytes(self.vae, height, width, gpu=self.gpu))
        return work + CHUNK * self._frame_bytes

    @property
    def latents(self) -> int:
        """Bytes of the latents of a step."""
        return LATENTS_OF_A_STEP * self.plan.frames * self._latent_bytes

    @property
    def _latent_bytes(self) -> int:
        channels, height, width = self.latent_size
        return channels * height * width * WIDE

    @property
    def _frame_bytes(self) -> int:
        _, height, width = self.latent_size
        _, step_h, step_w = self.vae.stride
        return height * step_h * width * step_w * COLOURS * WIDE


def block_peak(
    size: ForwardSize, sizes: BlockSizes, network: TransformerNetwork, weights: int, *, is_streamed: bool
) -> Peak:
    """Peak of the stage that makes blocks.

    Args:
        size: of a forward of one latent frame.
        sizes: of a block.
        network: what the transformer is.
        weights: bytes of it in use.
        is_streamed: whether any of its blocks is read anew in every forward.
    """
    frame, plan = size.num_tokens, sizes.plan
    block = replace(size, num_tokens=plan.frames * frame, context_tokens=plan.context * frame)
    context = replace(size, num_tokens=plan.context * frame)
    forward = network.peak(block, waits_for_blocks=is_streamed)
    # The keys and values are made while the context goes through the transformer, and stay for the block.
    seen = network.peak(context, waits_for_blocks=is_streamed)
    peak = Peak(
        max(forward.needed, seen.needed), max(forward.usual, seen.usual), max(forward.held, seen.held)
    )
    work = Peak(peak.held + sizes.vae_work, peak.held + sizes.vae_work)
    peak = peak.beside(context_cache_bytes(block)).or_before(work)
    return peak.beside(weights + sizes.held + sizes.latents)
