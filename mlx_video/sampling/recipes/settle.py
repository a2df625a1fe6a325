"""A recipe, a model and the user's choices become the sampling of one run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from mlx_video.config import SamplingDefaults
from mlx_video.errors import RequestError
from mlx_video.sampling.experts import (
    ExpertSplit,
    count_high_noise_steps,
    split_at_boundary,
    split_at_step,
)
from mlx_video.sampling.guidance import ClassifierFreeGuidance, Guidance
from mlx_video.sampling.guidance_forms.form import GuidanceForm, wrap_guidance
from mlx_video.sampling.noise_levels.listed import (
    last_part,
    looked_up,
    schedule_of_sigmas,
    schedule_of_timesteps,
    warped,
)
from mlx_video.sampling.noise_levels.table import OFFICIAL, space_levels
from mlx_video.sampling.recipe import GuideScale, ModelSampling, Preset, Recipe, SamplingChoices, TrainedSteps
from mlx_video.sampling.schedule import Schedule, check_settings, schedule_of
from mlx_video.sampling.solvers.table import adapt_schedule
from mlx_video.sampling.step_caches.step_cache import CacheFacts, CacheMethod


def adopt_recipe(preset: Preset, sampling: SamplingDefaults, model_type: str) -> SamplingDefaults:
    """The defaults of a model that takes this recipe.

    Args:
        preset: the recipe.
        sampling: defaults of the base model.
        model_type: the official code's task name.
    """
    width, height, num_frames = preset.sizes.get(
        model_type, (sampling.width, sampling.height, sampling.num_frames)
    )
    scale = preset.guide_scale
    return replace(
        sampling,
        recipe=preset.name,
        steps=preset.steps or sampling.steps,
        guide_scale=sampling.guide_scale if scale is None else (scale, scale),
        shift=preset.shifts.get(model_type, sampling.shift),
        fps=preset.fps or sampling.fps,
        width=width,
        height=height,
        num_frames=num_frames,
    )


def settle_recipe(preset: Preset, choices: SamplingChoices, model: ModelSampling) -> Recipe:
    """Settle everything of sampling: the user's choices first, then the model's defaults under the recipe.

    Args:
        preset: the recipe.
        choices: of the user.
        model: its defaults are those under this recipe, see :func:`adopt_recipe`.

    Raises:
        RequestError: choices are out of range, exclude each other, or do not fit the recipe or the model.
    """
    _refuse_contradictions(choices)
    solver = choices.solver or preset.solver
    shift = choices.shift or model.defaults.shift
    base = _build_schedule(preset, choices, model, solver, shift)
    schedule = adapt_schedule(solver, base, shift)
    scale = choices.guide_scale or model.defaults.guide_scale
    whole = base
    if choices.strength != 1:
        whole = _build_schedule(preset, replace(choices, strength=1.0), model, solver, shift)
    split, boundary = _split_experts(preset, choices, model, whole, base, schedule)
    scales = dict(zip(("low_noise", "high_noise"), scale, strict=True))
    guidance = {
        name: _guide(preset, choices, model, one, name, schedule.steps)
        for name, one in (scales if model.is_dual else {"model": scale[0]}).items()
    }
    recipe = Recipe(
        schedule,
        solver,
        MappingProxyType(guidance),
        base.steps,
        shift,
        scale,
        split,
        boundary,
        settings=MappingProxyType(_record(preset, choices)),
    )
    recipe = replace(recipe, notices=tuple(_report(preset, choices, recipe)))
    return recipe if choices.step_cache is None else _add_step_cache(recipe, choices.step_cache, model)


def _guide(
    preset: Preset, choices: SamplingChoices, model: ModelSampling, scale: float, transformer: str, steps: int
) -> Guidance:
    """The guidance of one transformer.

    Raises:
        RequestError: the user asks for a form of it that the recipe's own does not take.
    """
    if preset.guide is None:
        return wrap_guidance(ClassifierFreeGuidance(scale), _join_forms(preset, choices), steps)
    if choices.guidance_forms:
        raise RequestError(
            "recipe",
            f"{preset.name}: its own guidance does not go with {choices.guidance_forms[0].setting}. Leave "
            "one of the two out; --recipe official takes plain guidance.",
        )
    return preset.guide(model, scale, transformer)


def _join_forms(preset: Preset, choices: SamplingChoices) -> tuple[GuidanceForm, ...]:
    """Forms of guidance that the user gives, and those of the recipe that are of other kinds."""
    given = {type(form) for form in choices.guidance_forms}
    return (*(form for form in preset.guidance_forms if type(form) not in given), *choices.guidance_forms)


def _add_step_cache(recipe: Recipe, method: CacheMethod, model: ModelSampling) -> Recipe:
    facts = CacheFacts(
        variant=model.variant,
        schedule=recipe.schedule,
        guidance=recipe.guidance,
        expert_split=recipe.expert_split,
        has_two_velocities=recipe.schedule.steps != recipe.steps,
        has_image=model.has_image,
        pixels=model.pixels,
    )
    plan = method.settle(facts)
    return replace(
        recipe,
        step_cache=plan,
        settings=MappingProxyType({**recipe.settings, "step_cache": plan.setting}),
        notices=(*recipe.notices, *plan.notices),
    )


def _refuse_contradictions(choices: SamplingChoices) -> None:
    levels = {"sigmas": choices.sigmas, "timesteps": choices.timesteps, "noise_levels": choices.spacing}
    given = [name for name, value in levels.items() if value is not None]
    if len(given) > 1:
        raise RequestError(given[1], f"beside {given[0]}: both say where the noise levels lie. Give one.")
    listed = choices.sigmas or choices.timesteps
    if listed and choices.steps is not None and choices.steps != np.count_nonzero(listed):
        raise RequestError(
            "steps",
            f"{choices.steps}: {given[0]} lists {np.count_nonzero(listed)} steps. Leave --steps out.",
        )


def _build_schedule(
    preset: Preset, choices: SamplingChoices, model: ModelSampling, solver: str, shift: float
) -> Schedule:
    """The noise levels of the steps, whatever the solver makes of them."""
    trained = _find_trained_steps(preset, choices, model)
    listed = _list_levels(trained, choices)
    if listed is not None:
        return last_part(listed, choices.strength)
    steps = choices.steps or model.defaults.steps
    if preset.levels and choices.spacing is None:
        check_settings(steps, shift, choices.strength)
        own = preset.levels(model, int(steps / choices.strength), shift)
        return schedule_of(own if choices.strength == 1 else own[-steps:], shift=shift)
    return space_levels(choices.spacing or OFFICIAL, solver, steps, shift, choices.strength)


def _list_levels(trained: TrainedSteps | None, choices: SamplingChoices) -> Schedule | None:
    """The noise levels that the user or the recipe lists one by one; None where they are spaced."""
    if choices.sigmas is not None:
        return schedule_of_sigmas(choices.sigmas)
    if choices.timesteps is not None:
        return schedule_of_timesteps(choices.timesteps)
    if trained is None:
        return None
    if trained.warps if choices.warps is None else choices.warps:
        return warped(trained.timesteps, choices.shift or trained.warp_shift)
    if trained.shift is None:
        return schedule_of_timesteps(trained.timesteps)
    return looked_up(trained.timesteps, trained.shift)


def _find_trained_steps(
    preset: Preset, choices: SamplingChoices, model: ModelSampling
) -> TrainedSteps | None:
    """The recipe's list of steps, unless there is none or another number or spacing takes its place."""
    if choices.sigmas is not None or choices.timesteps is not None:
        return None
    trained = preset.trained_steps and preset.trained_steps(model)
    if trained and choices.spacing is None and choices.steps in (None, len(trained.timesteps)):
        return trained
    if choices.warps is not None:
        raise RequestError("dmd_warp", "this run takes no list of trained steps. Leave the option out.")
    return None


def _split_experts(
    preset: Preset,
    choices: SamplingChoices,
    model: ModelSampling,
    whole: Schedule,
    base: Schedule,
    schedule: Schedule,
) -> tuple[ExpertSplit | None, float]:
    """Which expert serves which step, and the noise level that decides it; 0 where a number does.

    Args:
        preset: the recipe.
        choices: of the user.
        model: of the run.
        whole: schedule of a run that begins with noise alone.
        base: schedule of this run.
        schedule: the same as the solver takes it.
    """
    number = choices.expert_steps
    if not model.is_dual:
        if number is not None:
            raise RequestError(
                "expert_steps", f"{number}: this model has one transformer. Leave the option out."
            )
        return None, 0.0
    if number is not None and choices.boundary is not None:
        raise RequestError("expert_steps", "beside --boundary: both split the experts. Give one.")
    if number is None and preset.splits_in_half and choices.boundary is None:
        number = int(np.count_nonzero(base.sigmas[:-1] > whole.sigmas[whole.steps // 2]))
    if number is None:
        boundary = model.defaults.boundary if choices.boundary is None else choices.boundary
        return split_at_boundary(boundary), boundary
    if not 0 <= number <= base.steps:
        raise RequestError("expert_steps", f"{number}: must be between 0 and {base.steps}, the run's steps.")
    return split_at_step(_find_velocity(base, schedule, number)), 0.0


def _find_velocity(base: Schedule, schedule: Schedule, step: int) -> int:
    """The entry of a solver's schedule at which a step begins: the last at its noise level."""
    is_there = schedule.sigmas == base.sigmas[step]
    return int(np.flatnonzero(is_there)[-1]) if step else 0


def _record(preset: Preset, choices: SamplingChoices) -> dict[str, str]:
    """The settings that no other part of a run's record tells, each only where it is not the usual one."""
    listed = {"sigmas": choices.sigmas, "timesteps": choices.timesteps}
    settings = {
        "recipe": None if preset.name == OFFICIAL else preset.name,
        "noise_levels": choices.spacing,
        "expert_steps": choices.expert_steps,
        "dmd_warp": None if choices.warps is None else ("on" if choices.warps else "off"),
        **{name: values and ",".join(map(str, values)) for name, values in listed.items()},
    }
    return {name: str(value) for name, value in settings.items() if value is not None}


def _report(preset: Preset, choices: SamplingChoices, recipe: Recipe) -> Iterator[str]:
    """What the recipe sets, what the user sets in its place, and what does not go together."""
    if preset.is_distilled:
        yield (
            f"Recipe {preset.name}: {recipe.steps} steps by {recipe.solver}, at guide scale "
            f"{_write_scale(recipe.guide_scale)}."
        )
        yield from _report_choices(preset, choices)
    if preset.is_distilled and set(recipe.guide_scale) != {1.0}:
        yield (
            f"Guide scale {_write_scale(recipe.guide_scale)} on a distilled model: it learned to do without, "
            "so the video blurs and each step takes twice as long. Leave --guide-scale out."
        )
    yield from _report_forms(choices, recipe)
    if recipe.expert_split:
        high = count_high_noise_steps(recipe.schedule, recipe.expert_split)
        if high in (0, recipe.schedule.steps):
            idle = "low" if high else "high"
            cure = "another --expert-steps or --boundary"
            if choices.strength != 1:
                cure = f"a --denoising-strength above {choices.strength:g}, or {cure}"
            yield (
                f"The {idle}-noise expert serves no step, so neither it nor its adapters count. "
                f"Choose {cure}."
            )


def _report_forms(choices: SamplingChoices, recipe: Recipe) -> Iterator[str]:
    """What forms of guidance do, or that they have nothing to act on."""
    count, scales = recipe.schedule.steps, map(ClassifierFreeGuidance, recipe.guide_scale)
    plain = [*scales]
    for form in choices.guidance_forms:
        if all(form.wrap(one, count) is one for one in plain):
            yield f"{form.setting}: has no effect in a run without guidance, at guide scale 1."
        elif text := form.describe(count):
            yield text


def _report_choices(preset: Preset, choices: SamplingChoices) -> Iterator[str]:
    scale = preset.guide_scale
    pairs = (
        ("--scheduler", choices.solver, preset.solver),
        ("--steps", choices.steps, preset.steps),
        ("--guide-scale", choices.guide_scale, None if scale is None else (scale, scale)),
    )
    for option, chosen, usual in pairs:
        if chosen is not None and usual is not None and chosen != usual:
            texts = [_write_scale(value) if isinstance(value, tuple) else value for value in (chosen, usual)]
            yield "{} {} takes the place of the recipe's {}.".format(option, *texts)


def _write_scale(scale: GuideScale) -> str:
    return ",".join(f"{value:g}" for value in dict.fromkeys(scale))
