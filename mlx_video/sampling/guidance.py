"""Classifier-free guidance: what the prompt adds, amplified."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx

Velocity = Callable[[mx.array, int, float], mx.array]
"""(latents [C, T, H, W] float32, step, timestep) → velocity of the same shape."""


def guided(
    predict_positive: Velocity, predict_negative: Velocity | None = None, guide_scale: float = 1.0
) -> Velocity:
    """Join a positive and a negative prediction into one velocity function.

    The two passes run one after the other, so that the activations of only one are in memory. A run that
    changes the scale on the way (Wan2.2's two experts) calls one such function or another by timestep.

    Args:
        predict_positive: velocity under the prompt.
        predict_negative: velocity under the negative prompt; at guide scale 1 never called, and may be None.
        guide_scale: 1 follows the prompt alone; 0 the negative prompt alone.

    Returns:
        negative + guide_scale · (positive - negative), in float32.

    Raises:
        ValueError: guidance is asked for without a negative prediction.

    Source: Wan2.1 wan/text2video.py, WanT2V.generate.
    """
    if guide_scale == 1.0:
        return predict_positive
    if predict_negative is None:
        raise ValueError(f"guide scale {guide_scale:g} needs a negative prediction")

    def velocity(latents: mx.array, step: int, timestep: float) -> mx.array:
        # float32: the difference of two close predictions is multiplied.
        positive = predict_positive(latents, step, timestep).astype(mx.float32)
        mx.eval(positive)
        negative = predict_negative(latents, step, timestep).astype(mx.float32)
        return negative + guide_scale * (positive - negative)

    return velocity
