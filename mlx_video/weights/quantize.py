"""Which layers are quantized, into how many bits: one predicate for converting and loading."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import mlx.core as mx

from mlx_video.config import QuantizationConfig
from mlx_video.errors import ConfigError, RequestError
from mlx_video.formats.tensor_source import TensorInfo

QUANTIZED_LAYER = re.compile(r".*\.(self_attn|cross_attn)\.[qkvo]|.*\.ffn\.fc[12]")
GROUP_SIZES = (32, 64, 128)
WORD_BITS = 32

ChooseLayer = Callable[[str], bool]
"""Path of a layer → whether it is meant."""


def is_quantized_layer(path: str) -> bool:
    """Whether a transformer's layer is changed when a checkpoint is quantized.

    The linear layers of every block are; embeddings, projections, norms, modulation and head are not, nor are
    the image keys and values (`k_img`, `v_img`), because other readers of the format build exactly this set.

    Source: Blaizzy/mlx-video mlx_video/models/wan_2/convert.py, the predicate of its quantization.
    """
    return QUANTIZED_LAYER.fullmatch(path) is not None


def check_group_size(
    tensors: Mapping[str, tuple[int, ...]],
    quantization: QuantizationConfig,
    is_quantized: ChooseLayer = is_quantized_layer,
) -> None:
    """Refuse a group size that does not divide the inputs of a layer to be quantized.

    Args:
        tensors: converted name → dense shape.
        quantization: to be made.
        is_quantized: which layers of the network are quantized.

    Raises:
        RequestError: names the first such layer, its inputs and the group sizes that fit every layer.
    """
    inputs = {
        name: shape[-1]
        for name, shape in tensors.items()
        if name.endswith(".weight") and is_quantized(name.removesuffix(".weight"))
    }
    group_size = quantization.group_size
    for name, columns in inputs.items():
        if columns % group_size:
            fitting = [size for size in GROUP_SIZES if all(count % size == 0 for count in inputs.values())]
            choices = " or ".join(str(size) for size in fitting)
            cure = f"Use {choices}." if fitting else "This model cannot be quantized; leave --quantize out."
            raise RequestError(
                "group_size", f"{group_size}: {name} has {columns} inputs, which it does not divide. {cure}"
            )


def quantized_infos(
    path: str, shape: tuple[int, ...], dtype: str, quantization: QuantizationConfig
) -> tuple[TensorInfo, ...]:
    """The three tensors that stand for a quantized layer's weight.

    Args:
        path: the layer.
        shape: [out, in] of the dense weight.
        dtype: of the dense weight, in safetensors spelling; scales and biases keep it.

    Returns:
        weight [out, in·bits/32] of packed words, scales and biases [out, in/group_size].
    """
    rows, columns = shape
    groups = (rows, columns // quantization.group_size)
    return (
        TensorInfo(f"{path}.weight", (rows, columns * quantization.bits // WORD_BITS), "U32"),
        TensorInfo(f"{path}.scales", groups, dtype),
        TensorInfo(f"{path}.biases", groups, dtype),
    )


def quantize_rows(rows: mx.array, quantization: QuantizationConfig) -> tuple[mx.array, mx.array, mx.array]:
    """Quantize some rows of a weight; rows are independent, so slices give the bits of the whole.

    Args:
        rows: [rows, in], already in the dtype of the converted file: another dtype gives other codes.

    Returns:
        weight, scales, biases as `quantized_infos` describes them.
    """
    packed, scales, biases = mx.quantize(rows, group_size=quantization.group_size, bits=quantization.bits)
    return packed, scales, biases


def dense_shapes(infos: Mapping[str, TensorInfo], path: str, columns: int) -> dict[str, tuple[int, ...]]:
    """Shapes of a file's tensors as if none was quantized; one layer tells the bits of all.

    Args:
        infos: the file's tensors.
        path: a layer whose inputs are known.
        columns: its inputs.
    """
    shapes = {name: info.shape for name, info in infos.items() if not name.endswith((".scales", ".biases"))}
    packed = {f"{name.removesuffix('.scales')}.weight" for name in infos if name.endswith(".scales")}
    stored = {name: shapes[name] for name in packed & shapes.keys() if shapes[name]}
    if f"{path}.weight" not in stored:
        return shapes
    bits = max(WORD_BITS * stored[f"{path}.weight"][-1] // max(columns, 1), 1)
    return shapes | {name: (*rest, words * WORD_BITS // bits) for name, (*rest, words) in stored.items()}


def read_quantization(path: str, columns: int, infos: Mapping[str, TensorInfo]) -> QuantizationConfig:
    """Bits and group size of one stored layer, from the shapes of its triple.

    Args:
        path: the layer.
        columns: the layer's inputs.
        infos: the file's tensors.

    Raises:
        ConfigError: the triple is incomplete, or its shapes are those of no affine quantization.
    """
    weight, scales, biases = (infos.get(f"{path}.{part}") for part in ("weight", "scales", "biases"))
    if weight is None or scales is None or biases is None or weight.dtype != "U32":
        raise ConfigError(
            f"{path}: is marked as quantized by its scales, but lacks packed U32 weights or biases. "
            "The file is damaged; convert the model again."
        )
    setting = _find_setting(columns, weight.shape, scales.shape)
    if setting is None or scales.shape != biases.shape:
        raise ConfigError(
            f"{path}: weight {list(weight.shape)}, scales {list(scales.shape)} and biases "
            f"{list(biases.shape)} do not quantize {columns} inputs. The file is from another model; "
            "convert it again."
        )
    return setting


def _find_setting(
    columns: int, weight: tuple[int, ...], scales: tuple[int, ...]
) -> QuantizationConfig | None:
    """What packs so many inputs into weights and scales of these shapes; None for nothing."""
    if columns < 1 or len(weight) < 2 or len(scales) < 2:
        return None
    bits, bits_rest = divmod(WORD_BITS * weight[-1], columns)
    group_size, group_rest = divmod(columns, max(scales[-1], 1))
    if bits_rest or group_rest or bits not in (2, 3, 4, 5, 6, 8):
        return None
    return QuantizationConfig(bits=bits, group_size=group_size)
