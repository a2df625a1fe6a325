"""All variants; finding one by name, and recognising the one that a checkpoint holds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_video.config import FaceConfig, ModelConfig, TransformerConfig, find_vae_config
from mlx_video.errors import CheckpointError, ConfigError, RequestError
from mlx_video.formats.tensor_info import TensorInfo
from mlx_video.variants import (
    animate,
    bernini,
    camera,
    fun,
    i2v,
    krea,
    longcat,
    speech,
    t2v,
    ti2v,
    vace,
    video_as_prompt,
)
from mlx_video.variants.control_adapter import (
    fits_with_control_video,
    takes_control_video,
    with_control_video,
)
from mlx_video.variants.lookalikes import name_lookalike
from mlx_video.variants.other_models import name_other_model
from mlx_video.variants.variant import CheckpointFacts, Evidence, Shapes, Variant
from mlx_video.weights.names.animate_names import FACE_ANCHOR, list_face_statements, read_head_dim
from mlx_video.weights.names.animate_names import PARTS as FACE_PARTS
from mlx_video.weights.names.control_sizes import list_statements, read_control_sizes
from mlx_video.weights.names.fun_names import CAMERA_ANCHOR, REFERENCE_ANCHOR
from mlx_video.weights.names.longcat_names import FUSED_PART
from mlx_video.weights.names.speech_names import AUDIO_ANCHOR, POSE_ANCHOR
from mlx_video.weights.names.transformer_names import IMAGE_ANCHOR, original_shapes, read_image_sizes
from mlx_video.weights.names.vace_names import VACE_ANCHOR
from mlx_video.weights.network import TransformerNetwork
from mlx_video.weights.rules import Rule

# The first that fits is taken: of equal parts, those of one size stand before those of any.
VARIANTS: tuple[Variant, ...] = (
    t2v.DEMO,
    i2v.DEMO_I2V,
    fun.DEMO_CONTROL,
    longcat.LONGCAT,  # its own tensors lie in the blocks, where they are no strays of plain models
    krea.KREA,
    bernini.BERNINI_1_3B,
    bernini.BERNINI_A14B,
    t2v.T2V_1_3B,
    t2v.T2V_14B,
    i2v.FLF2V_14B,
    fun.INP_1_3B,
    fun.INP,
    i2v.I2V_14B,
    t2v.T2V_A14B,
    fun.INP_A14B,
    i2v.I2V_A14B,
    ti2v.TI2V_5B,
    camera.CAMERA_V1_1,
    camera.CAMERA_A14B,
    fun.CONTROL,
    fun.CONTROL_V1_1,
    fun.CONTROL_A14B,
    vace.VACE_1_3B,
    vace.VACE_14B,
    vace.VACE_FUN_A14B,
    animate.ANIMATE_14B,
    speech.S2V_14B,
    video_as_prompt.VIDEO_AS_PROMPT,
    t2v.T2V_OTHER,
    i2v.I2V_EXPERT,
    fun.CONTROL_EXPERT,
    camera.CAMERA_EXPERT,
    vace.VACE_OTHER,
)

# Sizes that both the tensors and config.json state: config key → (tensor, axis).
SIZE_TENSORS = {
    "in_dim": ("patch_embedding.weight", 1),
    "dim": ("patch_embedding.weight", 0),
    "ffn_dim": ("blocks.0.ffn.0.weight", 0),
    "freq_dim": ("time_embedding.0.weight", 1),
    "text_dim": ("text_embedding.0.weight", 1),
}
# Config key → the tensor that shows it; the number of blocks is shown by no single one.
_EVIDENCE = {
    **{key: name for key, (name, _) in SIZE_TENSORS.items()},
    "out_dim": "head.head.weight",
    "image_dim": IMAGE_ANCHOR,
    "image_positions": "img_emb.emb_pos",
    "patch_size": "patch_embedding.weight",
    "vace_in_dim": VACE_ANCHOR,
    **dict.fromkeys(list_face_statements(FaceConfig()), FACE_ANCHOR),
    **dict.fromkeys(("audio_dim", "num_audio_token", "enable_adain", "adain_mode"), AUDIO_ANCHOR),
    "cond_dim": POSE_ANCHOR,
    **dict.fromkeys(("add_ref_conv", "has_ref_conv", "in_dim_ref_conv"), REFERENCE_ANCHOR),
    **dict.fromkeys(
        ("add_control_adapter", "in_dim_control_adapter", "downscale_factor_control_adapter"), CAMERA_ANCHOR
    ),
}
# Of every published transformer; only used where neither config.json nor a tensor tells.
HEAD_DIM = 128


@dataclass(frozen=True, slots=True)
class Recognition:
    """A recognised checkpoint: its variant, the config to write, and what the user should know."""

    variant: Variant
    config: ModelConfig
    notices: tuple[str, ...]


def find_variant(config: ModelConfig) -> Variant:
    """The variant of a converted folder: by the name in its config, else by its transformer's sizes.

    Raises:
        CheckpointError: neither tells.
    """
    named = find_by_name(config.variant)
    network = config.transformer
    if named is not None:
        return with_control_video(named) if takes_control_video(named, network) else named
    facts = CheckpointFacts(
        in_dim=network.in_dim,
        out_dim=network.out_dim,
        dim=network.dim,
        num_layers=network.num_layers,
        is_dual=config.is_dual,
        names=_part_names(network),
    )
    return _match(facts)


def find_by_name(name: str) -> Variant | None:
    """The variant of a name; None where there is none."""
    return next((variant for variant in VARIANTS if variant.name == name), None)


def list_networks() -> tuple[TransformerNetwork, ...]:
    """The different transformers of all variants."""
    return tuple(dict.fromkeys(variant.network for variant in VARIANTS))


def list_diffusers_rules() -> tuple[Rule, ...]:
    """Rules for what Diffusers calls the tensors that some variants have beyond the plain transformer's."""
    return tuple(rule for network in list_networks() for rule in network.extra_diffusers_rules)


def read_original_shapes(infos: Mapping[str, TensorInfo]) -> dict[str, tuple[int, ...]]:
    """What the tensors of a converted transformer of any variant, dense or quantized, were before.

    Args:
        infos: of the converted file.
    """
    return original_shapes(infos, [rule for network in list_networks() for rule in network.extra_rules])


def _part_names(network: TransformerConfig) -> frozenset[str]:
    """The tensors by which checkpoints with further parts are told apart, as far as the config has them."""
    names = {
        "img_emb.proj.0.weight": network.image_dim is not None,
        "img_emb.emb_pos": network.image_positions > 0,
        CAMERA_ANCHOR: network.camera_dim is not None,
        REFERENCE_ANCHOR: network.reference_dim is not None,
        **dict.fromkeys(speech.ANCHORS, network.audio_dim is not None),
        "vace_patch_embedding.weight": bool(network.vace_layers),
        "vace_blocks.0.modulation": bool(network.vace_layers),
        **dict.fromkeys(FACE_PARTS, network.face is not None),
        f"{FUSED_PART}weight": network.time_dim is not None,
        "mot_ref.patch_embedding.weight": bool(network.mot_layers),
    }
    return frozenset(name for name, is_there in names.items() if is_there)


def recognise_checkpoint(
    shapes: Shapes,
    source_config: Mapping[str, Any],
    *,
    is_dual: bool = False,
    model_version: str = "auto",
    label: str = "transformer",
    names: Sequence[str] = (),
    stored: Shapes | None = None,
) -> Recognition:
    """Tell which variant a checkpoint in the original layout is.

    Args:
        shapes: the transformer's tensors under the Wan original's names.
        source_config: the checkpoint's config.json.
        is_dual: whether it has a low-noise and a high-noise transformer.
        model_version: what the user says it is; "auto" believes the tensors.
        label: names the transformer's file in messages.
        names: what its publisher calls it; some models have the tensors of others.
        stored: the tensors under the names of the file, where they are at hand.

    Raises:
        CheckpointError: no variant of this version fits.
        ConfigError: config.json contradicts the tensors.
        RequestError: the user's `model_version` contradicts the tensors.
    """
    facts = _read_facts(shapes, is_dual, label)
    evidence = Evidence(tuple(names), stored or shapes, source_config)
    variant = _match(facts, shapes, evidence)
    if model_version not in ("auto", variant.model_version):
        raise RequestError(
            "model_version",
            f"{model_version}: the checkpoint is {variant.title} (version {variant.model_version}): "
            f"{_describe(facts)}. Leave the option out.",
        )
    transformer = _read_transformer_config(shapes, facts, source_config, variant, label)
    config = ModelConfig(
        variant.name,
        variant.model_version,
        transformer,
        vae=find_vae_config(transformer.out_dim),
        sampling=variant.sampling,
        is_dual=is_dual,
    )
    found = f"Found {variant.title}: {_describe(facts)}."
    other_task = _report_other_task(shapes, source_config, variant, label)
    notices = (found, other_task, variant.remark)
    return Recognition(variant, config, tuple(filter(None, notices)))


def _report_other_task(shapes: Shapes, source: Mapping[str, Any], variant: Variant, label: str) -> str:
    """Say so where config.json is of another task; the tensors are right. "" where they agree.

    The number of input channels follows from the task, and no other size depends on it.
    """
    channels = shapes["patch_embedding.weight"][1]
    stated_task, stated = source.get("model_type", variant.model_type), source.get("in_dim", channels)
    if (stated_task, stated) == (variant.model_type, channels):
        return ""
    return (
        f"config.json says {stated_task} (in_dim {stated}), but {_evidence('in_dim', shapes, label)} takes "
        f"{channels} channels: these are {variant.model_type} weights. Using {variant.model_type}."
    )


def _match(facts: CheckpointFacts, shapes: Shapes | None = None, evidence: Evidence | None = None) -> Variant:
    evidence = evidence or Evidence()
    lookalike = name_lookalike(facts, evidence)
    if lookalike is not None:
        title, advice = lookalike
        raise CheckpointError(
            f"transformer: {_describe(facts)}: this is {title}, which this version cannot convert. {advice}"
        )
    for variant in VARIANTS:
        if variant.traits.fit(facts) and variant.is_meant(facts, evidence):
            return variant
    for variant in VARIANTS:
        if fits_with_control_video(variant, facts) and variant.answers_to(evidence.names):
            return with_control_video(variant)
    other = name_other_model(facts, shapes)
    if other is not None:
        raise CheckpointError(
            f"transformer: {_describe(facts)}: this is {other}, which this version cannot convert. "
            f"Known: {', '.join(variant.title for variant in VARIANTS)}."
        )
    known = ", ".join(variant.title for variant in VARIANTS)
    stray = _name_stray(facts, shapes or {}, evidence.names)
    raise CheckpointError(
        f"transformer: {_describe(facts)}; no model that this version knows looks like that. "
        f"{stray}Known: {known}."
    )


def _name_stray(facts: CheckpointFacts, shapes: Shapes, names: Sequence[str]) -> str:
    """Name what keeps a transformer from being of the model to which it is nearest; "" if none is near."""
    near = [
        (variant.traits.find_strays(facts), variant)
        for variant in VARIANTS
        if variant.traits.are_in(facts) and variant.answers_to(names)
    ]
    if not near:
        return ""
    strays, variant = min(near, key=lambda entry: len(entry[0]))
    first = f"{strays[0]} {list(shapes[strays[0]])}" if strays[0] in shapes else strays[0]
    more = f" and {len(strays) - 1} more" if len(strays) > 1 else ""
    return (
        f"{variant.title} has no {first}{more}: the file holds another model or revision, or a LoRA; use the "
        "files of one Wan checkpoint. "
    )


def _describe(facts: CheckpointFacts) -> str:
    kind = "two transformers" if facts.is_dual else "one transformer"
    channels = f"{facts.in_dim} channels in, {facts.out_dim} out"
    sizes = f"{kind} of {facts.num_layers} blocks, width {facts.dim}, {channels}"
    branch = ", an image branch" if facts.has_part("img_emb.proj.") else ""
    return sizes + branch + (" with places for two images" if facts.has_part("img_emb.emb_pos") else "")


def _read_facts(shapes: Shapes, is_dual: bool, label: str) -> CheckpointFacts:
    """Sizes from the tensors that every transformer of the family has."""
    try:
        patch, head = shapes["patch_embedding.weight"], shapes["head.head.weight"]
    except KeyError as error:
        raise CheckpointError(_describe_lack(error.args[0], shapes, label)) from error
    if len(patch) != 5 or min(patch) < 1:
        raise CheckpointError(
            f"{label}: patch_embedding.weight is {list(patch)}, expected [dim, channels, t, h, w]. "
            "Is the file from another model?"
        )
    if len(head) != 2:
        raise CheckpointError(
            f"{label}: head.head.weight is {list(head)}, expected [channels of a patch, dim]. "
            "Is the file from another model?"
        )
    patch_cells = patch[2] * patch[3] * patch[4]
    blocks = {int(match[1]) for name in shapes if (match := re.match(r"blocks\.(\d+)\.", name))}
    return CheckpointFacts(
        in_dim=patch[1],
        out_dim=head[0] // patch_cells,
        dim=patch[0],
        num_layers=len(blocks),
        is_dual=is_dual,
        names=frozenset(shapes),
    )


def _describe_lack(name: str, shapes: Shapes, label: str) -> str:
    if "blocks.0.self_attn.q.weight" in shapes:
        return (
            f"{label}: tensor {name} is missing; of the others, {len(shapes)}, the blocks are a Wan "
            "transformer's. Fetch the file again, or take one that is whole."
        )
    return (
        f"{label}: tensor {name} is missing, so this is no Wan transformer. "
        "Check that the folder is the whole checkpoint."
    )


def _read_transformer_config(
    shapes: Shapes, facts: CheckpointFacts, source: Mapping[str, Any], variant: Variant, label: str
) -> TransformerConfig:
    """Sizes from shapes, the rest from config.json; what both say must agree, except for the task."""
    patch = shapes["patch_embedding.weight"]
    image_dim, image_positions = read_image_sizes(shapes)
    sizes = {"num_layers": facts.num_layers, "out_dim": facts.out_dim}
    for key, (name, axis) in SIZE_TENSORS.items():
        sizes[key] = _size(shapes, name, axis, label)
    control = read_control_sizes(shapes, source)
    own = variant.network.own_sizes(shapes)
    branch = {"image_dim": image_dim, "image_positions": image_positions, "patch_size": list(patch[2:])}
    for key, size in {**sizes, **branch, **own, **list_statements(control)}.items():
        if key in source and source[key] != size and key != "in_dim":
            raise ConfigError(
                f"config.json says {key} {source[key]}, but {_evidence(key, shapes, label)} says {size}. "
                "They belong to different checkpoints; fetch both from the same place."
            )
    head_dim = read_head_dim(shapes, HEAD_DIM)
    heads: dict[str, Any] = {"num_heads": int(_number(source, "num_heads", max(1, facts.dim // head_dim)))}
    return TransformerConfig(
        **sizes,
        model_type=variant.model_type,
        text_len=int(_number(source, "text_len", 512)),
        eps=_number(source, "eps", 1e-6),
        patch_size=(patch[2], patch[3], patch[4]),
        image_dim=image_dim,
        image_positions=image_positions,
        **control,
        **{**heads, **own},
    )


def _number(source: Mapping[str, Any], key: str, default: float) -> float:
    """A positive number of the checkpoint's config.json."""
    value = source.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ConfigError(
            f"config.json: {key} is {value!r}, expected a positive number. Fetch the file again."
        )
    return value


def _evidence(key: str, shapes: Shapes, label: str) -> str:
    """Where in the file a size was read."""
    name = _EVIDENCE.get(key, "")
    if name in shapes:
        return f"{name} {list(shapes[name])} in {label}"
    return f"{label}, without {name}," if name else f"the number of blocks in {label}"


def _size(shapes: Shapes, name: str, axis: int, label: str) -> int:
    shape = shapes.get(name, ())
    if len(shape) <= axis or not shape[axis]:
        raise CheckpointError(
            f"{label}: tensor {name} is missing or misshapen ({list(shape)}). Fetch the file again."
        )
    return shape[axis]
