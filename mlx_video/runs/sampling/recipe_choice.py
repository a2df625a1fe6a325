"""Which recipe a run takes: the user's, that of a distilled checkpoint or adapter, or the official one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mlx_video.config import ModelConfig, SamplingDefaults
from mlx_video.errors import RequestError
from mlx_video.lora.adapter_file import AdapterFile
from mlx_video.request import LORA_FIELDS, GenerateRequest, LoraChoice, options_of
from mlx_video.sampling.guidance_forms.form import GuidanceForm
from mlx_video.sampling.guidance_forms.limited_steps import GuidanceRange, SkippedGuidance
from mlx_video.sampling.guidance_forms.normalized_attention import NormalizedAttention
from mlx_video.sampling.guidance_forms.projected import ProjectedGuidanceForm
from mlx_video.sampling.guidance_forms.skip_layer import SkipLayers
from mlx_video.sampling.guidance_forms.zero_star import ZeroStar
from mlx_video.sampling.recipe import GuideScale, Preset, Recipe, SamplingChoices
from mlx_video.sampling.recipes.official import OFFICIAL
from mlx_video.sampling.recipes.settle import adopt_recipe
from mlx_video.sampling.recipes.student import read_stated
from mlx_video.sampling.recipes.table import RECIPES, find_recipe, recognise_recipe
from mlx_video.sampling.step_caches.magcache import MagCache
from mlx_video.sampling.step_caches.measured import Measurement
from mlx_video.sampling.step_caches.step_cache import CacheMethod
from mlx_video.sampling.step_caches.table import STEP_CACHES
from mlx_video.variants.distilled import DISTILLED_NAMES, MOST_STEPS
from mlx_video.variants.variant import Variant

# Step cache → option of it → what it sets.
STEP_CACHE_OPTIONS: Mapping[str, Mapping[str, str]] = {
    "magcache": {
        "step_cache_threshold": "error",
        "step_cache_skips": "skips",
        "step_cache_retention": "retention",
        "step_cache_last": "keeps_last",
    },
    "teacache": {
        "step_cache_threshold": "threshold",
        "teacache_mode": "mode",
        "teacache_coefficients": "coefficients",
        "teacache_speedup": "speedup",
    },
    "easycache": {"step_cache_threshold": "threshold", "step_cache_start": "first_steps"},
    "first-block": {"step_cache_threshold": "threshold"},
}
# Texts of an adapter's metadata that name it.
_NAME_KEYS = ("modelspec.title", "ss_output_name", "title", "name")


@dataclass(frozen=True, slots=True)
class ChosenRecipe:
    """The recipe of a run.

    Attributes:
        preset: the recipe.
        defaults: of the model under it.
        notices: what it was told by.
    """

    preset: Preset
    defaults: SamplingDefaults
    notices: tuple[str, ...] = ()


def read_choices(request: GenerateRequest, config: ModelConfig) -> SamplingChoices:
    """What the user asked of sampling.

    Raises:
        RequestError: two guide scales for one transformer, or a boundary.
    """
    if request.boundary is not None and not config.is_dual:
        raise RequestError(
            "boundary", f"{request.boundary}: this model has one transformer. Leave the option out."
        )
    return SamplingChoices(
        recipe=request.recipe,
        solver=request.scheduler,
        spacing=request.noise_levels,
        sigmas=request.sigmas,
        timesteps=request.timesteps,
        steps=request.steps,
        shift=request.shift,
        guide_scale=_read_guide_scale(request, config),
        boundary=request.boundary,
        expert_steps=request.expert_steps,
        warps=None if request.dmd_warp is None else request.dmd_warp == "on",
        step_cache=_read_step_cache(request),
        guidance_forms=tuple(_read_guidance_forms(request, config)),
        strength=request.denoising_strength or 1.0,  # at 0 no step is taken
    )


def with_measured(choices: SamplingChoices, measured: tuple[Measurement, ...]) -> SamplingChoices:
    """Choices whose MagCache knows what was measured on the model."""
    if isinstance(choices.step_cache, MagCache):
        return replace(choices, step_cache=replace(choices.step_cache, measured=measured))
    return choices


def _read_step_cache(request: GenerateRequest) -> CacheMethod | None:
    """The step cache, with those of its settings that the user gives.

    Raises:
        RequestError: one is given that is none of its own.
    """
    own = STEP_CACHE_OPTIONS.get(request.step_cache, {})
    for name in dict.fromkeys(name for names in STEP_CACHE_OPTIONS.values() for name in names):
        if name not in own and getattr(request, name) != options_of(type(request))[name].default:
            raise RequestError(
                name, f"--step-cache {request.step_cache} does not read it. Leave the option out."
            )
    if request.step_cache == "off":
        return None
    given = {setting: getattr(request, name) for name, setting in own.items()}
    return STEP_CACHES[request.step_cache](
        **{setting: value for setting, value in given.items() if value is not None}
    )


def _read_guidance_forms(request: GenerateRequest, config: ModelConfig) -> Iterator[GuidanceForm]:
    """Forms of guidance that the user gives.

    Raises:
        RequestError: a block is to be left out that the model does not have.
    """
    if request.cfg_skip is not None and request.cfg_ratio is not None:
        yield SkippedGuidance(request.cfg_skip, request.cfg_ratio)
    if (request.cfg_start, request.cfg_end) != (0.0, 1.0):
        yield GuidanceRange(request.cfg_start, request.cfg_end)
    if request.cfg_zero_star is not None:
        yield ZeroStar(request.cfg_zero_star)
    if request.apg:
        yield ProjectedGuidanceForm(request.apg_eta, request.apg_momentum, request.apg_norm)
    if request.slg is not None:
        _check_layers(request.slg, config)
        yield SkipLayers(
            frozenset(request.slg),
            request.slg_scale,
            request.slg_start,
            request.slg_end,
            request.slg_mode,
            request.slg_prompt,
        )
    if request.nag is not None:
        yield NormalizedAttention(request.nag, request.nag_tau, request.nag_alpha)


def _check_layers(layers: tuple[int, ...], config: ModelConfig) -> None:
    last = config.transformer.num_layers - 1
    for layer in layers:
        if not 0 <= layer <= last:
            raise RequestError("slg", f"{layer}: this model has the blocks 0 to {last}. Name some of these.")


def _read_guide_scale(request: GenerateRequest, config: ModelConfig) -> GuideScale | None:
    """Guide scales as (low noise, high noise)."""
    asked = request.guide_scale
    if asked is None:
        return None
    low, high = asked if isinstance(asked, tuple) else (asked, asked)
    if low != high and not config.is_dual:
        raise RequestError(
            "guide_scale",
            f"{low},{high}: two scales are for models with two transformers; this one has one. "
            "Give one number.",
        )
    return low, high


def choose_recipe(
    request: GenerateRequest, choices: SamplingChoices, config: ModelConfig, variant: Variant
) -> ChosenRecipe:
    """Choose the recipe: as the user says, else as the model does, else as its adapters do.

    Raises:
        RequestError: the user names an unknown recipe.
        ConfigError: the model does.
        AdapterError: an adapter cannot be read.
    """
    sampling, model_type = config.sampling, config.transformer.model_type
    own = find_recipe(sampling.recipe, where="config.json") if sampling.recipe else None
    notices: tuple[str, ...] = ()
    if choices.recipe is not None:
        preset = find_recipe(choices.recipe)
    elif own is not None and own.is_distilled:
        preset = own
    else:
        preset, notices = _recognise_adapters(request, config, own or OFFICIAL)
    if preset is not own:
        base = variant.sampling if own else sampling  # the model's own are those of its recipe
        values = ("steps", "shift", "guide_scale", "boundary")
        base = replace(sampling, **{name: getattr(base, name) for name in values})
        sampling = adopt_recipe(preset, base, model_type) if preset is not OFFICIAL else base
    low, high = sampling.guide_scale
    scale = (low, high) if config.is_dual else (low, low)
    return ChosenRecipe(preset, replace(sampling, guide_scale=scale), notices)


def _recognise_adapters(
    request: GenerateRequest, config: ModelConfig, usual: Preset
) -> tuple[Preset, tuple[str, ...]]:
    """The recipe of distilled adapters, where every transformer has one of the same; else the usual."""
    model_type = config.transformer.model_type
    fields = [("loras", "loras_high"), ("loras", "loras_low")] if config.is_dual else [("loras",)]
    found: list[tuple[Preset, str]] = []
    for names in fields:
        choices = [choice for name in names for choice in getattr(request, name) if choice.strength]
        own = next(filter(None, (_recognise_adapter(choice, model_type) for choice in choices)), None)
        if own is None:
            return usual, ()
        found.append(own)
    if len({preset.name for preset, _ in found}) > 1:
        return usual, ()
    preset, sign = found[0]
    return preset, (f"{sign}; recipe {preset.name} is taken.",)


def _recognise_adapter(choice: LoraChoice, model_type: str) -> tuple[Preset, str] | None:
    """The recipe of one adapter, and what tells it: its metadata or a name."""
    metadata, label = AdapterFile(choice.path).metadata, Path(choice.named).name
    if preset := read_stated(metadata, RECIPES, model_type, label):
        return preset, f"{label}: its metadata names how it was distilled"
    stated = [metadata[key] for key in _NAME_KEYS if key in metadata]
    preset = recognise_recipe([*_names(choice), *stated])
    return None if preset is None else (preset, f"{label}: the name suggests a distilled adapter")


def _names(choice: LoraChoice) -> list[str]:
    """What an adapter is called: its file and folder, as found and as the user has them."""
    return ["/".join(place.parts[-2:]) for place in (choice.path, Path(choice.named))]


def report_distilled(request: GenerateRequest, recipe: Recipe) -> Iterator[str]:
    """Say so where an adapter seems to be made for few steps without guidance, and the run has others.

    Source: ModelTC/Wan2.2-Lightning README.md, the settings of its examples.
    """
    if recipe.steps <= MOST_STEPS and set(recipe.guide_scale) == {1.0}:
        return
    scale = ",".join(str(scale) for scale in dict.fromkeys(recipe.guide_scale))
    for choice in (choice for field in LORA_FIELDS for choice in getattr(request, field)):
        if choice.strength and any(map(DISTILLED_NAMES.search, _names(choice))):
            yield (
                f"{Path(choice.named).name}: the name suggests a distilled adapter, made for few steps "
                f"without guidance; this run takes {recipe.steps} steps at guide scale "
                f"{scale}. Usual: --steps 4 --guide-scale 1 --shift 5 --scheduler euler."
            )
