"""Makes tests/fixtures/tensors: what the official modules save, built at full size without numbers.

Run `python -m tests.record.tensor_lists` where torch, diffusers, transformers, gguf and wan22 are installed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tests.fixtures.tensor_lists import FOLDER, Recorded, TensorList, fold
from tests.parity.official import clip_module, wan_module

_14B = {"dim": 5120, "ffn_dim": 13824, "num_heads": 40, "num_layers": 40}
# Arguments of the official WanModel, as the published config.json states them.
OFFICIAL_TRANSFORMERS = {
    "wan2.1-t2v-1.3b": {"model_type": "t2v", "dim": 1536, "ffn_dim": 8960, "num_heads": 12, "num_layers": 30},
    "wan2.1-t2v-14b": {"model_type": "t2v", **_14B},
    "wan2.2-i2v-a14b": {"model_type": "i2v", "in_dim": 36, **_14B},
    "wan2.2-ti2v-5b": {
        "model_type": "ti2v", "in_dim": 48, "out_dim": 48,
        "dim": 3072, "ffn_dim": 14336, "num_heads": 24, "num_layers": 30,
    },
}  # fmt: skip
# VACE model → the text-to-video model that it stands upon, and the number of its VACE blocks.
VACE_MODELS = {"wan2.1-vace-1.3b": ("wan2.1-t2v-1.3b", 15), "wan2.1-vace-14b": ("wan2.1-t2v-14b", 8)}
VACE_CHANNELS = 96
# Positions of two images' tokens, which FLF2V adds. Source: Wan2.1 wan/modules/model.py, MLPProj.
FLF2V_POSITIONS = Recorded("F32", (1, 514, 1280))
ANIMATE = "wan2.2-animate-14b"
# What Wan2.2 Animate has besides the network of Wan2.1 I2V.
ANIMATE_PARTS = ("pose_patch_embedding.", "face_adapter.", "face_encoder.", "motion_encoder.")
IMAGE_BRANCH = {"image_dim": 1280, "added_kv_proj_dim": 5120}
# Arguments of Diffusers' transformer, as transformer/config.json states them.
DIFFUSERS_TRANSFORMERS: Mapping[str, dict[str, Any]] = {
    "wan2.1-t2v-1.3b": {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30},
    "wan2.1-t2v-14b": {},
    "wan2.1-i2v-14b": {"in_channels": 36, **IMAGE_BRANCH},
    "wan2.1-flf2v-14b": {"in_channels": 36, "pos_embed_seq_len": 514, **IMAGE_BRANCH},
    "wan2.2-i2v-a14b": {"in_channels": 36},
    "wan2.2-ti2v-5b": {
        "num_attention_heads": 24, "ffn_dim": 14336, "num_layers": 30, "in_channels": 48, "out_channels": 48,
    },
}  # fmt: skip
# vae/config.json of Wan-AI/Wan2.2-TI2V-5B-Diffusers.
DIFFUSERS_VAE22 = {
    "base_dim": 160, "decoder_base_dim": 256, "z_dim": 48, "is_residual": True, "in_channels": 12,
    "out_channels": 12, "patch_size": 2, "scale_factor_spatial": 16, "latents_mean": [0.0] * 48,
    "latents_std": [1.0] * 48,
}  # fmt: skip
UMT5_XXL = {
    "vocab_size": 256384, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}  # fmt: skip
VIT_H = {
    "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16,
    "patch_size": 14, "projection_dim": 1024,
}  # fmt: skip
SPIECE_BYTES = 4_548_313  # of google/umt5-xxl's spiece.model
CLIP_TOKENS = 257

Maker = Callable[[], TensorList]


def build(make: Callable[[], Any], dtype: str) -> TensorList:
    """What a module's file holds when it is saved in one type."""
    import torch

    with torch.device("meta"):
        state = make().state_dict()
    return {name: Recorded(dtype, tuple(tensor.shape)) for name, tensor in state.items()}


def official_transformer(name: str) -> TensorList:
    """The transformer of a published checkpoint in the original layout."""
    if name == ANIMATE:
        return official_animate("BF16")
    if name in ("wan2.1-i2v-14b", "wan2.1-flf2v-14b"):
        return _official_image_transformer(has_positions=name == "wan2.1-flf2v-14b")
    if name in VACE_MODELS:
        return _official_vace(*VACE_MODELS[name])
    return build(lambda: wan_module("model").WanModel(**OFFICIAL_TRANSFORMERS[name]), "F32")


# Channels in, and the names that a Fun model has besides those of the model that it is made from.
# Source: aigc-apps/VideoX-Fun videox_fun/models/wan_transformer3d.py, WanTransformer3DModel.
_CAMERA = {
    "control_adapter.conv.weight": (5120, 1536, 2, 2),
    "control_adapter.conv.bias": (5120,),
    **{
        f"control_adapter.residual_blocks.0.conv{number}.{part}": shape
        for number in (1, 2)
        for part, shape in (("weight", (5120, 5120, 3, 3)), ("bias", (5120,)))
    },
}
_REFERENCE = {"ref_conv.weight": (5120, 16, 2, 2), "ref_conv.bias": (5120,)}
FUN_TRANSFORMERS: Mapping[str, tuple[str, int, Mapping[str, tuple[int, ...]]]] = {
    "wan2.1-fun-control": ("wan2.1-i2v-14b", 48, {}),
    "wan2.1-fun-v1.1-control": ("wan2.1-i2v-14b", 48, _REFERENCE),
    "wan2.1-fun-v1.1-control-camera": ("wan2.1-i2v-14b", 32, _CAMERA),
    "wan2.2-fun-a14b-control-camera": ("wan2.2-i2v-a14b", 36, _CAMERA),
    "wan2.2-fun-a14b-control": ("wan2.2-i2v-a14b", 52, _REFERENCE),
}


def fun_transformer(name: str) -> TensorList:
    """A transformer of the Fun family, of 14B."""
    base, channels, parts = FUN_TRANSFORMERS[name]
    found = official_transformer(base)
    patch = found["patch_embedding.weight"]
    found["patch_embedding.weight"] = Recorded(patch.dtype, (patch.shape[0], channels, *patch.shape[2:]))
    return found | {part: Recorded("F32", shape) for part, shape in parts.items()}


def small_image_transformer() -> TensorList:
    """Wan2.1's image-to-video network in the sizes of 1.3B, as Wan2.1-Fun-1.3B-InP is."""
    sizes = {5120: 1536, 6 * 5120: 6 * 1536, 13824: 8960}
    return {
        name: Recorded(tensor.dtype, tuple(sizes.get(size, size) for size in tensor.shape))
        for name, tensor in official_transformer("wan2.1-i2v-14b").items()
        if not (match := re.match(r"blocks\.(\d+)\.", name)) or int(match[1]) < 30
    }


def _official_image_transformer(*, has_positions: bool) -> TensorList:
    """Wan2.1's image-to-video network: the package has it inside Wan2.2 Animate alone."""
    whole = official_animate("F32")
    found = {name: tensor for name, tensor in whole.items() if not name.startswith(ANIMATE_PARTS)}
    return found | ({"img_emb.emb_pos": FLF2V_POSITIONS} if has_positions else {})


def official_animate(dtype: str) -> TensorList:
    """Wan2.2 Animate, with the kernels of its blurs."""
    wan_module("model")
    animate = wan_module("animate.model_animate")
    return build(lambda: animate.WanAnimateModel(in_dim=36, **_14B), dtype)


def _official_vace(base: str, count: int) -> TensorList:
    """Wan2.1's VACE network, which the package lacks: blocks like the others, and what they stand between.

    Source: Wan2.1 wan/modules/vace_model.py, VaceWanModel and VaceWanAttentionBlock.
    """
    found = official_transformer(base)
    (dim,) = found["patch_embedding.bias"].shape
    block = {
        name.removeprefix("blocks.0."): each for name, each in found.items() if name.startswith("blocks.0.")
    }
    patch = Recorded("F32", (dim, VACE_CHANNELS, *found["patch_embedding.weight"].shape[2:]))
    layer = {"weight": Recorded("F32", (dim, dim)), "bias": Recorded("F32", (dim,))}
    for number in range(count):
        layers = ("before_proj", "after_proj") if number == 0 else ("after_proj",)
        own = block | {f"{name}.{part}": each for name in layers for part, each in layer.items()}
        found |= {f"vace_blocks.{number}.{name}": each for name, each in own.items()}
    return found | {"vace_patch_embedding.weight": patch, "vace_patch_embedding.bias": layer["bias"]}


def diffusers_transformer(name: str) -> TensorList:
    """The same in Diffusers' layout."""
    from diffusers import WanAnimateTransformer3DModel, WanTransformer3DModel, WanVACETransformer3DModel

    if name == ANIMATE:
        return build(lambda: WanAnimateTransformer3DModel(**IMAGE_BRANCH), "F32")
    if name in VACE_MODELS:
        base, count = VACE_MODELS[name]
        arguments = DIFFUSERS_TRANSFORMERS[base]
        step = arguments.get("num_layers", _14B["num_layers"]) // count
        layers = {
            "vace_layers": [step * number for number in range(count)],
            "vace_in_channels": VACE_CHANNELS,
        }
        return build(lambda: WanVACETransformer3DModel(**arguments, **layers), "F32")
    return build(lambda: WanTransformer3DModel(**DIFFUSERS_TRANSFORMERS[name]), "F32")


def video_as_prompt() -> TensorList:
    """Video-As-Prompt 14B, published in Diffusers' layout alone: image-to-video, and an expert beside it.

    Source: bytedance/Video-As-Prompt diffusers transformer_wan_mot.py, WanTransformer3DMOTModel.
    """
    found = diffusers_transformer("wan2.1-i2v-14b")
    stems = {name: each for name, each in found.items() if name.startswith(("patch_", "condition_"))}
    block = {
        name.removeprefix("blocks.0."): each for name, each in found.items() if name.startswith("blocks.0.")
    }
    expert = {_of_expert(name): each for name, each in stems.items()}
    for index in range(0, _14B["num_layers"], 4):
        expert |= {f"blocks.{index}.{_of_expert(name)}": each for name, each in block.items()}
    return found | expert


def _of_expert(name: str) -> str:
    part, dot, rest = name.partition(".")
    return f"{part}_mot_ref{dot}{rest}"


def umt5() -> TensorList:
    """models_t5_umt5-xxl-enc-bf16.pth."""
    sizes = {"dim": 4096, "dim_attn": 4096, "dim_ffn": 10240, "num_heads": 64, "num_layers": 24}
    module = wan_module("t5")
    return build(lambda: module.T5Encoder(256384, num_buckets=32, shared_pos=False, **sizes), "BF16")


def huggingface_umt5(dtype: str = "BF16") -> TensorList:
    """UMT5EncoderModel; of the two names of its table transformers saves the first."""
    from transformers import UMT5Config, UMT5EncoderModel

    return without(
        build(lambda: UMT5EncoderModel(UMT5Config(**UMT5_XXL)), dtype), "encoder.embed_tokens.weight"
    )


def both_tables_umt5() -> TensorList:
    """UMT5EncoderModel as it is saved by tools that do not know that its tables are one."""
    found = huggingface_umt5("F32")
    table = {"encoder.embed_tokens.weight": found["shared.weight"]}
    return {"shared.weight": found["shared.weight"], **table, **found}


def comfy_umt5() -> TensorList:
    """umt5_xxl_fp16.safetensors, which carries its tokenizer."""
    return {**huggingface_umt5("F16"), "spiece_model": Recorded("U8", (SPIECE_BYTES,))}


def comfy_scaled_umt5() -> TensorList:
    """umt5_xxl_fp8_e4m3fn_scaled.safetensors.

    Source: comfyanonymous/ComfyUI comfy/utils.py, convert_old_quants, which reads such files.
    """
    return scale_matrices(
        comfy_umt5(), r"encoder\.block\.\d+\.layer\.\d\.(SelfAttention\.[qkvo]|Dense.*)\.weight"
    )


def scale_matrices(tensors: TensorList, matrices: str) -> TensorList:
    """The list with float8 in place of some matrices, a scale beside each, and the mark of such files."""
    found: TensorList = {}
    for name, tensor in tensors.items():
        if re.fullmatch(matrices, name):
            found[name.removesuffix("weight") + "scale_weight"] = Recorded("F32", ())
            found[name] = Recorded("F8_E4M3", tensor.shape)
        else:
            found[name] = tensor
    return {**found, "scaled_fp8": Recorded("F8_E4M3", (0,))}


def gguf_umt5() -> TensorList:
    """The encoder as llama.cpp's converter names and stores it in 16 bits."""
    from gguf import MODEL_ARCH, get_tensor_name_map

    names = get_tensor_name_map(MODEL_ARCH.T5ENCODER, UMT5_XXL["num_layers"])
    return {
        str(names.get_name(name, try_suffixes=(".weight",))): Recorded(gguf_type(tensor), tensor.shape)
        for name, tensor in huggingface_umt5().items()
    }


def gguf_type(tensor: Recorded) -> str:
    """Vectors stay in 32 bits."""
    return "F32" if len(tensor.shape) == 1 else "F16"


def gguf_transformer(name: str) -> TensorList:
    """A transformer as ComfyUI-GGUF stores it in 16 bits, its five-dimensional tensor put back.

    Source: city96/ComfyUI-GGUF tools/convert.py, ModelWan and convert_file.
    """
    return {
        tensor: Recorded("F32" if tensor.endswith(".modulation") else gguf_type(found), found.shape)
        for tensor, found in official_transformer(name).items()
    }


def vae21(dtype: str = "F32") -> TensorList:
    """Wan2.1_VAE.pth."""
    module = wan_module("vae2_1")
    sizes = {"dim": 96, "z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_scales": []}
    return build(lambda: module.WanVAE_(temperal_downsample=[False, True, True], dropout=0.0, **sizes), dtype)


def vae22(dtype: str = "F32") -> TensorList:
    """Wan2.2_VAE.pth."""
    module = wan_module("vae2_2")
    sizes = {"dim": 160, "dec_dim": 256, "z_dim": 48, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2}
    return build(lambda: module.WanVAE_(temperal_downsample=[False, True, True], **sizes), dtype)


def diffusers_vae(arguments: Mapping[str, Any]) -> TensorList:
    """A VAE in Diffusers' layout."""
    from diffusers import AutoencoderKLWan

    return build(lambda: AutoencoderKLWan(**arguments), "F32")


def clip(dtype: str = "F32") -> TensorList:
    """models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth."""
    return build(lambda: clip_module().XLMRobertaCLIP(), dtype)


def huggingface_clip(dtype: str) -> TensorList:
    """The visual tower with its projection, as transformers saves it now."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    return build(lambda: CLIPVisionModelWithProjection(CLIPVisionConfig(**VIT_H)), dtype)


def diffusers_clip() -> TensorList:
    """image_encoder/model.safetensors: the tower alone, named as transformers did until its fifth version."""
    return without(huggingface_clip("F32"), "visual_projection.weight")


def comfy_clip() -> TensorList:
    """clip_vision_h.safetensors: as transformers saved it before version 4.31, with the places' numbers."""
    positions = {"vision_model.embeddings.position_ids": Recorded("I64", (1, CLIP_TOKENS))}
    return positions | huggingface_clip("F16")


def without(tensors: TensorList, *names: str) -> TensorList:
    """The list without some tensors."""
    return {name: tensor for name, tensor in tensors.items() if name not in names}


def prefixed(tensors: TensorList, prefix: str) -> TensorList:
    """The list with something before every name."""
    return {prefix + name: tensor for name, tensor in tensors.items()}


def in_16_bits(tensors: TensorList) -> TensorList:
    """The list as ComfyUI's repository stores it again."""
    return {name: Recorded("F16", tensor.shape) for name, tensor in tensors.items()}


_BLOCK_MATRICES = r"blocks\.\d+\.((self|cross)_attn\.([qkvo]|[kv]_img)|ffn\.[02])\.weight"
# Name of the list → where it is published, and its maker.
LISTS: Mapping[str, tuple[str, Maker]] = {
    **{
        f"transformer-{name}": (
            f"{name}: diffusion_pytorch_model*.safetensors",
            lambda name=name: official_transformer(name),
        )
        for name in (*OFFICIAL_TRANSFORMERS, "wan2.1-i2v-14b", "wan2.1-flf2v-14b", *VACE_MODELS, ANIMATE)
    },
    **{
        f"transformer-{name}": (
            f"{name}: diffusion_pytorch_model*.safetensors of 14B",
            lambda name=name: fun_transformer(name),
        )
        for name in FUN_TRANSFORMERS
    },
    "transformer-wan2.1-fun-1.3b-inp": (
        "Wan2.1-Fun-1.3B-InP: diffusion_pytorch_model.safetensors",
        small_image_transformer,
    ),
    "transformer-krea-realtime-14b": (
        "krea-realtime-video-14b.safetensors",
        lambda: prefixed(official_transformer("wan2.1-t2v-14b"), "model."),
    ),
    **{
        f"diffusers-{name}": (
            f"{name}, Diffusers: transformer/diffusion_pytorch_model*.safetensors",
            lambda name=name: diffusers_transformer(name),
        )
        for name in (*DIFFUSERS_TRANSFORMERS, *VACE_MODELS, ANIMATE)
    },
    "diffusers-wan2.1-video-as-prompt-14b": (
        "Video-As-Prompt-Wan2.1-14B: transformer/diffusion_pytorch_model*.safetensors",
        video_as_prompt,
    ),
    "comfy-wan2.1-t2v-1.3b": (
        "copies of Wan2.1 T2V 1.3B that keep ComfyUI's prefix",
        lambda: prefixed(in_16_bits(official_transformer("wan2.1-t2v-1.3b")), "model.diffusion_model."),
    ),
    "comfy-wan2.1-i2v-14b-fp8-scaled": (
        "wan2.1_i2v_480p_14B_fp8_scaled.safetensors, as ComfyUI reads such files",
        lambda: scale_matrices(in_16_bits(official_transformer("wan2.1-i2v-14b")), _BLOCK_MATRICES),
    ),
    "comfy-wan2.1-t2v-14b-fp8-scaled": (
        "Wan2.1 T2V 14B in float8, as ComfyUI reads such files",
        lambda: scale_matrices(in_16_bits(official_transformer("wan2.1-t2v-14b")), _BLOCK_MATRICES),
    ),
    "comfy-wan2.2-animate-14b-fp8-scaled": (
        "Wan2_2-Animate-14B_fp8_e4m3fn_scaled_KJ.safetensors, as ComfyUI reads such files",
        lambda: scale_matrices(official_transformer(ANIMATE), _BLOCK_MATRICES),
    ),
    "gguf-wan2.2-animate-14b": (
        "Wan2.2-Animate-14B-F16.gguf, as ComfyUI-GGUF's converter makes it",
        lambda: gguf_transformer(ANIMATE),
    ),
    "gguf-wan2.1-t2v-14b": (
        "wan2.1-t2v-14b-F16.gguf, as ComfyUI-GGUF's converter makes it",
        lambda: gguf_transformer("wan2.1-t2v-14b"),
    ),
    "comfy-wan2.1-vace-14b": (
        "wan2.1_vace_14B_fp16.safetensors",
        lambda: in_16_bits(official_transformer("wan2.1-vace-14b")),
    ),
    "comfy-wan2.1-vace-1.3b": (
        "wan2.1_vace_1.3B_fp16.safetensors",
        lambda: in_16_bits(official_transformer("wan2.1-vace-1.3b")),
    ),
    "gguf-wan2.1-vace-1.3b": (
        "Wan2.1 VACE 1.3B in 16 bits, as ComfyUI-GGUF's converter makes it",
        lambda: gguf_transformer("wan2.1-vace-1.3b"),
    ),
    "gguf-wan2.1-vace-14b": (        "Wan2.1_14B_VACE-F16.gguf, as ComfyUI-GGUF's converter makes it",
        lambda: gguf_transformer("wan2.1-vace-14b"),
    ),
    "umt5": ("models_t5_umt5-xxl-enc-bf16.pth", umt5),
    "umt5-diffusers": ("text_encoder/model*.safetensors", huggingface_umt5),
    "umt5-diffusers-both-tables": ("text_encoder/model*.safetensors with its table twice", both_tables_umt5),
    "umt5-comfy": ("umt5_xxl_fp16.safetensors", comfy_umt5),
    "umt5-comfy-fp8-scaled": ("umt5_xxl_fp8_e4m3fn_scaled.safetensors", comfy_scaled_umt5),
    "umt5-gguf": ("umt5-xxl-encoder-F16.gguf, as llama.cpp's converter names it", gguf_umt5),
    "vae-2.1": ("Wan2.1_VAE.pth", vae21),
    "vae-2.1-comfy": ("wan_2.1_vae.safetensors", lambda: vae21("BF16")),
    "vae-2.1-diffusers": ("vae/diffusion_pytorch_model.safetensors of Wan2.1", lambda: diffusers_vae({})),
    "vae-2.2": ("Wan2.2_VAE.pth", vae22),
    "vae-2.2-comfy": ("wan2.2_vae.safetensors", lambda: vae22("F16")),
    "vae-2.2-diffusers": (
        "vae/diffusion_pytorch_model.safetensors of Wan2.2 TI2V 5B",
        lambda: diffusers_vae(DIFFUSERS_VAE22),
    ),
    "clip": ("models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth", clip),
    "clip-fp16": ("open-clip-xlm-roberta-large-vit-huge-14_fp16.safetensors", lambda: clip("F16")),
    "clip-comfy": ("clip_vision_h.safetensors", comfy_clip),
    "clip-huggingface": ("CLIPVisionModelWithProjection in 16 bits", lambda: huggingface_clip("F16")),
    "clip-diffusers": ("image_encoder/model.safetensors", diffusers_clip),
}  # fmt: skip


def make(name: str) -> TensorList:
    """Build a list anew."""
    return LISTS[name][1]()


def main(names: Iterable[str] = LISTS) -> None:
    """Write the lists."""
    FOLDER.mkdir(exist_ok=True)
    for name in names:
        lines = [f"# {LISTS[name][0]}", *fold(make(name))]
        (FOLDER / f"{name}.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
