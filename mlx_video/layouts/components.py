"""The components of a model, one row each: by what option, file and tensors each is known.

How a component is converted, built and weighed is in :mod:`mlx_video.weights.component_networks`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, get_args

Expert = Literal["low_noise", "high_noise"]
SpellingName = Literal["original", "diffusers", "huggingface", "gguf", "mlx", "fastvideo", "longcat"]

# How the names of weight files begin: of the originals and Diffusers, and of the transformers package.
ORIGINAL_STEM = "diffusion_pytorch_model"
ENCODER_STEM = "model"


@dataclass(frozen=True, slots=True)
class Marks:
    """What tells a component in one spelling.

    Attributes:
        spelling: whose names they are; "mlx" where the file is converted already, "fastvideo" where
            FastVideo did so.
        names: tensors that all stand behind the same prefix, the first one once.
        kernel: behind the prefix, a convolution's weight of which the channels must come last; "" for none.
        is_all: whether the names are all of the file's, since other networks have them among others.
    """

    spelling: SpellingName
    names: tuple[str, ...]
    kernel: str = ""
    is_all: bool = False


@dataclass(frozen=True, slots=True)
class Component:
    """One component of a model.

    Attributes:
        name: in messages with its underscores as spaces, among the parts of a checkpoint or a model folder,
            and for its stage of a conversion.
        file_name: in a converted folder; "" for the transformers, of which each role has its own.
        marks: what its files are recognised by; of several that fit, the first.
        option: the field of a request that takes it; "" where no option does.
        title: what advice calls it, if not by its name.
        other_files: what it may be called in converted folders of other tools.
        second_file: another file of it that some converted folders have besides; "" for none.
        original_files: what it is called in an original folder.
        folder: of a Diffusers repository; "" if it is never there.
        stem: how the names of its files begin there.
        is_needed: whether every model has it.
        is_extra: whether a model that uses it works without it too.
        advice: what to do where an original folder lacks it.
        folder_advice: what to do where a Diffusers folder lacks it.
        width: the tensor, under its original name, and the axis of it that has the channels of the
            component's features; None where a transformer reads none of them.
        read_by: the transformer's tensor that takes these features, and its axis.
        use: what a model does with it, after "this model".
        refusal: what to say of a model that does without, where the option is given.
        not_for: models that do without, by the `model_type` of their original config.json; "two experts"
            for those.
        name_hint: a pattern that names of its files on the Hub have; "" for none.
        constants: keys of its config.json in a Diffusers folder → values without which it is another network.
    """

    name: str
    file_name: str
    marks: tuple[Marks, ...]
    option: str = ""
    title: str = ""
    other_files: tuple[str, ...] = ()
    second_file: str = ""
    original_files: tuple[str, ...] = ()
    folder: str = ""
    stem: str = ORIGINAL_STEM
    is_needed: bool = False
    is_extra: bool = False
    advice: str = ""
    folder_advice: str = "Copy it from the model's repository."
    width: tuple[str, int] | None = None
    read_by: tuple[str, int] = ("", 0)
    use: str = ""
    refusal: str = ""
    not_for: tuple[str, ...] = ()
    name_hint: str = ""
    constants: Mapping[str, object] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """Its name in messages."""
        return self.title or self.name.replace("_", " ")

    @property
    def flag(self) -> str:
        """The option as it is typed; "" without one."""
        return f"--{self.option.replace('_', '-')}" if self.option else ""

    @property
    def is_transformer(self) -> bool:
        """Whether a model has one or two of it, each in a role."""
        return not self.file_name

    @property
    def names_in_converted(self) -> tuple[str, ...]:
        """What it may be called in a converted folder, our name first."""
        return (self.file_name, *self.other_files)


@dataclass(frozen=True, slots=True)
class TransformerRole:
    """What one of a model's transformers is for.

    Attributes:
        name: of the role.
        noise: which of two experts it is, in words; "" for the only transformer.
        file_name: in a converted folder.
        folder: of a Diffusers repository. Of two the first serves the noisy steps.
        original_folder: its own in an original folder; "" for the folder itself.
    """

    name: str
    noise: str
    file_name: str
    folder: str
    original_folder: str = ""

    @property
    def title(self) -> str:
        """What advice calls it as a component."""
        return f"{self.noise} transformer" if self.noise else "transformer"

    @property
    def words(self) -> str:
        """What messages call it beside the other one."""
        return f"{self.noise} expert" if self.noise else "transformer"

    @property
    def option(self) -> str:
        """The field of a request that takes its file."""
        return self.name if self.noise else "transformer"

    @property
    def flag(self) -> str:
        """The option as it is typed."""
        return f"--{self.option.replace('_', '-')}"

    @property
    def adapter_option(self) -> str:
        """The field of a request that takes adapters for it, and for no other."""
        return f"loras_{self.noise.partition('-')[0]}" if self.noise else "loras"

    @property
    def adapter_flag(self) -> str:
        """That option as it is typed."""
        return f"--{self.adapter_option.replace('loras', 'lora').replace('_', '-')}"


# Converted names are those of Blaizzy/mlx-video mlx_video/models/wan_2/convert.py, convert_wan_checkpoint;
# original ones those of huggingface.co/Wan-AI.
ROLES = (
    TransformerRole("model", "", "model.safetensors", "transformer"),
    TransformerRole(
        "low_noise", "low-noise", "low_noise_model.safetensors", "transformer_2", "low_noise_model"
    ),
    TransformerRole(
        "high_noise", "high-noise", "high_noise_model.safetensors", "transformer", "high_noise_model"
    ),
)
EXPERT_ROLES = tuple(role for role in ROLES if role.noise)
EXPERTS: tuple[Expert, ...] = get_args(Expert)

TRANSFORMER = Component(
    name="transformer",
    file_name="",
    option="transformer",
    is_needed=True,
    marks=(
        Marks("mlx", ("head.modulation", "patch_embedding_proj.weight")),
        Marks("mlx", ("head.time_projection.weight", "patch_embedding_proj.weight")),  # LongCat-Video
        Marks("longcat", ("x_embedder.proj.weight", "blocks.0.attn.qkv.weight", "blocks.0.ffn.w3.weight")),
        # Only FastVideo calls the norm between the attentions so.
        Marks(
            "fastvideo",
            ("blocks.0.self_attn_residual_norm.norm.weight", "patch_embedding.weight"),
        ),
        Marks("original", ("head.modulation", "patch_embedding.weight")),
        Marks("diffusers", ("condition_embedder.time_proj.weight", "patch_embedding.weight")),
        # Without its first kernel, which some converters leave out.
        Marks("original", ("head.modulation", "patch_embedding.bias", "text_embedding.0.weight")),
        Marks("diffusers", ("condition_embedder.time_proj.weight", "patch_embedding.bias")),
    ),
)

TEXT_ENCODER = Component(
    name="text_encoder",
    file_name="t5_encoder.safetensors",
    option="text_encoder",
    other_files=("t5_encoder_q8.safetensors",),  # in eight bits, by the name that a fork gave it
    original_files=("models_t5_umt5-xxl-enc-bf16.pth",),
    folder="text_encoder",
    stem=ENCODER_STEM,
    is_needed=True,
    advice="it is in every Wan-AI repository (11.4 GB). The same file serves all Wan models.",
    folder_advice="Every Wan-AI Diffusers repository has it; the same serves all Wan models.",
    width=("token_embedding.weight", 1),
    read_by=("text_embedding.0.weight", 1),
    use="reads its prompts through it",
    name_hint=r"(^|/)text_encoders?/|umt5|t5|text.?enc|[-_]encoder",
    marks=(
        Marks("mlx", ("blocks.0.ffn.gate_proj.weight", "token_embedding.weight")),
        # The gate tells it from the text tower of the published CLIP, which has all but that.
        Marks(
            "original",
            ("token_embedding.weight", "blocks.0.attn.q.weight", "blocks.0.ffn.gate.0.weight"),
        ),
        Marks("huggingface", ("encoder.block.0.layer.0.SelfAttention.q.weight",)),
        Marks("gguf", ("enc.blk.0.attn_q.weight",)),
    ),
)

IMAGE_ENCODER = Component(
    name="image_encoder",
    file_name="clip_vision.safetensors",  # the name is ours
    option="clip",
    original_files=("models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth",),
    folder="image_encoder",
    stem=ENCODER_STEM,
    advice=(
        "the transformer has an image branch and reads images through it. It is in "
        "Wan-AI/Wan2.1-I2V-14B-480P (4.8 GB), or as image_encoder/ in its Diffusers version; the same serves "
        "all Wan2.1 image-to-video models. Put it there, or give it as --clip FILE."
    ),
    folder_advice="It is in Wan-AI/Wan2.1-I2V-14B-480P-Diffusers; the same serves all Wan2.1 models.",
    width=("cls_embedding", -1),
    read_by=("img_emb.proj.0.weight", 0),
    use="reads its image through it",
    refusal="this transformer reads no image through CLIP.",
    not_for=("t2v", "ti2v", "two experts"),  # it serves the first generation's image-to-video models alone
    name_hint="clip",
    constants=MappingProxyType({"hidden_act": "gelu"}),
    marks=(
        Marks("mlx", ("transformer.0.mlp.fc1.weight", "cls_embedding")),
        Marks("original", ("transformer.0.attn.to_qkv.weight", "cls_embedding")),
        Marks(
            "huggingface",
            ("encoder.layers.0.self_attn.q_proj.weight", "embeddings.class_embedding"),
        ),
    ),
)

AUDIO_ENCODER = Component(
    name="audio_encoder",
    file_name="audio_encoder.safetensors",  # the name is ours
    option="audio_encoder",
    original_files=("wav2vec2-large-xlsr-53-english/model.safetensors",),
    folder="audio_encoder",
    stem=ENCODER_STEM,
    advice=(
        "the transformer hears sound through it. It is in Wan-AI/Wan2.2-S2V-14B, as "
        "wav2vec2-large-xlsr-53-english/model.safetensors (1.3 GB). Put it there, or give it as "
        "--audio-encoder FILE."
    ),
    width=("feature_projection.projection.weight", 0),
    read_by=("casual_audio_encoder.encoder.conv1_global.conv.weight", 1),
    use="hears sound through it",
    refusal="this transformer hears no sound.",
    not_for=("t2v", "i2v", "flf2v", "ti2v", "vace", "two experts"),
    name_hint="wav2vec|audio.?enc",
    marks=(
        Marks("mlx", ("position.weight_v", "feature_projection.weight"), "position.weight_v"),
        Marks("huggingface", ("encoder.pos_conv_embed.conv.bias", "feature_projection.projection.weight")),
    ),
)

MOTION_CONTROLLER = Component(
    name="motion_controller",
    file_name="motion_controller.safetensors",  # the name is ours, in both places
    option="motion_controller",
    original_files=("motion_controller.safetensors",),
    is_extra=True,
    advice=(
        "Convert the checkpoint again with --motion-controller FILE, of one for transformers as wide as "
        "this one: for Wan2.1 T2V 1.3B DiffSynth-Studio/Wan2.1-1.3b-speedcontrol-v1 (0.03 GB)."
    ),
    width=("linear.0.weight", 0),
    read_by=("blocks.0.modulation", -1),
    use="takes --motion-bucket-id with it",
    refusal="this model takes none; those of Wan2.1 that make videos from text do, and VACE.",
    not_for=("i2v", "flf2v", "ti2v", "two experts"),
    name_hint=r"speed.?control|motion.?control",
    marks=(
        Marks(
            "original",
            tuple(f"linear.{place}.{kind}" for place in (0, 2, 4) for kind in ("weight", "bias")),
            is_all=True,
        ),
    ),
)

VAE_FILES = MappingProxyType({"2.1": "Wan2.1_VAE.pth", "2.2": "Wan2.2_VAE.pth"})
VAE = Component(
    name="vae",
    file_name="vae.safetensors",
    option="vae",
    title="VAE",
    second_file="vae_encoder.safetensors",
    use="makes its frames with it",
    name_hint=r"(^|/)vae/|(^|[\W_])(vae|tae\w*)([\W_]|\d|$)",
    original_files=tuple(VAE_FILES.values()),
    folder="vae",
    is_needed=True,
    marks=(
        # Some tools write the halves of a VAE to two files.
        *(
            Marks("mlx", (f"{half}.middle.0.residual.{norm}.gamma",), kernel)
            for half in ("decoder", "encoder")
            for norm, kernel in (("layer_0", ""), ("0", f"{half}.middle.0.residual.2.weight"))
        ),
        Marks("original", ("decoder.middle.0.residual.0.gamma",)),
        Marks("diffusers", ("decoder.mid_block.resnets.0.norm1.gamma",)),
    ),
)

TINY_VAE = Component(
    name="tiny_vae",
    file_name="tiny_vae.safetensors",  # the name is ours
    option="tiny_vae",
    title="tiny decoder",
    original_files=("taew2_1.pth", "taew2_2.pth"),
    use="shows previews with it",
    marks=(
        Marks("mlx", ("stages.0.grow.weight", "exit.weight")),
        Marks("original", ("decoder.13.conv.weight", "decoder.19.conv.weight", "decoder.22.weight")),
        # The larger form, which is told from this one by its tensors.
        Marks("original", ("decoder.14.conv.weight", "decoder.21.conv.weight", "decoder.22.weight")),
    ),
)

COMPONENTS: tuple[Component, ...] = (
    TRANSFORMER,
    TEXT_ENCODER,
    IMAGE_ENCODER,
    AUDIO_ENCODER,
    MOTION_CONTROLLER,
    VAE,
    TINY_VAE,
)


def list_components() -> tuple[Component, ...]:
    """Every row."""
    return COMPONENTS


def find_component(name: str) -> Component:
    """The row of a name."""
    return next(row for row in COMPONENTS if row.name == name)


def find_role(name: str) -> TransformerRole:
    """The role of a name."""
    return next(role for role in ROLES if role.name == name)


def list_parts() -> tuple[Component, ...]:
    """Every component but the transformers."""
    return tuple(row for row in COMPONENTS if not row.is_transformer)
