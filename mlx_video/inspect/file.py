"""What one weight file, or one set of shards, holds; of weights, few rows and zeros of adapters are read."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mlx_video.convert.vae_origin import find_other_vae
from mlx_video.errors import MLXVideoError, UnknownFormatError
from mlx_video.formats.file_kind import recognise
from mlx_video.formats.float8 import FLOAT8_DTYPES
from mlx_video.formats.gguf_header import read_gguf_header
from mlx_video.formats.safetensors import SafetensorsFile
from mlx_video.formats.tensor_source import TensorInfo, TensorSource, open_tensors
from mlx_video.inspect.adapter import describe_adapter
from mlx_video.inspect.component import identify
from mlx_video.inspect.inspection import FilePart
from mlx_video.latents.latents_file import TENSOR_NAME
from mlx_video.latents.run_state import is_state
from mlx_video.layouts.expert_names import guess_expert_of_file
from mlx_video.weights.component_kind import (
    ComponentKind,
    find_components,
    has_tokenizer,
    is_tokenizer_tensor,
)
from mlx_video.weights.component_networks import as_original, describe_other_part
from mlx_video.weights.names.fastvideo_names import is_fastvideo, open_fastvideo_file
from mlx_video.weights.names.transformer_names import QUANTIZED_SAMPLE
from mlx_video.weights.quantize import read_quantization
from mlx_video.weights.stored.all_in_one import pick_component
from mlx_video.weights.stored.fix_5d_file import (
    describe_fix_5d_file,
    is_fix_5d_file,
    report_fix_5d_file,
    with_fix_5d_file,
)
from mlx_video.weights.stored.scale_conventions import find_unscaled, is_beside_weights

SPELLINGS = {
    "original": "Wan's names",
    "diffusers": "Diffusers' names",
    "huggingface": "Hugging Face's names",
    "gguf": "llama.cpp's names",
    "mlx": "converted for MLX",
    "fastvideo": "converted for MLX by FastVideo",
    "longcat": "its authors' names",
}
_SCALES = {
    ".scale_weight": "scales beside the weights (ComfyUI or musubi, scale_weight)",
    ".weight_scale": "scales beside the weights (ComfyUI or LightX2V, weight_scale)",
    ".weight._scale": "scales beside the weights (quanto)",
}


def inspect_files(paths: Sequence[Path], root: Path) -> tuple[FilePart, ...]:
    """Tell what a file, or all shards of a component, holds.

    Args:
        paths: the files.
        root: what the reported names are relative to.

    Returns:
        One part for each component; one with a problem if the files cannot be read.
    """
    unread = FilePart("unknown", tuple(_name(path, root) for path in paths))
    try:
        whole = with_fix_5d_file(tuple(paths))
        part = replace(unread, files=tuple(_name(path, root) for path in whole))
        with open_tensors(whole) as source:
            if not is_fastvideo(source.infos):
                return tuple(_describe_parts(source, whole, part))
        with open_fastvideo_file(paths[0]) as packed:
            return (_describe_fastvideo(packed, unread),)
    except UnknownFormatError as error:
        return (replace(unread, notices=(str(error),)),)  # another model's, which may lie beside Wan's
    except MLXVideoError as error:
        return (replace(unread, problem=str(error)),)


def _name(path: Path, root: Path) -> str:
    """What a file is called below the inspected path, which may be the file, or one beside it."""
    return str(path.relative_to(root)) if root in path.parents else path.name


def _describe_parts(source: TensorSource, paths: Sequence[Path], part: FilePart) -> Iterator[FilePart]:
    packing = _packing(source, paths)
    # Of GGUF files no more than their tensors: a tokenizer in the metadata is none.
    stored = {n: info for n, info in source.infos.items() if not (packing and is_tokenizer_tensor(n))}
    part = _count(part, stored, packing)
    if TENSOR_NAME in source.infos and all(_is_of_run(name) for name in source.infos):
        metadata = source.metadata if isinstance(source, SafetensorsFile) else {}
        yield _describe_latents(part, source.infos[TENSOR_NAME], metadata)
        return
    kinds = find_components(source.infos)
    if not kinds:
        yield replace(part, notices=(f"{source.label}: {_explain_unknown(source, paths)}",))
    for kind in kinds:
        own = part if len(kinds) == 1 else _count_own(part, source, paths, kind.prefix)
        yield _describe_component(own, source, paths, kind)


def _describe_fastvideo(source: TensorSource, part: FilePart) -> FilePart:
    """A transformer that FastVideo packed, under the names of a converted file."""
    spelling = SPELLINGS["fastvideo"]
    part = replace(_count(part, source.infos, {}), component="transformer", spelling=spelling)
    try:
        return identify(part, source, "transformer", is_converted=True)
    except MLXVideoError as error:
        return replace(part, problem=str(error))


def _is_of_run(name: str) -> bool:
    return name == TENSOR_NAME or name.startswith("solver.")


def _packing(source: TensorSource, paths: Sequence[Path]) -> Mapping[str, tuple[str, int]]:
    """Name of each packed tensor of GGUF files → type and bytes; other files store what they list."""
    return {
        tensor.name: (tensor.kind, tensor.nbytes)
        for path in paths
        if recognise(path) == "gguf"
        for tensor in read_gguf_header(path).tensors
    }


def _count(
    part: FilePart, infos: Mapping[str, TensorInfo], packing: Mapping[str, tuple[str, int]]
) -> FilePart:
    """Fill in numbers, bytes and types; what lies beside weights (scales, a tokenizer) is no parameter."""
    precision: Counter[str] = Counter()
    nbytes = 0
    quantized = {name.removesuffix(".scales") for name in infos if name.endswith(".scales")}
    for name, info in infos.items():
        kind, stored = packing.get(name, (info.dtype, info.nbytes))
        nbytes += stored
        layer = name.rpartition(".")[0]
        if is_beside_weights(name) or (name.endswith((".scales", ".biases")) and layer in quantized):
            continue
        if is_tokenizer_tensor(name):
            continue
        if layer in quantized and name == f"{layer}.weight" and info.dtype == "U32":
            kind, size = _packed_size(infos, layer)
        else:
            size = math.prod(info.shape)
        precision[kind] += size
    return replace(
        part,
        tensors=len(infos),
        parameters=sum(precision.values()),
        nbytes=nbytes,
        precision=dict(precision),
        storage=_describe_scales(infos),
    )


def _count_own(part: FilePart, source: TensorSource, paths: Sequence[Path], prefix: str) -> FilePart:
    """Describe one of several components in a file."""
    own = {name: info for name, info in source.infos.items() if name.startswith(prefix)}
    return _count(part, own, _packing(source, paths))


def _packed_size(infos: Mapping[str, TensorInfo], layer: str) -> tuple[str, int]:
    """Type and weights of a layer that MLX packed, from the shapes of its triple."""
    shape, columns = infos[f"{layer}.weight"].shape, _inputs(infos, layer) or _guess_inputs(infos, layer)
    if not columns:
        return "packed", math.prod(shape)
    found = read_quantization(layer, columns, infos)
    return f"{found.bits} bits, group {found.group_size}", shape[0] * columns


def _guess_inputs(infos: Mapping[str, TensorInfo], layer: str) -> int | None:
    """Inputs of a layer outside of the blocks, in groups as large as those of the first block."""
    first, groups = QUANTIZED_SAMPLE, infos[f"{layer}.scales"].shape[-1:]
    columns, scales = _inputs(infos, first), infos.get(f"{first}.scales")
    if layer.startswith("blocks.") or not columns or scales is None or not all(scales.shape) or not groups:
        return None
    return groups[0] * columns // scales.shape[-1]


def _inputs(infos: Mapping[str, TensorInfo], layer: str) -> int | None:
    """A block layer's number of inputs: the width, or what the first layer of the feed-forward gives."""
    block = re.match(r"(.*blocks\.\d+\.)", layer)
    if block is None:
        return None
    source = infos.get(f"{block[1]}self_attn.norm_q.weight")
    if layer.endswith("ffn.fc2"):
        source = infos.get(f"{block[1]}ffn.fc1.bias")
    return source.shape[0] if source is not None and source.shape else None


def _describe_scales(infos: Mapping[str, TensorInfo]) -> str:
    kinds = [text for end, text in _SCALES.items() if any(name.endswith(end) for name in infos)]
    if any(name.endswith(".comfy_quant") for name in infos):
        kinds.append("described layer by layer (comfy_quant)")
    plain = [info for info in find_unscaled(infos) if info.dtype in FLOAT8_DTYPES]
    if plain:
        count = f" ({len(plain)} tensors)" if kinds else ""
        kinds.append(f"float8 without scales{count}")
    return ", ".join(kinds)


def _describe_latents(part: FilePart, info: TensorInfo, metadata: Mapping[str, str]) -> FilePart:
    kind = "run state" if is_state(metadata) else "latents"
    shape = ", ".join(f"{name} {size}" for name, size in zip("CTHW", info.shape, strict=False))
    made = [
        f"{name} {metadata[name]}" for name in ("variant", "seed", "steps", "version") if name in metadata
    ]
    prompt = metadata.get("prompt")
    notices = (shape, *made, *([f"prompt {prompt!r}"] if prompt else []))
    return replace(part, component=kind, notices=notices, parameters=0)


def _explain_unknown(source: TensorSource, paths: Sequence[Path]) -> str:
    if not source.infos:
        return "holds no tensors. Download it again."
    if is_fix_5d_file(paths[0]):
        return describe_fix_5d_file()
    names = ", ".join(list(source.infos)[:3])
    return (
        f"none of its tensors ({len(source.infos)}, first: {names}) tells a Wan transformer, UMT5, a Wan "
        "VAE, CLIP or an adapter. It is of another model."
    )


def _describe_component(
    part: FilePart, source: TensorSource, paths: Sequence[Path], kind: ComponentKind
) -> FilePart:
    spelling = SPELLINGS[kind.spelling] + (f" behind {kind.prefix}" if kind.prefix else "")
    holds_tokenizer = kind.component == "text_encoder" and has_tokenizer(source.infos)
    part = replace(part, component=kind.component, spelling=spelling, has_tokenizer=holds_tokenizer)
    try:
        if kind.component == "adapter":
            facts = describe_adapter(paths[0])
            part = replace(part, notices=facts.remarks)
            return replace(part, spelling="", adapter=facts, model=facts.made_for, expert=facts.expert)
        own, is_converted = pick_component(source, kind.component), kind.is_converted
        other = "" if is_converted else describe_other_part(kind.component, _original_infos(own, kind))
        if other:
            # Of FLUX or the like: no part of a Wan model, which may lie beside one.
            notice = f"{source.label}: {other}. It is of another model."
            return replace(part, component="unknown", has_tokenizer=False, notices=(notice,))
        part = replace(part, notices=tuple(report_fix_5d_file(paths)))
        found = identify(_at_expert(part, paths[0]), own, kind.component, is_converted=is_converted)
        return _with_origin(found, paths) if kind.component == "vae" and not is_converted else found
    except MLXVideoError as error:
        return replace(part, problem=str(error))


def _original_infos(own: TensorSource, kind: ComponentKind) -> Mapping[str, TensorInfo]:
    return {} if kind.component == "adapter" else as_original(own, kind.component).infos


def _with_origin(part: FilePart, paths: Sequence[Path]) -> FilePart:
    """A VAE called after the other model that it is of, where its tensors are those of Wan's."""
    other = find_other_vae(paths)
    if other is None:
        return part
    notice = f"the VAE of {other.title}: {other.difference}. It is taken only where --vae names it."
    return replace(part, model=f"VAE of {other.title}", notices=(*part.notices, notice))


def _at_expert(part: FilePart, path: Path) -> FilePart:
    return replace(part, expert=_guess_expert(path)) if part.component == "transformer" else part


def _guess_expert(path: Path) -> str:
    folder, second = path.parent, path.parent.with_name("transformer_2")
    if folder.name in ("transformer", "transformer_2") and second.is_dir():
        return "low_noise" if folder == second else "high_noise"
    return guess_expert_of_file(path) or ""
