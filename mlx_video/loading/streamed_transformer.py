"""A transformer of the model of which only some blocks are in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import mlx.nn as nn

from mlx_video.config import ModelConfig
from mlx_video.layouts.model_folder import ModelFolder
from mlx_video.loading.block_stream import BlockStream, PrepareBlock, load_streamed
from mlx_video.loading.open_parts import open_transformer_file
from mlx_video.loading.residency import resident
from mlx_video.lora.adapter_set import AdapterSet
from mlx_video.lora.apply import apply_adapters
from mlx_video.models.block_order import BlockName
from mlx_video.models.video_transformer import VideoTransformer
from mlx_video.request import LoraMode
from mlx_video.variants.registry import find_variant


@contextmanager
def open_streamed_transformer(
    model: ModelFolder,
    config: ModelConfig,
    name: str,
    resident_blocks: int,
    adapters: AdapterSet | None = None,
    lora_mode: LoraMode = "auto",
    prepare_block: PrepareBlock | None = None,
) -> Iterator[tuple[VideoTransformer, BlockStream]]:
    """Load a transformer but for the blocks that it reads as it needs them; all is released at the end.

    Args:
        model: the converted folder.
        config: what its config.json says.
        name: "model" for a single transformer.
        resident_blocks: how many of its blocks stay in memory.
        adapters: of this transformer; applied to a streamed block each time that it has been read.
        lora_mode: whether they are merged, or run beside quantized layers.
        prepare_block: changes a block each time that it has been read; not beside adapters.

    Yields:
        The transformer, and the block source to call it with.

    Raises:
        CheckpointError: the file does not hold the transformer that config.json describes.
        ConfigError: the quantization that config.json names is not the file's.
        AdapterError: an adapter cannot be applied.
    """
    network = find_variant(config).network
    sizes = adapters.stored_sizes(config.transformer) if adapters else config.transformer
    if adapters:
        prepare_block = prepare_with(adapters, lora_mode)
    with (
        open_transformer_file(model.transformers[name]) as source,
        resident(lambda: network.build(sizes)) as transformer,
        load_streamed(
            transformer,
            source,
            network.block_order(sizes),
            resident_blocks,
            quantization=config.quantization,
            prepare_block=prepare_block,
        ) as blocks,
    ):
        if adapters:
            # Without its blocks the transformer takes what the adapters do to the rest.
            apply_adapters(transformer, adapters, mode=lora_mode)
        yield transformer, blocks


def prepare_with(adapters: AdapterSet, mode: LoraMode) -> PrepareBlock:
    """What applies adapters to a block that has just been read; arguments as above."""

    def prepare_block(name: BlockName, block: nn.Module) -> None:
        apply_adapters(block, adapters, mode=mode, prefix=name.prefix)

    return prepare_block
