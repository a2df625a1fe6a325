"""What a forward tells its blocks, and what the parts around the blocks may ask of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal, Protocol

import mlx.core as mx

from mlx_video.models.block_order import BlockName
from mlx_video.models.matmul import attend
from mlx_video.models.rope import RotaryTable
from mlx_video.models.token_layout import TokenLayout, TokenSpan
from mlx_video.models.token_sharing import ALL_TOKENS, TokenSharing


@dataclass(frozen=True, slots=True)
class Step:
    """One evaluation of the velocity on the way from noise to latents.

    Attributes:
        index: counts from 0.
        count: evaluations of the whole run.
        timestep: 0 to 1000, as the transformer sees it.
        sigma, next_sigma: noise levels from 0 to 1 before and after it.
    """

    index: int
    count: int
    timestep: float
    sigma: float
    next_sigma: float


@dataclass(frozen=True, slots=True)
class TimeFeatures:
    """Features that the time path makes of the timesteps in use; U of them are distinct.

    Attributes:
        embedding: [U, D], float32; the head uses it.
        modulation: [U, 6, D], float32; every block adds its own table to it. Blocks that make theirs of it by
            a layer of their own may take another shape, [U, ...].
        spans: cover all tokens in order. One span for a timestep that all tokens share.
    """

    embedding: mx.array
    modulation: mx.array
    spans: tuple[TokenSpan, ...]


TimePath = Callable[[float], TimeFeatures]
"""Timestep of a step → the features of all timesteps in use."""


@dataclass(frozen=True, slots=True)
class KeysValues:
    """Keys and values of one cross-attention.

    Attributes:
        keys, values: [1, N, K, D].
    """

    keys: mx.array
    values: mx.array


class CrossAttentionCache:
    """Tokens that every block's cross-attention reads, and the keys and values that each block makes of them.

    A block's are computed when they are first asked for, and once for the whole run.

    Attributes:
        tokens: [K, dim] in the weights' type.
    """

    def __init__(self, tokens: mx.array) -> None:
        self.tokens = tokens
        self._keys_values: dict[int, KeysValues] = {}

    def keys_values(self, index: int, compute: Callable[[mx.array], KeysValues]) -> KeysValues:
        """Keys and values of block `index`, made by `compute` from the tokens."""
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
        reference: what the stream of a reference video reads beside this prompt; None without such a stream.
    """

    text: CrossAttentionCache
    image: CrossAttentionCache | None = None
    reference: PromptTokens | None = None


class AttentionLayer(Protocol):
    """The layers around one attention.

    Attributes:
        num_heads: N.
        scale: of the products of queries and keys.
    """

    num_heads: int

    @property
    def scale(self) -> float:
        """One over the root of a head's channels."""


class TextAttentionLayer(AttentionLayer, Protocol):
    """The layers around an attention to the text."""

    def keys_values(self, text: mx.array) -> KeysValues:
        """Keys and values of the text, [K, dim]."""


@dataclass(frozen=True, slots=True)
class AttentionSite:
    """Where in a forward an attention takes place.

    Attributes:
        kind: tokens attend to each other ("self"), to the text, or to the image tokens.
        layer: its projections.
        context: of its block.
        sees_all: whether keys and values are those of all tokens already, those of other processes too.
    """

    kind: Literal["self", "text", "image"]
    layer: AttentionLayer
    context: BlockContext
    sees_all: bool = False


Attention = Callable[[mx.array, mx.array, mx.array, AttentionSite], mx.array]
"""Queries [1, N, L, D], keys and values [1, N, K, D], and where → mixed values [1, N, L, D].

Queries and keys are normalized, and carry their rotary positions where the site has any.
"""


def attend_plainly(queries: mx.array, keys: mx.array, values: mx.array, site: AttentionSite) -> mx.array:
    """Softmax attention of all queries to all keys; the attention of the official models."""
    return attend(queries, keys, values, site.layer.scale)


@dataclass(frozen=True, slots=True)
class BlockContext:
    """Everything besides the tokens that a block, or an add-on between blocks, works with.

    Attributes:
        step: the step that is being taken.
        time: features of the timesteps in use, and which of the L tokens here use which.
        layout: of all tokens, those of other processes too.
        rotary: positions of the L tokens here.
        text: the prompt, and the image tokens beside it.
        attention: how tokens attend.
        index: of the block.
        sharing: which of all tokens are here.
        whole: the context of all tokens, where only some are here.
    """

    step: Step
    time: TimeFeatures
    layout: TokenLayout
    rotary: RotaryTable
    text: PromptTokens
    attention: Attention = attend_plainly
    index: int = 0
    sharing: TokenSharing = ALL_TOKENS
    whole: BlockContext | None = None

    def at(self, index: int) -> BlockContext:
        """This context, of another block."""
        return replace(self, index=index)

    @property
    def rows(self) -> slice:
        """Which of all tokens are here."""
        return self.sharing.rows(self.layout.num_tokens)

    def of_all_tokens(self) -> BlockContext:
        """The context of all tokens, of the same block."""
        return self if self.whole is None else self.whole.at(self.index)


class Block(Protocol):
    """A block, or something that runs one."""

    def __call__(self, x: mx.array, context: BlockContext, *others: Any) -> Any:
        """See TransformerBlock; what a block of a hook takes besides and returns is between the two."""


class StepCache(Protocol):
    """Decides in each forward of one pass whether the blocks run, or an earlier result stands in for them.

    The tokens that it is given are those of this process, the contexts those of all tokens: every process
    must decide alike.

    Attributes:
        decides_after: how many blocks run before it decides; 0 for one that decides before the first.
    """

    decides_after: int

    @property
    def token_arrays(self) -> frozenset[str]:
        """Names of those arrays of its state that have a row for each token."""

    def enter(self, tokens: mx.array) -> None:
        """Take the tokens that enter block 0, [L, dim], float32; called first in every forward."""

    def reuse(self, tokens: mx.array, context: BlockContext) -> mx.array | None:
        """Tokens to use in place of those that would leave the last block.

        Args:
            tokens: [L, dim], float32, as they enter block `decides_after`.
            context: of that block.

        Returns:
            [L, dim], float32; None to run the blocks, after which :meth:`store` is called.
        """

    def store(self, tokens: mx.array, context: BlockContext) -> None:
        """Remember what left the last block, [L, dim]."""

    def state(self) -> dict[str, mx.array]:
        """What later steps need, by names of its own; empty before the first step."""

    def restore(self, state: dict[str, mx.array]) -> None:
        """Go on from what :meth:`state` returned, bit for bit.

        Raises:
            ValueError: the state is of another cache.
        """


class BlockHook:
    """An add-on network around the blocks; each method leaves things as they are unless it is overridden.

    One hook serves one pass, so it may remember that pass's tokens from one block to the next.

    Attributes:
        takes_some_tokens: whether it treats each token by itself, apart from attention. Such a hook is given
            the tokens of this process alone, behind :meth:`extend`; any other one all tokens.
        further_blocks: the transformer's blocks that it works with, besides the main ones: index of a main
            block → the block that has its turn behind that one.
    """

    takes_some_tokens: bool = False
    further_blocks: Mapping[int, BlockName] = MappingProxyType({})

    def extend(self, tokens: mx.array, layout: TokenLayout) -> tuple[mx.array, TokenLayout]:
        """Put further tokens before, between or behind those of the video.

        Args:
            tokens: [L, dim], float32, as they leave the patch embedding.
            layout: of these tokens.
        """
        return tokens, layout

    def before_blocks(self, tokens: mx.array, context: BlockContext) -> mx.array:
        """Change the tokens [L, dim] that enter block 0; called in every forward."""
        return tokens

    def join_block(self, block: Block, index: int) -> Block:
        """What runs in place of main block `index`: the block, with what this hook has to do in it."""
        return block

    def after_block(self, tokens: mx.array, context: BlockContext) -> mx.array:
        """Change the tokens [L, dim] that leave a block; not called where a step cache skips it."""
        return tokens

    def run_block(self, tokens: mx.array, context: BlockContext, block: Block) -> mx.array:
        """Change the tokens [L, dim] by one of the `further_blocks` at its turn, behind :meth:`after_block`.

        Args:
            tokens: of the main stream, as they left the main block and what acts behind it.
            context: of that main block.
            block: may be used no longer than this call; what it returns stays.
        """
        return tokens


@dataclass(frozen=True, slots=True)
class Pass:
    """One of the predictions that a step asks for.

    Attributes:
        text: the prompt, from `project_text`.
        hooks: add-ons, in the order in which they act.
        cache: may stand in for the blocks; None runs them in every step.
        skip_layers: indices of blocks that leave the tokens as they are.
        attention: how tokens attend.
        added_modulation: [6, dim], float32, added to the modulation of every timestep; None for nothing.
        sharing: which of the tokens this process computes.
        is_negative: whether `text` is the negative prompt.
        sees: kinds of the given videos and pictures that it sees beside the noise; None for all.
        shares_tokens: whether processes may share its tokens out: not where `attention` needs all queries.
    """

    text: PromptTokens
    hooks: tuple[BlockHook, ...] = ()
    cache: StepCache | None = None
    skip_layers: frozenset[int] = field(default_factory=frozenset)
    attention: Attention = attend_plainly
    added_modulation: mx.array | None = None
    sharing: TokenSharing = ALL_TOKENS
    is_negative: bool = False
    sees: frozenset[str] | None = None
    shares_tokens: bool = True
