"""A video to make."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from mlx_video.errors import RequestError
from mlx_video.request.choices import (
    MAX_SEED,
    MAX_STEPS,
    MIN_SEED,
    RANDOM_SEED,
    CameraDirection,
    ContextSchedule,
    ContextWeights,
    ExpertMode,
    GuidanceSkipMode,
    InputKind,
    LoraMode,
    NoiseKind,
    NoiseLevelsName,
    PromptChoice,
    RecipeName,
    SchedulerName,
    SkipLayerMode,
    StepCacheName,
    StreamMode,
    Switch,
    TeaCacheMode,
    TilingMode,
    VACERegion,
)
from mlx_video.request.describe import documented
from mlx_video.request.kinds import (
    ADAPTERS,
    Adapters,
    GuideScale,
    ImageSource,
    LayerScales,
    Numbers,
    Pictures,
    ReadPath,
    VideoSource,
    WholeNumbers,
    WrittenPath,
)
from mlx_video.request.option import (
    Bounds,
    at_least,
    between,
    check_options,
    option,
    options_of,
    positive,
    settle_paths,
)
from mlx_video.request.shared import TEXT_GROUP, THE_MODELS, adapters_option, strict_option

_GUIDANCE = "guidance"
_STEP_CACHE = "step cache"
_VACE = "VACE"
_LONG_VIDEOS = "long videos"
SPARINGLY_RECORDED = (_GUIDANCE, _STEP_CACHE, _VACE, _LONG_VIDEOS)
"""Groups of options that decide nothing, and are not recorded, at their defaults."""
_SIZE_HELP = "pixels, rounded to a multiple of 16, TI2V 5B: 32"
_SIZE_DEFAULT = "the model's, or the image's shape"


def draw_seed() -> int:
    """A random seed that fits the run's record and a torch generator."""
    return secrets.randbelow(2**31)


@documented
@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One video to make. None stands for the model's own default."""

    prompt: str = option(
        help='what the video shows; `""` for no prompt',
        group=TEXT_GROUP,
        default_text="the demo model's example",
        input="text",
    )
    negative_prompt: str | None = option(
        None,
        help='what it should not show; `""` for nothing',
        group=TEXT_GROUP,
        default_text=THE_MODELS,
        off_help="guide against the empty prompt",
    )
    image: ImageSource | None = option(
        None,
        help="first frame, for image-to-video models; the video takes its shape unless --width or --height "
        "is given",
        group="images",
        metavar="FILE",
        input="image",
    )
    end_image: ImageSource | None = option(
        None,
        help="last frame, for first-and-last-frame models and the large image-to-video ones; only together "
        "with --image",
        group="images",
        metavar="FILE",
        input="image",
    )
    control_video: VideoSource | None = option(
        None,
        help="video that a Fun Control model follows: edges, depth, poses; without one only the other inputs "
        "count",
        group="control",
        metavar="PATH",
        input="video",
    )
    reference_image: ImageSource | None = option(
        None,
        help="picture of what is to appear, for Fun Control models from V1.1 on",
        group="control",
        metavar="FILE",
        input="image",
    )
    inpaint_video: VideoSource | None = option(
        None,
        help="video that a Fun InP model fills in where --inpaint-video-mask is white",
        group="control",
        metavar="PATH",
        input="video",
    )
    inpaint_video_mask: VideoSource | None = option(
        None,
        help="white where --inpaint-video is made anew, black where it stays; a video, or one picture for "
        "all frames",
        group="control",
        metavar="PATH",
        input="mask",
    )
    camera_control_direction: CameraDirection | None = option(
        None,
        help="how the camera of a Control-Camera model moves, as DiffSynth-Studio knows the words",
        group="control",
        input="camera",
    )
    camera_trajectory: ReadPath | None = option(
        None,
        help="path of the camera in place of a direction: a file of poses, or `Static`, `Pan_Up`, "
        "`Pan_Left_Up` and the like, `Zoom_In`, `Zoom_Out`, `CW`, `ACW` as VideoX-Fun has them",
        group="control",
        metavar="FILE|PRESET",
        input="camera",
    )
    camera_control_speed: float | None = option(
        None,
        help="how fast the camera moves: change of each frame in a direction, or share of a preset; 0 stands "
        "still",
        group="control",
        default_text="1/54 in a direction, 1 of a preset",
        only_with=("camera_control_direction", "camera_trajectory"),
        input="camera",
    )
    camera_control_origin: Numbers | None = option(
        None,
        help="first pose: time, fx, fy, cx, cy, two zeros, and the 3x4 matrix from world to camera, with "
        "commas between the 19 numbers",
        group="control",
        metavar="LIST",
        default_text="a lens for 16:9",
        only_with=("camera_control_direction", "camera_trajectory"),
        input="camera",
    )
    input_video: VideoSource | None = option(
        None,
        help="video to begin with, in place of pure noise: a file, a folder of numbered pictures or an "
        "animation; its first frames are used, cut at the centre to the size",
        group="videos",
        metavar="PATH",
        input="video",
    )
    denoising_strength: float = option(
        1.0,
        help="how much of --input-video is made anew, above 0 to 1; near 0 it stays as it is, at 1 nothing "
        "of it does",
        group="videos",
        check=Bounds(lambda value: 0 < value <= 1, "above 0 and at most 1"),
        only_with=("input_video",),
    )
    video_fps: float | None = option(
        None,
        help="frames per second of the videos that are given, in place of what they say; those of the model "
        "are met by picking frames",
        group="videos",
        default_text="the videos' own",
        check=positive(),
    )
    vace_video: VideoSource | None = option(
        None,
        help="video for a VACE model to follow, or to fill in where --vace-video-mask is white",
        group=_VACE,
        metavar="PATH",
        input="video",
    )
    vace_video_mask: VideoSource | None = option(
        None,
        help="white where a VACE model makes something, black where the video stays; a video, or one picture "
        "for all frames",
        group=_VACE,
        default_text="white everywhere",
        metavar="PATH",
        input="mask",
    )
    vace_masked_region: VACERegion = option(
        "generate",
        help="`generate`: the model sees grey under the mask; `repaint`: it sees the video there, and paints "
        "over it",
        group=_VACE,
        only_with=("vace_video_mask",),
    )
    vace_reference_image: Pictures = option(
        (),
        help="picture of what is to appear in the video of a VACE model",
        group=_VACE,
        input="pictures",
    )
    vace_scale: LayerScales = option(
        1.0,
        help="how strongly a VACE model follows its inputs; 0 leaves it text alone; or as many numbers as it "
        "has VACE blocks, with commas between them",
        group=_VACE,
        metavar="SCALES",
    )
    width: int | None = option(
        None, help=_SIZE_HELP, group="size", default_text=_SIZE_DEFAULT, check=at_least(1)
    )
    height: int | None = option(
        None, help=_SIZE_HELP, group="size", default_text=_SIZE_DEFAULT, check=at_least(1)
    )
    num_frames: int | None = option(
        None,
        help="frames, 4n+1: 17, 49, 81 ...",
        group="size",
        default_text=THE_MODELS,
        check=at_least(1),
    )
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
    cfg_skip: GuidanceSkipMode | None = option(
        None,
        help="leave guidance out of steps at the start, the end, both, the middle, or in turn; needs "
        "--cfg-ratio",
        group=_GUIDANCE,
    )
    cfg_ratio: float | None = option(
        None,
        help="0 to 1: share of the steps that keep guidance with --cfg-skip; 0.5 to 0.7 is usual",
        group=_GUIDANCE,
        check=between(0, 1),
    )
    cfg_start: float = option(
        0.0,
        help="0 to 1: part of the run from which on guidance counts",
        group=_GUIDANCE,
        check=between(0, 1),
    )
    cfg_end: float = option(
        1.0, help="0 to 1: part of the run up to which guidance counts", group=_GUIDANCE, check=between(0, 1)
    )
    cfg_zero_star: int | None = option(
        None,
        help="CFG-Zero*: scale the negative prediction to fit, and leave the latents alone in the first "
        "K steps, without a forward; 1 is usual",
        group=_GUIDANCE,
        metavar="K",
        check=at_least(0),
    )
    apg: bool = option(
        False,
        help="adaptive projected guidance: less saturation at high --guide-scale",
        group=_GUIDANCE,
    )
    apg_eta: float = option(
        0.0,
        help="share that --apg keeps of what lies along the prompt's prediction",
        group=_GUIDANCE,
        only_with=("apg",),
    )
    apg_momentum: float = option(
        -0.75,
        help="share of earlier steps in --apg; negative pushes away from them",
        group=_GUIDANCE,
        only_with=("apg",),
    )
    apg_norm: float = option(
        55.0,
        help="most size of the difference in --apg; 0 for no limit",
        group=_GUIDANCE,
        check=at_least(0),
        only_with=("apg",),
    )
    slg: WholeNumbers | None = option(
        None,
        help="skip-layer guidance: blocks, counted from 0, with commas between them, without which the model "
        "predicts what to move away from; 9 is usual",
        group=_GUIDANCE,
        metavar="LAYERS",
    )
    slg_scale: float = option(
        3.0, help="how strongly --slg moves away", group=_GUIDANCE, only_with=("slg",), check=at_least(0)
    )
    slg_start: float = option(
        0.0,
        help="0 to 1: part of the run from which on --slg acts",
        group=_GUIDANCE,
        only_with=("slg",),
        check=between(0, 1),
    )
    slg_end: float = option(
        0.3,
        help="0 to 1: part of the run up to which --slg acts",
        group=_GUIDANCE,
        only_with=("slg",),
        check=between(0, 1),
    )
    slg_mode: SkipLayerMode = option(
        "original",
        help="`original`: a third forward; `uncond`: the negative forward leaves the blocks out",
        group=_GUIDANCE,
        only_with=("slg",),
    )
    slg_prompt: PromptChoice = option(
        "negative", help="prompt of the third forward of --slg", group=_GUIDANCE, only_with=("slg",)
    )
    nag: float | None = option(
        None,
        help="normalized attention guidance: the negative prompt counts inside attention, without a second "
        "forward, also at guide scale 1; 5 to 11 is usual",
        group=_GUIDANCE,
        metavar="SCALE",
        check=at_least(0),
    )
    nag_tau: float = option(
        3.5,
        help="most size of a token's result in --nag, by its size under the prompt alone",
        group=_GUIDANCE,
        only_with=("nag",),
        check=positive(),
    )
    nag_alpha: float = option(
        0.5,
        help="0 to 1: share of --nag in the result",
        group=_GUIDANCE,
        only_with=("nag",),
        check=between(0, 1),
    )
    step_cache: StepCacheName = option(
        "off",
        help="use work of earlier steps again: `magcache` by a plan that is told before the run, `teacache` "
        "by the timesteps, `easycache` for models without published numbers, `first-block` by a probe",
        group=_STEP_CACHE,
    )
    step_cache_threshold: float | None = option(
        None,
        help="how much error may add up before the blocks run again; more is faster and further off",
        group=_STEP_CACHE,
        default_text="published for the model",
        check=at_least(0),
    )
    step_cache_skips: int | None = option(
        None,
        help="most skipped steps in a row with `magcache`",
        group=_STEP_CACHE,
        default_text="published for the model",
        check=at_least(0),
    )
    step_cache_retention: float | None = option(
        None,
        help="0 to 1: share of the run at its start that `magcache` leaves alone",
        group=_STEP_CACHE,
        default_text="published for the model",
        check=between(0, 1),
    )
    step_cache_start: int | None = option(
        None,
        help="steps that `easycache` always makes first",
        group=_STEP_CACHE,
        default_text="7",
        check=at_least(0),
    )
    step_cache_last: bool = option(
        True,
        help="always run the last step with `magcache`",
        group=_STEP_CACHE,
        off_help="let `magcache` skip the last step, as published",
    )
    teacache_mode: TeaCacheMode | None = option(
        None,
        help="`ret`: run five steps first and watch the modulation; `non-ret`: run the first and last step "
        "and watch the embedding",
        group=_STEP_CACHE,
        default_text="published for the model",
    )
    teacache_coefficients: Numbers | None = option(
        None,
        help="polynomial of `teacache`, highest degree first, with commas between them",
        group=_STEP_CACHE,
        metavar="LIST",
        default_text="published for the model",
    )
    context_frames: int | None = option(
        None,
        help="predict the video in windows of so many frames, 4n+1, of which memory depends then; 81 is what "
        "the models know",
        group=_LONG_VIDEOS,
        metavar="N",
        check=at_least(1),
    )
    context_overlap: int = option(
        16,
        help="frames that neighbouring windows share, a multiple of 4",
        group=_LONG_VIDEOS,
        metavar="N",
        check=at_least(0),
        only_with=("context_frames",),
    )
    context_schedule: ContextSchedule = option(
        "static",
        help="`static`: the same windows in every step; `uniform`: they begin elsewhere in each; `looped`: "
        "and go on from the last frame to the first",
        group=_LONG_VIDEOS,
        only_with=("context_frames",),
    )
    context_weights: ContextWeights = option(
        "pyramid",
        help="how windows are joined: `pyramid`: the middle of each counts most; `linear`: ramps over the "
        "overlap",
        group=_LONG_VIDEOS,
        only_with=("context_frames",),
    )
    continue_from: VideoSource | None = option(
        None,
        help="video to go on from, or the state or latents of the run that made it: the clip begins with its "
        "last frame, takes its colours, and is joined to it; for models that take an image",
        group=_LONG_VIDEOS,
        metavar="PATH",
    )
    segments: int = option(
        1,
        help="clips to make one after the other, each from the last frame of the one before",
        group=_LONG_VIDEOS,
        metavar="N",
        check=at_least(1),
        affects="run",
    )
    noise: NoiseKind = option(
        "torch",
        help="`torch`: the numbers that PyTorch draws on an x86 CPU; `mlx`: MLX's own",
        group="sampling",
    )
    loras: Adapters = adapters_option("lora", "adapters")
    loras_high: Adapters = adapters_option("lora_high", "adapters")
    loras_low: Adapters = adapters_option("lora_low", "adapters")
    strict_lora: bool = strict_option("adapters")
    lora_mode: LoraMode = option(
        "auto",
        help="`merge`: into the weights, those of quantized layers quantized again; `side`: beside the "
        "layers, whose weights stay as they are; `auto`: `side` for quantized layers, `merge` for the others",
        group="adapters",
        only_with=("loras", "loras_high", "loras_low"),
    )
    memory_limit: float | None = option(
        None,
        help="the most that a run may hold, in GB of 10^9 bytes",
        group="memory",
        metavar="GB",
        default_text="what the machine has",
        check=positive(" of GB"),
        affects="run",
        decodes=True,
    )
    stream: StreamMode = option(
        "auto",
        help="read transformer blocks from the file in every step: `auto`: as few as must be; `on`: all; "
        "`off`: none",
        group="memory",
        affects="run",
    )
    tiling: TilingMode = option(
        "auto",
        help="tiles in which the VAE works; every choice gives the same video. `auto`: whole frames, or the "
        "largest tiles that fit; `none`, `temporal`: whole frames; `conservative`: 768 pixels, `default`, "
        "`spatial`: 512, `aggressive`: 256",
        group="memory",
        affects="run",
        decodes=True,
    )
    output_path: WrittenPath | None = option(
        None,
        help="`.mp4`, `.gif` or `.webp` file; for one frame also `.png` or `.jpg`",
        group="output",
        command_default=Path("output.mp4"),
        affects="run",
        decodes=True,
    )
    save_frames: WrittenPath | None = option(
        None,
        help="folder for lossless PNGs, written as well",
        group="output",
        metavar="DIR",
        affects="run",
        decodes=True,
    )
    save_latents: WrittenPath | None = option(
        None,
        help="file for the final latents `[C, T, H, W]`, safetensors, written as well",
        group="output",
        metavar="FILE",
        affects="run",
    )
    compile: bool = option(
        True,
        help="fuse operations with mx.compile where the device gains from it",
        group="output",
        off_help="do not fuse operations with mx.compile",
        affects="run",
    )
    device_check: bool = option(
        True,
        help="check the device's operations before the first run with an MLX version",
        group="output",
        off_help="trust the device: do not check its operations before the first run with an MLX version",
        affects="run",
        decodes=True,
    )
    prompt_cache: bool = option(
        True,
        help="keep encoded prompts on disk; a prompt of an earlier run then needs no text encoder",
        group="output",
        off_help="encode prompts anew, and keep nothing of them on disk; else a prompt of an earlier run "
        "needs no text encoder",
        affects="run",
    )
    trim_first_frames: int = option(
        0,
        help="frames to drop at the start",
        group="output",
        metavar="N",
        check=at_least(0),
        affects="video",
        decodes=True,
    )
    debug_latents: bool = option(
        False, help="print statistics after each step", group="output", affects="run"
    )
    checkpoint_every: int = option(
        1,
        help="write the run's state beside the video after every N steps; 0: only when all are taken",
        group="interrupted runs",
        metavar="N",
        check=at_least(0),
        affects="run",
    )
    resume: bool = option(
        False,
        help="go on from the state beside the video; without one, begin at the first step",
        group="interrupted runs",
        affects="run",
    )
    keep_state: bool = option(
        False,
        help="leave the state there when the video is finished",
        group="interrupted runs",
        affects="run",
        decodes=True,
    )
    decode_only: ReadPath | None = option(
        None,
        help="make the video from the state of a run that took all its steps, or from --save-latents; needs "
        "no prompt, and no option of sampling counts",
        group="interrupted runs",
        metavar="FILE",
        affects="run",
    )

    def __post_init__(self) -> None:
        if self.seed is None:
            object.__setattr__(self, "seed", RANDOM_SEED)
        check_options(self)
        settle_paths(self)
        self._settle_seed()
        if self.end_image is not None:
            self._check_end_image()
        if self.denoising_strength < 1 and self.input_video is None:
            raise RequestError(
                "denoising_strength",
                f"{self.denoising_strength:g}: needs --input-video, of which it says how much stays. Add it.",
            )
        self._check_pairs()
        self._check_state_options()
        self._check_guidance()

    def _settle_seed(self) -> None:
        """Make the seed what a run keeps: 0 to 2**64-1, or `RANDOM_SEED` where it comes from a state.

        Source: PyTorch torch/random.py, manual_seed.
        """
        seed = self.seed if self.seed == RANDOM_SEED else int(self.seed) % 2**64
        object.__setattr__(self, "seed", draw_seed() if seed == RANDOM_SEED and not self.resume else seed)

    def _check_end_image(self) -> None:
        if self.image is None:
            raise RequestError("end_image", "needs --image, the first frame, beside it. Give both.")
        if self.num_frames == 1:
            raise RequestError(
                "end_image", "--num-frames 1 has no last frame besides the first. Ask for 5 frames or more."
            )

    def _check_pairs(self) -> None:
        pair = ("inpaint_video", "inpaint_video_mask")
        absent = [name for name in pair if getattr(self, name) is None]
        if len(absent) == 1:
            given, other = (name for name in pair if name not in absent), f"--{absent[0].replace('_', '-')}"
            raise RequestError(next(given), f"needs {other} beside it. Give both.")

    def _check_guidance(self) -> None:
        for name, other in (("cfg_skip", "--cfg-ratio"), ("cfg_ratio", "--cfg-skip")):
            if getattr(self, name) is not None and None in (self.cfg_skip, self.cfg_ratio):
                raise RequestError(name, f"needs {other} beside it. Give both.")
        for start, end in (("cfg_start", "cfg_end"), ("slg_start", "slg_end")):
            if getattr(self, start) >= getattr(self, end):
                raise RequestError(
                    start, f"{getattr(self, start)}: lies behind the end, {getattr(self, end)}. Give less."
                )

    def _check_state_options(self) -> None:
        for name in ("resume", "keep_state"):
            if getattr(self, name) and self.output_path is None:
                raise RequestError(name, "needs --output-path, beside which a run keeps its state. Add it.")
        if self.resume and self.segments > 1:
            raise RequestError(
                "resume", "the states of segments are not kept. Go on with --continue-from the joined video."
            )
        for name in ("resume", "save_latents"):
            if getattr(self, name) and self.decode_only is not None:
                raise RequestError(name, "with --decode-only there is no step to take. Give one of the two.")


_OPTIONS = options_of(GenerateRequest)
INPUTS: Mapping[str, InputKind] = MappingProxyType(
    {name: declared.input for name, declared in _OPTIONS.items() if declared.input is not None}
)
"""Fields by which a model is conditioned, in the order in which it sees them."""
IMAGE_INPUTS = tuple(name for name, kind in INPUTS.items() if kind == "image")
FRAME_INPUTS = ("image", "end_image")
"""Those of them that become frames of the video; its size follows the first."""
VIDEO_INPUTS = tuple(name for name, kind in INPUTS.items() if kind in ("video", "mask"))
PICTURE_INPUTS = tuple(name for name, kind in INPUTS.items() if kind == "pictures")
LORA_FIELDS = tuple(name for name, declared in _OPTIONS.items() if declared.kind is ADAPTERS)
