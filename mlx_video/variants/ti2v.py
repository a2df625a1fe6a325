"""Wan2.2 TI2V-5B: from text, or from text and a first frame, with the 48-channel VAE."""

from __future__ import annotations

from mlx_video.conditioning.continuation.last_frame import LAST_FRAME
from mlx_video.conditioning.frames import hold_first_frame
from mlx_video.conditioning.units import PROMPTS, frames_unit
from mlx_video.config import SamplingDefaults
from mlx_video.geometry import best_output_size
from mlx_video.variants.variant import Inputs, Traits, Variant

TI2V_5B = Variant(
    name="wan2.2-ti2v-5b",
    title="Wan2.2 TI2V 5B",
    model_version="2.2",
    model_type="ti2v",
    traits=Traits(channels=(48, 48)),
    sampling=SamplingDefaults(fps=24, num_frames=121, width=1280, height=704, max_area=1280 * 704),
    inputs=Inputs(optional=("image",)),
    units=(PROMPTS, frames_unit("first frame", ("first_frames",), hold_first_frame)),
    continuation=LAST_FRAME,
    choose_size=best_output_size,
)
