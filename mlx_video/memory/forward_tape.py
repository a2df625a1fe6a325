"""The arrays of a transformer's forward in the order in which they are made, on a CPU and on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mlx_video.config import TransformerConfig
from mlx_video.memory.tape import Tape
from mlx_video.models.dispatch import FEWEST_QUERIES, TILE, Limits

WIDE = 4  # bytes of a float32
# MLX counts a CPU task in calls, and fills a GPU's command buffer with so many operations or elements.
CALLS_IN_TASK = 10
BUFFER_OPERATIONS, BUFFER_ELEMENTS = 50, 50 << 20


@dataclass(frozen=True, slots=True)
class ForwardSize:
    """What decides the memory of one forward.

    Attributes:
        config: of the transformer.
        num_tokens: of the video.
        weight_bytes: of one number of a dense layer, as stored.
        bits: of the blocks' quantized layers; None for dense ones.
        image_tokens: that cross-attention reads besides the text.
        num_passes: predictions of a step: 2 with guidance, else 1.
        on_gpu: where it runs.
        limits: of one dispatch there.
    """

    config: TransformerConfig
    num_tokens: int
    weight_bytes: int
    bits: int | None
    image_tokens: int
    num_passes: int
    on_gpu: bool
    limits: Limits

    @property
    def compute_bytes(self) -> int:
        """Of one number that a product makes; on a CPU all are float32."""
        return self.weight_bytes if self.on_gpu else WIDE


def forward_tape(size: ForwardSize, *, waits_for_blocks: bool = False) -> Tape:
    """One forward through enough blocks to show the most memory that any has.

    Args:
        size: of the forward.
        waits_for_blocks: each block is evaluated before the next begins, as streamed ones are.
    """
    builder = (_OnGPU if size.on_gpu else _OnCPU)(size)
    tokens = builder.make(builder.stream)
    waits = waits_for_blocks or size.num_tokens >= size.limits.block_tokens
    for _ in range(min(2, size.config.num_layers)):
        tokens = builder.run_block(tokens)
        if waits:
            builder.tape.wait(tokens)
    builder.run_head(tokens)
    return builder.tape


class _Builder:
    """Appends the operations of a block to a tape; what both devices have in common.

    Attributes:
        stream: bytes of the residual stream, float32.
        activation: bytes of as many numbers in the type of products.
    """

    def __init__(self, size: ForwardSize) -> None:
        self.size, self.config, self.tape = size, size.config, Tape()
        self.stream = size.num_tokens * size.config.dim * WIDE
        self.activation = size.num_tokens * size.config.dim * size.compute_bytes

    def make(self, nbytes: float, *reads: int, calls: int = 2) -> int:
        raise NotImplementedError

    def layer_norm(self, x: int) -> int:
        raise NotImplementedError

    def rms_norm(self, x: int) -> int:
        raise NotImplementedError

    def rotate(self, x: int) -> int:
        raise NotImplementedError

    def gelu(self, hidden: int, nbytes: int) -> int:
        raise NotImplementedError

    def weight(self, out: int, into: int) -> tuple[int, ...]:
        raise NotImplementedError

    def attend(self, queries: int, keys: int, values: Callable[[], int], num_keys: int) -> int:
        raise NotImplementedError

    def project(self, x: int, rows: int, out: int, into: int) -> int:
        """A linear layer."""
        return self.make(rows * out * self.size.compute_bytes, x, *self.weight(out, into), calls=4)

    def project_tokens(self, x: int) -> int:
        """A linear layer from width to width."""
        return self.project(x, self.size.num_tokens, self.config.dim, self.config.dim)

    def run_block(self, x: int) -> int:
        """A TransformerBlock."""
        x = self.self_attention(x)
        x = self.cross_attention(x)
        return self.feed_forward(x)

    def self_attention(self, x: int) -> int:
        normed = self.layer_norm(x)
        queries = self.rotate(self.rms_norm(self.project_tokens(normed)))
        keys = self.rotate(self.rms_norm(self.project_tokens(normed)))
        mixed = self.attend(queries, keys, lambda: self.project_tokens(normed), self.size.num_tokens)
        self.tape.use(normed)
        return self.add(x, self.project_tokens(mixed))

    def cross_attention(self, x: int) -> int:
        queries = self.rms_norm(self.project_tokens(self.layer_norm(x)))
        text = self.text_keys_values()
        mixed = self.attend(queries, text, lambda: text, self.config.text_len)
        if self.size.image_tokens:
            mixed = self.make(0, mixed, self.attend(queries, text, lambda: text, self.size.image_tokens))
        return self.add(x, self.project_tokens(mixed))

    def text_keys_values(self) -> int:
        """What the first step makes of the text; it stays, so its own bytes are counted elsewhere."""
        dim, length = self.config.dim, self.config.text_len
        made = [self.project(self.make(0), length, dim, dim) for _ in range(2)]
        return self.make(0, *made)

    def feed_forward(self, x: int) -> int:
        dim, hidden_dim = self.config.dim, self.config.ffn_dim

        def rows_of(part: int, rows: int) -> int:
            hidden = self.project(part, rows, hidden_dim, dim)
            active = self.gelu(hidden, rows * hidden_dim * self.size.compute_bytes)
            return self.project(active, rows, dim, hidden_dim)

        rows = self.size.limits.rows(elements=hidden_dim, flops=4 * dim * hidden_dim)
        return self.add(x, self.in_pieces(rows_of, self.layer_norm(x), rows))

    def in_pieces(self, function: Callable[[int, int], int], x: int, rows: int) -> int:
        """`products.in_pieces`: one piece after another is evaluated."""
        length = self.size.num_tokens
        if length <= rows:
            return function(x, length)
        even = -(-length // -(-length // rows))
        rows = min(rows, -(-even // TILE) * TILE)
        last = length - (length - 1) // rows * rows
        # The pieces before the last two only leave their results.
        done = max(0, length - rows - last)
        pieces = [self.tape.make(done / length * self.activation)]
        for part in (rows, last):
            pieces.append(function(x, part))
            self.tape.wait(x, *pieces)
        return self.make(self.activation, *pieces, calls=3)

    def attend_written_out(self, queries: int, keys: int, values: Callable[[], int], num_keys: int) -> int:
        """Attention whose scores exist in memory."""
        heads, tokens, width = self.config.num_heads, self.size.num_tokens, self.config.dim * WIDE
        turned = self.make(num_keys * width, keys, calls=3)
        laid_out: list[int] = []

        def rows_of(part: int, rows: int) -> int:
            scaled = self.make(rows * width, part)
            scores = self.make(
                rows * heads * num_keys * WIDE, scaled, self.make(rows * width, scaled), turned
            )
            weights = self.make(rows * heads * num_keys * WIDE, scores, calls=8)
            if not laid_out:
                laid_out.append(self.make(num_keys * width, values(), calls=3))
            mixed = self.make(rows * width, weights, laid_out[0], calls=3)
            self.make(0, mixed, weights, calls=5)
            return mixed

        flops = 4 * heads * num_keys * self.config.head_dim
        rows = self.size.limits.rows(elements=heads * num_keys, flops=flops)
        mixed = self.in_pieces(rows_of, queries, rows)
        self.tape.use(turned, keys, *laid_out)
        return self.make(tokens * width, mixed, calls=4)

    def add(self, x: int, y: int) -> int:
        raise NotImplementedError

    def run_head(self, tokens: int) -> None:
        """Head: norm and a small product."""
        self.make(self.stream / self.config.dim, self.layer_norm(tokens))


class _OnCPU(_Builder):
    """Norms and rotation as MLX spells them out on a CPU; weights are widened for each product."""

    def make(self, nbytes: float, *reads: int, calls: int = 2) -> int:
        return self.tape.make(nbytes, *reads, tasks=calls / CALLS_IN_TASK)

    def layer_norm(self, x: int) -> int:
        self.make(0, x, calls=5)
        centred = self.make(self.stream, x)
        variance = self.make(0, self.make(self.stream, centred), calls=9)
        return self.make(self.stream, centred, variance, calls=6)

    def rms_norm(self, x: int) -> int:
        scale = self.make(0, self.make(self.stream, x), calls=9)
        return self.make(self.stream, x, scale, calls=5)

    def rotate(self, x: int) -> int:
        halves = [self.make(self.stream / 2, x, calls=calls) for calls in (6, 6, 3, 3)]
        return self.make(self.stream, *halves, calls=10)

    def gelu(self, hidden: int, nbytes: int) -> int:
        active = self.make(nbytes, hidden, calls=3)
        self.make(0, hidden, active, calls=14)
        return active

    def unpacked(self, count: int) -> int:
        """A quantized weight in the type of its scales: a word's numbers are taken out and joined."""
        per_word = 32 // (self.size.bits or 32)
        parts = [self.make(count * WIDE / per_word, calls=6) for _ in range(per_word)]
        joined = self.make(count * WIDE, *parts, calls=1 + per_word)
        return self.make(count * self.size.weight_bytes, joined, calls=10)

    def weight(self, out: int, into: int) -> tuple[int, ...]:
        if self.size.bits is not None:
            return (self.make(out * into * WIDE, self.unpacked(out * into), calls=6),)
        return () if self.size.weight_bytes == WIDE else (self.make(out * into * WIDE, calls=6),)

    def attend(self, queries: int, keys: int, values: Callable[[], int], num_keys: int) -> int:
        return self.attend_written_out(queries, keys, values, num_keys)

    def add(self, x: int, y: int) -> int:
        """Into the memory of `y`."""
        self.make(0, x, y, calls=8)
        return y


class _OnGPU(_Builder):
    """One kernel for each norm, rotation and attention; weights are used as they are stored."""

    def make(self, nbytes: float, *reads: int, calls: int = 2) -> int:
        elements = 2 * nbytes / self.size.compute_bytes  # as many are read as written
        tasks = min(1.0, max(1 / BUFFER_OPERATIONS, elements / BUFFER_ELEMENTS))
        return self.tape.make(nbytes, *reads, tasks=tasks)

    def layer_norm(self, x: int) -> int:
        normed = self.make(self.stream, x)
        return normed if self.size.compute_bytes == WIDE else self.make(self.activation, normed)

    def rms_norm(self, x: int) -> int:
        return self.make(self.activation, x)

    def rotate(self, x: int) -> int:
        halves = [self.make(self.stream / 2, x) for _ in range(2)]
        joined = self.make(self.stream, *halves)
        return joined if self.size.compute_bytes == WIDE else self.make(self.activation, joined)

    def gelu(self, hidden: int, nbytes: int) -> int:
        return self.make(nbytes, hidden)

    def weight(self, out: int, into: int) -> tuple[int, ...]:
        if self.size.bits is None or self.size.limits.packed_products:
            return ()
        return (self.make(out * into * self.size.weight_bytes),)

    def attend(self, queries: int, keys: int, values: Callable[[], int], num_keys: int) -> int:
        if not self.size.limits.fused_attention:
            return self.attend_written_out(queries, keys, values, num_keys)
        heads, width = self.config.num_heads, self.config.dim * self.size.compute_bytes
        made = values()
        flops = 4 * heads * num_keys * self.config.head_dim
        rows = self.size.limits.rows(flops=flops, fewest=FEWEST_QUERIES)
        mixed = self.in_pieces(lambda part, count: self.make(count * width, part, keys, made), queries, rows)
        self.tape.use(keys, made)
        return self.make(self.activation, mixed)

    def add(self, x: int, y: int) -> int:
        return self.make(self.stream, x, y)
