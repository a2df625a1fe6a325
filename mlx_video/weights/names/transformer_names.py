"""The transformer's tensors: which there are, and the converted spelling of the Wan original's names."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from mlx_video.config import TransformerConfig
from mlx_video.formats.tensor_source import TensorInfo
from mlx_video.weights.quantize import dense_shapes
from mlx_video.weights.rules import FLATTEN_KERNEL, Rule, Shape, apply_rules, drop

ANCHOR = "patch_embedding.weight"
BIAS_ANCHOR = "patch_embedding.bias"
DIFFUSERS_ANCHORS = ("condition_embedder.time_proj.weight", "condition_embedder.time_proj.bias")
IMAGE_ANCHOR = "img_emb.proj.0.weight"

WAN_RULES = (
    drop("freqs"),  # a rotary table, recomputed at every start
    drop("blocks.N.to_gate_compress.*"),  # FastVideo's sparse attention; ours is dense
    Rule("patch_embedding.weight", "patch_embedding_proj.weight", FLATTEN_KERNEL),
    Rule("patch_embedding.bias", "patch_embedding_proj.bias"),
    Rule("text_embedding.0.*", "text_embedding_0.*"),
    Rule("text_embedding.2.*", "text_embedding_1.*"),
    Rule("time_embedding.0.*", "time_embedding_0.*"),
    Rule("time_embedding.2.*", "time_embedding_1.*"),
    Rule("time_projection.1.*", "time_projection.*"),
    Rule("blocks.N.ffn.0.*", "blocks.N.ffn.fc1.*"),
    Rule("blocks.N.ffn.2.*", "blocks.N.ffn.fc2.*"),
    Rule("*", "*"),
)

# One block's parts, Diffusers' spelling and the official one. The affine norm has another number there.
DIFFUSERS_BLOCK = {
    "norm2.*": "norm3.*",
    "ffn.net.0.proj.*": "ffn.0.*",
    "ffn.net.2.*": "ffn.2.*",
    "ffn.fc_in.*": "ffn.0.*",  # FastVideo
    "ffn.fc_out.*": "ffn.2.*",
    "scale_shift_table": "modulation",
    "attn2.add_k_proj.*": "cross_attn.k_img.*",
    "attn2.add_v_proj.*": "cross_attn.v_img.*",
    "attn2.norm_added_k.*": "cross_attn.norm_k_img.*",
    **{
        f"{theirs}.{part}.*": f"{ours}.{official}.*"
        for theirs, ours in (("attn1", "self_attn"), ("attn2", "cross_attn"))
        for part, official in (
            ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "o"),
            ("norm_q", "norm_q"), ("norm_k", "norm_k"),
        )
    },
}  # fmt: skip
# From Diffusers' names to the official ones; layouts are the same.
# Source: diffusers scripts/convert_wan_to_diffusers.py, TRANSFORMER_KEYS_RENAME_DICT.
DIFFUSERS_RULES = (
    drop("blocks.N.attn2.norm_added_q.*"),  # in some exports, never used
    Rule("vace_blocks.N.proj_in.*", "vace_blocks.N.before_proj.*"),
    Rule("vace_blocks.N.proj_out.*", "vace_blocks.N.after_proj.*"),
    *(
        Rule(f"{blocks}.N.{theirs}", f"{blocks}.N.{official}")
        for blocks in ("blocks", "vace_blocks")
        for theirs, official in DIFFUSERS_BLOCK.items()
    ),
    Rule("condition_embedder.text_embedder.linear_1.*", "text_embedding.0.*"),
    Rule("condition_embedder.text_embedder.linear_2.*", "text_embedding.2.*"),
    Rule("condition_embedder.time_embedder.linear_1.*", "time_embedding.0.*"),
    Rule("condition_embedder.time_embedder.linear_2.*", "time_embedding.2.*"),
    Rule("condition_embedder.time_proj.*", "time_projection.1.*"),
    Rule("condition_embedder.image_embedder.norm1.*", "img_emb.proj.0.*"),
    Rule("condition_embedder.image_embedder.ff.net.0.proj.*", "img_emb.proj.1.*"),
    Rule("condition_embedder.image_embedder.ff.net.2.*", "img_emb.proj.3.*"),
    Rule("condition_embedder.image_embedder.norm2.*", "img_emb.proj.4.*"),
    Rule("condition_embedder.image_embedder.pos_embed", "img_emb.emb_pos"),
    Rule("scale_shift_table", "head.modulation"),
    Rule("proj_out.*", "head.head.*"),
    Rule("*", "*"),
)

CONVERTED_RULES = (drop("freqs"), Rule("*", "*"))
CONVERTED_ANCHOR = "patch_embedding_proj.bias"
QUANTIZED_SAMPLE = "blocks.0.cross_attn.q"  # a layer of every transformer, as wide as its tokens
PATCH_SIZE = (1, 2, 2)  # of every published transformer; a flattened kernel does not show it
PATCH_CELLS = math.prod(PATCH_SIZE)


def transformer_tensors(config: TransformerConfig) -> dict[str, Shape]:
    """Name and shape of every tensor of a transformer, as the official code spells them.

    Source: Wan2.1 wan/modules/model.py, WanModel.
    """
    dim = config.dim
    patch_rows = config.out_dim * config.patch_size[0] * config.patch_size[1] * config.patch_size[2]
    tensors: dict[str, Shape] = {
        "patch_embedding.weight": (dim, config.in_dim, *config.patch_size),
        "patch_embedding.bias": (dim,),
        **linear_tensors("text_embedding.0", dim, config.text_dim),
        **linear_tensors("text_embedding.2", dim, dim),
        **linear_tensors("time_embedding.0", dim, config.freq_dim),
        **linear_tensors("time_embedding.2", dim, dim),
        **linear_tensors("time_projection.1", 6 * dim, dim),
    }
    for index in range(config.num_layers):
        tensors |= {f"blocks.{index}.{name}": shape for name, shape in block_tensors(config).items()}
    tensors |= linear_tensors("head.head", patch_rows, dim) | {"head.modulation": (1, 2, dim)}
    return tensors | _image_tensors(config)


def original_shapes(infos: Mapping[str, TensorInfo], extra_rules: Sequence[Rule] = ()) -> dict[str, Shape]:
    """What a converted transformer's tensors, dense or quantized, are in the original layout.

    Args:
        infos: of the converted file.
        extra_rules: for tensors that the plain transformer lacks.
    """
    rules = (*extra_rules, *WAN_RULES)
    backwards = tuple(Rule(rule.target, rule.source) for rule in rules if rule.target is not None)
    anchor = infos.get(CONVERTED_ANCHOR)
    width = anchor.shape[0] if anchor is not None and anchor.shape else 1
    shapes = dense_shapes(infos, QUANTIZED_SAMPLE, max(width, 1))
    renamed = {str(apply_rules(name, backwards)[0]): shape for name, shape in shapes.items()}
    if len(patch := renamed.get(ANCHOR, ())) == 2:
        renamed[ANCHOR] = (patch[0], patch[1] // PATCH_CELLS, *PATCH_SIZE)
    return renamed


def read_image_sizes(shapes: Mapping[str, Shape]) -> tuple[int | None, int]:
    """Read `image_dim` and `image_positions` of a transformer from its tensors.

    Args:
        shapes: under the official code's or a converted file's names; both spell the image branch alike.

    Returns:
        Channels of the image features, None without the branch; tokens that have positions of their own.
    """
    norm, positions = shapes.get(IMAGE_ANCHOR, ()), shapes.get("img_emb.emb_pos", ())
    return (norm[0] if len(norm) == 1 else None), (positions[1] if len(positions) == 3 else 0)


def _image_tensors(config: TransformerConfig) -> dict[str, Shape]:
    """What stands before the blocks in the image branch."""
    if config.image_dim is None:
        return {}
    width = config.image_dim
    tensors = {
        **_norm("img_emb.proj.0", width),
        **linear_tensors("img_emb.proj.1", width, width),
        **linear_tensors("img_emb.proj.3", config.dim, width),
        **_norm("img_emb.proj.4", config.dim),
    }
    positions: dict[str, Shape] = {"img_emb.emb_pos": (1, config.image_positions, width)}
    return tensors | (positions if config.image_positions else {})


def block_tensors(config: TransformerConfig) -> dict[str, Shape]:
    """Name and shape of every tensor of one block, without what numbers it."""
    dim = config.dim
    return {
        "modulation": (1, 6, dim),
        **_attention("self_attn", dim),
        **_attention("cross_attn", dim),
        **(_image_attention(dim) if config.image_dim is not None else {}),
        **_norm("norm3", dim),
        **linear_tensors("ffn.0", config.ffn_dim, dim),
        **linear_tensors("ffn.2", dim, config.ffn_dim),
    }


def _attention(path: str, dim: int) -> dict[str, Shape]:
    tensors: dict[str, Shape] = {f"{path}.norm_q.weight": (dim,), f"{path}.norm_k.weight": (dim,)}
    for letter in "qkvo":
        tensors |= linear_tensors(f"{path}.{letter}", dim, dim)
    return tensors


def _image_attention(dim: int) -> dict[str, Shape]:
    layers = linear_tensors("cross_attn.k_img", dim, dim) | linear_tensors("cross_attn.v_img", dim, dim)
    return layers | {"cross_attn.norm_k_img.weight": (dim,)}


def _norm(path: str, channels: int) -> dict[str, Shape]:
    return {f"{path}.weight": (channels,), f"{path}.bias": (channels,)}


def linear_tensors(path: str, rows: int, columns: int) -> dict[str, Shape]:
    """Name and shape of the tensors of a linear layer."""
    return {f"{path}.weight": (rows, columns), f"{path}.bias": (rows,)}
