"""How tools store weights in eight bits with scales beside them: which tensor belongs to which weight.

Several tools store `codes × scale`, each with its own names:

- ComfyUI until 2025: `<layer>.scale_weight`, and one `scaled_fp8` in the file;
- ComfyUI since: `<layer>.weight_scale`, the format in `<layer>.comfy_quant` or in the file's metadata;
- musubi-tuner: `<layer>.scale_weight`, one for the tensor, a row, or a block of a row;
- LightX2V: `<layer>.weight_scale`, one for a row, also of int8 codes;
- optimum-quanto: `<layer>.weight._data` and `<layer>.weight._scale`.

Source: comfyanonymous/ComfyUI comfy/utils.py, convert_old_quants, and comfy/quant_ops.py, QUANT_ALGOS;
kohya-ss/musubi-tuner src/musubi_tuner/modules/fp8_optimization_utils.py, optimize_state_dict_with_fp8;
ModelTC/LightX2V tools/convert/converter.py, quantize_model; huggingface/optimum-quanto
optimum/quanto/tensor/weights/qbytes.py, WeightQBytesTensor.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlx_video.errors import CheckpointError
from mlx_video.formats.file_kind import recognise
from mlx_video.formats.safetensors import read_header
from mlx_video.formats.tensor_source import FLOAT_DTYPES, TensorInfo, TensorSource

CODES = ("F8_E4M3", "F8_E5M2", "I8")
_FORMATS = ("float8_e4m3fn", "float8_e5m2", "int8", "int8_tensorwise")
# What one may hold beside a weight's scale; it serves arithmetic in eight bits, which is not done here.
_COMPANIONS = (".scale_input", ".input_scale", ".output_scale", ".comfy_quant")
_COMFY_LAYER, _COMFY_FILE, _SENTINEL = ".comfy_quant", "_quantization_metadata", "scaled_fp8"
# Ends of names that only formats have which are not read.
_UNREAD = {
    ".weight_scale_2": "nvfp4",
    ".weight_global_scale": "nvfp4 or mxfp4",
    ".input_global_scale": "nvfp4 or mxfp4",
    ".pre_quant_scale": "a format that also scales the layer's inputs",
    ".weight._shift": "a quanto format below eight bits",
}
_CURE = "Use the bf16, fp16 or fp8_scaled file of this model."


@dataclass(frozen=True, slots=True)
class Scaled:
    """A weight stored as codes with a scale.

    Attributes:
        codes: the tensor of codes.
        scale: the tensor that multiplies them: one number, one for each row [out, 1], or one for each block
            of a row [out, blocks, 1].
    """

    codes: str
    scale: str


def find_scaled(source: TensorSource) -> dict[str, Scaled]:
    """Pair weights with their scales, and account for every tensor that belongs to neither.

    Args:
        source: tensors as stored; only descriptions among them are read.

    Returns:
        Name of the weight → where its codes and its scale are; empty for a file without scales. 8-bit floats
        that the file nowhere calls scaled stand for themselves.

    Raises:
        CheckpointError: a scale is missing, misshapen, or belongs to no weight, or the weights are in a
            format that is not read.

    Source: ComfyUI comfy/ops.py, _load_quantized_module, which takes a weight as it is unless its layer is
    described.
    """
    scaled = _pair(source)
    stated = tuple(_stated_formats(source))
    _refuse_formats(source, stated)
    _check_every_tensor(source, scaled, [layer for layer, _ in stated])
    return scaled


def _pair(source: TensorSource) -> dict[str, Scaled]:
    found: dict[str, Scaled] = {}
    for scale in source.infos:
        names = _weight_of(scale)
        if names is None:
            continue
        weight, codes = names
        if codes not in source.infos:
            raise _damaged(source, scale, f"scales {codes}, which is not in the file")
        if weight in found:
            raise _damaged(source, scale, f"is a second scale of {weight}, beside {found[weight].scale}")
        _check_scale(source, source.infos[codes], source.infos[scale])
        found[weight] = Scaled(codes, scale)
    return found


def _weight_of(scale: str) -> tuple[str, str] | None:
    """The weight that a scale belongs to and the tensor of its codes; None for other tensors."""
    for end in (".scale_weight", ".weight_scale"):
        if scale.endswith(end):
            weight = scale.removesuffix(end) + ".weight"
            return weight, weight
    if scale.endswith(".weight._scale"):
        weight = scale.removesuffix("._scale")
        return weight, f"{weight}._data"
    return None


def _check_scale(source: TensorSource, codes: TensorInfo, scale: TensorInfo) -> None:
    if scale.dtype in ("F8_E8M0", "F8_E4M3", "U8"):
        layout = "nvfp4" if scale.dtype == "F8_E4M3" else "mxfp8"
        raise _unread(source, codes.name, f"{layout} ({scale.name} is {scale.dtype})")
    if scale.dtype not in FLOAT_DTYPES or codes.dtype not in (*CODES, *FLOAT_DTYPES):
        raise _damaged(source, scale.name, f"is {scale.dtype}, and {codes.name} is {codes.dtype}")
    rows = codes.shape[:1]
    is_row = bool(rows) and scale.shape in (rows, (*rows, 1), (*rows, 1, 1))
    is_block = (
        len(codes.shape) == 2
        and len(scale.shape) == 3
        and (scale.shape[0], scale.shape[2]) == (rows[0], 1)
        and scale.shape[1] > 0
        and codes.shape[1] % scale.shape[1] == 0
    )
    if math.prod(scale.shape) != 1 and not is_row and not is_block:
        raise _damaged(
            source,
            scale.name,
            f"is {list(scale.shape)} and {codes.name} {list(codes.shape)}; a scale is one number, one for "
            "each row, or one for each block of a row",
        )


def is_beside_weights(name: str) -> bool:
    """Whether a tensor serves a weight and is none itself: a scale, a description or a mark of the file."""
    return _weight_of(name) is not None or name.endswith(_COMPANIONS) or _is_sentinel(name)


def _is_sentinel(name: str) -> bool:
    return name.rpartition(".")[2] == _SENTINEL


def _refuse_formats(source: TensorSource, described: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
    """Refuse files that are stored in more than codes and scales."""
    for name in source.infos:
        for end, layout in _UNREAD.items():
            if name.endswith(end):
                raise _unread(source, name.removesuffix(end), layout)
    for layer, stated in described:
        stored_as = stated.get("format")
        if _is_rotated(stated):
            raise _unread(source, layer, f"{stored_as} with rotated weights (convrot)")
        if stored_as not in _FORMATS:
            raise _unread(source, layer, str(stored_as))


def _is_rotated(stated: Mapping[str, Any]) -> bool:
    inner = stated.get("params")
    return bool(stated.get("convrot")) or (isinstance(inner, dict) and bool(inner.get("convrot")))


def _stated_formats(source: TensorSource) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """What ComfyUI's descriptions say of each layer."""
    for name, info in source.infos.items():
        if name.endswith(_COMFY_LAYER):
            text = np.array(source.read(name)).tobytes() if info.dtype == "U8" else b""
            yield name.removesuffix(_COMFY_LAYER), _parse(source, name, text)
    for path in dict.fromkeys(source.file_of(name) for name in source.infos):
        if recognise(path) == "safetensors" and (stated := read_header(path).metadata.get(_COMFY_FILE)):
            layers = _parse(source, _COMFY_FILE, stated).get("layers")
            for layer, entry in layers.items() if isinstance(layers, dict) else ():
                yield layer, entry if isinstance(entry, dict) else {"format": entry}


def _parse(source: TensorSource, name: str, text: str | bytes) -> Mapping[str, Any]:
    try:
        stated = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{source.label}: {name} should say how weights are stored, but is no valid JSON ({error}). "
            "Download the file again."
        ) from error
    if not isinstance(stated, dict):
        raise _damaged(source, name, "should say how weights are stored, but is no JSON object")
    return stated


def find_unscaled(infos: Mapping[str, TensorInfo]) -> tuple[TensorInfo, ...]:
    """The 8-bit floats and integers of a file that have no scale.

    Args:
        infos: the tensors as they are stored.
    """
    with_scale = {names[1] for name in infos if (names := _weight_of(name))}
    return tuple(
        info
        for name, info in infos.items()
        if info.dtype in CODES and name not in with_scale and not is_beside_weights(name)
    )


def _check_every_tensor(source: TensorSource, scaled: Mapping[str, Scaled], described: Sequence[str]) -> None:
    """Weights that are integers, or that the file calls scaled, have a scale, and nothing is left over."""
    has_lost_all = not scaled and (described or any(map(_is_sentinel, source.infos)))
    for info in find_unscaled(source.infos):
        if has_lost_all or _must_have_scale(info, described):
            count = f"while {len(scaled)} others do" if scaled else "and cannot do without"
            kind = "int8" if info.dtype == "I8" else "float8"
            raise _damaged(source, info.name, f"is {kind} but has no scale, {count}")
    for name in source.infos:
        end = next((end for end in _COMPANIONS if name.endswith(end)), None)
        if end is not None and name.removesuffix(end) + ".weight" not in scaled:
            raise _damaged(source, name, "belongs to a layer that has no scale for its weight")


def _must_have_scale(info: TensorInfo, described: Iterable[str]) -> bool:
    """Whether a weight cannot stand for itself: by its type, quanto's name for codes, or the file's word."""
    layer = info.name.removesuffix(".weight")
    is_described = any(layer == name or layer.endswith(f".{name}") for name in described)
    return info.dtype == "I8" or info.name.endswith("._data") or is_described


def _damaged(source: TensorSource, name: str, what: str) -> CheckpointError:
    return CheckpointError(f"{source.label}: {name} {what}: the file is damaged or cut. Download it again.")


def _unread(source: TensorSource, layer: str, layout: str) -> CheckpointError:
    return CheckpointError(f"{source.label}: {layer} is stored as {layout}, which is not supported. {_CURE}")
