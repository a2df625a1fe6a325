"""A video to make."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from mlx_video.errors import RequestError
from mlx_video.request.animate import ANIMATE_GROUP, AnimateOptions
from mlx_video.request.bernini import BERNINI_GROUP, BerniniOptions
from mlx_video.request.choices import (
    RANDOM_SEED,
    InputKind,
    LoraMode,
    OutputType,
    StreamMode,
    TilingMode,
)
from mlx_video.request.describe import documented
from mlx_video.request.inputs import VACE_GROUP, InputOptions
from mlx_video.request.kinds import (
    ADAPTERS,
    Adapters,
    ReadPath,
    UploadedPath,
    WrittenPath,
)
from mlx_video.request.long_runs import LONG_VIDEOS_GROUP, STEP_CACHE_GROUP, LongRunOptions
from mlx_video.request.longcat import LONGCAT_GROUP, LongCatOptions
from mlx_video.request.option import (
    at_least,
    check_options,
    is_given,
    option,
    options_of,
    positive,
    settle_paths,
)
from mlx_video.request.parallel import ParallelOptions
from mlx_video.request.previews import PREVIEW_GROUP, PreviewOptions
from mlx_video.request.sampling import GUIDANCE_GROUP, SamplingOptions
from mlx_video.request.shared import adapters_option, strict_option
from mlx_video.request.speech import SPEECH_GROUP, SpeechOptions
from mlx_video.request.video_prompt import VIDEO_PROMPT_GROUP, VideoPromptOptions

SPARINGLY_RECORDED = (
    GUIDANCE_GROUP, STEP_CACHE_GROUP, VACE_GROUP, ANIMATE_GROUP, LONG_VIDEOS_GROUP, PREVIEW_GROUP,
    VIDEO_PROMPT_GROUP, SPEECH_GROUP, LONGCAT_GROUP, BERNINI_GROUP,
)  # fmt: skip
"""Groups of options that decide nothing, and are not recorded, at their defaults."""


def draw_seed() -> int:
    """A random seed that fits the run's record and a torch generator."""
    return secrets.randbelow(2**31)


@documented
@dataclass(frozen=True)
# The fields of the last one come first.
class GenerateRequest(
    ParallelOptions,
    PreviewOptions,
    LongRunOptions,
    SamplingOptions,
    SpeechOptions,
    LongCatOptions,
    BerniniOptions,
    VideoPromptOptions,
    AnimateOptions,
    InputOptions,
):
    """One video to make. None stands for the model's own default."""

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
    output_path: UploadedPath | None = option(
        None,
        help="`.mp4`, `.gif` or `.webp` file; for one frame also `.png` or `.jpg`; or an address that fsspec "
        "knows, such as `s3://bucket/a.mp4`",
        group="output",
        command_default=Path("output.mp4"),
        affects="run",
        decodes=True,
    )
    output_type: OutputType = option(
        "video",
        help="what --output-path becomes: `video`; `latent`: the final latents under this name with "
        "`.safetensors`, and nothing is decoded; `both` of them; `images`: a folder of lossless PNGs under "
        "this name without its ending",
        group="output",
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
    profile: WrittenPath | None = option(
        None,
        help="file that tells when each stage, step and block worked, for chrome://tracing and Perfetto; "
        "blocks wait for each other then, so a run takes longer",
        group="output",
        metavar="FILE",
        affects="run",
        decodes=True,
    )
    compile: bool = option(
        True,
        help="fuse operations with mx.compile where the device gains from it",
        group="output",
        off_help="do not fuse operations with mx.compile",
        affects="run",
    )
    kernels: bool = option(
        True,
        help="use kernels of this package's own where the device check found them right and faster",
        group="output",
        off_help="use MLX's kernels alone",
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
        self._check_one_frame()
        self._check_state_options()
        self._check_guidance()

    @property
    def takes_steps(self) -> bool:
        """Whether anything is made anew; a video is returned otherwise."""
        return self.denoising_strength > 0

    @property
    def extra_frames(self) -> int:
        """Latent frames that are sampled beside the result's."""
        return len(self.vace_reference_image) + len(self.control_image)

    @property
    def video_path(self) -> Path | None:
        """The video to write; None for none."""
        return self.output_path if self.output_type in ("video", "both") else None

    @property
    def frames_path(self) -> Path | None:
        """The folder of pictures to write; None for none."""
        if self.output_type != "images" or self.save_frames or self.output_path is None:
            return self.save_frames
        return self.output_path.with_suffix("")

    @property
    def latents_path(self) -> Path | None:
        """The file of final latents to write; None for none."""
        if self.output_type not in ("latent", "both") or self.save_latents or self.output_path is None:
            return self.save_latents
        return self.output_path.with_suffix(".safetensors")

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
        for pair in (
            ("inpaint_video", "inpaint_video_mask"),
            ("animate_inpaint_video", "animate_mask_video"),
        ):
            absent = [name for name in pair if getattr(self, name) is None]
            if len(absent) == 1:
                given = next(name for name in pair if name not in absent)
                raise RequestError(given, f"needs --{absent[0].replace('_', '-')} beside it. Give both.")

    def _check_one_frame(self) -> None:
        beside = ("control_image", "control_index")
        if self.target_index is None:
            for name in beside:
                if is_given(getattr(self, name)):
                    raise RequestError(
                        name, "needs --target-index, the position of the picture to make. Add it."
                    )
            return
        for name in beside:
            if not is_given(getattr(self, name)):
                flags = " and ".join(f"--{other.replace('_', '-')}" for other in beside)
                raise RequestError("target_index", f"needs {flags} beside it. Give both.")
        if self.num_frames not in (None, 1):
            raise RequestError(
                "num_frames", f"{self.num_frames}: --target-index makes one picture. Leave it out."
            )
        if self.continue_from is not None or self.segments > 1:
            raise RequestError(
                "target_index", "makes one picture, with which no video goes on. Leave one of the two out."
            )

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
        for name in ("output_path", "save_latents", "profile"):
            if getattr(self, name) == Path():
                raise RequestError(name, "is empty, or this folder. Give the name of a file.")
        for name in ("resume", "keep_state"):
            if getattr(self, name) and self.output_path is None:
                raise RequestError(name, "needs --output-path, beside which a run keeps its state. Add it.")
        if self.output_type == "latent" and self.segments > 1:
            raise RequestError(
                "output_type", "latent: beside --segments every clip is decoded for the next. Ask for both."
            )
        if self.output_type == "latent" and self.save_frames is not None:
            raise RequestError(
                "save_frames", "beside --output-type latent nothing is decoded. Ask for images."
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
_VIDEO_KINDS = ("video", "whole video", "all frames", "footage", "tail", "mask")
VIDEO_INPUTS = tuple(name for name, kind in INPUTS.items() if kind in _VIDEO_KINDS)
PICTURE_INPUTS = tuple(name for name, kind in INPUTS.items() if kind == "pictures")
LORA_FIELDS = tuple(name for name, declared in _OPTIONS.items() if declared.kind is ADAPTERS)


def given_inputs(request: GenerateRequest) -> tuple[str, ...]:
    """Names of the inputs that a request gives, the prompt among them."""
    return tuple(name for name in INPUTS if is_given(getattr(request, name)))
