"""What an adapter was made for, as far as names tell: another model, parts this one lacks, an expert."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from mlx_video.layouts.components import Expert
from mlx_video.layouts.expert_names import guess_expert_of_name
from mlx_video.lora.dialects import AdapterKey, find_experts

# Marks in the names of a file of which nothing fits, and the models that have them.
_FAMILIES = (
    (r"^(text_encoders?|text_encoder_2)\.|^lora_te\d?_", "a text encoder"),
    (r"single_transformer_blocks[._]", "Flux"),
    (r"double_blocks[._]|single_blocks[._]", "Flux or HunyuanVideo"),
    (r"joint_blocks[._]|transformer_blocks[._]\d+[._]attn[._]add_q_proj", "Stable Diffusion 3 or Qwen-Image"),
    (r"transformer_blocks[._]\d+[._](attn1|attn2)", "LTX-Video, CogVideoX or another Diffusers transformer"),
    (
        r"(down|up|input|output|middle|mid)_blocks?[._]",
        "Stable Diffusion (a U-Net)",
    ),
    (r"face_adapter|motion_encoder|pose_patch_embedding", "Wan2.2 Animate"),
    (r"audio_injector|casual_audio_encoder", "Wan2.2 S2V"),
    (r"vace_(blocks|patch_embedding)", "Wan VACE"),
    (r"adaLN_modulation|pre_crs_attn_norm|[._]attn[._]qkv|ffn[._]w[123]", "LongCat-Video"),
    (r"^(self_attn|cross_attn|ffn|blocks[._]\d+)", "another Wan model or a renamed one"),
)

IMAGE_BRANCH = re.compile(
    r"[._](k_img|v_img|norm_k_img|add_k_proj|add_v_proj|norm_added_k)$|img_emb|image_embedder"
)
_BLOCK = re.compile(r"^blocks[._](\d+)[._]")
_VACE_BLOCK = re.compile(r"^vace_blocks[._](\d+)[._]")


def guess_family(keys: Iterable[AdapterKey]) -> str:
    """Which kind of model a file looks made for."""
    paths = [key.path for key in keys]
    for mark, family in _FAMILIES:
        if any(re.search(mark, path) for path in paths):
            return family
    return "a model that this version does not know"


def explain_unmatched(key: AdapterKey, num_blocks: int, num_vace_blocks: int = 0) -> str:
    """Why a tensor of an adapter fits nothing in a model of so many blocks."""
    if key.is_of_text_encoder:
        return "of a text encoder, which is not supported"
    if IMAGE_BRANCH.search(key.path):
        return "of image cross-attention, which this model lacks"
    if "vace_" in key.path and not num_vace_blocks:
        return "of VACE, which this model lacks"
    vace_block = _VACE_BLOCK.match(key.path)
    if vace_block and int(vace_block[1]) >= num_vace_blocks:
        return f"of VACE blocks beyond the model's {num_vace_blocks}"
    block = _BLOCK.match(key.path)
    if block and int(block[1]) >= num_blocks:
        return f"of blocks beyond the model's {num_blocks}"
    if key.role is None:
        return "that are no adapter's"
    return "of layers that this model lacks"


def explain_stray(key: AdapterKey) -> str:
    """Why a tensor counts for neither expert in a file whose others name theirs."""
    if key.is_of_text_encoder:
        return "of a text encoder, which is not supported"
    return "that name neither expert, where others do"


def guess_expert(name: str, keys: Sequence[AdapterKey]) -> Expert | None:
    """Which of two experts a file is for, by its name or its keys; None if these do not tell.

    Args:
        name: the file's or folder's, without suffix.
        keys: their prefixes outrank the name; a file that is for both experts is for neither of them.
    """
    experts = find_experts(keys)
    return (next(iter(experts)) if len(experts) == 1 else None) if experts else guess_expert_of_name(name)
