"""How fast machines would make the steps of a video together: predicted from arithmetic, messages and links.

Nothing here is measured but what the caller has: rates, and a link.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mlx_video.config import TransformerConfig

WIDE = 4
"""Bytes of a number in float32."""
BF16 = 2
DISK_RATE = 3e9
"""Bytes a second that a Mac's own disk is counted on to read."""


@dataclass(frozen=True, slots=True)
class Link:
    """What connects neighbouring machines.

    Attributes:
        latency_seconds: of the shortest message.
        bytes_per_second: of long ones.
    """

    latency_seconds: float
    bytes_per_second: float

    def __str__(self) -> str:
        """In words for people."""
        return f"{self.latency_seconds * 1e3:.3g} ms, {self.bytes_per_second / 1e9:.3g} GB/s"


@dataclass(frozen=True, slots=True)
class Traffic:
    """What one machine sends in a step.

    Attributes:
        hops: times that a message goes to a neighbour, one after the other.
        nbytes: of all messages.
        messages: exchanges that a machine takes part in.
    """

    hops: float = 0
    nbytes: float = 0
    messages: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(self.hops + other.hops, self.nbytes + other.nbytes, self.messages + other.messages)

    def __mul__(self, times: int) -> Traffic:
        return Traffic(self.hops * times, self.nbytes * times, self.messages * times)

    def seconds(self, link: Link) -> float:
        """How long it takes where nothing else happens meanwhile."""
        return self.hops * link.latency_seconds + self.nbytes / link.bytes_per_second


@dataclass(frozen=True, slots=True)
class StepSize:
    """A step of a model, as far as machines that share it depend on it.

    Attributes:
        config: of the transformer.
        tokens: n, of a forward.
        passes: forwards of a step.
        block_bytes: of the weights of all blocks.
        number_bytes: of a number of keys, values and sums on their way.
    """

    config: TransformerConfig
    tokens: int
    passes: int = 2
    block_bytes: int = 0
    number_bytes: int = BF16

    @property
    def operations(self) -> float:
        """Of a forward: products, self-attention, and attention to the text."""
        one, n = self.config, self.tokens
        products = 2 * n * (6 * one.dim**2 + 2 * one.dim * one.ffn_dim)
        return one.num_layers * (products + 4 * one.dim * n**2 + 4 * one.text_len * one.dim * n)

    @property
    def outputs(self) -> int:
        """Numbers that a token becomes."""
        return math.prod(self.config.patch_size) * self.config.out_dim

    @property
    def latent_bytes(self) -> int:
        """Of the latents, which travel as float32."""
        return WIDE * self.tokens * self.outputs


PUBLISHED: Mapping[str, TransformerConfig] = {
    "1.3B": TransformerConfig(1536, 8960, 12, 30),
    "5B": TransformerConfig(3072, 14336, 24, 30, in_dim=48, out_dim=48),
    "14B": TransformerConfig(5120, 13824, 40, 40),
}
"""Transformers of the published sizes."""


def size_published(config: TransformerConfig, tokens: int, passes: int = 2) -> StepSize:
    """A step of a transformer whose blocks are plain, in bfloat16."""
    block = 8 * config.dim**2 + 2 * config.dim * config.ffn_dim
    return StepSize(config, tokens, passes, BF16 * block * config.num_layers)


def gathered(row_bytes: float, rows: int, machines: int) -> Traffic:
    """Rows of all machines, put together in each: every machine sends its own to all others."""
    return Traffic(machines - 1, row_bytes * -(-rows // machines) * (machines - 1), 1)


def summed(nbytes: float, machines: int) -> Traffic:
    """Arrays of all machines, added up: each part goes around twice."""
    return Traffic(2 * (machines - 1), 2 * nbytes * (machines - 1) / machines, 1)


def context_traffic(step: StepSize, machines: int) -> Traffic:
    """Of a forward whose tokens are shared: keys and values in each block, and what the head makes."""
    keys_values = gathered(2 * step.config.dim * step.number_bytes, step.tokens, machines)
    return keys_values * step.config.num_layers + gathered(WIDE * step.outputs, step.tokens, machines)


def tensor_traffic(step: StepSize, machines: int) -> Traffic:
    """Of a forward whose heads are shared: three sums of all tokens in each block, and squares for norms."""
    sums = summed(step.tokens * step.config.dim * step.number_bytes, machines) * 3
    squares = summed(2 * step.tokens * WIDE, machines) + summed(step.tokens * WIDE, machines)
    return (sums + squares) * step.config.num_layers


def weights_traffic(step: StepSize, machines: int) -> Traffic:
    """Of a step in which each block is gathered once."""
    blocks = step.config.num_layers
    return gathered(step.block_bytes / blocks / machines, machines, machines) * blocks


def latents_traffic(step: StepSize, machines: int) -> Traffic:
    """Of the latents of a step on their way from rank 0 to all."""
    return Traffic(machines - 1, step.latent_bytes, 1)


@dataclass(frozen=True, slots=True)
class Sharing:
    """Machines that make a step together.

    Attributes:
        groups: of machines, among which the passes are shared.
        traffic: of a forward in a group of so many machines; none in a group of one.
        gathers: whether each block's weights are gathered besides.
    """

    groups: int
    traffic: Callable[[StepSize, int], Traffic]
    gathers: bool = False


SHARINGS: Mapping[str, Sharing] = {
    "guidance": Sharing(2, context_traffic),
    "context": Sharing(1, context_traffic),
    "tensor": Sharing(1, tensor_traffic),
    "sharded": Sharing(1, context_traffic, gathers=True),
}


def step_traffic(mode: str, step: StepSize, machines: int) -> Traffic:
    """What a machine sends in a step, of those who send most.

    Args:
        mode: a name of `SHARINGS`.
        step: what is made.
        machines: a multiple of the mode's groups.
    """
    sharing = SHARINGS[mode]
    together = machines // sharing.groups
    passes = -(-step.passes // sharing.groups)
    total = latents_traffic(step, machines)
    if together > 1:
        total += sharing.traffic(step, together) * passes
    if sharing.groups > 1 and step.passes > 1:
        total += Traffic(1, step.latent_bytes * passes, passes)  # velocities, to rank 0
    if sharing.gathers:
        total += weights_traffic(step, machines)
    return total


def step_seconds(
    mode: str | None, step: StepSize, machines: int, rate: float, link: Link, read_bytes: float = 0
) -> float:
    """How long a step would take.

    Args:
        mode: a name of `SHARINGS`; None for one machine alone.
        step: what is made.
        machines: how many.
        rate: operations a second of the slowest machine.
        link: between neighbours.
        read_bytes: of blocks that each machine reads from its disk meanwhile.
    """
    if mode is None:
        return max(step.passes * step.operations / rate, read_bytes / DISK_RATE)
    sharing = SHARINGS[mode]
    passes = -(-step.passes // sharing.groups)
    computing = passes * step.operations / rate / (machines // sharing.groups)
    return max(computing + step_traffic(mode, step, machines).seconds(link), read_bytes / DISK_RATE)


def predict_gain(mode: str, step: StepSize, machines: int, rate: float, link: Link) -> float:
    """How many times as fast machines would make a step as one, where all weights are in memory."""
    return step_seconds(None, step, 1, rate, link) / step_seconds(mode, step, machines, rate, link)
