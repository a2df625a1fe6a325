"""The components of a model at run time: converted files, and those of a checkpoint read as if they were."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from mlx_video.formats.safetensors import SafetensorsFile
from mlx_video.formats.tensor_file import TensorFile
from mlx_video.formats.tensor_source import TensorSource, open_tensors
from mlx_video.layouts.components import TEXT_ENCODER, VAE, Component
from mlx_video.layouts.shards import find_weights
from mlx_video.weights.component_kind import find_components
from mlx_video.weights.component_networks import as_original, find_network
from mlx_video.weights.converted_view import ConvertedTensors
from mlx_video.weights.names.fastvideo_names import is_fastvideo, open_fastvideo_file
from mlx_video.weights.stored.all_in_one import pick_component
from mlx_video.weights.stored.scaled import dequantize

_CONVERTED = "mlx"


def open_transformer(path: Path) -> TensorSource:
    """Open a transformer under the names of a converted file.

    Args:
        path: a converted file, or FastVideo's.

    Raises:
        CheckpointError: the file is missing, damaged or of an unknown format.
    """
    source = open_tensors(path)
    if not is_fastvideo(source.infos):
        return source
    source.close()
    return open_fastvideo_file(path)


def open_transformer_file(path: Path) -> TensorFile:
    """Open a transformer to be streamed: its bytes as they are stored, under the names of a converted file.

    Raises:
        CheckpointError: as :func:`open_transformer`.
    """
    file = SafetensorsFile(path)
    if not is_fastvideo(file.infos):
        return file
    file.close()
    return open_fastvideo_file(path)


def open_text_encoder(path: Path) -> TensorSource:
    """Open UMT5 under the names of a converted file.

    Args:
        path: a converted file, or the file or the folder of a checkpoint's.

    Raises:
        CheckpointError: a file is missing, damaged or of an unknown format, or a tensor of the encoder is
            missing, unknown or misshapen.
    """
    return open_component(path, TEXT_ENCODER)


def open_vae(path: Path) -> TensorSource:
    """Open a VAE under the names and in the layout of a converted file.

    Args:
        path: a converted file, or the file or the folder of a checkpoint's.

    Raises:
        CheckpointError: as :func:`open_text_encoder`.
    """
    return open_component(path, VAE)


def open_component(path: Path, row: Component) -> TensorSource:
    """Open any component but a transformer, as :func:`open_text_encoder` and :func:`open_vae` do.

    Raises:
        CheckpointError: as :func:`open_text_encoder`.
    """
    network = find_network(row.name)
    with ExitStack() as opened:
        paths = find_weights(path, row.stem, component=row.words).paths if path.is_dir() else path
        stored = opened.enter_context(open_tensors(paths))
        kinds = {kind.component: kind.spelling for kind in find_components(stored.infos)}
        if kinds.get(row.name, _CONVERTED) != _CONVERTED:
            original = as_original(dequantize(pick_component(stored, row.name)), row.name)
            sizes = network.read_sizes(original.infos, label=original.label)
            stored = ConvertedTensors(original, network.plan_moves(original, sizes))
        opened.pop_all()
    return stored
