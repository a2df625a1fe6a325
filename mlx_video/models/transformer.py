"""The video transformer: latents to tokens, the blocks, and tokens to a velocity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial
from itertools import islice

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_video.config import TransformerConfig
from mlx_video.geometry import Triple
from mlx_video.models.block_context import (
    BlockContext,
    CrossAttentionCache,
    Pass,
    PromptTokens,
    Step,
    TimeFeatures,
)
from mlx_video.models.elementwise import gelu_tanh
from mlx_video.models.forward import BlockSource, Forward, ResidentBlocks, walk_blocks
from mlx_video.models.image_projection import ImageProjection
from mlx_video.models.matmul import project
from mlx_video.models.rope import build_rotary_table
from mlx_video.models.token_layout import TokenLayout, video_layout
from mlx_video.models.transformer_block import TransformerBlock, modulate
from mlx_video.models.video_transformer import Part, VideoTransformer


class Head(nn.Module):
    """Last norm, modulation and projection, in float32 throughout.

    Source: Wan2.1 wan/modules/model.py, Head.
    """

    def __init__(self, dim: int, patch_features: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.head = nn.Linear(dim, patch_features)
        self.modulation = mx.zeros((1, 2, dim))

    def __call__(self, x: mx.array, time: TimeFeatures) -> mx.array:
        """Project tokens to patches.

        Args:
            x: [L, dim], float32.
            time: its embedding, not its modulation, shifts and scales here.

        Returns:
            [L, patch features], float32.
        """
        shift_scale = self.modulation.astype(mx.float32) + time.embedding[:, None]
        return project(self.head, modulate(x, shift_scale, time.spans, self.eps), mx.float32)


class Embeddings(nn.Module):
    """What brings latents, texts, images and timesteps to a transformer's width.

    Source: Wan2.1 and Wan2.2 wan/modules/model.py, WanModel.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.build_layers(config)

    def build_layers(self, config: TransformerConfig) -> None:
        """Put in the layers that have weights; another architecture puts in its own."""
        dim = config.dim
        self.patch_embedding_proj = nn.Linear(config.in_dim * int(np.prod(config.patch_size)), dim)
        self.text_embedding_0 = nn.Linear(config.text_dim, dim)
        self.text_embedding_1 = nn.Linear(dim, dim)
        self.time_embedding_0 = nn.Linear(config.freq_dim, dim)
        self.time_embedding_1 = nn.Linear(dim, dim)
        self.time_projection = nn.Linear(dim, 6 * dim)
        if config.image_dim is not None:
            self.img_emb = ImageProjection(config.image_dim, dim, config.image_positions)

    def embed_patches(self, latents: mx.array) -> mx.array:
        """Tokens [L, dim], float32, of latents [in_dim, T, H, W]."""
        # float32: the residual stream keeps it from here to the head.
        return project(self.patch_embedding_proj, patchify(latents, self.config.patch_size)).astype(
            mx.float32
        )

    def project_text(
        self, context: mx.array, image_tokens: mx.array | CrossAttentionCache | None = None
    ) -> PromptTokens:
        """See :class:`VideoTransformer`."""
        self._check_image(image_tokens)
        text = self.embed_text(context)
        if isinstance(image_tokens, mx.array):
            image_tokens = CrossAttentionCache(self.img_emb(image_tokens))
        return PromptTokens(text, image_tokens)

    def embed_text(self, context: mx.array) -> CrossAttentionCache:
        """Text features [n, text_dim] at the transformer's width; raises as :meth:`project_text`."""
        padding = self.config.text_len - context.shape[0]
        if padding < 0:
            raise ValueError(
                f"context has {context.shape[0]} rows, the transformer takes {self.config.text_len}"
            )
        # Padded before the layers: the rows become a constant that the network was trained to attend to.
        padded = mx.pad(context, [(0, padding), (0, 0)])
        hidden = gelu_tanh(project(self.text_embedding_0, padded))
        return CrossAttentionCache(project(self.text_embedding_1, hidden))

    def embed_time(self, timestep: float, layout: TokenLayout) -> TimeFeatures:
        """See :class:`VideoTransformer`."""
        values, spans = layout.find_timesteps(timestep)
        # float32 whatever the weights: a rounded timestep shifts the whole video.
        hidden = nn.silu(project(self.time_embedding_0, sinusoid(values, self.config.freq_dim), mx.float32))
        embedding = project(self.time_embedding_1, hidden, mx.float32)
        modulation = project(self.time_projection, nn.silu(embedding), mx.float32)
        return TimeFeatures(embedding, modulation.reshape(len(values), 6, -1), spans)

    def _check_image(self, image_tokens: mx.array | CrossAttentionCache | None) -> None:
        has_branch = self.config.image_dim is not None
        if has_branch and image_tokens is None:
            raise ValueError("image tokens are missing, the transformer has an image branch")
        if not has_branch and image_tokens is not None:
            raise ValueError("image tokens are given, the transformer has no image branch")


class WanTransformer(Embeddings, VideoTransformer):
    """Predicts the velocity of noisy latents at a timestep, given text, and in some models an image.

    Source: Wan2.1 and Wan2.2 wan/modules/model.py, WanModel.
    """

    head: nn.Module

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.rotary_table = lru_cache(maxsize=4)(partial(build_rotary_table, head_dim=config.head_dim))

    def build_layers(self, config: TransformerConfig) -> None:
        """See :class:`Embeddings`."""
        super().build_layers(config)
        self.blocks = [TransformerBlock(config) for _ in range(config.num_layers)]
        self.head = Head(config.dim, config.out_dim * int(np.prod(config.patch_size)), config.eps)

    def forget_layouts(self) -> None:
        """Let go the rotary tables of the layouts seen so far; they are built again when needed."""
        self.rotary_table.cache_clear()

    def widen_input(self, in_dim: int) -> None:
        """Take more channels behind those of now, whose weights are zero; done once the weights are there."""
        layer, columns = self.patch_embedding_proj, in_dim * int(np.prod(self.config.patch_size))
        layer.weight = mx.pad(layer.weight, [(0, 0), (0, columns - layer.weight.shape[1])])
        self.config = replace(self.config, in_dim=in_dim)

    def predict_parts(
        self, parts: Sequence[Part], step: Step, *, block_source: BlockSource | None = None
    ) -> list[list[mx.array]]:
        """See :class:`VideoTransformer`."""
        source = block_source or self._resident_blocks()
        single = [[replace(part, passes=[one])] for part in parts for one in part.passes]
        velocities: list[mx.array] = []
        for group in [parts] if source.shares_blocks else single:
            if velocities:
                mx.eval(velocities)  # the activations of these passes are gone before the next begin
            begun = [(part, forward) for part in group for forward in self._begin(part, step)]
            walk_blocks(source, [forward for _, forward in begun], self.config.num_layers)
            velocities += [self._leave(forward, part) for part, forward in begun]
        ready = iter(velocities)
        return [list(islice(ready, len(part.passes))) for part in parts]

    def _begin(self, part: Part, step: Step) -> list[Forward]:
        """Embed the latents of a part, and what its passes add to them."""
        latents = part.latents
        if part.concat_latents is not None:
            latents = mx.concatenate([latents, part.concat_latents])
        grid = self._check(latents)
        layout = part.layout or video_layout(grid)
        tokens = self.embed_patches(latents)
        if layout.num_tokens != len(tokens):
            raise ValueError(f"layout of {layout.num_tokens} tokens for latents of {len(tokens)}")
        shared = self.embed_time(step.timestep, layout)
        forwards = []
        for one in part.passes:
            own_tokens, own_layout = tokens, layout
            for hook in one.hooks:
                own_tokens, own_layout = hook.extend(own_tokens, own_layout)
            time = shared if own_layout is layout else self.embed_time(step.timestep, own_layout)
            rotary = self.rotary_table(own_layout)
            time = add_modulation(time, one)
            context = BlockContext(step, time, own_layout, rotary, one.text, one.attention)
            forwards.append(Forward(one, own_tokens, context))
        return forwards

    def _leave(self, forward: Forward, part: Part) -> mx.array:
        """Turn the tokens that left the last block into a velocity [out_dim, T, H, W]."""
        _, frames, rows, columns = part.latents.shape
        grid = token_grid((frames, rows, columns), self.config.patch_size)
        return unpatchify(forward.outputs(self.head), grid, self.config.patch_size)

    def _resident_blocks(self) -> ResidentBlocks:
        if len(self.blocks) != self.config.num_layers:
            raise ValueError(
                f"{len(self.blocks)} of {self.config.num_layers} blocks are in memory: give a block source"
            )
        return ResidentBlocks(self)

    def _check(self, latents: mx.array) -> Triple:
        channels, *sizes = latents.shape
        if channels != self.config.in_dim:
            raise ValueError(f"{channels} latent channels, the transformer takes {self.config.in_dim}")
        return token_grid((sizes[0], sizes[1], sizes[2]), self.config.patch_size)


def add_modulation(time: TimeFeatures, one: Pass) -> TimeFeatures:
    """Time features with what a pass adds to the modulation of every timestep."""
    if one.added_modulation is None:
        return time
    return replace(time, modulation=time.modulation + one.added_modulation.astype(mx.float32))


def token_grid(latent_size: Triple, patch_size: Triple) -> Triple:
    """Tokens (t, h, w) of latents (T, H, W).

    Raises:
        ValueError: a size is no multiple of its patch size.
    """
    if any(size % patch for size, patch in zip(latent_size, patch_size, strict=True)):
        raise ValueError(f"latents of {latent_size} cells cannot be cut into patches of {patch_size}")
    t, h, w = (size // patch for size, patch in zip(latent_size, patch_size, strict=True))
    return t, h, w


def patchify(latents: mx.array, patch_size: Triple) -> mx.array:
    """Cut latents into tokens, time-major.

    Args:
        latents: [C, T, H, W].
        patch_size: (t, h, w) in latent cells.

    Returns:
        [L, C·t·h·w]; channel slowest, as the kernel of a convolution is stored.

    Raises:
        ValueError: T, H or W is no multiple of its patch size.

    Source: Wan2.1 wan/modules/model.py, WanModel.patch_embedding.
    """
    channels, *sizes = latents.shape
    grid = token_grid((sizes[0], sizes[1], sizes[2]), patch_size)
    (t, h, w), (pt, ph, pw) = grid, patch_size
    cells = latents.reshape(channels, t, pt, h, ph, w, pw)
    return cells.transpose(1, 3, 5, 0, 2, 4, 6).reshape(t * h * w, -1)


def unpatchify(patches: mx.array, grid: Triple, patch_size: Triple) -> mx.array:
    """Put predicted patches back into place.

    Args:
        patches: [L, t·h·w·C]; channel fastest, unlike what :func:`patchify` gives.
        grid: tokens (t, h, w).
        patch_size: (t, h, w) in latent cells.

    Returns:
        [C, T, H, W].

    Source: Wan2.1 wan/modules/model.py, WanModel.unpatchify.
    """
    (t, h, w), (pt, ph, pw) = grid, patch_size
    cells = patches.reshape(t, h, w, pt, ph, pw, -1).transpose(6, 0, 3, 1, 4, 2, 5)
    return cells.reshape(-1, t * pt, h * ph, w * pw)


def sinusoid(timesteps: np.ndarray, freq_dim: int) -> mx.array:
    """Cosines, then sines, of the timesteps at falling frequencies.

    Args:
        timesteps: [U], float64, 0 to 1000.
        freq_dim: even.

    Returns:
        [U, freq_dim], float32.

    Source: Wan2.1 wan/modules/model.py, sinusoidal_embedding_1d.
    """
    half = freq_dim // 2
    # float64 on the host: in float32 the angles of late timesteps are off by 3e-5.
    angles = timesteps[:, None] * 10000.0 ** (-np.arange(half, dtype=np.float64) / half)
    return mx.array(np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32))
