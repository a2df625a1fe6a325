"""What a video to refine decides of a run of LongCat-Video: its length, its size and its recipe."""

from __future__ import annotations

import re
from dataclasses import replace

from mlx_video.conditioning.continuation.part import MadeParts
from mlx_video.conditioning.continuation.way import Length
from mlx_video.conditioning.longcat_refine import (
    PART_FRAMES,
    REFINED,
    REFINED_TAIL,
    SIZE_STEP,
    count_parts,
    count_refined,
    find_start,
)
from mlx_video.config import ModelConfig
from mlx_video.errors import RequestError
from mlx_video.media.sources.source_video import open_video
from mlx_video.request import GenerateRequest
from mlx_video.request.choices import RecipeName
from mlx_video.variants.longcat_sizes import BUCKETS_REFINED, choose_from

RECIPE: RecipeName = "longcat-refine"
ADAPTER_NAMES = re.compile("refinement_lora", re.IGNORECASE)


def settle_refinement(request: GenerateRequest, config: ModelConfig) -> GenerateRequest:
    """The request with what a video to refine decides.

    Raises:
        RequestError: the adapter lacks, or something else is given that does not go with a refinement.
        MediaError: the video cannot be read.
    """
    if request.decode_only:
        return request
    named = [choice.named for choice in request.loras if ADAPTER_NAMES.search(str(choice.named))]
    if request.longcat_refine is None:
        if named:
            raise RequestError(
                "loras",
                f"{named[0]}: refines a finished video. Give that with --longcat-refine.",
            )
        return request
    _check(request)
    count, height, width = _measure(request)
    before = request.continue_from.frames if isinstance(request.continue_from, MadeParts) else 0
    own = min(PART_FRAMES, count - find_start(before))
    _, made = count_refined(own, config.vae.stride[0], REFINED_TAIL if before else 0)
    chosen = choose_from(BUCKETS_REFINED, height, width)
    return replace(
        request,
        recipe=request.recipe or RECIPE,
        num_frames=made,
        width=request.width or chosen[0],
        height=request.height or chosen[1],
    )


def find_refined_length(request: GenerateRequest, config: ModelConfig) -> Length | None:
    """How many frames the refined video has; None where none is refined."""
    if request.longcat_refine is None:
        return None
    count, *_ = _measure(request)
    parts = count_parts(count)
    shown = 2 * count if parts > 1 else count_refined(count, config.vae.stride[0])[0]
    return Length(parts, shown, f"--longcat-refine has {count} frames")


def _check(request: GenerateRequest) -> None:
    if not request.loras:
        raise RequestError(
            REFINED, "needs the adapter that refines. Give it with --lora lora/refinement_lora.safetensors."
        )
    for name in ("input_video", "num_frames", "context_frames"):
        if getattr(request, name) is not None:
            raise RequestError(
                name, "beside --longcat-refine: the whole of that video decides. Leave it out."
            )
    for name in ("width", "height"):
        side = getattr(request, name)
        if side is not None and side % SIZE_STEP:
            raise RequestError(name, f"{side}: a refined video has multiples of {SIZE_STEP} pixels.")


def _measure(request: GenerateRequest) -> tuple[int, int, int]:
    """Frames of the video to refine, and height and width of the first."""
    assert request.longcat_refine is not None
    count, size = 0, (0, 0)
    for frame, _ in open_video(request.longcat_refine).read():
        size = size if count else frame.shape[:2]
        count += 1
    return count, *size
