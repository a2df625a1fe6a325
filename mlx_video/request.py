"""What the user asked for, checked when constructed."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from mlx_video.errors import RequestError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    ImageSource = Path | Image.Image | np.ndarray

DTypeName = Literal["bfloat16", "float16", "float32"]
ModelVersion = Literal["auto", "2.1", "2.2"]
SchedulerName = Literal["unipc", "dpm++", "euler"]
NoiseKind = Literal["torch", "mlx"]
ExpertMode = Literal["relay", "parallel"]
TilingMode = Literal["auto", "none", "default", "aggressive", "conservative", "spatial", "temporal"]

MAX_STEPS = 1000
MAX_SEED = 2**63 - 1

_KINDS: dict[str, tuple[type, str]] = {
    **dict.fromkeys(("prompt", "negative_prompt"), (str, "a text")),
    **dict.fromkeys(
        ("width", "height", "num_frames", "steps", "seed", "trim_first_frames"), (Integral, "a whole number")
    ),
    **dict.fromkeys(("shift", "boundary"), (Real, "a number")),
}


def draw_seed() -> int:
    """A random seed that fits the run's record and a torch generator."""
    return secrets.randbelow(2**31)


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One video to make. None stands for the model's own default.

    Attributes:
        prompt: what the video shows.
        negative_prompt: what it should not show; None for the model's default, "" for nothing.
        image: the first frame: a file, a Pillow image or an array (see `media.open_image`).
        end_image: the last frame, likewise; only together with `image`.
        width, height: pixels; rounded to what the model can make.
        num_frames: pixel frames, 4n+1.
        steps: sampling steps.
        guide_scale: one number, or (low noise, high noise); 1 skips the negative pass.
        shift: moves the schedule towards high noise.
        boundary: fraction of the schedule, 0 to 1, above which the high-noise expert serves; for models with
            two transformers.
        experts: "relay" keeps one expert in memory at a time, "parallel" both.
        seed: 0 to 2**63-1; negative draws one at random.
        noise: "torch" draws what torch draws on a CPU for this seed, "mlx" uses mx.random.
        trim_first_frames: pixel frames dropped from the start of the finished video.
        compile: fuse elementwise work with mx.compile where the device gains from it.
    """

    prompt: str
    negative_prompt: str | None = None
    image: ImageSource | None = None
    end_image: ImageSource | None = None
    width: int | None = None
    height: int | None = None
    num_frames: int | None = None
    steps: int | None = None
    guide_scale: float | tuple[float, float] | None = None
    shift: float | None = None
    boundary: float | None = None
    experts: ExpertMode = "relay"
    seed: int = -1
    scheduler: SchedulerName = "unipc"
    noise: NoiseKind = "torch"
    tiling: TilingMode = "auto"
    compile: bool = True
    trim_first_frames: int = 0
    output_path: Path | None = None
    save_frames: Path | None = None
    save_latents: Path | None = None
    debug_latents: bool = False

    def __post_init__(self) -> None:
        self._check_kinds()
        _check_choice("scheduler", self.scheduler, get_args(SchedulerName))
        _check_choice("noise", self.noise, get_args(NoiseKind))
        _check_choice("tiling", self.tiling, get_args(TilingMode))
        _check_choice("experts", self.experts, get_args(ExpertMode))
        for name in ("width", "height", "num_frames"):
            _check_at_least(name, getattr(self, name), 1)
        _check_at_least("trim_first_frames", self.trim_first_frames, 0)
        if self.steps is not None and not 1 <= self.steps <= MAX_STEPS:
            raise RequestError("steps", f"{self.steps}: must be between 1 and {MAX_STEPS}.")
        if self.shift is not None and not 0 < self.shift < float("inf"):
            raise RequestError("shift", f"{self.shift}: must be a positive number; the models use 3 to 16.")
        if self.boundary is not None and not 0 <= self.boundary <= 1:
            raise RequestError(
                "boundary", f"{self.boundary}: must be between 0 and 1; the models use 0.875 and 0.9."
            )
        if self.seed > MAX_SEED:
            raise RequestError("seed", f"{self.seed}: must be below 2**63.")
        if self.guide_scale is not None:
            self._check_guide_scale()
        for name in ("image", "end_image"):
            _check_image(name, getattr(self, name))
        if self.end_image is not None:
            self._check_end_image()
        if self.seed < 0:
            object.__setattr__(self, "seed", draw_seed())

    def _check_kinds(self) -> None:
        for option in fields(self):
            kind, what = _KINDS.get(option.name, (object, "anything"))
            value = getattr(self, option.name)
            is_default = value is None and option.default is None
            if not (is_default or isinstance(value, kind)):
                raise RequestError(option.name, f"{value!r}: must be {what}.")

    def _check_end_image(self) -> None:
        if self.image is None:
            raise RequestError("end_image", "needs --image, the first frame, beside it. Give both.")
        if self.num_frames == 1:
            raise RequestError(
                "end_image", "--num-frames 1 has no last frame besides the first. Ask for 5 frames or more."
            )

    def _check_guide_scale(self) -> None:
        scales = self.guide_scale if isinstance(self.guide_scale, tuple) else (self.guide_scale,)
        are_usable = all(isinstance(scale, Real) and 0 <= scale < float("inf") for scale in scales)
        if len(scales) > 2 or not are_usable:
            raise RequestError(
                "guide_scale",
                f"{self.guide_scale}: must be one number of at least 0, or two as low,high. "
                "The models use 1 to 6.",
            )


@dataclass(frozen=True, slots=True)
class ConvertRequest:
    """One checkpoint folder to convert.

    Attributes:
        checkpoint_dir: the original folder; a converted one with `quantize_only`.
        output_dir: the folder to make.
        dtype: of transformer and text encoder; the VAE is always float32.
        quantize: pack the blocks' linear layers into `bits` bits, in groups of `group_size` inputs.
        quantize_only: quantize a folder that was converted earlier.
    """

    checkpoint_dir: Path
    output_dir: Path = field(default=Path("wan_mlx_model"))
    dtype: DTypeName = "bfloat16"
    model_version: ModelVersion = "auto"
    quantize: bool = False
    bits: int = 4
    group_size: int = 64
    quantize_only: bool = False

    def __post_init__(self) -> None:
        _check_choice("dtype", self.dtype, get_args(DTypeName))
        _check_choice("model_version", self.model_version, get_args(ModelVersion))
        _check_choice("bits", self.bits, (4, 8))
        _check_choice("group_size", self.group_size, (32, 64, 128))
        if not (self.quantize or self.quantize_only):
            self._refuse_idle_options()
        if self.checkpoint_dir.resolve() == self.output_dir.resolve():
            raise RequestError(
                "output_dir", f"{self.output_dir} is the checkpoint folder itself. Choose another folder."
            )

    def _refuse_idle_options(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            if option.name in ("bits", "group_size") and value != option.default:
                message = f"{value}: counts only with --quantize. Add it, or leave this option out."
                raise RequestError(option.name, message)


def _check_choice(field_name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        listed = ", ".join(str(choice) for choice in choices)
        raise RequestError(field_name, f"{value!r} is not one of {listed}.")


def _check_image(field_name: str, value: object) -> None:
    # Pillow images and numpy arrays both offer themselves as arrays; asking the type copies no pixels.
    if not (value is None or isinstance(value, Path) or hasattr(type(value), "__array_interface__")):
        raise RequestError(
            field_name, f"{value!r}: must be a path (pathlib.Path), a Pillow image or a numpy array."
        )


def _check_at_least(field_name: str, value: int | None, lowest: int) -> None:
    if value is not None and value < lowest:
        raise RequestError(field_name, f"{value}: must be at least {lowest}.")
