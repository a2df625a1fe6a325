"""The transformer of a model: how it is built, which tensors its files hold, and how much memory it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

from mlx_video.config import TransformerConfig
from mlx_video.models.block_order import BlockName, FurtherBlocks, order_blocks
from mlx_video.models.peak import Peak
from mlx_video.models.transformer import WanTransformer
from mlx_video.models.transformer_memory import ForwardSize, forward_peak
from mlx_video.models.video_transformer import VideoTransformer
from mlx_video.weights.names.transformer_names import DIFFUSERS_RULES, WAN_RULES, transformer_tensors
from mlx_video.weights.quantize import ChooseLayer, is_quantized_layer
from mlx_video.weights.rules import Rule, Shape, target_shapes


class ForwardPeak(Protocol):
    """A network's memory formula."""

    def __call__(self, size: ForwardSize, *, waits_for_blocks: bool = False) -> Peak:
        """See :func:`mlx_video.models.transformer_memory.forward_peak`."""


def _no_tensors(config: TransformerConfig) -> Mapping[str, Shape]:
    return {}


def _no_sizes(shapes: Mapping[str, Shape]) -> Mapping[str, Any]:
    return {}


def _no_blocks(config: TransformerConfig) -> FurtherBlocks:
    return {}


@dataclass(frozen=True, slots=True)
class TransformerNetwork:
    """A transformer of the family; the default is the plain one of text-to-video and image-to-video.

    Attributes:
        build: sizes → the module without weights. Its parameters carry the names of a converted file.
        extra_tensors: sizes → name and shape of every tensor that the plain transformer lacks, as the
            official code spells them.
        extra_rules: official name → converted name and layout, for those of them that differ.
        extra_diffusers_rules: what Diffusers calls them → official name.
        base_tensors: sizes → name and shape of every tensor but the extra ones. Another architecture has its
            own, under Wan's names where both have the same part.
        own_sizes: its tensors under their official names → sizes that the plain transformer does not have.
        is_quantized: whether the layer of a path, in converted names, is changed when a model is quantized.
        peak: memory of one forward beside the weights.
        read_frames: sizes → token frames that a forward only reads, beside those of the video.
        further_blocks: the blocks besides the main ones that are streamed like these.
        knows_others: whether blocks of another architecture than Wan's attend to tokens of other processes.
    """

    build: Callable[[TransformerConfig], VideoTransformer] = WanTransformer
    extra_tensors: Callable[[TransformerConfig], Mapping[str, Shape]] = _no_tensors
    extra_rules: tuple[Rule, ...] = ()
    extra_diffusers_rules: tuple[Rule, ...] = ()
    base_tensors: Callable[[TransformerConfig], Mapping[str, Shape]] = transformer_tensors
    own_sizes: Callable[[Mapping[str, Shape]], Mapping[str, Any]] = _no_sizes
    is_quantized: ChooseLayer = is_quantized_layer
    peak: ForwardPeak = forward_peak
    read_frames: Callable[[TransformerConfig], int] = lambda config: int(config.reference_dim is not None)
    further_blocks: Callable[[TransformerConfig], FurtherBlocks] = _no_blocks
    knows_others: bool = False

    @property
    def can_be_shared(self) -> bool:
        """Whether machines can make a forward together; blocks of other designs may know of no others."""
        return self.base_tensors is transformer_tensors or self.knows_others

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Official name → converted name and layout, for every tensor."""
        return (*self.extra_rules, *WAN_RULES)

    @property
    def diffusers_rules(self) -> tuple[Rule, ...]:
        """Diffusers' name → official name, for every tensor."""
        return (*self.extra_diffusers_rules, *DIFFUSERS_RULES)

    def tensors(self, config: TransformerConfig) -> dict[str, Shape]:
        """Name and shape of every tensor, as the official code spells them."""
        return {**self.base_tensors(config), **self.extra_tensors(config)}

    def block_order(self, config: TransformerConfig) -> tuple[BlockName, ...]:
        """Every block in the order of the turns."""
        return tuple(chain.from_iterable(order_blocks(config.num_layers, [self.further_blocks(config)])))

    def parameters(self, config: TransformerConfig) -> dict[str, Shape]:
        """Name and dense shape of every parameter of the module."""
        return target_shapes(self.tensors(config), self.rules)


PLAIN = TransformerNetwork()
