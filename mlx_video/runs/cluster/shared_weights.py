"""A transformer of which each machine keeps a part of the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mlx_video.config import ModelConfig
from mlx_video.distributed.collectives import Collectives
from mlx_video.distributed.sharded_blocks import load_sharded
from mlx_video.distributed.tensor_parallel import TensorParallel
from mlx_video.layouts.model_folder import ModelFolder
from mlx_video.loading.open_parts import open_transformer
from mlx_video.loading.residency import resident
from mlx_video.loading.streamed_transformer import prepare_with
from mlx_video.lora.adapter_set import AdapterSet
from mlx_video.lora.apply import apply_adapters
from mlx_video.lora.shared_changes import share_adapters
from mlx_video.models.video_transformer import VideoTransformer
from mlx_video.request import LoraMode
from mlx_video.runs.sharing import OpenTransformer
from mlx_video.variants.registry import find_variant
from mlx_video.weights.load import load_module


@dataclass(frozen=True, slots=True)
class TensorWeights:
    """Heads and channels of each block, shared out. A `runs.sharing.SharedWeights`.

    Attributes:
        collectives: exchanges among the machines.
    """

    collectives: Collectives
    mode: str = "tensor"

    @contextmanager
    def open(
        self,
        model: ModelFolder,
        config: ModelConfig,
        name: str,
        adapters: AdapterSet | None,
        lora_mode: LoraMode,
    ) -> Iterator[OpenTransformer]:
        """See `runs.sharing.SharedWeights`."""
        sizes = adapters.stored_sizes(config.transformer) if adapters else config.transformer

        def load() -> VideoTransformer:
            transformer = find_variant(config).network.build(sizes)
            whole = open_transformer(model.transformers[name])
            with TensorParallel(self.collectives).split(transformer, whole) as source:
                load_module(transformer, source, quantization=config.quantization)
            if adapters:
                apply_adapters(transformer, share_adapters(adapters, source.share), mode=lora_mode)
            return transformer

        with resident(load) as transformer:
            yield transformer, None


@dataclass(frozen=True, slots=True)
class GatheredWeights:
    """Blocks that are gathered ahead of their turn. A `runs.sharing.SharedWeights`.

    Attributes:
        collectives: exchanges among the machines.
    """

    collectives: Collectives
    mode: str = "sharded"

    @contextmanager
    def open(
        self,
        model: ModelFolder,
        config: ModelConfig,
        name: str,
        adapters: AdapterSet | None,
        lora_mode: LoraMode,
    ) -> Iterator[OpenTransformer]:
        """See `runs.sharing.SharedWeights`."""
        network = find_variant(config).network
        sizes = adapters.stored_sizes(config.transformer) if adapters else config.transformer
        with (
            resident(lambda: network.build(sizes)) as transformer,
            open_transformer(model.transformers[name]) as source,
            load_sharded(
                transformer,
                source,
                network.block_order(sizes),
                self.collectives,
                quantization=config.quantization,
                prepare_block=prepare_with(adapters, lora_mode) if adapters else None,
            ) as blocks,
        ):
            if adapters:
                # Without its blocks the transformer takes what the adapters do to the rest.
                apply_adapters(transformer, adapters, mode=lora_mode)
            yield transformer, blocks
