"""Checkpoint folders as Diffusers saves a pipeline: which file is which component.

Source: diffusers src/diffusers/pipelines/wan, WanPipeline, WanImageToVideoPipeline and WanVACEPipeline;
bytedance/Video-As-Prompt, WanImageToVideoMOTPipeline.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mlx_video.errors import CheckpointError, ConfigError, MissingPartError
from mlx_video.files.file_bytes import refuse_dangling
from mlx_video.files.unusable_paths import real_path
from mlx_video.layouts.checkpoint_files import CheckpointFiles, PartName, SamplingHints
from mlx_video.layouts.components import EXPERT_ROLES, Component, list_parts
from mlx_video.layouts.folder_layout import (
    CONFIG_FILE,
    DIFFUSERS_TRANSFORMERS,
    MODEL_INDEX,
    TOKENIZER_FOLDER,
    find_transformer_folder,
    is_tokenizer_folder,
    list_folder,
    read_json_object,
)
from mlx_video.layouts.original_folder import check_tokenizer
from mlx_video.layouts.shards import FoundWeights, find_weights

SCHEDULER_CONFIG = "scheduler/scheduler_config.json"

# Those of DMD are FastVideo's, for distilled models.
_PIPELINES = (
    "WanPipeline",
    "WanImageToVideoPipeline",
    "WanVideoToVideoPipeline",
    "WanVACEPipeline",
    "WanAnimatePipeline",
    "WanImageToVideoMOTPipeline",
    "WanDMDPipeline",
    "WanImageToVideoDmdPipeline",
    "LongCatVideoPipeline",
)
_EXPERTS = MappingProxyType({role.name: role.folder for role in EXPERT_ROLES})
# Key of transformer/config.json → key of the original config.json.
_SIZE_KEYS = MappingProxyType(
    {
        "num_attention_heads": "num_heads",
        "in_channels": "in_dim",
        "out_channels": "out_dim",
        "ffn_dim": "ffn_dim",
        "num_layers": "num_layers",
        "freq_dim": "freq_dim",
        "text_dim": "text_dim",
        "eps": "eps",
        "image_dim": "image_dim",
        "pos_embed_seq_len": "image_positions",
        "patch_size": "patch_size",
        "vace_layers": "vace_layers",
        "vace_in_channels": "vace_in_dim",
        "motion_encoder_size": "motion_encoder_size",
        "motion_encoder_dim": "motion_encoder_dim",
        "motion_style_dim": "motion_style_dim",
        "motion_dim": "motion_dim",
        "face_encoder_hidden_dim": "face_encoder_hidden_dim",
        "face_encoder_num_heads": "face_encoder_num_heads",
        "inject_face_latents_blocks": "inject_face_latents_blocks",
        "block_idx_with_mot_ref": "mot_layers",
    }
)


@dataclass(frozen=True, slots=True)
class _TransformerClass:
    """How one class of transformers writes its config.json.

    Attributes:
        size_keys: its key → key of the original config.json.
        constants: what every network of it has; another value makes another network of the same tensors.
    """

    size_keys: Mapping[str, str]
    constants: Mapping[str, Any]


_WAN = _TransformerClass(
    _SIZE_KEYS,
    MappingProxyType(
        {"qk_norm": "rms_norm_across_heads", "cross_attn_norm": True, "reference_train_mode": None}
    ),
)
_LONGCAT = _TransformerClass(
    MappingProxyType(
        {
            "hidden_size": "dim",
            "num_heads": "num_heads",
            "depth": "num_layers",
            "in_channels": "in_dim",
            "out_channels": "out_dim",
            "caption_channels": "text_dim",
            "frequency_embedding_size": "freq_dim",
            "adaln_tembed_dim": "time_dim",
            "patch_size": "patch_size",
        }
    ),
    MappingProxyType({"text_tokens_zero_pad": True, "enable_bsa": False}),
)
_TRANSFORMER_CLASSES = MappingProxyType(
    {
        "WanTransformer3DModel": _WAN,
        "WanVACETransformer3DModel": _WAN,
        "WanAnimateTransformer3DModel": _WAN,
        "WanTransformer3DMOTModel": _WAN,
        "LongCatVideoTransformer3DModel": _LONGCAT,
    }
)
_ADVICE = MappingProxyType(
    {
        **dict.fromkeys(DIFFUSERS_TRANSFORMERS, "It is the model itself; download the whole repository."),
        "transformer_2": "A Wan2.2 A14B model needs both transformers; fetch it.",
    }
)


def open_diffusers_folder(path: Path, given: Collection[PartName] = ()) -> CheckpointFiles:
    """Find every component of a Wan pipeline that Diffusers saved.

    Args:
        path: the folder with model_index.json, or at least with transformer/.
        given: parts that the user has elsewhere, so that they may be absent here.

    Returns:
        All files; `transformer/` of two is the high-noise expert, `transformer_2/` the low-noise one.

    Raises:
        CheckpointError: the folder is one component alone, lacks one, or holds an unsupported pipeline.
        ConfigError: a config.json describes another network than Wan's.
    """
    refuse_dangling(path / MODEL_INDEX, path / SCHEDULER_CONFIG)
    _refuse_lone_component(path)
    index = read_json_object(path / MODEL_INDEX) if (path / MODEL_INDEX).is_file() else {}
    _check_pipeline(path, index)
    is_dual = _is_dual(path, index)
    rows = [row for row in list_parts() if row.name not in given and _is_there(path, index, row)]
    own = path / find_transformer_folder(list_folder(path))
    folders = {name: path / part for name, part in _EXPERTS.items()} if is_dual else {"model": own}
    folders = {name: folder for name, folder in folders.items() if name not in given}
    _check_parts(path, [f.name for f in folders.values()], rows)
    check_tokenizer(path / TOKENIZER_FOLDER)
    transformers = {name: find_weights(folder) for name, folder in folders.items()}
    parts = {row.name: _find_part(path / row.folder, row) for row in rows}
    found = (*transformers.values(), *parts.values())
    vae = parts.pop("vae", None)
    return CheckpointFiles(
        path=path,
        transformers={name: weights.paths for name, weights in transformers.items()},
        transformer_configs={name: read_transformer_sizes(folder) for name, folder in folders.items()},
        parts={name: weights.paths for name, weights in parts.items()},
        vaes={"vae": vae.paths} if vae else {},
        tokenizer=path / TOKENIZER_FOLDER if is_tokenizer_folder(path / TOKENIZER_FOLDER) else None,
        vae_config={} if "vae" in given else _read_config(path / "vae"),
        hints=_read_hints(path, index),
        notices=tuple(text for weights in found for text in weights.notices),
    )


def _refuse_lone_component(path: Path) -> None:
    if (path / MODEL_INDEX).is_file() or any((path / name).is_dir() for name in DIFFUSERS_TRANSFORMERS):
        return
    above = real_path(path).parent
    raise MissingPartError(
        f"{path}: is the transformer of a Diffusers folder alone; text encoder, tokenizer and VAE "
        f"lie beside it. Give the folder above it{f', {above}' if (above / MODEL_INDEX).is_file() else ''}."
    )


def _check_pipeline(path: Path, index: Mapping[str, Any]) -> None:
    name = index.get("_class_name", _PIPELINES[0])
    if name not in _PIPELINES:
        raise CheckpointError(
            f"{path / MODEL_INDEX}: is a {name}, which this version cannot convert. "
            f"Known: {', '.join(_PIPELINES)}."
        )


def _is_listed(index: Mapping[str, Any], component: str) -> bool:
    """Whether model_index.json names a class for a component; an absent one is [null, null]."""
    entry = index.get(component)
    return isinstance(entry, list) and any(entry)


def _is_there(path: Path, index: Mapping[str, Any], row: Component) -> bool:
    """Whether a folder has a component, or should have it."""
    is_present = _is_listed(index, row.folder) or (path / row.folder).is_dir()
    return bool(row.folder) and (row.is_needed or is_present)


def _is_dual(path: Path, index: Mapping[str, Any]) -> bool:
    names_two = _is_listed(index, "transformer_2") or index.get("boundary_ratio") is not None
    return names_two or (path / "transformer_2").is_dir()


def _check_parts(path: Path, transformers: Collection[str], rows: Collection[Component]) -> None:
    """Refuse a folder that lacks components; all of them are named at once."""
    advice = {name: _ADVICE[name] for name in transformers} | {row.folder: row.folder_advice for row in rows}
    refuse_dangling(*(path / folder for folder in advice))
    missing = [
        f"{folder}/ not found in {path}. {text}"
        for folder, text in advice.items()
        if not (path / folder).is_dir()
    ]
    if missing:
        raise MissingPartError("\n".join(missing))


def _read_config(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG_FILE
    refuse_dangling(file)
    return read_json_object(file) if file.is_file() else {}


def read_transformer_sizes(folder: Path) -> dict[str, Any]:
    """Read a transformer's config.json, under the keys of the original one.

    Raises:
        CheckpointError: it is missing, or of a transformer that cannot be converted.
        ConfigError: it describes another network than Wan's.
    """
    refuse_dangling(folder / CONFIG_FILE)
    if not (folder / CONFIG_FILE).is_file():
        raise MissingPartError(
            f"{folder / CONFIG_FILE} not found; it states the transformer's sizes. "
            "Copy it from the repository."
        )
    config = read_json_object(folder / CONFIG_FILE)
    first, *_ = _TRANSFORMER_CLASSES
    name = config.get("_class_name", first)
    if name not in _TRANSFORMER_CLASSES:
        raise CheckpointError(
            f"{folder / CONFIG_FILE}: is a {name}, which this version cannot convert. "
            f"It converts {' and '.join(_TRANSFORMER_CLASSES)}."
        )
    kind = _TRANSFORMER_CLASSES[name]
    _check_constants(folder / CONFIG_FILE, config, kind.constants)
    sizes = {ours: config[theirs] for theirs, ours in kind.size_keys.items() if theirs in config}
    if sizes.get("image_positions", 0) is None:
        sizes["image_positions"] = 0
    heads, head_dim = config.get("num_attention_heads"), config.get("attention_head_dim")
    if isinstance(heads, int) and isinstance(head_dim, int):
        sizes["dim"] = heads * head_dim
    return sizes


def _check_constants(file: Path, config: Mapping[str, Any], constants: Mapping[str, Any]) -> None:
    for key, expected in constants.items():
        if config.get(key, expected) != expected:
            raise ConfigError(
                f"{file}: {key} is {config[key]!r}, Wan's network has {expected!r}. "
                "It is another network; fetch the file from the model's repository."
            )


def _find_part(folder: Path, row: Component) -> FoundWeights:
    if row.constants:
        _check_constants(folder / CONFIG_FILE, _read_config(folder), row.constants)
    return find_weights(folder, row.stem, component=row.words)


def _read_hints(path: Path, index: Mapping[str, Any]) -> SamplingHints:
    scheduler = path / SCHEDULER_CONFIG
    settings = read_json_object(scheduler) if scheduler.is_file() else {}
    # Euler's scheduler calls it "shift".
    shift_key = "flow_shift" if "flow_shift" in settings else "shift"
    expands = index.get("expand_timesteps")
    return SamplingHints(
        shift=_read_number(scheduler, settings, shift_key),
        boundary=_read_number(path / MODEL_INDEX, index, "boundary_ratio"),
        expands_timesteps=expands if isinstance(expands, bool) else None,
        pipeline=str(index.get("_class_name", "")),
    )


def _read_number(file: Path, content: Mapping[str, Any], key: str) -> float | None:
    """A positive number; None where it is absent or null."""
    value = content.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ConfigError(f"{file}: {key} is {value!r}, expected a positive number. Fetch the file again.")
    return float(value)
