"""Components of other models that have the names of Wan's: told apart by sizes and by what they lack."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from mlx_video.config import WAN21_VAE, WAN22_VAE
from mlx_video.formats.tensor_source import TensorInfo
from mlx_video.models.vae.wan21 import PIXEL_CHANNELS
from mlx_video.models.vae.wan22 import PACKED_CHANNELS
from mlx_video.weights.component_kind import is_other_text_encoder
from mlx_video.weights.names import image_encoder_names, text_encoder_names

# Width of a CLIP visual tower → what it is called; Wan's is ViT-H, 1280 wide.
# Source: comfyanonymous/ComfyUI comfy/clip_vision.py, load_clipvision_from_sd.
_OTHER_CLIPS = MappingProxyType({768: "ViT-B", 1024: "ViT-L", 1664: "ViT-bigG"})
# Latent channels of Wan's VAEs → channels of the pixels that their encoders take.
_WAN_PIXELS = MappingProxyType({WAN21_VAE.z_dim: PIXEL_CHANNELS, WAN22_VAE.z_dim: PACKED_CHANNELS})


def describe_text_encoder(infos: Mapping[str, TensorInfo]) -> str:
    """What shows that a text encoder is another model's; "" for one that Wan may use."""
    if not is_other_text_encoder(infos):
        return ""
    rows = _shape(infos, text_encoder_names.ANCHOR)[:1]
    if rows == (text_encoder_names.T5_V1_1_VOCABULARY,):
        return f"has {rows[0]} vocabulary rows (T5 v1.1); Wan needs UMT5-XXL"
    return "has relative positions in its first block alone (T5, mT5 or ByT5); Wan needs UMT5-XXL"


def describe_image_encoder(infos: Mapping[str, TensorInfo]) -> str:
    """What shows that a CLIP is another model's; "" for one that Wan may use."""
    width = next(iter(_shape(infos, image_encoder_names.ANCHOR)[-1:]), 0)
    name = _OTHER_CLIPS.get(width)
    return f"is a CLIP {name}, {width} wide; Wan needs ViT-H, 1280 wide" if name else ""


def describe_vae(infos: Mapping[str, TensorInfo]) -> str:
    """What shows that a VAE is another model's; "" for one that Wan may use."""
    latents = next(iter(_shape(infos, "conv2.weight")[:1]), None)
    if latents is None:
        return ""
    if latents not in _WAN_PIXELS:
        return f"is a VAE of {latents} latent channels; Wan's have 16 or 48"
    pixels = next(iter(_shape(infos, "encoder.conv1.weight")[1:2]), _WAN_PIXELS[latents])
    if pixels != _WAN_PIXELS[latents]:
        return f"is a VAE for pictures of {pixels} channels; Wan's takes {_WAN_PIXELS[latents]}"
    return ""


def _shape(infos: Mapping[str, TensorInfo], name: str) -> tuple[int, ...]:
    return infos[name].shape if name in infos else ()
