"""How much memory a forward of the transformer takes, from the sizes of the arrays that exist together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlx_video.config import TransformerConfig
from mlx_video.models.dispatch import FEWEST_QUERIES, UNPACKED_ROWS, Limits
from mlx_video.models.peak import WIDE, Peak, WeightCopies, cpu_weight_copies

# Arrays of all tokens for which MLX has scheduled work, and allocated, before it is done, by the bits of the
# weights. On a CPU these are a hundred calls, most of which go into unpacking where weights are quantized.
CPU_ARRAYS_AHEAD = {None: 9, 8: 5.5, 4: 3.5}
# On a GPU ten command buffers, each closed behind the operation that fills it: with 50·2^20 elements, of
# which as many are read as written, or with one large array alone.
# Source: mlx mlx/transforms.cpp, MAX_ACTIVE_TASKS.
GPU_ARRAYS_AHEAD = 11
GPU_NUMBERS_AHEAD = 10 * (50 << 20) // 2
GPU_ARRAYS_OF_A_BLOCK = 40  # besides the two of the feed-forward's width


@dataclass(frozen=True, slots=True)
class ForwardSize:
    """What decides the memory of one forward.

    Attributes:
        config: of the transformer.
        num_tokens: of the video.
        number_bytes: of one number of a dense layer, as stored.
        bits: of the blocks' quantized layers, 4 or 8; None for dense ones.
        image_tokens: that cross-attention reads besides the text.
        num_passes: predictions of a step: 2 with guidance, else 1.
        num_prompts: that these read; None for one each.
        windows_at_once: context windows that go through streamed blocks together.
        num_keys: tokens that each of these attends to, where other processes have some; None for these alone.
        context_tokens: to whose keys and values, computed before, the video's tokens attend too.
        on_gpu: where it runs.
        limits: of one dispatch there.
        remembered_tokens: of them, those whose keys and values are kept from step to step in place of a
            forward of theirs.
        sees_blocks: whether self-attention gathers few blocks of keys for each block of tokens.
    """

    config: TransformerConfig
    num_tokens: int
    number_bytes: int
    bits: int | None
    image_tokens: int
    num_passes: int
    on_gpu: bool
    limits: Limits
    num_prompts: int | None = None
    windows_at_once: int = 1
    num_keys: int | None = None
    context_tokens: int = 0
    remembered_tokens: int = 0
    sees_blocks: bool = False

    @property
    def all_tokens(self) -> int:
        """Tokens of all processes."""
        return self.num_keys or self.num_tokens

    @property
    def num_waiting(self) -> int:
        """Forwards that go through a streamed block before the next one is read."""
        return self.num_passes * self.windows_at_once

    @property
    def compute_bytes(self) -> int:
        """Bytes of one number that a product makes; on a CPU all are float32."""
        return self.number_bytes if self.on_gpu else WIDE

    @property
    def stream(self) -> int:
        """Bytes of the residual stream, float32."""
        return self.num_tokens * self.config.dim * WIDE

    @property
    def activation(self) -> int:
        """Bytes of as many numbers in the type of products."""
        return self.num_tokens * self.config.dim * self.compute_bytes

    def rows_at_once(self, rows: int) -> int:
        """Tokens of the largest chunk where at most `rows` go together: chunks are of nearly even size."""
        return -(-self.num_tokens // -(-self.num_tokens // rows))

    @property
    def weight_copies(self) -> WeightCopies:
        """Copies of a weight beside it while it is multiplied."""
        if not self.on_gpu:
            return cpu_weight_copies(self.number_bytes, self.bits)
        # Of which group size, the plan does not know: any may be.
        of_these_bits = any(name.startswith(f"{self.bits} bits") for name in self.limits.unpacked)
        is_faster = of_these_bits and self.num_tokens >= UNPACKED_ROWS
        is_unpacked = self.bits is not None and (is_faster or not self.limits.quantized_matmul)
        return WeightCopies(1, 1, 1) if is_unpacked else WeightCopies()


def forward_peak(size: ForwardSize, *, waits_for_blocks: bool = False) -> Peak:
    """Peak of one forward beside the weights; what the whole run keeps of the prompts is held.

    Args:
        size: of the forward.
        waits_for_blocks: each block is evaluated before the next begins, as streamed ones are.
    """
    moments = (
        _rotation(size),
        attention_moment(size, size.all_tokens, size.context_tokens, gathers=size.num_keys is not None),
        attention_moment(size, text_keys(size)),
        _feed_forward(size),
    )
    return peak_of_moments(size, moments, waits_for_blocks=waits_for_blocks)


def peak_of_moments(size: ForwardSize, moments: Sequence[Moment], *, waits_for_blocks: bool) -> Peak:
    """Peak of one forward of which these moments take most; arguments as for :func:`forward_peak`."""
    needed = max(moment.needed for moment in moments)
    usual = max(moment.usual for moment in moments) + _bytes_ahead(size, waits_for_blocks)
    rotary = size.all_tokens * size.config.head_dim * WIDE  # a cosine and a sine for each pair
    return Peak(int(needed), int(max(needed, usual))).beside(kept_text_bytes(size) + rotary)


def context_cache_bytes(size: ForwardSize) -> int:
    """Keys and values of the context in all blocks."""
    return 2 * size.config.num_layers * size.context_tokens * size.config.dim * size.compute_bytes


def kept_text_bytes(size: ForwardSize) -> int:
    """Prompts at the transformer's width, and the keys and values that every block makes of them once."""
    config = size.config
    text = (size.num_passes if size.num_prompts is None else size.num_prompts) * config.text_len
    kept_in_blocks = 2 * config.num_layers * (text + size.image_tokens) * config.dim
    features = text * (config.text_dim + config.dim) + size.image_tokens * config.dim
    return (kept_in_blocks + features) * size.compute_bytes


@dataclass(frozen=True, slots=True)
class Moment:
    """Bytes of the arrays that one operation of a block needs.

    Attributes:
        needed: at least.
        usual: to which comes what MLX schedules ahead.
    """

    needed: float
    usual: float


def text_keys(size: ForwardSize) -> int:
    """Keys of cross-attention: to the text, and at once to the image."""
    return size.config.text_len + size.image_tokens


def _rotation(size: ForwardSize) -> Moment:
    """Tokens, their norm and the queries; halves of the keys, and these joined."""
    nbytes = size.stream + 4 * size.activation
    if not size.on_gpu:
        nbytes += 2 * size.stream  # no kernel of their own: twice as many halves, and the keys
    return with_weight(size, size.config.dim, nbytes)


def attention_moment(
    size: ForwardSize, num_keys: int, context_keys: int = 0, *, gathers: bool = False
) -> Moment:
    """Tokens and queries against keys and values.

    Args:
        size: of the forward.
        num_keys: of the tokens, or of a text.
        context_keys: computed before, in front of these.
        gathers: whether other processes have some of the keys.
    """
    dim, key_bytes = size.config.dim, size.compute_bytes
    # Tokens and queries, keys and values; behind a context these, and all of them joined.
    arrays = size.stream + size.activation
    if context_keys:
        arrays += 2 * num_keys * dim * size.compute_bytes
        num_keys += context_keys
    if size.on_gpu and size.limits.fused_attention:
        rows = size.limits.rows(flops=4 * num_keys * dim, fewest=FEWEST_QUERIES)
        arrays += size.activation  # what is mixed
    else:
        rows, scores = written_out(size, num_keys)
        key_bytes += WIDE  # laid out for products
        arrays += 2 * scores
    arrays += 2 * num_keys * dim * key_bytes
    if gathers:
        # The keys and values of these tokens; those of all once more, without what made parts even.
        arrays += 2 * size.activation + 2 * num_keys * dim * size.compute_bytes
    if rows < size.num_tokens:
        # Between chunks variables still hold the norm of the tokens, and the chunks that are done are kept.
        return with_weight(size, dim, arrays, named=2 * size.activation)
    # Without chunks nothing waits before what is mixed is merged, projected and scaled.
    return with_weight(size, dim, arrays, later=3 * size.activation)


def written_out(size: ForwardSize, num_keys: int) -> tuple[int, int]:
    """Rows of a chunk of attention whose scores exist in memory, and the bytes of these scores."""
    heads = size.config.num_heads
    rows = size.limits.rows(elements=heads * num_keys, flops=4 * num_keys * size.config.dim)
    return rows, size.rows_at_once(rows) * heads * num_keys * WIDE


def _feed_forward(size: ForwardSize) -> Moment:
    dim, hidden_dim = size.config.dim, size.config.ffn_dim
    rows = size.limits.rows(elements=hidden_dim, flops=4 * dim * hidden_dim)
    # Tokens and what is added to them; before and after the GELU.
    hidden = size.rows_at_once(rows) * hidden_dim * size.compute_bytes
    arrays = size.stream + size.activation + 2 * hidden
    # Between chunks the norm of the tokens.
    named = size.activation if rows < size.num_tokens else 0
    text_rows, scores = written_out(size, text_keys(size))
    # Scores and weights of the cross-attention before, unless it was evaluated chunk by chunk.
    later = 2 * scores if text_rows >= size.num_tokens else 0
    return with_weight(size, hidden_dim, arrays, named=named, later=later)


def with_weight(size: ForwardSize, width: int, arrays: int, *, named: int = 0, later: int = 0) -> Moment:
    """A moment at a product between the transformer's width and another.

    Args:
        size: of the forward.
        width: the other.
        arrays: bytes that exist at once.
        named: bytes that variables hold besides.
        later: bytes of what a CPU has scheduled besides, unless that is the unpacking of a weight.
    """
    weight, copies = size.config.dim * width * size.compute_bytes, size.weight_copies
    if size.on_gpu or size.bits is not None:
        later = 0
    return Moment(arrays + named + copies.needed * weight, arrays + later + copies.in_a_row * weight)


def _bytes_ahead(size: ForwardSize, waits_for_blocks: bool) -> float:
    """Bytes that MLX allocates before they are needed, or holds when they no longer are."""
    if not size.on_gpu:
        return CPU_ARRAYS_AHEAD[size.bits] * size.stream
    blocks = 1 if waits_for_blocks or size.num_tokens >= size.limits.block_tokens else 2
    dim, hidden_dim = size.config.dim, size.config.ffn_dim
    made: float = size.num_tokens * (GPU_ARRAYS_OF_A_BLOCK * dim + 2 * hidden_dim)
    made += size.weight_copies.in_a_row * (8 * dim + 2 * hidden_dim) * dim
    numbers = min(blocks * made, max(GPU_ARRAYS_AHEAD * size.num_tokens * dim, GPU_NUMBERS_AHEAD))
    return numbers * size.compute_bytes
