"""What makes long runs shorter, and long videos possible: step caches, windows, segments."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_video.request.choices import (
    ContextSchedule,
    ContextWeights,
    StepCacheName,
    TeaCacheMode,
)
from mlx_video.request.kinds import (
    Numbers,
    VideoSource,
)
from mlx_video.request.option import (
    at_least,
    between,
    option,
)

STEP_CACHE_GROUP = "step cache"
LONG_VIDEOS_GROUP = "long videos"


@dataclass(frozen=True)
class LongRunOptions:
    """Options of step caches, and of videos longer than a model makes at once."""

    step_cache: StepCacheName = option(
        "off",
        help="use work of earlier steps again: `magcache` by a plan that is told before the run, `teacache` "
        "by the timesteps, `easycache` for models without published numbers, `first-block` by a probe",
        group=STEP_CACHE_GROUP,
    )
    step_cache_threshold: float | None = option(
        None,
        help="how much error may add up before the blocks run again; more is faster and further off",
        group=STEP_CACHE_GROUP,
        default_text="published for the model",
        check=at_least(0),
    )
    step_cache_skips: int | None = option(
        None,
        help="most skipped steps in a row with `magcache`",
        group=STEP_CACHE_GROUP,
        default_text="published for the model",
        check=at_least(0),
    )
    step_cache_retention: float | None = option(
        None,
        help="0 to 1: share of the run at its start that `magcache` leaves alone",
        group=STEP_CACHE_GROUP,
        default_text="published for the model",
        check=between(0, 1),
    )
    step_cache_start: int | None = option(
        None,
        help="steps that `easycache` always makes first",
        group=STEP_CACHE_GROUP,
        default_text="7",
        check=at_least(0),
    )
    step_cache_last: bool = option(
        True,
        help="always run the last step with `magcache`",
        group=STEP_CACHE_GROUP,
        off_help="let `magcache` skip the last step, as published",
    )
    teacache_mode: TeaCacheMode | None = option(
        None,
        help="`ret`: run five steps first and watch the modulation; `non-ret`: run the first and last step "
        "and watch the embedding",
        group=STEP_CACHE_GROUP,
        default_text="published for the model",
    )
    teacache_coefficients: Numbers | None = option(
        None,
        help="polynomial of `teacache`, highest degree first, with commas between them",
        group=STEP_CACHE_GROUP,
        metavar="LIST",
        default_text="published for the model",
    )
    teacache_speedup: float | None = option(
        None,
        help="steps for each one in which the blocks run, such as 2: `teacache` takes the threshold from "
        "0.01 to 0.6 that comes nearest",
        group=STEP_CACHE_GROUP,
        metavar="X",
        check=at_least(1),
    )
    context_frames: int | None = option(
        None,
        help="predict the video in windows of so many frames, 4n+1, of which memory depends then; 81 is what "
        "the models know",
        group=LONG_VIDEOS_GROUP,
        metavar="N",
        check=at_least(1),
    )
    context_overlap: int = option(
        16,
        help="frames that neighbouring windows share, a multiple of 4",
        group=LONG_VIDEOS_GROUP,
        metavar="N",
        check=at_least(0),
        only_with=("context_frames",),
    )
    context_schedule: ContextSchedule = option(
        "static",
        help="`static`: the same windows in every step; `uniform`: they begin elsewhere in each; `looped`: "
        "and go on from the last frame to the first",
        group=LONG_VIDEOS_GROUP,
        only_with=("context_frames",),
    )
    context_weights: ContextWeights = option(
        "pyramid",
        help="how windows are joined: `pyramid`: the middle of each counts most; `relative`: likewise, and "
        "the ends almost nothing; `linear`: ramps over the overlap",
        group=LONG_VIDEOS_GROUP,
        only_with=("context_frames",),
    )
    context_stride: int = option(
        1,
        help="levels of `uniform` and `looped` windows: 2 adds windows of every second latent frame, 3 also "
        "of every fourth",
        group=LONG_VIDEOS_GROUP,
        metavar="N",
        check=at_least(1),
        only_with=("context_frames",),
    )
    kv_cache_frames: int | None = option(
        None,
        help="make the video block by block, in memory that does not grow with it: each block sees the keys "
        "and values of so many finished latent frames, 1 to 18; for krea-realtime, which was trained with 3",
        group=LONG_VIDEOS_GROUP,
        metavar="N",
        check=at_least(1),
    )
    continue_from: VideoSource | None = option(
        None,
        help="video to go on from, or the state or latents of the run that made it: the clip begins with its "
        "last frame, takes its colours, and is joined to it; for models that take an image, and VACE",
        group=LONG_VIDEOS_GROUP,
        metavar="PATH",
    )
    continue_frames: int | None = option(
        None,
        help="last frames of the video or segment before that a clip begins with: 4n+1 for VACE and "
        "LongCat-Video, 1 or 5 for Animate",
        group=LONG_VIDEOS_GROUP,
        metavar="N",
        default_text="VACE: 17, of short clips half; LongCat-Video: 13; Animate: 1",
        check=at_least(1),
        only_with=("continue_from", "animate_pose_video"),
    )
    segments: int = option(
        1,
        help="clips to make one after the other, each from the last frame of the one before",
        group=LONG_VIDEOS_GROUP,
        metavar="N",
        check=at_least(1),
        affects="video",
    )
