"""The components of a model at run time: converted files, and those of a checkpoint read as if they were."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from mlx_video.formats.safetensors import SafetensorsFile
from mlx_video.formats.tensor_file import TensorFile
from mlx_video.formats.tensor_source import TensorSource, open_tensors
from mlx_video.layouts.diffusers_folder import ENCODER_STEM
from mlx_video.layouts.folder_layout import ORIGINAL_STEM
from mlx_video.layouts.shards import find_weights
from mlx_video.weights.all_in_one import pick_component
from mlx_video.weights.component_kind import find_components
from mlx_video.weights.converted_view import ConvertedTensors
from mlx_video.weights.names import text_encoder_names, vae_names
from mlx_video.weights.names.fastvideo_names import is_fastvideo, open_fastvideo_file
from mlx_video.weights.rules import Move, plan_moves
from mlx_video.weights.scaled import dequantize
from mlx_video.weights.spellings import ComponentName, as_original

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
    """A component opened to be streamed: its bytes as they are stored."""
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
    return _open(path, ENCODER_STEM, "text_encoder", _move_text_encoder)


def open_vae(path: Path) -> TensorSource:
    """Open a VAE under the names and in the layout of a converted file.

    Args:
        path: a converted file, or the file or the folder of a checkpoint's.

    Raises:
        CheckpointError: as :func:`open_text_encoder`.
    """
    return _open(path, ORIGINAL_STEM, "vae", _move_vae)


def _open(
    path: Path, stem: str, component: ComponentName, plan: Callable[[TensorSource], tuple[Move, ...]]
) -> TensorSource:
    with ExitStack() as opened:
        is_folder = path.is_dir()
        paths = find_weights(path, stem, component=component.replace("_", " ")).paths if is_folder else path
        stored = opened.enter_context(open_tensors(paths))
        kinds = {kind.component: kind.spelling for kind in find_components(stored.infos)}
        if kinds.get(component, _CONVERTED) != _CONVERTED:
            original = as_original(dequantize(pick_component(stored, component)), component)
            stored = ConvertedTensors(original, plan(original))
        opened.pop_all()
    return stored


def _move_text_encoder(source: TensorSource) -> tuple[Move, ...]:
    config = text_encoder_names.read_text_encoder_config(source.infos, label=source.label)
    expected = text_encoder_names.text_encoder_tensors(config)
    return plan_moves(source, text_encoder_names.WAN_RULES, expected)


def _move_vae(source: TensorSource) -> tuple[Move, ...]:
    config = vae_names.read_vae_config(source.infos, label=source.label)
    return plan_moves(source, vae_names.conversion_rules(config), vae_names.vae_tensors(config))
