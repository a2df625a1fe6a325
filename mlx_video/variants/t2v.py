"""Text-to-video: Wan2.1 in two sizes, Wan2.2's two experts, and the small demo model."""

from __future__ import annotations

from collections.abc import Callable

from mlx_video.config import SamplingDefaults
from mlx_video.variants.demo_prompts import remark_on_demo_prompt
from mlx_video.variants.variant import CheckpointFacts, Variant

EXTRA_NETWORKS = (
    "img_emb.",
    "vace_",
    "control_adapter.",
    "ref_conv.",
    "face_adapter.",
    "casual_audio_encoder.",
    "audio_proj.",
)


def is_text_to_video(facts: CheckpointFacts) -> bool:
    """16 channels in and out, and no network for any other kind of input."""
    plain = not any(facts.has_part(prefix) for prefix in EXTRA_NETWORKS)
    return plain and facts.in_dim == facts.out_dim == 16


def is_sized(dim: int, num_layers: int) -> Callable[[CheckpointFacts], bool]:
    """A single text-to-video transformer of exactly this size."""
    return lambda facts: is_single(facts) and (facts.dim, facts.num_layers) == (dim, num_layers)


def is_single(facts: CheckpointFacts) -> bool:
    """Text-to-video with one transformer."""
    return is_text_to_video(facts) and not facts.is_dual


DEMO = Variant(
    name="wan2.1-t2v-demo",
    title="Demo (coloured shapes)",
    model_version="2.1",
    model_type="t2v",
    matches=is_sized(192, 6),
    sampling=SamplingDefaults(
        steps=30, shift=5.0, guide_scale=(4.0, 4.0), num_frames=17, width=64, height=64
    ),
    remark_on_prompt=remark_on_demo_prompt,
)

T2V_1_3B = Variant(
    name="wan2.1-t2v-1.3b",
    title="Wan2.1 T2V 1.3B",
    model_version="2.1",
    model_type="t2v",
    matches=is_sized(1536, 30),
)

T2V_14B = Variant(
    name="wan2.1-t2v-14b",
    title="Wan2.1 T2V 14B",
    model_version="2.1",
    model_type="t2v",
    matches=is_sized(5120, 40),
    sampling=SamplingDefaults(width=1280, height=720),
)

T2V_OTHER = Variant(
    name="wan2.1-t2v",
    title="Wan2.1 T2V of another size",
    model_version="2.1",
    model_type="t2v",
    matches=is_single,
)

T2V_A14B = Variant(
    name="wan2.2-t2v-a14b",
    title="Wan2.2 T2V A14B",
    model_version="2.2",
    model_type="t2v",
    matches=lambda facts: is_text_to_video(facts) and facts.is_dual,
    sampling=SamplingDefaults(
        steps=40, shift=12.0, guide_scale=(3.0, 4.0), boundary=0.875, width=1280, height=720
    ),
)
