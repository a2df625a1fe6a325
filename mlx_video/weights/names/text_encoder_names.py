"""The UMT5 encoder's tensors: which there are, how large, and their converted spelling."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mlx_video.config import TextEncoderConfig
from mlx_video.errors import CheckpointError
from mlx_video.formats.sentencepiece_model import TOKENIZER_TENSOR
from mlx_video.formats.tensor_source import TensorInfo
from mlx_video.weights.rules import Rule, Shape, drop

ANCHOR = "token_embedding.weight"
T5_V1_1_VOCABULARY = 32128
HF_ANCHORS = ("encoder.block.0.layer.0.SelfAttention.q.weight", "encoder.final_layer_norm.weight")
# Files of Hugging Face's layout hold the table under either name, or under both.
HF_TOKEN_TABLES = ("shared.weight", "encoder.embed_tokens.weight")
GGUF_ANCHORS = ("enc.blk.0.attn_q.weight", "enc.output_norm.weight")

WAN_RULES = (
    drop(TOKENIZER_TENSOR),
    Rule("blocks.N.ffn.gate.0.weight", "blocks.N.ffn.gate_proj.weight"),
    Rule("*", "*"),
)

_HF_BLOCK = {
    "layer.0.SelfAttention.relative_attention_bias.*": "pos_embedding.embedding.*",
    "layer.0.SelfAttention.*": "attn.*",
    "layer.0.layer_norm.*": "norm1.*",
    "layer.1.DenseReluDense.wi_0.*": "ffn.gate.0.*",
    "layer.1.DenseReluDense.wi_1.*": "ffn.fc1.*",
    "layer.1.DenseReluDense.wo.*": "ffn.fc2.*",
    "layer.1.layer_norm.*": "norm2.*",
}
# From Hugging Face's names to the official ones; layouts are the same.
# Source: transformers src/transformers/models/umt5/modeling_umt5.py, UMT5EncoderModel.
HF_RULES = (
    drop("decoder.*"),  # of uploads of the whole UMT5
    drop("lm_head.*"),
    drop("logit_scale"),  # an empty place of ComfyUI's text encoders
    *(Rule(name, "token_embedding.weight") for name in HF_TOKEN_TABLES),
    *(Rule(f"encoder.block.N.{theirs}", f"blocks.N.{ours}") for theirs, ours in _HF_BLOCK.items()),
    Rule("encoder.final_layer_norm.*", "norm.*"),
    Rule("*", "*"),
)

_GGUF_BLOCK = {
    "attn_rel_b.*": "pos_embedding.embedding.*",
    "attn_norm.*": "norm1.*",
    "attn_q.*": "attn.q.*",
    "attn_k.*": "attn.k.*",
    "attn_v.*": "attn.v.*",
    "attn_o.*": "attn.o.*",
    "ffn_gate.*": "ffn.gate.0.*",
    "ffn_up.*": "ffn.fc1.*",
    "ffn_down.*": "ffn.fc2.*",
    "ffn_norm.*": "norm2.*",
}
# From llama.cpp's names, which GGUF files carry, to the official ones.
# Source: ggml-org/llama.cpp gguf-py/gguf/constants.py, TENSOR_NAMES and MODEL_ARCH.T5ENCODER.
GGUF_RULES = (
    drop("dec.*"),  # of files of the whole UMT5
    drop("output.weight"),
    Rule("token_embd.weight", "token_embedding.weight"),
    *(Rule(f"enc.blk.N.{theirs}", f"blocks.N.{ours}") for theirs, ours in _GGUF_BLOCK.items()),
    Rule("enc.output_norm.*", "norm.*"),
    Rule("*", "*"),
)


def text_encoder_tensors(config: TextEncoderConfig) -> dict[str, Shape]:
    """Name and shape of every tensor of a UMT5 encoder, as the official code spells them.

    Source: Wan2.1 wan/modules/t5.py, T5Encoder.
    """
    tensors: dict[str, Shape] = {"token_embedding.weight": (config.vocab_size, config.dim)}
    for index in range(config.num_layers):
        tensors |= {f"blocks.{index}.{name}.weight": shape for name, shape in _block_tensors(config).items()}
    return tensors | {"norm.weight": (config.dim,)}


def _block_tensors(config: TextEncoderConfig) -> dict[str, Shape]:
    into_attention, into_ffn = (config.dim_attn, config.dim), (config.dim_ffn, config.dim)
    return {
        "norm1": (config.dim,),
        "attn.q": into_attention,
        "attn.k": into_attention,
        "attn.v": into_attention,
        "attn.o": into_attention[::-1],
        "norm2": (config.dim,),
        "ffn.gate.0": into_ffn,
        "ffn.fc1": into_ffn,
        "ffn.fc2": into_ffn[::-1],
        "pos_embedding.embedding": (config.num_buckets, config.num_heads),
    }


def read_text_encoder_config(
    infos: Mapping[str, TensorInfo], *, label: str = "text encoder"
) -> TextEncoderConfig:
    """Read all sizes of a UMT5 encoder from its tensors; no file states them.

    Args:
        infos: tensors under the official code's names.
        label: names the file in messages.

    Raises:
        CheckpointError: a tensor that tells a size is absent or misshapen, or it is no UMT5.
    """
    vocab_size, dim = _matrix(infos, "token_embedding.weight", label)
    if vocab_size == T5_V1_1_VOCABULARY:
        raise CheckpointError(
            f"{label}: token_embedding.weight has {vocab_size} vocabulary rows (T5 v1.1); Wan needs UMT5-XXL "
            "(256384). Fetch models_t5_umt5-xxl-enc-bf16.pth from a Wan-AI repository."
        )
    num_buckets, num_heads = _matrix(infos, "blocks.0.pos_embedding.embedding.weight", label)
    return TextEncoderConfig(
        vocab_size=vocab_size,
        dim=dim,
        dim_attn=_matrix(infos, "blocks.0.attn.q.weight", label)[0],
        dim_ffn=_matrix(infos, "blocks.0.ffn.fc1.weight", label)[0],
        num_heads=num_heads,
        num_layers=1 + max(int(match[1]) for name in infos if (match := re.match(r"blocks\.(\d+)\.", name))),
        num_buckets=num_buckets,
    )


def _matrix(infos: Mapping[str, TensorInfo], name: str, label: str) -> tuple[int, int]:
    info = infos.get(name)
    if info is None or len(info.shape) != 2 or 0 in info.shape:
        found = "missing" if info is None else f"{list(info.shape)} instead of a matrix"
        is_gated = "blocks.0.ffn.gate.0.weight" in infos
        seems = "and the blocks of a UMT5 encoder are there" if is_gated else "so this is no UMT5 encoder"
        raise CheckpointError(
            f"{label}: {name} is {found}, {seems}. "
            "Fetch models_t5_umt5-xxl-enc-bf16.pth from a Wan-AI repository."
        )
    return info.shape[0], info.shape[1]
