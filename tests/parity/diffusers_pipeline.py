"""Saves tiny models with Diffusers and transformers themselves, as their pipelines do."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mlx_video.config import ImageEncoderConfig, TextEncoderConfig, TransformerConfig, VAEConfig
from tests.fixtures.diffusers_checkpoint import BOUNDARIES, diffusers_arrays, pipeline_index, write_json
from tests.fixtures.tiny_checkpoint import write_tokenizer
from tests.fixtures.tiny_variants import TINY_VARIANTS
from tests.parity.official_animate import build_diffusers_animate

Arrays = Mapping[str, np.ndarray]


def save_with_diffusers(
    path: Path, name: str, *, projects_images: bool = False, max_shard_size: str = "10GB"
) -> None:
    """Save a tiny variant with the numbers of `write_tiny_variant`.

    Args:
        path: the folder to make.
        name: one of `TINY_VARIANTS`.
        projects_images: save CLIP with its projection, which Wan does not use.
        max_shard_size: where a component's weights are split.
    """
    import torch

    sizes, arrays = TINY_VARIANTS[name].sizes, diffusers_arrays(name)
    for folder, tensors in arrays.transformers.items():
        model = load(build_transformer(sizes.transformer), tensors)
        model.save_pretrained(path / folder, max_shard_size=max_shard_size)
    text_encoder = load(build_text_encoder(sizes.text_encoder), arrays.text_encoder)
    text_encoder.to(torch.bfloat16).save_pretrained(path / "text_encoder", max_shard_size=max_shard_size)
    load(build_vae(sizes.vae), arrays.vae).save_pretrained(path / "vae")
    if sizes.image_encoder is not None:
        tower = build_image_encoder(sizes.image_encoder, projects_images)
        load(tower, arrays.image_encoder).save_pretrained(path / "image_encoder")
    build_scheduler().save_pretrained(path / "scheduler")
    write_tokenizer(path / "tokenizer")
    # A pipeline's own save_pretrained writes this file; making one takes a tokenizer of SentencePiece.
    write_json(path / "model_index.json", pipeline_index(name, sizes.image_encoder is not None))
    assert (name in BOUNDARIES) == TINY_VARIANTS[name].is_dual


def build_transformer(config: TransformerConfig) -> Any:
    from diffusers import WanTransformer3DModel, WanVACETransformer3DModel

    if config.face:
        return build_diffusers_animate(config)

    vace = {"vace_layers": list(config.vace_layers), "vace_in_channels": config.vace_in_dim}
    build = partial(WanVACETransformer3DModel, **vace) if config.vace_layers else WanTransformer3DModel
    return build(
        patch_size=config.patch_size, num_attention_heads=config.num_heads,
        attention_head_dim=config.head_dim, in_channels=config.in_dim, out_channels=config.out_dim,
        text_dim=config.text_dim, freq_dim=config.freq_dim, ffn_dim=config.ffn_dim,
        num_layers=config.num_layers, eps=config.eps, image_dim=config.image_dim,
        added_kv_proj_dim=config.dim if config.image_dim else None,
        pos_embed_seq_len=config.image_positions or None,
    )  # fmt: skip


def build_text_encoder(config: TextEncoderConfig) -> Any:
    from transformers import UMT5Config, UMT5EncoderModel

    return UMT5EncoderModel(
        UMT5Config(
            vocab_size=config.vocab_size, d_model=config.dim, d_kv=config.dim_attn // config.num_heads,
            d_ff=config.dim_ffn, num_layers=config.num_layers, num_heads=config.num_heads,
            feed_forward_proj="gated-gelu",
        )
    )  # fmt: skip


def build_vae(config: VAEConfig) -> Any:
    from diffusers import AutoencoderKLWan

    wan22: dict[str, Any] = {}
    if config.z_dim == 48:
        wan22 = {
            "in_channels": 12, "out_channels": 12, "patch_size": 2, "is_residual": True,
            "scale_factor_spatial": 16,
        }  # fmt: skip
    return AutoencoderKLWan(
        base_dim=config.encoder_dim, decoder_base_dim=config.decoder_dim, z_dim=config.z_dim,
        latents_mean=list(config.latent_mean), latents_std=list(config.latent_std), **wan22,
    )  # fmt: skip


def build_image_encoder(config: ImageEncoderConfig, projects_images: bool) -> Any:
    from transformers import CLIPVisionConfig, CLIPVisionModel, CLIPVisionModelWithProjection

    kind = CLIPVisionModelWithProjection if projects_images else CLIPVisionModel
    return kind(
        CLIPVisionConfig(
            hidden_size=config.width, intermediate_size=config.mlp_width,
            num_hidden_layers=config.num_layers + 1, num_attention_heads=config.num_heads,
            image_size=config.image_size, patch_size=config.patch_size, hidden_act="gelu", projection_dim=24,
        )
    )  # fmt: skip


def build_scheduler() -> Any:
    from diffusers import UniPCMultistepScheduler

    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=7.0)


def load(model: Any, arrays: Arrays) -> Any:
    """Give a model its numbers; every parameter must get some, and every number must have its place."""
    import torch

    own = model.state_dict()
    tensors = {_spell(name, own): torch.tensor(values) for name, values in arrays.items()}
    tensors.pop("visual_projection.weight", None) if "visual_projection.weight" not in own else None
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    # The table of tokens is one tensor under two names; position_ids are counted, not trained.
    assert set(missing) <= {"encoder.embed_tokens.weight", "vision_model.embeddings.position_ids"}
    assert unexpected == []
    return model.eval()


def _spell(name: str, own: Mapping[str, Any]) -> str:
    """Some releases of transformers put CLIP's names behind "vision_model.", others do not."""
    return name if name in own else name.removeprefix("vision_model.")
