"""VAEs of other models whose tensors have the names and shapes of Wan's: what tells them apart."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class OtherVAE:
    """A VAE that Wan's network takes and Wan's models do not come with.

    Attributes:
        title: whose it is, for people.
        difference: how it differs from Wan's.
        names: what its files are called.
        class_name: what a config.json beside it says; "" where none does.
        published: bytes of a published file → its SHA-256.
    """

    title: str
    difference: str
    names: re.Pattern[str]
    class_name: str = ""
    published: Mapping[int, str] = field(default_factory=dict)


OTHER_VAES = (
    # Source: arXiv 2508.02324, section 2.3; huggingface.co/Comfy-Org/Qwen-Image_ComfyUI.
    OtherVAE(
        "Qwen-Image",
        "its latents are those of Wan2.1, its decoder was trained anew on pictures",
        re.compile(r"qwen", re.IGNORECASE),
        "AutoencoderKLQwenImage",
        {253_806_246: "a70580f0213e67967ee9c95f05bb400e8fb08307e017a924bf3441223e023d1f"},
    ),
    # Source: huggingface.co/htdong/Wan-Alpha_ComfyUI.
    OtherVAE(
        "Wan-Alpha",
        "it decodes the colours or the transparency of that model's own latents",
        re.compile(r"wan[-_. ]?alpha|(alpha|rgb)[-_. ]channel", re.IGNORECASE),
    ),
)
# What the files of Wan's own are called, LightX2V's narrower ones among them.
WAN_VAE_NAMES = re.compile(r"wan|lightvae", re.IGNORECASE)
WAN_VAE_CLASS = "AutoencoderKLWan"
