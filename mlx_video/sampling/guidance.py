"""Classifier-free guidance: what the prompt adds, amplified."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx

Velocity = Callable[[mx.array, int, float], mx.array]
"""(latents [C, T, H, W] float32, step, timestep) → velocity of the same shape."""

VelocityPair = Callable[[mx.array, int, float], tuple[mx.array, mx.array]]
"""The same arguments → the velocities under the prompt and under the negative prompt."""


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
        positive = predict_positive(latents, step, timestep)
        mx.eval(positive)
        return _amplify(positive, predict_negative(latents, step, timestep), guide_scale)

    return velocity


def guided_together(predict_both: VelocityPair, guide_scale: float) -> Velocity:
    """The velocity function of :func:`guided`, for a transformer that makes both predictions at a time.

    One that reads its blocks from a disk does so: one reading serves both passes.

    Args:
        predict_both: velocities under the prompt and under the negative prompt.
        guide_scale: as for :func:`guided`; not 1, which needs no negative prediction.
    """

    def velocity(latents: mx.array, step: int, timestep: float) -> mx.array:
        return _amplify(*predict_both(latents, step, timestep), guide_scale)

    return velocity


def _amplify(positive: mx.array, negative: mx.array, guide_scale: float) -> mx.array:
    # float32: the difference of two close predictions is multiplied.
    positive, negative = positive.astype(mx.float32), negative.astype(mx.float32)
    return negative + guide_scale * (positive - negative)
