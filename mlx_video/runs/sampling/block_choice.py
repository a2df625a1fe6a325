"""Whether a run makes its video block by block, and what that leaves no place for."""

from __future__ import annotations

from collections.abc import Iterator
from types import MappingProxyType

from mlx_video.config import ModelConfig
from mlx_video.errors import RequestError
from mlx_video.events import Notice
from mlx_video.geometry import VideoGeometry
from mlx_video.request import LORA_FIELDS, GenerateRequest, flag_of, given_inputs, options_of
from mlx_video.request.long_runs import LONG_VIDEOS_GROUP, STEP_CACHE_GROUP
from mlx_video.request.sampling import GUIDANCE_GROUP
from mlx_video.sampling.blocks import BlockMethod, BlockPlan, block_schedule, plan_block_count
from mlx_video.sampling.guidance import ClassifierFreeGuidance
from mlx_video.sampling.recipe import Recipe
from mlx_video.variants.variant import Variant

OPTION = "kv_cache_frames"
SOLVER = "lcm"
"""Renoising: a jump to the clean latents, then fresh noise up to the next level."""
UNGUIDED = 1.0
_WHOLE_FRAMES = ("auto", "none", "temporal")
# Options of sampling that say what blocks have of their own → the values that say the same.
_SETTLED = MappingProxyType(
    {
        "recipe": (None,),
        "scheduler": (None, SOLVER),
        "noise_levels": (None,),
        "sigmas": (None,),
        "timesteps": (None,),
        "dmd_warp": (None,),
        "guide_scale": (None, UNGUIDED, (UNGUIDED, UNGUIDED)),
        "decoder": ("vae",),
        "tiling": _WHOLE_FRAMES,
    }
)
_WHY = MappingProxyType(
    {
        "guide_scale": "blocks are made under the prompt alone",
        "decoder": "the next block begins with what the VAE itself decodes",
        "tiling": "frames are decoded whole, as tiles need the whole video",
    }
)


def plan_blocks(request: GenerateRequest, config: ModelConfig, variant: Variant) -> BlockPlan | None:
    """The blocks of a run; None for a run that makes its video as a whole.

    Raises:
        RequestError: the model does not make blocks, so many frames are not kept, or another option has no
            place beside.
    """
    context = request.kv_cache_frames
    if context is None:
        return None
    method = _find_method(context, variant)
    _refuse_others(request)
    stride = config.vae.stride[0]
    num_frames = request.num_frames or config.sampling.num_frames
    return BlockPlan(method.frames, context, plan_block_count(num_frames, method.frames, stride))


def _find_method(context: int, variant: Variant) -> BlockMethod:
    method = variant.blocks
    if method is None:
        raise RequestError(
            OPTION,
            f"{context}: {variant.title} was not trained to make videos block by block; krea-realtime 14B "
            "was. Leave the option out; --context-frames makes long videos of any model.",
        )
    if context > method.most_context:
        raise RequestError(
            OPTION,
            f"{context}: {variant.title} sees {method.most_seen} latent frames at once, {method.frames} of "
            f"which are the block's own. Give at most {method.most_context}.",
        )
    return method


def _refuse_others(request: GenerateRequest) -> None:
    """Refuse options that blocks leave no place for, rather than ignore them."""
    beside = f"beside {flag_of(OPTION)}"
    for name in given_inputs(request):
        if name not in ("prompt", "negative_prompt"):
            raise RequestError(name, f"{beside} a video is made from text alone. Leave one out.")
    for name, values in _SETTLED.items():
        if (value := getattr(request, name)) not in values:
            why = _WHY.get(name, "every block has the noise levels that the model was trained with")
            raise RequestError(name, f"{value}: {beside} {why}. Leave the option out.")
    for name, declared in options_of(type(request)).items():
        is_other = declared.group in (GUIDANCE_GROUP, STEP_CACHE_GROUP, LONG_VIDEOS_GROUP) and name != OPTION
        if is_other and getattr(request, name) != declared.default:
            raise RequestError(name, f"{beside} it has no place. Leave one out.")
    for name in LORA_FIELDS:
        if varying := next((choice for choice in getattr(request, name) if choice.by_step), None):
            raise RequestError(
                name, f"{varying}: {beside} adapters have one strength in all steps. Give one number."
            )


def settle_blocks(request: GenerateRequest, variant: Variant) -> Recipe:
    """The sampling of every block.

    Raises:
        RequestError: steps or shift are out of range.
    """
    assert variant.blocks is not None  # the run has a plan of blocks
    steps, shift = request.steps or variant.blocks.steps, request.shift or variant.blocks.shift
    schedule = block_schedule(steps, shift)
    guidance = MappingProxyType({"model": ClassifierFreeGuidance(UNGUIDED)})
    return Recipe(schedule, SOLVER, guidance, steps, shift, (UNGUIDED, UNGUIDED))


def report_blocks(
    request: GenerateRequest, plan: BlockPlan, geometry: VideoGeometry, recipe: Recipe
) -> Iterator[Notice]:
    """Say how many blocks there are, and that the video has whole ones."""
    asked = request.num_frames
    if asked not in (None, geometry.num_frames):
        yield Notice(
            f"--num-frames {asked} becomes {geometry.num_frames}: a video made block by block has whole "
            "blocks, the first of 9 frames and the others of 12."
        )
    yield Notice(
        f"Block by block: {plan.count} of {plan.frames} latent frames, {recipe.steps} steps each, behind the "
        f"keys and values of {plan.context}."
    )
