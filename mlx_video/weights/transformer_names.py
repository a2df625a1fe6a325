"""The transformer's tensors: which there are, and the converted spelling of the Wan original's names."""

from __future__ import annotations

from collections.abc import Mapping

from mlx_video.config import TransformerConfig
from mlx_video.weights.rules import FLATTEN_KERNEL, Rule, Shape, drop

ANCHOR = "patch_embedding.weight"
IMAGE_ANCHOR = "img_emb.proj.0.weight"

WAN_RULES = (
    drop("freqs"),  # a rotary table, recomputed at every start
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

CONVERTED_RULES = (drop("freqs"), Rule("*", "*"))


def transformer_tensors(config: TransformerConfig) -> dict[str, Shape]:
    """Name and shape of every tensor of a transformer, as the official code spells them.

    Source: Wan2.1 wan/modules/model.py, WanModel.
    """
    dim = config.dim
    patch_rows = config.out_dim * config.patch_size[0] * config.patch_size[1] * config.patch_size[2]
    tensors: dict[str, Shape] = {
        "patch_embedding.weight": (dim, config.in_dim, *config.patch_size),
        "patch_embedding.bias": (dim,),
        **_linear("text_embedding.0", dim, config.text_dim),
        **_linear("text_embedding.2", dim, dim),
        **_linear("time_embedding.0", dim, config.freq_dim),
        **_linear("time_embedding.2", dim, dim),
        **_linear("time_projection.1", 6 * dim, dim),
    }
    for index in range(config.num_layers):
        tensors |= {f"blocks.{index}.{name}": shape for name, shape in _block_tensors(config).items()}
    tensors |= _linear("head.head", patch_rows, dim) | {"head.modulation": (1, 2, dim)}
    return tensors | _image_tensors(config)


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
        **_linear("img_emb.proj.1", width, width),
        **_linear("img_emb.proj.3", config.dim, width),
        **_norm("img_emb.proj.4", config.dim),
    }
    positions: dict[str, Shape] = {"img_emb.emb_pos": (1, config.image_positions, width)}
    return tensors | (positions if config.image_positions else {})


def _block_tensors(config: TransformerConfig) -> dict[str, Shape]:
    dim = config.dim
    return {
        "modulation": (1, 6, dim),
        **_attention("self_attn", dim),
        **_attention("cross_attn", dim),
        **(_image_attention(dim) if config.image_dim is not None else {}),
        **_norm("norm3", dim),
        **_linear("ffn.0", config.ffn_dim, dim),
        **_linear("ffn.2", dim, config.ffn_dim),
    }


def _attention(path: str, dim: int) -> dict[str, Shape]:
    tensors: dict[str, Shape] = {f"{path}.norm_q.weight": (dim,), f"{path}.norm_k.weight": (dim,)}
    for letter in "qkvo":
        tensors |= _linear(f"{path}.{letter}", dim, dim)
    return tensors


def _image_attention(dim: int) -> dict[str, Shape]:
    layers = _linear("cross_attn.k_img", dim, dim) | _linear("cross_attn.v_img", dim, dim)
    return layers | {"cross_attn.norm_k_img.weight": (dim,)}


def _norm(path: str, channels: int) -> dict[str, Shape]:
    return {f"{path}.weight": (channels,), f"{path}.bias": (channels,)}


def _linear(path: str, rows: int, columns: int) -> dict[str, Shape]:
    return {f"{path}.weight": (rows, columns), f"{path}.bias": (rows,)}
