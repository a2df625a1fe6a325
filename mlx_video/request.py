"""What the user asked for, checked when constructed."""

from __future__ import annotations

import math
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from numbers import Integral, Real
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, get_args

from mlx_video.addresses import (
    AddressError,
    expand_home,
    local_path,
    local_path_or_page,
    written_address,
)
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
LoraMode = Literal["auto", "merge", "side"]
StreamMode = Literal["auto", "on", "off"]

MAX_STEPS = 1000
# What torch.Generator.manual_seed takes; numbers below zero count from 2**64.
MIN_SEED, MAX_SEED = -(2**63), 2**64 - 1
RANDOM_SEED = -1
LORA_FIELDS = ("loras", "loras_high", "loras_low")
InputKind = Literal["text", "image", "video", "mask", "audio", "number"]
INPUTS: Mapping[str, InputKind] = MappingProxyType({"prompt": "text", "image": "image", "end_image": "image"})
"""Fields of a GenerateRequest by which a model is conditioned, in the order in which it sees them."""
IMAGE_INPUTS = tuple(name for name, kind in INPUTS.items() if kind == "image")
COMPONENT_FIELDS = ("transformer", "high_noise", "low_noise", "text_encoder", "vae", "clip", "tokenizer")
_WRITTEN_FIELDS = ("output_path", "output_dir", "save_frames", "save_latents")
_HUB_FIELDS = ("checkpoint_dir", *COMPONENT_FIELDS)

_KINDS: dict[str, tuple[type, str]] = {
    **dict.fromkeys(("prompt", "negative_prompt"), (str, "a text")),
    **dict.fromkeys(
        ("width", "height", "num_frames", "steps", "seed", "trim_first_frames", "checkpoint_every"),
        (Integral, "a whole number"),
    ),
    **dict.fromkeys(("shift", "boundary", "memory_limit"), (Real, "a number")),
}


def draw_seed() -> int:
    """A random seed that fits the run's record and a torch generator."""
    return secrets.randbelow(2**31)


def named_place(text: str | Path) -> Path:
    """What a user calls a folder: a path with `~` expanded, or owner/name of a repository on the Hub.

    An address stays one; whoever opens it judges it. A text that begins with a dot is a path, so that
    `./owner/name` never means a repository.

    Raises:
        AddressError: it begins with the `~` of a user that the system does not know, or holds a zero byte.
    """
    path = expand_home(text)
    return Path.cwd() / path if str(text).startswith((".", "~")) else path


def advise_two_strengths(path: str | Path, value: object) -> str:
    """How to give each of two experts its strength, where a value looks like two; "" where it does not.

    Of "0.8;1.0" the first is the high-noise expert's, which serves first; so other tools write it. Where
    nothing tells the order, none is guessed.

    Args:
        path: of the adapter.
        value: what stands in the place of its strength: a text, or several values.
    """
    parts = re.split(r"[;,/]", value) if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or len(parts) != 2 or not all(map(_is_number, parts)):
        return ""
    is_ordered = isinstance(value, str) and ";" in value
    high, low = (str(part).strip() for part in parts) if is_ordered else ("STRENGTH", "STRENGTH")
    return f"Each of two experts takes its own: --lora-high {path} {high} --lora-low {path} {low}"


def _is_number(value: object) -> bool:
    try:
        return math.isfinite(float(value))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False


@dataclass(frozen=True, slots=True)
class LoraChoice:
    """One adapter, and how strongly it counts.

    Attributes:
        path: its file, or the folder of a PEFT adapter; or owner/name/file in a repository on the Hub.
        strength: 1 for what its authors trained, more or less for more or less of it; negative turns it
            around, 0 leaves it out.
        named: what the user calls it, for records; "" for the path. It stays where `path` becomes that of
            the downloaded file.
    """

    path: Path
    strength: float = 1.0
    named: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.path, Path):
            raise RequestError("loras", f"{self.path!r}: must be a path (pathlib.Path).")
        is_number = isinstance(self.strength, Real) and not isinstance(self.strength, bool)
        if not (is_number and math.isfinite(self.strength)):
            cure = advise_two_strengths(self.path, self.strength) or "1 is the usual one"
            raise RequestError(
                "loras", f"{self.path} {self.strength!r}: the strength must be a number. {cure}."
            )
        object.__setattr__(self, "named", self.named or str(self.path))

    def __str__(self) -> str:
        """Name and strength, as they stand behind the option."""
        return f"{self.named} {self.strength:g}"


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One video to make. None stands for the model's own default.

    Attributes:
        prompt: what the video shows; "" for nothing in particular.
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
        loras: adapters for every transformer of the model.
        loras_high, loras_low: adapters for one of two experts, after those for both.
        lora_mode: "merge" adds adapters to the weights when they are loaded and packs quantized ones again,
            "side" runs them beside the layers, whose weights stay as they are; "auto" merges into dense
            layers and runs beside quantized ones.
        strict_lora: refuse an adapter of which a part fits nothing in the model; else that is reported.
        seed: 0 to 2**64-1. -1 and None draw one at random, or with `resume` take that of the run's state;
            numbers from -2 to -2**63 become `seed + 2**64`, as torch takes them.
        noise: "torch" draws what torch draws on a CPU for this seed, "mlx" uses mx.random.
        trim_first_frames: pixel frames dropped from the start of the finished video.
        tiling: how the VAE saves memory; "auto" makes tiles only where whole frames do not fit.
        stream: whether blocks of the transformer are read from the file in every step: "auto" as few as must
            be, "on" all, "off" none.
        memory_limit: GB of 10⁹ bytes that MLX may hold; None for what the machine has.
        compile: fuse elementwise work with mx.compile where the device gains from it.
        device_check: check the device's operations before the first run with this MLX on this machine.
        prompt_cache: keep encoded prompts on disk and use those of earlier runs.
        checkpoint_every: steps after which the run's state is written beside `output_path`; 0 writes the
            finished latents alone.
        resume: go on from the state beside `output_path`; without one, begin at the first step.
        keep_state: leave the state there when the video is finished.
        decode_only: a file of latents, or the state of a run that has taken all its steps: make the video
            from it and ignore every option of sampling.
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
    loras: tuple[LoraChoice, ...] = ()
    loras_high: tuple[LoraChoice, ...] = ()
    loras_low: tuple[LoraChoice, ...] = ()
    lora_mode: LoraMode = "auto"
    strict_lora: bool = False
    seed: int = RANDOM_SEED
    scheduler: SchedulerName = "unipc"
    noise: NoiseKind = "torch"
    tiling: TilingMode = "auto"
    stream: StreamMode = "auto"
    memory_limit: float | None = None
    compile: bool = True
    device_check: bool = True
    prompt_cache: bool = True
    trim_first_frames: int = 0
    output_path: Path | None = None
    save_frames: Path | None = None
    save_latents: Path | None = None
    checkpoint_every: int = 1
    resume: bool = False
    keep_state: bool = False
    decode_only: Path | None = None
    debug_latents: bool = False

    def __post_init__(self) -> None:
        if self.seed is None:
            object.__setattr__(self, "seed", RANDOM_SEED)
        self._check_kinds()
        _check_choice("scheduler", self.scheduler, get_args(SchedulerName))
        _check_choice("noise", self.noise, get_args(NoiseKind))
        _check_choice("tiling", self.tiling, get_args(TilingMode))
        _check_choice("stream", self.stream, get_args(StreamMode))
        _check_choice("experts", self.experts, get_args(ExpertMode))
        _check_choice("lora_mode", self.lora_mode, get_args(LoraMode))
        for name in LORA_FIELDS:
            _check_loras(name, getattr(self, name))
        _open_addresses(self)
        for name in ("width", "height", "num_frames"):
            _check_at_least(name, getattr(self, name), 1)
        for name in ("trim_first_frames", "checkpoint_every"):
            _check_at_least(name, getattr(self, name), 0)
        if self.steps is not None and not 1 <= self.steps <= MAX_STEPS:
            raise RequestError("steps", f"{self.steps}: must be between 1 and {MAX_STEPS}.")
        if self.shift is not None and not 0 < self.shift < float("inf"):
            raise RequestError("shift", f"{self.shift}: must be a positive number; the models use 3 to 16.")
        if self.memory_limit is not None and not 0 < self.memory_limit < float("inf"):
            raise RequestError("memory_limit", f"{self.memory_limit}: must be a positive number of GB.")
        if self.boundary is not None and not 0 <= self.boundary <= 1:
            raise RequestError(
                "boundary", f"{self.boundary}: must be between 0 and 1; the models use 0.875 and 0.9."
            )
        object.__setattr__(self, "seed", _settle_seed(self.seed))
        if self.guide_scale is not None:
            self._check_guide_scale()
        for name in ("image", "end_image"):
            _check_image(name, getattr(self, name))
        if self.end_image is not None:
            self._check_end_image()
        self._check_state_options()
        if self.seed == RANDOM_SEED and not self.resume:
            object.__setattr__(self, "seed", draw_seed())

    def _check_kinds(self) -> None:
        for option in fields(self):
            kind, what = _KINDS.get(option.name, (object, "anything"))
            value = getattr(self, option.name)
            is_default = value is None and option.default is None
            if not (is_default or isinstance(value, kind)):
                raise RequestError(option.name, f"{value!r}: must be {what}.")

    def _check_state_options(self) -> None:
        for name in ("resume", "keep_state"):
            if getattr(self, name) and self.output_path is None:
                raise RequestError(name, "needs --output-path, beside which a run keeps its state. Add it.")
        for name in ("resume", "save_latents"):
            if getattr(self, name) and self.decode_only is not None:
                raise RequestError(name, "with --decode-only there is no step to take. Give one of the two.")

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
    """One checkpoint to convert.

    Attributes:
        checkpoint_dir: the folder of the checkpoint, in any layout, or its only file; a converted folder with
            `quantize_only`; either may be owner/name of a repository on the Hub, to be downloaded; None where
            the components are all given.
        output_dir: the folder to make.
        dtype: of transformer and text encoder; the VAE is always float32.
        quantize: pack the blocks' linear layers into `bits` bits, in groups of `group_size` inputs.
        quantize_only: quantize a folder that was converted earlier.
        loras: adapters to merge into every transformer.
        loras_high, loras_low: adapters for one of two experts, after those for both.
        strict_lora: refuse an adapter of which a part fits nothing in the model; else that is reported.
        transformer: the file, or folder of shards, that takes the place of the checkpoint's transformer.
        high_noise, low_noise: the same for one of two experts.
        text_encoder, vae, clip: the same for UMT5, the VAE and the image encoder.
        tokenizer: the folder with tokenizer.json or spiece.model, in place of the checkpoint's.
            Each of these may also be owner/name/file in a repository on the Hub.
        revision: branch, tag or commit of `checkpoint_dir` on the Hub; None for its main branch.
    """

    checkpoint_dir: Path | None = None
    output_dir: Path = field(default=Path("wan_mlx_model"))
    dtype: DTypeName = "bfloat16"
    model_version: ModelVersion = "auto"
    quantize: bool = False
    bits: int = 4
    group_size: int = 64
    quantize_only: bool = False
    loras: tuple[LoraChoice, ...] = ()
    loras_high: tuple[LoraChoice, ...] = ()
    loras_low: tuple[LoraChoice, ...] = ()
    strict_lora: bool = False
    transformer: Path | None = None
    high_noise: Path | None = None
    low_noise: Path | None = None
    text_encoder: Path | None = None
    vae: Path | None = None
    clip: Path | None = None
    tokenizer: Path | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        self._check_components()
        _check_choice("dtype", self.dtype, get_args(DTypeName))
        _check_choice("model_version", self.model_version, get_args(ModelVersion))
        _check_choice("bits", self.bits, (4, 8))
        _check_choice("group_size", self.group_size, (32, 64, 128))
        for name in LORA_FIELDS:
            _check_loras(name, getattr(self, name))
        _open_addresses(self)
        if not (self.quantize or self.quantize_only):
            self._refuse_idle_options()
        if self.checkpoint_dir is not None and _is_one_place(self.checkpoint_dir, self.output_dir):
            raise RequestError(
                "output_dir", f"{self.output_dir} is the checkpoint folder itself. Choose another folder."
            )

    @property
    def components(self) -> dict[str, Path]:
        """The components that are given one by one: name of the option → its file or folder."""
        paths = {name: getattr(self, name) for name in COMPONENT_FIELDS}
        return {name: path for name, path in paths.items() if path is not None}

    def _check_components(self) -> None:
        given = self.components
        for name, path in given.items():
            if not isinstance(path, Path):
                raise RequestError(name, f"{path!r}: must be a path (pathlib.Path).")
        if given and self.quantize_only:
            message = "does not count with --quantize-only, which changes a converted folder. Leave it out."
            raise RequestError(next(iter(given)), message)
        for name in ("high_noise", "low_noise"):
            if name in given and "transformer" in given:
                raise RequestError(
                    name, "--transformer stands for both experts. Give one transformer, or two experts."
                )
        if self.checkpoint_dir is None:
            self._check_is_whole(given)
            if self.revision is not None:
                raise RequestError("revision", "counts only with --checkpoint-dir. Leave it out.")

    def _check_is_whole(self, given: dict[str, Path]) -> None:
        experts = {"high_noise", "low_noise"}
        needed = {"text_encoder", "vae", *(experts if experts & given.keys() else {"transformer"})}
        absent = (name for name in COMPONENT_FIELDS if name in needed - given.keys())
        missing = [f"--{name.replace('_', '-')}" for name in absent]
        if missing and given:
            raise RequestError(
                "checkpoint_dir", f"is not given, and {', '.join(missing)} neither. Add them, or the folder."
            )
        if missing:
            raise RequestError(
                "checkpoint_dir",
                f"is needed. Give the folder of a checkpoint, or its components: {', '.join(missing)}.",
            )

    def _refuse_idle_options(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            if option.name in ("bits", "group_size") and value != option.default:
                message = f"{value}: counts only with --quantize. Add it, or leave this option out."
                raise RequestError(option.name, message)


def _settle_seed(seed: int) -> int:
    """A seed as a run keeps it: 0 to 2**64-1, or `RANDOM_SEED`.

    Source: PyTorch torch/random.py, manual_seed.
    """
    if not MIN_SEED <= seed <= MAX_SEED:
        raise RequestError(
            "seed",
            f"{seed}: must be between {MIN_SEED} and {MAX_SEED} (-2**63 and 2**64-1), as torch takes them; "
            f"{RANDOM_SEED} draws one at random.",
        )
    return RANDOM_SEED if seed == RANDOM_SEED else int(seed) % 2**64


def _is_one_place(path: Path, other: Path) -> bool:
    """Whether two paths lead to one place, which need not exist; links in a circle lead nowhere else."""
    return os.path.realpath(path) == os.path.realpath(other)


def _check_choice(field_name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        listed = ", ".join(str(choice) for choice in choices)
        raise RequestError(field_name, f"{value!r} is not one of {listed}.")


def _check_loras(field_name: str, value: object) -> None:
    if not (isinstance(value, tuple) and all(isinstance(choice, LoraChoice) for choice in value)):
        raise RequestError(field_name, f"{value!r}: must be a tuple of LoraChoice(path, strength).")


def _open_addresses(request: GenerateRequest | ConvertRequest) -> None:
    """Put paths in place of addresses of files here, and refuse the addresses that nothing reads."""
    for name in ("image", "end_image", "decode_only", *_WRITTEN_FIELDS, *_HUB_FIELDS, *LORA_FIELDS):
        value = getattr(request, name, None)
        try:
            if isinstance(value, tuple):
                opened: object = tuple(replace(it, path=local_path_or_page(it.path)) for it in value)
            elif isinstance(value, Path):
                opened = (local_path_or_page if name in _HUB_FIELDS else local_path)(value)
            else:
                continue
        except AddressError as error:
            told = f"{written_address(str(value))}: nothing is written to an address. Give a path here."
            is_address = name in _WRITTEN_FIELDS and ":/" in str(value)
            raise RequestError(name, told if is_address else str(error)) from error
        if opened != value:
            object.__setattr__(request, name, opened)


def _check_image(field_name: str, value: object) -> None:
    # Pillow images and numpy arrays both offer themselves as arrays; asking the type copies no pixels.
    if not (value is None or isinstance(value, Path) or hasattr(type(value), "__array_interface__")):
        raise RequestError(
            field_name, f"{value!r}: must be a path (pathlib.Path), a Pillow image or a numpy array."
        )


def _check_at_least(field_name: str, value: int | None, lowest: int) -> None:
    if value is not None and value < lowest:
        raise RequestError(field_name, f"{value}: must be at least {lowest}.")
