"""Text-to-video: Wan2.1 in two sizes, Wan2.2's two experts, and the small demo model."""

from __future__ import annotations

from mlx_video.conditioning.control.units import MOTION, SPEED
from mlx_video.conditioning.units import PROMPTS
from mlx_video.config import SamplingDefaults
from mlx_video.variants.demo_prompts import remark_on_demo_prompt
from mlx_video.variants.variant import Inputs, Traits, Variant

LATENTS = (16, 16)  # channels in and out
# With one transformer, beside which a motion controller may lie.
INPUTS = Inputs(optional=(MOTION,))
UNITS = (PROMPTS, SPEED)

DEMO = Variant(
    name="wan2.1-t2v-demo",
    title="Demo (coloured shapes)",
    model_version="2.1",
    model_type="t2v",
    traits=Traits(LATENTS, size=(192, 6)),
    inputs=INPUTS,
    units=UNITS,
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
    traits=Traits(LATENTS, size=(1536, 30)),
    inputs=INPUTS,
    units=UNITS,
)

T2V_14B = Variant(
    name="wan2.1-t2v-14b",
    title="Wan2.1 T2V 14B",
    model_version="2.1",
    model_type="t2v",
    traits=Traits(LATENTS, size=(5120, 40)),
    inputs=INPUTS,
    units=UNITS,
    sampling=SamplingDefaults(width=1280, height=720),
)

T2V_OTHER = Variant(
    name="wan2.1-t2v",
    title="Wan2.1 T2V of another size",
    model_version="2.1",
    model_type="t2v",
    traits=Traits(LATENTS),
    inputs=INPUTS,
    units=UNITS,
)

T2V_A14B = Variant(
    name="wan2.2-t2v-a14b",
    title="Wan2.2 T2V A14B",
    model_version="2.2",
    model_type="t2v",
    traits=Traits(LATENTS, is_dual=True),
    sampling=SamplingDefaults(
        steps=40, shift=12.0, guide_scale=(3.0, 4.0), boundary=0.875, width=1280, height=720
    ),
)
