"""The config of a converted folder that another tool made: completed and corrected by its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mlx_video.config import (
    WAN22_VAE,
    ModelConfig,
    TextEncoderConfig,
    VAEConfig,
    config_from_json,
    config_to_json,
    find_vae_config,
)
from mlx_video.errors import CheckpointError
from mlx_video.files.hub_cache import published_name
from mlx_video.formats.tensor_source import TensorInfo, open_tensors
from mlx_video.layouts.folder_layout import CONFIG_FILE
from mlx_video.layouts.model_folder import ModelFolder
from mlx_video.loading.open_parts import open_text_encoder, open_vae
from mlx_video.sampling.recipes.dmd import FASTWAN
from mlx_video.sampling.recipes.settle import adopt_recipe
from mlx_video.variants.distilled import MOST_STEPS, adopt_distilled
from mlx_video.variants.registry import (
    SIZE_TENSORS,
    Recognition,
    read_original_shapes,
    recognise_checkpoint,
)
from mlx_video.variants.variant import Variant
from mlx_video.weights.names.text_encoder_names import read_text_encoder_config
from mlx_video.weights.names.transformer_names import ANCHOR, IMAGE_ANCHOR, WAN_RULES
from mlx_video.weights.names.vae_names import CONVERTED_RULES, read_output_scale
from mlx_video.weights.quantize import dense_shapes
from mlx_video.weights.renamed import RenamedTensors
from mlx_video.weights.rules import Shape, apply_rules

Notices = tuple[str, ...]

# config key → the tensor that shows it; the number of blocks is shown by no single one.
_EVIDENCE = {key: name for key, (name, _) in SIZE_TENSORS.items()} | {"out_dim": "head.head.weight"}
_SIZES = (*_EVIDENCE, "num_layers")
# Where one of these is wrong, config.json is another model's, and so are its defaults.
_TASK_SIZES = {"in_dim", "out_dim", "dim"}
_TASK_KEYS = {
    "model_type", "model_version", "num_heads", "boundary", "sample_shift", "sample_steps",
    "sample_guide_scale", "sample_fps", "frame_num", "sample_neg_prompt", "max_area",
}  # fmt: skip
_UNSHAPED = ("num_heads", "eps", "text_len")  # no tensor shows them

_FASTWAN_MARK = "fastwan_dmd"


@dataclass(frozen=True, slots=True)
class _Weights:
    """A folder's transformer as its file's header tells it.

    Attributes:
        shapes: under the Wan original's names, as if nothing was quantized.
        label: the file's name.
        is_dual: whether there is another transformer.
        folder: what the folder's publisher calls it.
    """

    infos: Mapping[str, TensorInfo]
    shapes: Mapping[str, Shape]
    label: str
    is_dual: bool
    folder: str

    def recognise(self, stated: Mapping[str, Any]) -> Recognition:
        """The model they are of; `stated` holds what config.json says of sizes that no tensor shows."""
        return recognise_checkpoint(
            self.shapes, stated, is_dual=self.is_dual, label=self.label, names=(self.folder,)
        )


def read_foreign_config(folder: ModelFolder) -> tuple[ModelConfig, Notices]:
    """Read the config of a folder that another tool made; of the weights, headers only.

    config.json is believed where it does not contradict the weights. Where it does, and where there is none,
    the weights decide.

    Args:
        folder: without our own key in its config.json.

    Returns:
        The config, and what the user should know of how it came about.

    Raises:
        CheckpointError: a file is damaged or no such component, or the transformer is of no known model or
            lost tensors when it was quantized.
        ConfigError: config.json cannot be used.

    Source: Blaizzy/mlx-video, mlx_video/generate_wan.py, generate_video, which guesses and corrects too.
    """
    path = next(iter(folder.transformers.values()))
    with open_tensors(path) as source:
        infos = source.infos
    is_dual, name = len(folder.transformers) > 1, published_name(folder.path)
    weights = _Weights(infos, read_original_shapes(infos), path.name, is_dual, name)
    _refuse_lost_image_branch(folder, weights)
    config, notices = _correct(folder, weights) if folder.config else _guess(folder, weights)
    return replace(config, vae=with_output_scale(folder, config.vae)), notices


def with_output_scale(folder: ModelFolder, vae: VAEConfig) -> VAEConfig:
    """The VAE with the size that the decoder of a folder's file makes frames; other tools write none."""
    try:
        with open_vae(folder.vae) as source:
            infos = RenamedTensors(source, CONVERTED_RULES).infos
    except CheckpointError:
        return vae  # checking the weights says what is wrong with the file
    return replace(vae, output_scale=read_output_scale(infos, vae))


def _refuse_lost_image_branch(folder: ModelFolder, weights: _Weights) -> None:
    """Refuse Wan2.1 image-to-video of which only the parts of a text-to-video model were saved."""
    takes_image = weights.shapes.get(ANCHOR, ())[1:2] == (36,) and IMAGE_ANCHOR not in weights.shapes
    is_quantized = any(name.endswith(".scales") for name in weights.infos)
    may_be_wan22 = weights.is_dual or folder.config.get("model_version") == "2.2"
    if takes_image and is_quantized and not may_be_wan22:
        raise CheckpointError(
            f"{folder.path / weights.label}: {IMAGE_ANCHOR} and all of Wan2.1's image branch is missing, "
            "left out by the tool that quantized it. Convert and quantize the original checkpoint again. "
            '(If it is one transformer of Wan2.2, set "model_version" to "2.2" in config.json.)'
        )


def _guess(folder: ModelFolder, weights: _Weights) -> tuple[ModelConfig, Notices]:
    """The published config of the model that the weights are of."""
    found = weights.recognise({})
    model_type, name = found.variant.model_type, published_name(folder.path)
    sampling, distilled = adopt_distilled(found.config.sampling, model_type, (name,))
    told = f"{folder.path / CONFIG_FILE}: not found; the weights tell the sizes, the model its defaults."
    config = replace(found.config, sampling=sampling, text_encoder=read_text_encoder_sizes(folder))
    return config, (told, *found.notices, *distilled)


def read_text_encoder_sizes(folder: ModelFolder) -> TextEncoderConfig:
    """Sizes of a folder's text encoder, dense or quantized, from its header.

    Raises:
        CheckpointError: the file is damaged, or holds no UMT5 encoder.
    """
    with open_text_encoder(folder.text_encoder) as source:
        infos, label = source.infos, source.label
    width = infos["norm.weight"].shape[0] if "norm.weight" in infos else 1
    dense = dense_shapes(infos, "blocks.0.attn.q", width)
    return read_text_encoder_config(
        {name: replace(infos[name], shape=shape) for name, shape in dense.items()}, label=label
    )


def _correct(folder: ModelFolder, weights: _Weights) -> tuple[ModelConfig, Notices]:
    """What config.json says, as far as the weights agree."""
    where, stated = str(folder.path / CONFIG_FILE), folder.config
    config_from_json(stated, where=where)  # refuses values of the wrong kind before any is compared
    found = _recognise_stated(stated, weights)
    sizes = {key: getattr(found.config.transformer, key) for key in _SIZES}
    wrong = [key for key, size in sizes.items() if stated.get(key, size) != size]
    notices = [f"{where}: {key} is {stated[key]}, {_describe(key, sizes[key], weights)}." for key in wrong]
    data = stated | sizes
    if _TASK_SIZES & set(wrong):
        data |= {key: value for key, value in config_to_json(found.config).items() if key in _TASK_KEYS}
        notices.append(f"{where}: is another model's; the defaults are those of {found.variant.title}.")
    notices += _correct_vae(data, where)
    recipe, told = _adopt_fastwan(data, found.variant, where)
    notices += told
    config = config_from_json(data, where=where)
    config = _with_few_steps(replace(config, sampling=replace(config.sampling, recipe=recipe)), found.variant)
    return _complete(config, found), tuple(notices)


def _recognise_stated(stated: Mapping[str, Any], weights: _Weights) -> Recognition:
    """The model, with the heads that config.json names where it is of the same width."""
    is_same_width = weights.shapes.get(ANCHOR, ())[:1] == (stated["dim"],)
    return weights.recognise({key: stated[key] for key in _UNSHAPED if is_same_width and key in stated})


def _describe(key: str, size: int, weights: _Weights) -> str:
    """Size that the weights show, and where."""
    info = weights.infos.get(str(apply_rules(_EVIDENCE.get(key, "?"), WAN_RULES)[0]))
    shown = f"{info.name} {list(info.shape)}" if info else "the number of blocks"
    return f"but {shown} in {weights.label} says {size}; the weights are believed"


def _correct_vae(data: dict[str, Any], where: str) -> Notices:
    """Write the VAE that the latents need; early converters told it by the model's version, or not at all."""
    vae = find_vae_config(data["out_dim"])
    stated = data.setdefault("vae_z_dim", vae.z_dim)
    if stated == vae.z_dim:
        return ()
    fps = 24 if vae.z_dim == WAN22_VAE.z_dim else 16
    data |= {"vae_z_dim": vae.z_dim, "vae_stride": list(vae.stride), "sample_fps": fps}
    return (
        f"{where}: vae_z_dim is {stated}, but the transformer makes latents of {vae.z_dim} channels; the VAE "
        f"of these is used, and {fps} frames a second.",
    )


def _adopt_fastwan(data: dict[str, Any], variant: Variant, where: str) -> tuple[str, Notices]:
    """The recipe of FastWan where a fork marked the folder so, with its defaults for those of the base model.

    Returns:
        Name of the recipe, "" for the official one; and what to tell the user.
    """
    if not data.get(_FASTWAN_MARK):
        return "", ()
    sampling = config_from_json(data, where=where).sampling
    usual = adopt_recipe(FASTWAN, sampling, variant.model_type)
    if sampling.steps > MOST_STEPS:
        data |= {"sample_steps": usual.steps, "sample_shift": usual.shift}
        data["sample_guide_scale"] = list(usual.guide_scale)
    elif sampling.steps != usual.steps:
        text = (
            f"{where}: {_FASTWAN_MARK} marks a FastWan model, made for {usual.steps} steps, those of recipe "
            f"{FASTWAN.name}; the {sampling.steps} steps that are written there are taken, evenly spaced."
        )
        return "", (text,)
    text = (
        f"{where}: {_FASTWAN_MARK} marks a FastWan model. Its defaults are those of recipe {FASTWAN.name}: "
        f"{usual.steps} steps, guide scale {usual.guide_scale[0]:g}."
    )
    return FASTWAN.name, (text,)


def _with_few_steps(config: ModelConfig, variant: Variant) -> ModelConfig:
    """The config with the defaults of a model for few steps, where those of its base model are written."""
    is_meant_for_few = variant.sampling.recipe and config.sampling.steps > MOST_STEPS
    return replace(config, sampling=variant.sampling) if is_meant_for_few else config


def _complete(config: ModelConfig, found: Recognition) -> ModelConfig:
    """The config with what no other tool writes: the image branch, and the default size in pixels."""
    branch, usual = found.config.transformer, found.variant.sampling
    return replace(
        config,
        variant=found.variant.name,
        transformer=replace(
            config.transformer, image_dim=branch.image_dim, image_positions=branch.image_positions
        ),
        sampling=replace(config.sampling, width=usual.width, height=usual.height),
    )
