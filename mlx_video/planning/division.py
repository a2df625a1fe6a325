"""What each of several processes that make a video together has in memory of its transformer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from mlx_video.config import TransformerConfig
from mlx_video.formats.tensor_info import TensorInfo
from mlx_video.loading.stream_plan import SLOTS
from mlx_video.models.transformer_memory import ForwardSize
from mlx_video.planning.weight_bytes import WeightBytes
from mlx_video.weights.block_shares import find_group_size, share_blocks


@dataclass(frozen=True, slots=True)
class Division:
    """A transformer's work, shared out over processes.

    Attributes:
        mode: what is shared out: nothing, the tokens, heads and feed-forward, or the blocks' weights with the
            tokens.
        count: of the processes.
    """

    mode: Literal["none", "context", "tensor", "sharded"] = "none"
    count: int = 1

    @property
    def streams(self) -> bool:
        """Whether blocks may be streamed from a disk besides."""
        return self.mode in ("none", "context")

    def share_tensors(self, infos: Iterable[TensorInfo], config: TransformerConfig) -> list[TensorInfo]:
        """The tensors of a transformer's file as the process with the most of them has them.

        Raises:
            ValueError, CheckpointError: the transformer cannot be shared out so.
        """
        by_name = {info.name: info for info in infos}
        if self.mode != "tensor":
            return [*by_name.values()]
        share = share_blocks(config, 0, self.count, find_group_size(config, by_name))
        parts = {name: share.of_tensor(info) for name, info in by_name.items()}
        return [
            info if (part := parts[name]) is None else replace(info, shape=part.shape(info))
            for name, info in by_name.items()
        ]

    def share_forward(self, size: ForwardSize) -> ForwardSize:
        """A forward as the process with the most tokens makes it."""
        if self.mode not in ("context", "sharded") or size.sees_blocks:
            return size
        own = -(-(size.num_tokens - size.remembered_tokens) // self.count)
        return replace(size, num_tokens=own + size.remembered_tokens, num_keys=size.num_tokens)

    def bytes_in_use(self, weights: WeightBytes) -> int | None:
        """Bytes of the weights of one process while it runs; None for as many as without the others."""
        if self.mode != "sharded":
            return None
        parts = sum(-(-block // self.count) for block in weights.blocks)
        return weights.others + parts + SLOTS * weights.largest_block

    def describe(self, blocks: str) -> str:
        """The blocks of one process in words, from those that it would have alone."""
        shares = {
            "context": f"a share of the tokens of {self.count} machines",
            "tensor": f"a share of the heads of {self.count} machines",
            "sharded": f"1/{self.count} of each, two whole ones at a time",
        }
        return f"{blocks}, {shares[self.mode]}" if self.mode in shares else blocks


UNDIVIDED = Division()
