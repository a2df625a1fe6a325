"""Whether decoded frames can be what their latents stand for."""

from __future__ import annotations

from typing import cast

import mlx.core as mx

from mlx_video.errors import DeviceError, NonFiniteError
from mlx_video.models.dispatch import device_facts

FLAT_FRAME = 0.5
"""Share of pixels equal to their right neighbour. Two float32 sums are hardly ever equal in three colours,
but all are where a layer gave zeros."""
FLAT_LATENTS = 0.1
"""Likewise of latents, up to which they do not explain such a frame. Those of a run are never equal."""


def check_frames(frames: mx.array, latents: mx.array) -> None:
    """Refuse frames that are not numbers, or one colour where the latents are not.

    A GPU that gives up on its work may leave zeros and no error, which would end in a grey video.

    Args:
        frames: [f, H, W, 3], as the decoder gives them: clamped, a black scene would be one colour.
        latents: [..., h, w, C], or some rows and columns of them, that the frames were made from.

    Raises:
        NonFiniteError: values are infinite or not a number.
        DeviceError: a frame is one colour, or most of it.
    """
    results = (
        _count_broken(frames),
        _count_broken(latents),
        mx.max(_flat_share(frames)),
        mx.min(_flat_share(latents)),
    )
    mx.eval(frames, *results)
    broken, unsound, flattest, explained = (cast(float, result.item()) for result in results)
    if unsound:
        raise NonFiniteError(
            f"decoding: {unsound:,} latent values are infinite or not a number, so the video would be black. "
            "They were so before: take the steps once more."
        )
    if broken:
        raise NonFiniteError(
            f"decoding: {broken:,} of {frames.size:,} pixel values are infinite or not a number, so the "
            f"video would be black. {_advice()}"
        )
    if flattest > FLAT_FRAME and explained <= FLAT_LATENTS:
        raise DeviceError(
            f"decoding: {flattest:.0%} of a frame is one colour where its latents are not, as if the GPU had "
            f"left work out. {_advice()}"
        )


def _count_broken(x: mx.array) -> mx.array:
    return mx.sum(mx.logical_not(mx.isfinite(x)))


def _flat_share(x: mx.array) -> mx.array:
    """For each picture of [..., H, W, C]: share of its positions that equal their right neighbour."""
    if x.shape[-2] < 2:
        return mx.zeros(x.shape[:-3])
    equal = mx.all(x[..., 1:, :] == x[..., :-1, :], axis=-1)
    return mx.mean(equal.astype(mx.float32), axis=(-2, -1))


def _advice() -> str:
    version = mx.__version__  # type: ignore[attr-defined]  # missing from the stubs
    chip = device_facts().get("device_name", "an unknown chip")
    return (
        "The latents are sound. Close other programs and decode once more; --tiling aggressive makes the "
        f"work smaller. If it stays so, the fault may be in mlx {version} on {chip}: update mlx and see "
        "python -m mlx_video.check_device."
    )
