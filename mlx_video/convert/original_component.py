"""A component of a file in whatever form it is stored, as the Wan original would hold it."""

from __future__ import annotations

from mlx_video.formats.tensor_source import TensorSource
from mlx_video.variants.registry import list_diffusers_rules
from mlx_video.weights.component_networks import as_original
from mlx_video.weights.stored.all_in_one import pick_component
from mlx_video.weights.stored.fix_5d_file import check_kernel
from mlx_video.weights.stored.scaled import dequantize


def original_component(stored: TensorSource, component: str) -> TensorSource:
    """Tensors of one component under the Wan original's names; scaled ones are the numbers they stand for.

    Args:
        stored: the files of the component, which may hold others beside it.
        component: what it should be.

    Raises:
        CheckpointError: the component is absent, its names or scales are of no known kind, or the converter
            of a GGUF file left out the transformer's first kernel.
    """
    source = as_original(dequantize(pick_component(stored, component)), component, list_diffusers_rules())
    if component == "transformer":
        check_kernel(source)
    return source
