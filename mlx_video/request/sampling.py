"""How noise becomes a video: steps, noise levels, solver, guidance."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_video.request.choices import (
    MAX_SEED,
    MAX_STEPS,
    MIN_SEED,
    RANDOM_SEED,
    ExpertMode,
    GuidanceSkipMode,
    NoiseKind,
    NoiseLevelsName,
    PromptChoice,
    RecipeName,
    SchedulerName,
    SkipLayerMode,
    Switch,
)
from mlx_video.request.kinds import (
    GuideScale,
    Numbers,
    WholeNumbers,
)
from mlx_video.request.option import (
    at_least,
    between,
    option,
    positive,
)
from mlx_video.request.shared import THE_MODELS

GUIDANCE_GROUP = "guidance"


@dataclass(frozen=True)
class SamplingOptions:
    """Options of the steps and of guidance."""

    steps: int | None = option(
        None,
        help=f"sampling steps, 1 to {MAX_STEPS}",
        group="sampling",
        default_text=THE_MODELS,
        check=between(1, MAX_STEPS),
    )
    guide_scale: GuideScale | None = option(
        None,
        help="how strongly the prompt steers, or `low,high` for two experts; 1 skips the negative pass and "
        "halves the time",
        group="sampling",
        default_text=THE_MODELS,
    )
    shift: float | None = option(
        None,
        help="moves steps towards high noise",
        group="sampling",
        default_text=THE_MODELS,
        check=positive("; the models use 3 to 16"),
    )
    boundary: float | None = option(
        None,
        help="0 to 1: noise level from which on the high-noise expert serves; Wan2.2 A14B only",
        group="sampling",
        default_text=THE_MODELS,
        check=between(0, 1, "; the models use 0.875 and 0.9"),
    )
    experts: ExpertMode = option(
        "relay",
        help="`relay`: one expert in memory at a time; `parallel`: both",
        group="sampling",
        affects="run",
    )
    seed: int = option(
        RANDOM_SEED,
        help="0 to `2**64-1`, or -2 to `-2**63` as torch takes them; -1 for a random one, or with --resume "
        "that of the run's state",
        group="sampling",
        default_text="random",
        check=between(
            MIN_SEED,
            MAX_SEED,
            f" (-2**63 and 2**64-1), as torch takes them; {RANDOM_SEED} draws one at random",
        ),
    )
    recipe: RecipeName | None = option(
        None,
        help="noise levels, solver, guidance and split of the experts in one word; names and metadata of "
        "distilled models and adapters choose theirs",
        group="sampling",
        default_text="that of the model or its adapters, else `official`",
    )
    scheduler: SchedulerName | None = option(
        None,
        help="solver: `unipc`, `dpm++` and `euler` of the official code, the others as ComfyUI has them; "
        "`heun` and `dpmpp_sde` make two velocities a step",
        group="sampling",
        default_text="the recipe's: `unipc` for `official`",
    )
    noise_levels: NoiseLevelsName | None = option(
        None,
        help="spacing of the noise levels: `official`, or by ComfyUI's names",
        group="sampling",
        default_text="the recipe's",
    )
    sigmas: Numbers | None = option(
        None,
        help="noise levels from 1 to above 0, falling, with commas between them, in place of --steps",
        group="sampling",
        metavar="LIST",
    )
    timesteps: Numbers | None = option(
        None,
        help="the same as timesteps, 1000 times the noise level",
        group="sampling",
        metavar="LIST",
    )
    expert_steps: int | None = option(
        None,
        help="how many steps the high-noise expert serves, in place of --boundary; Wan2.2 A14B only",
        group="sampling",
        metavar="N",
        default_text="the recipe's",
        check=at_least(0),
    )
    dmd_warp: Switch | None = option(
        None,
        help="`on`: the shift moves the timesteps that a recipe lists, `off`: they stay",
        group="sampling",
        default_text="the recipe's",
    )
    noise: NoiseKind = option(
        "torch",
        help="`torch`: the numbers that PyTorch draws on an x86 CPU; `mlx`: MLX's own",
        group="sampling",
    )
    cfg_skip: GuidanceSkipMode | None = option(
        None,
        help="leave guidance out of steps at the start, the end, both, the middle, or in turn; needs "
        "--cfg-ratio",
        group=GUIDANCE_GROUP,
    )
    cfg_ratio: float | None = option(
        None,
        help="0 to 1: share of the steps that keep guidance with --cfg-skip; 0.5 to 0.7 is usual",
        group=GUIDANCE_GROUP,
        check=between(0, 1),
    )
    cfg_start: float = option(
        0.0,
        help="0 to 1: part of the run from which on guidance counts",
        group=GUIDANCE_GROUP,
        check=between(0, 1),
    )
    cfg_end: float = option(
        1.0,
        help="0 to 1: part of the run up to which guidance counts",
        group=GUIDANCE_GROUP,
        check=between(0, 1),
    )
    cfg_zero_star: int | None = option(
        None,
        help="CFG-Zero*: scale the negative prediction to fit, and leave the latents alone in the first "
        "K steps, without a forward; 1 is usual",
        group=GUIDANCE_GROUP,
        metavar="K",
        check=at_least(0),
    )
    apg: bool = option(
        False,
        help="adaptive projected guidance: less saturation at high --guide-scale",
        group=GUIDANCE_GROUP,
    )
    apg_eta: float = option(
        0.0,
        help="share that --apg keeps of what lies along the prompt's prediction",
        group=GUIDANCE_GROUP,
        only_with=("apg",),
    )
    apg_momentum: float = option(
        -0.75,
        help="share of earlier steps in --apg; negative pushes away from them",
        group=GUIDANCE_GROUP,
        only_with=("apg",),
    )
    apg_norm: float = option(
        55.0,
        help="most size of the difference in --apg; 0 for no limit",
        group=GUIDANCE_GROUP,
        check=at_least(0),
        only_with=("apg",),
    )
    slg: WholeNumbers | None = option(
        None,
        help="skip-layer guidance: blocks, counted from 0, with commas between them, without which the model "
        "predicts what to move away from; 9 is usual",
        group=GUIDANCE_GROUP,
        metavar="LAYERS",
    )
    slg_scale: float = option(
        3.0, help="how strongly --slg moves away", group=GUIDANCE_GROUP, only_with=("slg",), check=at_least(0)
    )
    slg_start: float = option(
        0.0,
        help="0 to 1: part of the run from which on --slg acts",
        group=GUIDANCE_GROUP,
        only_with=("slg",),
        check=between(0, 1),
    )
    slg_end: float = option(
        0.3,
        help="0 to 1: part of the run up to which --slg acts",
        group=GUIDANCE_GROUP,
        only_with=("slg",),
        check=between(0, 1),
    )
    slg_mode: SkipLayerMode = option(
        "original",
        help="`original`: a third forward; `uncond`: the negative forward leaves the blocks out",
        group=GUIDANCE_GROUP,
        only_with=("slg",),
    )
    slg_prompt: PromptChoice = option(
        "negative", help="prompt of the third forward of --slg", group=GUIDANCE_GROUP, only_with=("slg",)
    )
    nag: float | None = option(
        None,
        help="normalized attention guidance: the negative prompt counts inside attention, without a second "
        "forward, also at guide scale 1; 5 to 11 is usual",
        group=GUIDANCE_GROUP,
        metavar="SCALE",
        check=at_least(0),
    )
    nag_tau: float = option(
        3.5,
        help="most size of a token's result in --nag, by its size under the prompt alone",
        group=GUIDANCE_GROUP,
        only_with=("nag",),
        check=positive(),
    )
    nag_alpha: float = option(
        0.5,
        help="0 to 1: share of --nag in the result",
        group=GUIDANCE_GROUP,
        only_with=("nag",),
        check=between(0, 1),
    )
