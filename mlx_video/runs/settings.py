"""A request and a model's config become the settings of one run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

from mlx_video.config import ModelConfig
from mlx_video.errors import RequestError
from mlx_video.events import Notice
from mlx_video.geometry import (
    VideoGeometry,
    check_num_frames,
    measure,
    round_size,
    size_for_area,
    size_multiple,
)
from mlx_video.models.dispatch import LARGEST_ARRAY
from mlx_video.models.rope import MAX_POSITIONS
from mlx_video.planning.choices import MemoryChoices
from mlx_video.request import FRAME_INPUTS, INPUTS, LORA_FIELDS, GenerateRequest, flag_of, given_inputs
from mlx_video.runs.input_checks import check_inputs, check_layer_scales
from mlx_video.runs.sampling.block_choice import plan_blocks, report_blocks, settle_blocks
from mlx_video.runs.sampling.context_choice import check_caches, plan_windows, report_windows
from mlx_video.runs.sampling.recipe_choice import (
    ChosenRecipe,
    choose_recipe,
    read_choices,
    report_distilled,
    with_measured,
)
from mlx_video.runs.sampling.strengths import check_strengths
from mlx_video.sampling.blocks import BlockPlan
from mlx_video.sampling.context_windows import ContextWindows
from mlx_video.sampling.recipe import ModelSampling, Recipe
from mlx_video.sampling.recipes.settle import settle_recipe
from mlx_video.sampling.step_caches.measured import Measurement
from mlx_video.variants.variant import Variant

_FITTED = {
    "cover": "resized and cut at the centre to",
    "letterbox": "shown whole between black bars in",
    "stretch": "stretched to",
}


@dataclass(frozen=True, slots=True)
class ShownSize:
    """Height and width in pixels of what a video is to show: the user's first image, or else first video.

    `field` is the input.
    """

    height: int
    width: int
    field: str = "image"

    @property
    def noun(self) -> str:
        """What messages call it."""
        return "image" if self.field in FRAME_INPUTS else "video"


@dataclass(frozen=True, slots=True)
class RunPlan:
    """Every setting of a run, with no default left open.

    Attributes:
        geometry: sizes in pixels, latent cells and tokens.
        steps: velocity predictions of the run.
        guide_scale: (low noise, high noise); both are equal for one transformer.
        boundary: where two experts swap; 0 for one transformer, and where a number of steps splits them.
        negative_prompt: None when guidance makes no negative pass.
        crops_images: whether images are fitted to the size that the user gave; else the size follows them.
        notices: what was adjusted or chosen for the user.
        memory: what is resident, streamed and tiled.
        recipe: how noise becomes latents; None where latents are only decoded.
        leading_frames: latent frames of reference or control pictures, which are sampled beside the result's.
        windows: in which the transformer sees the video; None for the video as a whole.
        blocks: in which the video is made, one after the other; None for the video as a whole.
        tail_frames: latent frames that the video begins with, of another one's end.
    """

    geometry: VideoGeometry
    steps: int
    shift: float
    guide_scale: tuple[float, float]
    boundary: float
    negative_prompt: str | None
    fps: int
    crops_images: bool
    notices: tuple[Notice, ...]
    memory: MemoryChoices = MemoryChoices()
    recipe: Recipe | None = None
    leading_frames: int = 0
    windows: ContextWindows | None = None
    blocks: BlockPlan | None = None
    tail_frames: int = 0

    @property
    def sampled_geometry(self) -> VideoGeometry:
        """Geometry of the latents that are sampled, of the result and of pictures beside it."""
        return self.geometry.with_leading(self.leading_frames)

    @property
    def step_shape(self) -> tuple[int, int, int, int]:
        """[C, T, H, W] of the latents that a step changes: all that are sampled, or those of a block."""
        channels, frames, height, width = self.sampled_geometry.latent_shape
        return channels, self.blocks.frames if self.blocks else frames, height, width

    @property
    def guide_scale_text(self) -> str:
        """The guide scale as its option is written: one number, or low,high."""
        return ",".join(str(scale) for scale in dict.fromkeys(self.guide_scale))


@dataclass(frozen=True, slots=True)
class _Size:
    """A video's size, how many pixels a frame it was meant to have, and what to tell the user of it."""

    width: int
    height: int
    area: int
    notices: tuple[Notice, ...] = ()


def plan_run(
    request: GenerateRequest,
    config: ModelConfig,
    variant: Variant,
    shown: ShownSize | None = None,
    measured: tuple[Measurement, ...] = (),
) -> RunPlan:
    """Settle every setting of a run before anything heavy is loaded.

    Args:
        request: what the user asked.
        config: of the model.
        variant: of the model.
        shown: size of the request's image, or of its video where it has no image.
        measured: ratios of MagCache that lie beside the model.

    Raises:
        RequestError: the request does not fit the model.
    """
    check_inputs(request, variant)
    check_layer_scales(request, config, variant)
    has_image = shown is not None and shown.field in FRAME_INPUTS
    size = _plan_size(request, config, variant, shown)
    blocks = plan_blocks(request, config, variant)
    geometry = _plan_geometry(request, config, size, blocks)
    windows = plan_windows(request, geometry, config.vae.stride[0])
    leading_frames = request.extra_frames + variant.leading_frames
    sampled = geometry.with_leading(leading_frames)
    _check_grid(sampled, config.transformer.dim, windows, blocks)
    if blocks:
        recipe, fps = settle_blocks(request, variant), config.sampling.fps
    else:
        recipe, fps = _settle_whole(request, config, variant, measured, size, has_image=has_image)
    if windows:
        check_caches(windows, recipe)
    asked = request.negative_prompt
    negative_prompt = config.sampling.negative_prompt if asked is None else asked
    return RunPlan(
        geometry=geometry,
        steps=recipe.schedule.steps * (blocks.count if blocks else 1),
        shift=recipe.shift,
        guide_scale=recipe.guide_scale,
        boundary=recipe.boundary,
        negative_prompt=negative_prompt if "negative" in recipe.prompts else None,
        recipe=recipe,
        leading_frames=leading_frames,
        windows=windows,
        blocks=blocks,
        fps=fps,
        crops_images=has_image and bool(request.width or request.height),
        notices=tuple(_report_plan(request, variant, recipe, windows, blocks, geometry, size)),
    )


def _settle_whole(
    request: GenerateRequest,
    config: ModelConfig,
    variant: Variant,
    measured: tuple[Measurement, ...],
    size: _Size,
    *,
    has_image: bool,
) -> tuple[Recipe, int]:
    """The sampling of a video made as a whole, and its frames a second; raises as :func:`plan_run`."""
    choices = with_measured(read_choices(request, config), measured)
    chosen = choose_recipe(request, choices, config, variant)
    recipe = settle_recipe(
        chosen.preset,
        choices,
        ModelSampling(
            model_type=config.transformer.model_type,
            is_dual=config.is_dual,
            defaults=replace(chosen.defaults, shift=_default_shift(chosen, variant, size.area)),
            variant=variant.name,
            has_image=has_image,
            goes_on=any(INPUTS[name] == "tail" for name in given_inputs(request)),
            pixels=size.width * size.height,
            inputs=frozenset(given_inputs(request)),
            is_picture=(request.num_frames or config.sampling.num_frames) == 1,
        ),
    )
    return replace(recipe, notices=(*chosen.notices, *recipe.notices)), chosen.defaults.fps


def _report_plan(
    request: GenerateRequest,
    variant: Variant,
    recipe: Recipe,
    windows: ContextWindows | None,
    blocks: BlockPlan | None,
    geometry: VideoGeometry,
    size: _Size,
) -> Iterator[Notice]:
    """Everything that was adjusted or chosen for the user.

    Raises:
        RequestError: strengths of adapters do not go with the run.
    """
    yield from size.notices
    yield from report_output_size(geometry)
    yield from report_windows(request, windows, geometry, recipe)
    if blocks:
        yield from report_blocks(request, blocks, geometry, recipe)
    yield from check_strengths(request, recipe)
    yield from map(Notice, (*recipe.notices, *report_distilled(request, recipe)))
    yield from _report_idle_negative_prompt(request, recipe)
    yield from _report_idle_video(request)
    yield from _report_absent_control(request, variant)
    yield from _report_idle_relighting(request, variant)


def report_output_size(geometry: VideoGeometry) -> Iterator[Notice]:
    """Say that the results are of another size than the video that was asked for, where they are."""
    if geometry.output_scale != 1:
        made, asked = "{}x{}".format(*geometry.output_size), f"{geometry.width}x{geometry.height}"
        yield Notice(
            f"The decoder of this VAE makes frames {geometry.output_scale} times as wide and as high: the "
            f"results are {made}, the transformer works at {asked}."
        )


def _report_idle_negative_prompt(request: GenerateRequest, recipe: Recipe) -> Iterator[Notice]:
    if request.negative_prompt and "negative" not in recipe.prompts:
        yield Notice("Guide scale 1 makes no negative pass: the negative prompt is not read.")


def _report_idle_video(request: GenerateRequest) -> Iterator[Notice]:
    if not request.takes_steps:
        yield Notice("At --denoising-strength 0 no step is taken: --input-video goes through the VAE alone.")
    if request.input_video is not None and request.denoising_strength == 1:
        yield Notice(
            "At --denoising-strength 1 nothing of --input-video stays; 0.6 to 0.8 keep its composition."
        )


def _report_absent_control(request: GenerateRequest, variant: Variant) -> Iterator[Notice]:
    if "control_video" in variant.inputs.optional and request.control_video is None:
        yield Notice("Without --control-video the model follows the prompt and the images alone.")


def _report_idle_relighting(request: GenerateRequest, variant: Variant) -> Iterator[Notice]:
    """Say so where Animate's relighting adapter has no video whose light it could bring to the character."""
    background = "animate_inpaint_video"
    if background in variant.inputs.optional and getattr(request, background) is None:
        for choice in request.loras:
            if "relight" in choice.path.name.lower():
                yield Notice(
                    f"{choice.named}: is made for a character that takes a person's place in "
                    f"{flag_of(background)}, which is not given."
                )


def _plan_size(
    request: GenerateRequest, config: ModelConfig, variant: Variant, shown: ShownSize | None
) -> _Size:
    """The size that the user gave; what is left open of it follows the image or the video that is given."""
    defaults = config.sampling
    if shown is None:
        return _round_size(request.width or defaults.width, request.height or defaults.height, config)
    if request.width or request.height:
        return _size_for_fit(request, config, shown)
    area = defaults.max_area or defaults.width * defaults.height
    choose_size = variant.choose_size or size_for_area
    width, height = choose_size(shown.height, shown.width, area)
    if min(width, height) < 1:
        raise RequestError(
            shown.field,
            f"{shown.width}x{shown.height} pixels: too long and thin for a video of {area} pixels a frame. "
            "Crop it, or give --width and --height.",
        )
    rounded = _round_size(width, height, config)
    if variant.inputs.sized_by:
        return rounded
    text = f"Size {width}x{height} follows the {shown.noun}'s shape, within {area} pixels."
    return replace(rounded, area=area, notices=(Notice(text),))


def _size_for_fit(request: GenerateRequest, config: ModelConfig, shown: ShownSize) -> _Size:
    """The size that the user gave; a side left open follows the shape of what is shown."""
    ratio = Fraction(shown.width, shown.height)
    width = request.width or round((request.height or 0) * ratio) or 1
    height = request.height or round(width / ratio) or 1
    size = _round_size(width, height, config)
    if (size.width, size.height) == (shown.width, shown.height) and shown.field not in FRAME_INPUTS:
        return size
    text = (
        f"The {shown.noun} ({shown.width}x{shown.height}) is {_FITTED[request.fit]} {size.width}x"
        f"{size.height}."
    )
    return _Size(size.width, size.height, size.area, (*size.notices, Notice(text)))


def _round_size(width: int, height: int, config: ModelConfig) -> _Size:
    vae, patch_size = config.vae, config.transformer.patch_size
    rounded = round_size(width, height, vae.stride, patch_size)
    notices: tuple[Notice, ...] = ()
    if rounded != (width, height):
        step_w, step_h = size_multiple(vae.stride, patch_size)
        text = (
            f"Size {width}x{height} becomes {rounded[0]}x{rounded[1]}: multiples of {step_w} by {step_h} "
            "pixels."
        )
        notices = (Notice(text),)
    return _Size(*rounded, rounded[0] * rounded[1], notices)


def _plan_geometry(
    request: GenerateRequest, config: ModelConfig, size: _Size, blocks: BlockPlan | None
) -> VideoGeometry:
    vae = config.vae
    default = config.sampling.num_frames if request.target_index is None else 1
    num_frames = blocks.num_frames(vae.stride[0]) if blocks else request.num_frames or default
    check_num_frames(num_frames, vae.stride[0])
    check_trim(request, num_frames)
    return measure(
        size.width,
        size.height,
        num_frames,
        z_dim=vae.z_dim,
        stride=vae.stride,
        patch_size=config.transformer.patch_size,
        output_scale=vae.output_scale,
    )


def check_trim(request: GenerateRequest, num_frames: int) -> None:
    """Refuse to drop all frames of a video.

    Raises:
        RequestError: none would be left.
    """
    if request.trim_first_frames >= num_frames:
        raise RequestError(
            "trim_first_frames",
            f"{request.trim_first_frames}: leaves nothing of {num_frames} frames. Trim fewer.",
        )


def _default_shift(chosen: ChosenRecipe, variant: Variant, area: int) -> float:
    """The shift of the recipe; in place of the official one, the official exception for small frames."""
    exception, shift = variant.low_area_shift, chosen.defaults.shift
    is_official = not chosen.preset.is_distilled and shift == variant.sampling.shift
    return exception.shift if exception and is_official and area <= exception.max_area else shift


def _check_grid(
    geometry: VideoGeometry, dim: int, windows: ContextWindows | None, blocks: BlockPlan | None
) -> None:
    """Refuse more tokens than a forward takes; one over a context window may also see a frame before it."""
    frames, rows, columns = geometry.grid
    longest = windows.size + 1 if windows else blocks.seen if blocks else frames
    seen = (min(frames, longest), rows, columns)
    for name, tokens in zip(("num_frames", "height", "width"), seen, strict=True):
        if tokens > MAX_POSITIONS:
            raise RequestError(
                name,
                f"{getattr(geometry, name)}: makes {tokens} tokens along this axis, the models know "
                f"{MAX_POSITIONS} positions. Choose less.",
            )
    tokens = math.prod(seen)
    if tokens * dim > LARGEST_ARRAY:
        raise RequestError(
            "num_frames",
            f"{geometry.num_frames} of {geometry.width}x{geometry.height} pixels: {tokens:,} tokens of {dim} "
            "numbers are more than GPU kernels can count. Choose fewer frames, a smaller size, or "
            "--context-frames.",
        )


def report_unlike_prompt(request: GenerateRequest, variant: Variant) -> Iterator[Notice]:
    """Say so where the model was trained on few prompts and this one is unlike them.

    An adapter teaches words that are not the variant's, so with one nothing is said.
    """
    is_adapted = any(getattr(request, field) for field in LORA_FIELDS)
    if variant.remark_on_prompt is None or not request.prompt or is_adapted:
        return
    if remark := variant.remark_on_prompt(request.prompt):
        yield Notice(remark)
