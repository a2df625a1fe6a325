"""Models of the family that this version does not run: recognised, so that they are refused by name."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from mlx_video.variants.variant import CheckpointFacts, Shapes


@dataclass(frozen=True, slots=True)
class OtherModel:
    """A model that is recognised only to be refused by its name.

    Attributes:
        title: for people.
        part: what a tensor of its own begins with; "" where channels alone tell it.
        channels: in and out; None for any.
    """

    title: str
    part: str = ""
    channels: tuple[int, int] | None = None

    def matches(self, facts: CheckpointFacts) -> bool:
        """Whether a checkpoint looks like this model."""
        has_channels = self.channels in (None, (facts.in_dim, facts.out_dim))
        return has_channels and (not self.part or facts.has_part(self.part))


# The first that matches is meant: some networks also have the parts of later ones.
OTHER_MODELS = (
    OtherModel("Wan2.2 Fun-5B-Control-Camera", "control_adapter.", (100, 48)),
    OtherModel("a Fun Control-Camera model", "control_adapter."),
    OtherModel("HuMo", "audio_proj."),
    OtherModel("SCAIL", "patch_embedding_pose."),
    OtherModel("a Fun Control model", channels=(48, 16)),
    OtherModel("Lucy-Edit, or another 5B model that edits videos", channels=(96, 48)),
    OtherModel("Wan2.2 Fun-5B-InP", channels=(100, 48)),
    OtherModel("Wan2.2 Fun-5B-Control", channels=(148, 48)),
)

PUBLISHED: Mapping[str, str] = MappingProxyType(
    {
        "9269f8db9040a9d860eaca435be61814": "Wan2.1 T2V 1.3B",
        "aafcfd9672c3a2456dc46e1cb6e52c70": "Wan2.1 T2V 14B, or an expert of Wan2.2 T2V A14B",
        "6bfcfb3b342cb286ce886889d519a77e": "Wan2.1 I2V 14B, or Fun-14B-InP",
        "3ef3b1f8e1dab83d5b71fd7b617f859f": "Wan2.1 FLF2V 14B",
        "a61453409b67cd3246cf0c3bebad47ba": "Wan2.1 VACE 1.3B",
        "7a513e1f257a861512b1afd387a8ecd9": "Wan2.1 VACE 14B, or an expert of Wan2.2 VACE-Fun A14B",
        "6d6ccde6845b95ad9114ab993d917893": "Wan2.1 Fun-1.3B-InP",
        "349723183fc063b2bfc10bb2835cf677": "Wan2.1 Fun Control 1.3B",
        "efa44cddf936c70abd0ea28b6cbe946c": "Wan2.1 Fun Control 14B",
        "70ddad9d3a133785da5ea371aae09504": "Wan2.1 Fun-V1.1 Control 1.3B",
        "26bde73488a92e64cc20b0a7485b9e5b": "Wan2.1 Fun-V1.1 Control 14B",
        "ac6a5aa74f4a0aab6f64eb9a72f19901": "Wan2.1 Fun-V1.1 Control-Camera 1.3B",
        "b61c605c2adbd23124d152ed28e049ae": "Wan2.1 Fun-V1.1 Control-Camera 14B",
        "5b013604280dd715f8457c6ed6d6a626": "an expert of Wan2.2 I2V A14B",
        "1f5ab7703c6fc803fdded85ff040c316": "Wan2.2 TI2V 5B",
        "2267d489f0ceb9f21836532952852ee5": "an expert of Wan2.2 Fun-A14B-Control",
        "47dbeab5e560db3180adf51dc0232fb1": "an expert of Wan2.2 Fun-A14B-Control-Camera",
        "0e2ab7dec4711919374f3d7ffdea90be": "Wan2.2 Fun-5B-Control-Camera",
        "31fa352acb8a1b1d33cd8764273d80a2": "Wan2.2 Animate 14B",
        "4536c21ad8740ba78367af4216ae85bf": "Wan2.2 Animate-2 14B",
        "966cffdcc52f9c46c391768b27637614": "Wan2.2 S2V 14B",
        "5ec04e02b42d2580483ad69f4e76346a": "krea-realtime 14B",
        "eb18873fc0ba77b541eb7b62dbcd2059": "Wan-Dancer 14B",
        "8b27900f680d7251ce44e2dc8ae1ffef": "LongCat-Video",
        "5f90e66a0672219f12d9a626c8c21f61": "Video-As-Prompt Wan2.1 14B",
        "9c8818c2cbea55eca56c7b447df170da": "UMT5-XXL",
        "ccc42284ea13e1ad04693284c7a09be6": "VAE of Wan2.1",
        "e1de6c02cdac79f8b739f4d3698cd216": "VAE of Wan2.2",
        "06be60f3a4526586d8431cd038a71486": "wav2vec 2.0 of Wan2.2 S2V 14B",
        "5941c53e207d62f20f9025686193c40b": "CLIP ViT-H with XLM-RoBERTa",
    }
)
"""Digest of names and shapes → the published file.

Source: modelscope/DiffSynth-Studio diffsynth/configs/model_config.py, model_loader_configs.
"""


def digest_shapes(shapes: Shapes) -> str:
    """Digest of a file's tensor names and shapes, equal for all files of one published model.

    Source: modelscope/DiffSynth-Studio diffsynth/models/utils.py, hash_state_dict_keys.
    """
    named = (f"{name}:{'_'.join(map(str, shape))}" for name, shape in shapes.items())
    return hashlib.md5(",".join(sorted([*named, *shapes])).encode(), usedforsecurity=False).hexdigest()


def name_other_model(facts: CheckpointFacts, shapes: Shapes | None = None) -> str | None:
    """What to call a transformer that no variant fits; None for one that is not known at all.

    Args:
        facts: sizes and names.
        shapes: all tensors under the names of the file, where they are at hand.
    """
    published = PUBLISHED.get(digest_shapes(shapes)) if shapes else None
    if published is not None:
        return published
    model = next((model for model in OTHER_MODELS if model.matches(facts)), None)
    if model is None:
        return None
    if not model.part:
        return model.title
    first = min(name for name in facts.names if name.startswith(model.part))
    return f"{model.title} (it has {first})"
