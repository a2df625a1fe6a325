"""The video transformer: latents to tokens, the blocks, and tokens to a velocity."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Protocol

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_video.config import TransformerConfig
from mlx_video.geometry import Triple
from mlx_video.models.elementwise import gelu_tanh
from mlx_video.models.image_projection import ImageProjection
from mlx_video.models.products import project
from mlx_video.models.rope import RotaryTable, build_rotary_table
from mlx_video.models.transformer_block import (
    CrossAttention,
    KeysValues,
    TimeFeatures,
    TokenRun,
    TransformerBlock,
    modulate,
)


class Block(Protocol):
    """A transformer block, or something that runs one."""

    cross_attn: CrossAttention

    def __call__(self, x: mx.array, time: TimeFeatures, rotary: RotaryTable, text: KeysValues) -> mx.array:
        """See TransformerBlock."""


class BlockSource(Protocol):
    """Where the blocks come from: memory, or a disk ahead of their turn."""

    def blocks(self) -> Iterable[tuple[int, Block]]:
        """Every block with its index, in order.

        A source that releases a block after its turn must yield one whose call evaluates its result.
        """


class StepCache(Protocol):
    """Decides for one forward whether the blocks run or an earlier result stands in for them."""

    def __call__(
        self, tokens: mx.array, time: TimeFeatures, run_blocks: Callable[[mx.array], mx.array]
    ) -> mx.array:
        """Give the tokens that leave the last block.

        Args:
            tokens: [L, dim], float32, as they enter block 0.
            time: features of the timesteps in use.
            run_blocks: runs every block on tokens like these, and the hook after each.
        """


class BlockHook(Protocol):
    """An add-on network that changes tokens between blocks."""

    def after_embedding(self, tokens: mx.array) -> mx.array:
        """Called in every forward with the tokens [L, dim] that would enter block 0."""

    def after_block(self, index: int, tokens: mx.array) -> mx.array:
        """Called with the tokens [L, dim] that leave block `index`; not called where a step cache skips."""


class KeptTokens:
    """Tokens that every block's cross-attention reads, kept for a whole run.

    Each block's keys and values are computed when first asked for, and once.

    Attributes:
        tokens: [K, dim] in the weights' type.
    """

    def __init__(self, tokens: mx.array) -> None:
        self.tokens = tokens
        self._keys_values: dict[int, KeysValues] = {}

    def keys_values(self, index: int, compute: Callable[[mx.array], KeysValues]) -> KeysValues:
        """Those of block `index`, made by `compute` from the tokens."""
        if index not in self._keys_values:
            self._keys_values[index] = compute(self.tokens)
        return self._keys_values[index]


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """What cross-attention reads under one prompt, as one transformer sees it.

    Attributes:
        text: [text_len, dim].
        image: the image tokens, [K, dim]; None for a transformer without the image branch. Prompts of one
            run may share them.
    """

    text: KeptTokens
    image: KeptTokens | None = None

    def keys_values(self, index: int, attention: CrossAttention) -> KeysValues:
        """Those of block `index`, whose cross-attention is `attention`."""
        text = self.text.keys_values(index, attention.keys_values)
        if self.image is None:
            return text
        return replace(text, image=self.image.keys_values(index, attention.image_keys_values))


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
        return project(self.head, modulate(x, shift_scale, time.runs, self.eps), mx.float32)


class WanTransformer(nn.Module):
    """Predicts the velocity of noisy latents at a timestep, given text, and in some models an image.

    Parameters carry the names of a converted folder's tensors.

    Source: Wan2.1 and Wan2.2 wan/modules/model.py, WanModel.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        dim, patch_cells = config.dim, int(np.prod(config.patch_size))
        self.patch_embedding_proj = nn.Linear(config.in_dim * patch_cells, dim)
        self.text_embedding_0 = nn.Linear(config.text_dim, dim)
        self.text_embedding_1 = nn.Linear(dim, dim)
        self.time_embedding_0 = nn.Linear(config.freq_dim, dim)
        self.time_embedding_1 = nn.Linear(dim, dim)
        self.time_projection = nn.Linear(dim, 6 * dim)
        if config.image_dim is not None:
            self.img_emb = ImageProjection(config.image_dim, dim, config.image_positions)
        self.blocks = [TransformerBlock(config) for _ in range(config.num_layers)]
        self.head = Head(dim, config.out_dim * patch_cells, config.eps)
        self.rotary_table = lru_cache(maxsize=4)(partial(build_rotary_table, head_dim=config.head_dim))

    def project_text(
        self, context: mx.array, image_tokens: mx.array | KeptTokens | None = None
    ) -> PromptTokens:
        """Bring text features and image tokens to the transformer's width; do it once per prompt and run.

        Args:
            context: [n, text_dim], any floating type; n is at most `text_len`.
            image_tokens: [K, image_dim] for a transformer with the image branch, and only for such a one. Or
                the `image` of another prompt of the run, whose keys and values then serve both.

        Raises:
            ValueError: the text is longer than the model's, or the image tokens do not fit the model.
        """
        self._check_image(image_tokens)
        padding = self.config.text_len - context.shape[0]
        if padding < 0:
            raise ValueError(
                f"context has {context.shape[0]} rows, the transformer takes {self.config.text_len}"
            )
        # Padded before the layers: the rows become a constant that the network was trained to attend to.
        padded = mx.pad(context, [(0, padding), (0, 0)])
        hidden = gelu_tanh(project(self.text_embedding_0, padded))
        text = KeptTokens(project(self.text_embedding_1, hidden))
        if isinstance(image_tokens, mx.array):
            image_tokens = KeptTokens(self.img_emb(image_tokens))
        return PromptTokens(text, image_tokens)

    def embed_time(self, timestep: float | mx.array, num_tokens: int) -> TimeFeatures:
        """Features of one timestep, or of one for each token; equal ones are computed once.

        Args:
            timestep: 0 to 1000, or [L].
            num_tokens: L.

        Raises:
            ValueError: neither one timestep nor L of them.
        """
        values, runs = find_runs(np.asarray(timestep, dtype=np.float64), num_tokens)
        # float32 whatever the weights: a rounded timestep shifts the whole video.
        hidden = nn.silu(project(self.time_embedding_0, sinusoid(values, self.config.freq_dim), mx.float32))
        embedding = project(self.time_embedding_1, hidden, mx.float32)
        modulation = project(self.time_projection, nn.silu(embedding), mx.float32)
        return TimeFeatures(embedding, modulation.reshape(len(values), 6, -1), runs)

    def __call__(
        self,
        latents: mx.array,
        timestep: float | mx.array,
        text: PromptTokens,
        *,
        concat_latents: mx.array | None = None,
        step_cache: StepCache | None = None,
        block_hook: BlockHook | None = None,
        block_source: BlockSource | None = None,
    ) -> mx.array:
        """Predict the velocity.

        Args:
            latents: [C, T, H, W], float32.
            timestep: 0 to 1000; or one for each token, [L].
            text: from :meth:`project_text`.
            concat_latents: channels put behind those of `latents`, [C2, T, H, W].
            step_cache: may skip the blocks; None runs them.
            block_hook: an add-on; None for none.
            block_source: None for the blocks of this module.

        Returns:
            [out_dim, T, H, W], float32.

        Raises:
            ValueError: channels or sizes do not fit the model, or there is not a timestep for each token.
        """
        tokens, time, grid = self._embed(latents, timestep, concat_latents)
        source, rotary = block_source or self._resident_blocks(), self.rotary_table(grid)

        def run_blocks(entering: mx.array) -> mx.array:
            return walk_blocks(source, [BlockPass(entering, text, block_hook)], time, rotary)[0]

        tokens = block_hook.after_embedding(tokens) if block_hook else tokens
        tokens = step_cache(tokens, time, run_blocks) if step_cache else run_blocks(tokens)
        return unpatchify(self.head(tokens, time), grid, self.config.patch_size)

    def predict_each(
        self,
        latents: mx.array,
        timestep: float | mx.array,
        texts: Sequence[PromptTokens],
        *,
        concat_latents: mx.array | None = None,
        block_hooks: Sequence[BlockHook | None] | None = None,
        block_source: BlockSource | None = None,
    ) -> list[mx.array]:
        """Predict the velocity under several prompts in one walk over the blocks.

        Each velocity is, bit for bit, that of a call of its own. The prompts take turns in every block, so a
        source that reads blocks from a disk reads them once. There is no step cache here: that decides
        for one forward whether the blocks run.

        Args:
            latents, timestep, concat_latents, block_source: as for a call.
            texts: the prompts, from :meth:`project_text`.
            block_hooks: one for each prompt, since a hook may remember its tokens; None for none.

        Returns:
            [out_dim, T, H, W], float32, for each prompt.

        Raises:
            ValueError: as a call; or there is not a hook for each prompt.
        """
        tokens, time, grid = self._embed(latents, timestep, concat_latents)
        passes = [
            BlockPass(hook.after_embedding(tokens) if hook else tokens, text, hook)
            for text, hook in zip(texts, block_hooks or [None] * len(texts), strict=True)
        ]
        source = block_source or self._resident_blocks()
        leaving = walk_blocks(source, passes, time, self.rotary_table(grid))
        return [unpatchify(self.head(each, time), grid, self.config.patch_size) for each in leaving]

    def _embed(
        self, latents: mx.array, timestep: float | mx.array, concat_latents: mx.array | None
    ) -> tuple[mx.array, TimeFeatures, Triple]:
        """Tokens [L, dim] as they leave the patch embedding, what the timestep makes of itself, the grid."""
        if concat_latents is not None:
            latents = mx.concatenate([latents, concat_latents])
        grid = self._check(latents)
        patches = patchify(latents, self.config.patch_size)
        # float32: the residual stream keeps it from here to the head.
        tokens = project(self.patch_embedding_proj, patches).astype(mx.float32)
        return tokens, self.embed_time(timestep, tokens.shape[0]), grid

    def _resident_blocks(self) -> ResidentBlocks:
        if len(self.blocks) != self.config.num_layers:
            raise ValueError(
                f"{len(self.blocks)} of {self.config.num_layers} blocks are in memory: give a block source"
            )
        return ResidentBlocks(self.blocks)

    def _check_image(self, image_tokens: mx.array | KeptTokens | None) -> None:
        has_branch = self.config.image_dim is not None
        if has_branch and image_tokens is None:
            raise ValueError("image tokens are missing, the transformer has an image branch")
        if not has_branch and image_tokens is not None:
            raise ValueError("image tokens are given, the transformer has no image branch")

    def _check(self, latents: mx.array) -> Triple:
        channels, *sizes = latents.shape
        if channels != self.config.in_dim:
            raise ValueError(f"{channels} latent channels, the transformer takes {self.config.in_dim}")
        return token_grid((sizes[0], sizes[1], sizes[2]), self.config.patch_size)


class ResidentBlocks:
    """The block source of a transformer that is wholly in memory."""

    def __init__(self, blocks: list[TransformerBlock]) -> None:
        self._blocks = blocks

    def blocks(self) -> Iterable[tuple[int, TransformerBlock]]:
        """Every block with its index, in order."""
        return enumerate(self._blocks)


@dataclass(slots=True)
class BlockPass:
    """One forward on its way through the blocks.

    Attributes:
        tokens: [L, dim], float32, as they left the last block.
        text: the prompt.
        hook: its add-on.
    """

    tokens: mx.array
    text: PromptTokens
    hook: BlockHook | None = None


def walk_blocks(
    source: BlockSource, passes: Sequence[BlockPass], time: TimeFeatures, rotary: RotaryTable
) -> list[mx.array]:
    """Take one or several passes through every block, each block serving one after the other.

    Args:
        source: the blocks.
        passes: as they enter block 0; each one's tokens are replaced on the way.
        time: features of the timesteps in use.
        rotary: positions of the L tokens.

    Returns:
        The tokens [L, dim] of each pass, as they leave the last block.
    """
    for index, block in source.blocks():
        for one in passes:
            keys_values = one.text.keys_values(index, block.cross_attn)
            one.tokens = block(one.tokens, time, rotary, keys_values)
            if one.hook:
                one.tokens = one.hook.after_block(index, one.tokens)
    return [one.tokens for one in passes]


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


def find_runs(timesteps: np.ndarray, num_tokens: int) -> tuple[np.ndarray, tuple[TokenRun, ...]]:
    """Tell which tokens share a timestep.

    Args:
        timesteps: one number, or [L].
        num_tokens: L.

    Returns:
        The distinct timesteps [U], and runs of neighbouring tokens that index them.

    Raises:
        ValueError: neither one timestep nor L of them.
    """
    if timesteps.size == 1:
        return timesteps.reshape(1), (TokenRun(0, num_tokens, 0),)
    if timesteps.shape != (num_tokens,):
        raise ValueError(f"timesteps of shape {timesteps.shape} for {num_tokens} tokens")
    values, rows = np.unique(timesteps, return_inverse=True)
    starts = [0, *(np.flatnonzero(np.diff(rows)) + 1).tolist()]
    stops = [*starts[1:], num_tokens]
    return values, tuple(TokenRun(a, b, int(rows[a])) for a, b in zip(starts, stops, strict=True))
