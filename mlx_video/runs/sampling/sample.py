"""The sampling stage: transformers loaded, guided, swapped and released around the loop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial

import mlx.core as mx

from mlx_video.conditioning.frames import impose_first_frames
from mlx_video.conditioning.latent_frames import VIDEO_ALONE, LatentFrames
from mlx_video.conditioning.types import Conditioning
from mlx_video.events import Event, Notice, StepFinished, Work, with_events
from mlx_video.latents.colours import LatentColours
from mlx_video.lora.adapter_set import AdapterSet
from mlx_video.models.block_context import Step
from mlx_video.models.forward import BlockSource, ResidentBlocks
from mlx_video.runs.networks import use_transformer
from mlx_video.runs.run import Run
from mlx_video.runs.sampling.guided_transformer import CachesOf, GuidedTransformer
from mlx_video.runs.sampling.previews import Previews, open_previews
from mlx_video.runs.sharing import WHOLE, SharedSteps, StepPart
from mlx_video.runs.state.resume import keep_step
from mlx_video.sampling.denoise import Constrain, denoise
from mlx_video.sampling.experts import ExpertRelay, count_high_noise_steps
from mlx_video.sampling.guidance import Velocity
from mlx_video.sampling.noise import open_noise
from mlx_video.sampling.recipe import Recipe
from mlx_video.sampling.sampler_state import SamplerState
from mlx_video.sampling.solvers.table import build_solver
from mlx_video.sampling.start import add_start_noise


def sample_latents(
    run: Run, conditioning: Conditioning, colours: LatentColours | None = None
) -> Work[mx.array]:
    """Walk the noise down to latents [C, T, H, W].

    Args:
        run: what is being made.
        conditioning: of the transformer.
        colours: of the latents, for previews; None where there are none, or a decoder makes them.
    """
    request, recipe, shape = run.request, run.plan.recipe, run.plan.geometry.latent_shape
    assert recipe is not None  # only a run that decodes has none
    yield from describe_experts(run, recipe)
    noise = open_noise(request.noise, request.seed)
    frames = conditioning.frames
    sampled = (shape[0], frames.count(shape[1]), *shape[2:])
    if (way := run.variant.continuation) and way.noise_goes_on:
        for _ in range(run.part.number):
            noise.draw(sampled)
    solver = build_solver(recipe.solver, recipe.schedule, partial(noise.draw, sampled))
    if run.state:
        first_step, latents = run.state.next_step, run.state.latents
    else:
        first_step, latents = 0, frames.draw_noise(noise, shape)
        if conditioning.start_latents is not None:
            sigma = float(recipe.schedule.sigmas[0])
            latents = add_start_noise(conditioning.start_latents, latents, sigma)
    memory = SamplerState(run.state.sampler if run.state else None)
    memory.add("solver", solver)
    memory.add("noise", noise)
    with (
        open_previews(run, colours) as previews,
        shared_steps(run, conditioning) as shared,
        open_velocity(run, recipe, conditioning, memory, shared) as velocity,
    ):
        steps = denoise(
            latents,
            recipe.schedule,
            solver,
            velocity,
            start=first_step,
            constrain=keep_first_frames(conditioning),
            estimates_clean=previews.is_due,
        )
        del latents
        result = yield from with_events(steps, partial(report_step, run, memory, frames, previews))
    return frames.select_result(result)


def with_strengths(velocity: GuidedTransformer, adapters: AdapterSet | None) -> Velocity:
    """A velocity whose adapters have the strength of each step, in what they make of the text too."""
    if adapters is None or not adapters.varies:
        return velocity

    def predict(latents: mx.array, step: Step) -> mx.array:
        adapters.go_to_step(step.index, step.count)
        velocity.renew()
        return velocity(latents, step)

    return predict


def report_step(
    run: Run, memory: SamplerState, frames: LatentFrames, previews: Previews, event: StepFinished
) -> Iterator[Event]:
    """A step just taken, and what is kept and told of it; only the frames of the result are shown."""
    yield from keep_step(run, event, memory, frames)
    clean = event.clean
    event = replace(event, clean=None)
    if frames != VIDEO_ALONE:
        result = frames.select_result(event.latents)
        mx.eval(result)
        event = replace(event, latents=result)
    yield event
    if run.request.debug_latents:
        yield describe_latents(event)
    if clean is not None:
        yield from previews.report(event.index, frames.select_result(clean))


def describe_experts(run: Run, recipe: Recipe) -> Iterator[Notice]:
    """Say which steps each of two experts serves."""
    if recipe.expert_split:
        steps = recipe.schedule.steps
        high = count_high_noise_steps(recipe.schedule, recipe.expert_split)
        yield Notice(
            f"Of {steps} steps the high-noise expert serves {high}, then the low-noise expert "
            f"{steps - high} ({f'boundary {recipe.boundary:g}' if recipe.boundary else 'split by number'})."
        )


def keep_first_frames(conditioning: Conditioning) -> Constrain | None:
    """What is done to the latents after every step; None where noise becomes all of them."""
    first_frames = conditioning.first_frames
    return None if first_frames is None else lambda latents: impose_first_frames(latents, first_frames)


def shared_steps(run: Run, conditioning: Conditioning) -> AbstractContextManager[SharedSteps | None]:
    """What other machines take part in while the context is open; None where there are none."""
    return nullcontext() if run.sharing is None else run.sharing.begin(run, conditioning)


def open_velocity(
    run: Run,
    recipe: Recipe,
    conditioning: Conditioning,
    memory: SamplerState,
    shared: SharedSteps | None = None,
) -> AbstractContextManager[Velocity]:
    """The velocity function of a run; its transformers are in memory at most while the context is open."""

    @contextmanager
    def open_expert(name: str) -> Iterator[Velocity]:
        own = memory.within(name)
        with (
            nullcontext(WHOLE) if shared is None else shared.open(name, recipe.guidance[name], own) as part,
            open_guided_transformer(run, recipe, conditioning, name, memory, part) as velocity,
        ):
            yield with_strengths(velocity, run.adapters.get(name))

    if recipe.expert_split is None:
        return open_expert("model")
    return ExpertRelay(open_expert, recipe.expert_split, keep_both=run.request.experts == "parallel")


@contextmanager
def open_guided_transformer(
    run: Run,
    recipe: Recipe,
    conditioning: Conditioning,
    name: str,
    memory: SamplerState,
    part: StepPart = WHOLE,
) -> Iterator[GuidedTransformer]:
    """One transformer of the model under guidance, for the length of a `with` block.

    What its step caches and its guidance remember is forgotten with it.

    Args:
        run, recipe, conditioning: of what is made.
        name: of the transformer.
        memory: of the sampler.
        part: what of the predictions this process computes.
    """
    layout = conditioning.frames.layout(run.plan.geometry.grid, conditioning.num_first_frames)
    own_memory = memory.within(name)
    try:
        with use_transformer(run, name) as (transformer, streamed):
            blocks: BlockSource | None = streamed
            if run.profile:
                blocks = run.profile.watch(blocks or ResidentBlocks(transformer))
            yield GuidedTransformer(
                transformer,
                recipe.guidance[name],
                conditioning,
                layout,
                memory=own_memory,
                caches=CachesOf(recipe.step_cache, name) if recipe.step_cache else None,
                blocks=blocks,
                windows=run.plan.windows,
                windows_at_once=run.plan.memory.windows_at_once,
                part=part,
            )
    finally:
        own_memory.clear()


def describe_latents(event: StepFinished) -> Notice:
    """Statistics of the latents after a step."""
    values = event.latents
    return Notice(
        f"step {event.index + 1}: timestep {event.timestep:.1f}, latents mean {mx.mean(values).item():+.4f}, "
        f"std {mx.std(values).item():.4f}, range {mx.min(values).item():+.3f} to {mx.max(values).item():+.3f}"
    )
