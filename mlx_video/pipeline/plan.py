"""A request and a model's config become the settings of one run."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from mlx_video.config import ModelConfig
from mlx_video.errors import RequestError
from mlx_video.events import Notice
from mlx_video.geometry import VideoGeometry, check_num_frames, measure, round_size, size_multiple
from mlx_video.models.rope import MAX_POSITIONS
from mlx_video.request import GenerateRequest
from mlx_video.variants.variant import Variant


@dataclass(frozen=True, slots=True)
class RunPlan:
    """Every setting of a run, with no default left open.

    Attributes:
        geometry: sizes in pixels, latent cells and tokens.
        negative_prompt: None when guidance makes no negative pass.
        notices: what was adjusted or chosen for the user.
    """

    geometry: VideoGeometry
    steps: int
    shift: float
    guide_scale: float
    negative_prompt: str | None
    fps: int
    notices: tuple[Notice, ...]


def plan_run(request: GenerateRequest, config: ModelConfig, variant: Variant) -> RunPlan:
    """Settle every setting of a run before anything heavy is loaded.

    Raises:
        RequestError: the request does not fit the model.
    """
    defaults = config.sampling
    check_inputs(request, variant)
    geometry, notices = _plan_geometry(request, config)
    guide_scale = _single_scale(request.guide_scale, defaults.guide_scale[0])
    negative_prompt = defaults.negative_prompt if request.negative_prompt is None else request.negative_prompt
    return RunPlan(
        geometry=geometry,
        steps=request.steps or defaults.steps,
        shift=request.shift or defaults.shift,
        guide_scale=guide_scale,
        negative_prompt=None if guide_scale == 1.0 else negative_prompt,
        fps=defaults.fps,
        notices=notices,
    )


def check_inputs(request: GenerateRequest, variant: Variant) -> None:
    """Refuse a request that lacks what the variant needs.

    Raises:
        RequestError: a required input is missing.
    """
    for name in variant.inputs.required:
        value = getattr(request, name)
        if not value or (isinstance(value, str) and not value.strip()):
            raise RequestError(name, f"missing: {variant.title} needs it.")


def _plan_geometry(request: GenerateRequest, config: ModelConfig) -> tuple[VideoGeometry, tuple[Notice, ...]]:
    defaults, vae, patch_size = config.sampling, config.vae, config.transformer.patch_size
    num_frames = request.num_frames or defaults.num_frames
    check_num_frames(num_frames, vae.stride[0])
    if request.trim_first_frames >= num_frames:
        raise RequestError(
            "trim_first_frames",
            f"{request.trim_first_frames}: leaves nothing of {num_frames} frames. Trim fewer.",
        )
    asked = request.width or defaults.width, request.height or defaults.height
    width, height = round_size(*asked, vae.stride, patch_size)
    notices: tuple[Notice, ...] = ()
    if (width, height) != asked:
        step_w, step_h = size_multiple(vae.stride, patch_size)
        text = (
            f"Size {asked[0]}x{asked[1]} becomes {width}x{height}: multiples of {step_w} by {step_h} pixels."
        )
        notices = (Notice(text),)
    geometry = measure(width, height, num_frames, z_dim=vae.z_dim, stride=vae.stride, patch_size=patch_size)
    _check_grid(geometry)
    return geometry, notices


def _check_grid(geometry: VideoGeometry) -> None:
    for name, tokens in zip(("num_frames", "height", "width"), geometry.grid, strict=True):
        if tokens > MAX_POSITIONS:
            raise RequestError(
                name,
                f"{getattr(geometry, name)}: makes {tokens} tokens along this axis, the models know "
                f"{MAX_POSITIONS} positions. Choose less.",
            )


def _single_scale(asked: float | tuple[float, float] | None, default: float) -> float:
    """One guide scale for a model with one transformer."""
    if isinstance(asked, tuple):
        if asked[0] != asked[1]:
            raise RequestError(
                "guide_scale",
                f"{asked[0]},{asked[1]}: two scales are for models with two transformers; this one has one. "
                "Give one number.",
            )
        return asked[0]
    return default if asked is None else asked


def describe_run(request: GenerateRequest, plan: RunPlan, model: str) -> dict[str, str]:
    """All settings of a run as text, for the metadata of what it writes."""
    geometry = asdict(plan.geometry)
    settings = {
        "prompt": request.prompt,
        "negative_prompt": plan.negative_prompt or "",
        "model": model,
        "seed": request.seed,
        "noise": request.noise,
        "scheduler": request.scheduler,
        "steps": plan.steps,
        "shift": plan.shift,
        "guide_scale": plan.guide_scale,
        "width": geometry["width"],
        "height": geometry["height"],
        "num_frames": geometry["num_frames"],
        "fps": plan.fps,
        "trim_first_frames": request.trim_first_frames,
    }
    return {name: str(value) for name, value in settings.items()}
