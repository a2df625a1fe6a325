"""The sampling stage: transformers loaded, guided, swapped and released around the loop."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial

import mlx.core as mx

from mlx_video.conditioning.frames import impose_first_frame
from mlx_video.conditioning.latent_frames import VIDEO_ALONE, LatentFrames
from mlx_video.conditioning.types import Conditioning
from mlx_video.events import Event, Notice, StepFinished, Work, with_events
from mlx_video.models.block_context import (
    CrossAttentionCache,
    Pass,
    PromptTokens,
    Step,
    StepCache,
    attend_plainly,
)
from mlx_video.models.forward import BlockSource
from mlx_video.models.token_layout import TokenLayout
from mlx_video.models.video_transformer import VideoTransformer
from mlx_video.runs.networks import use_transformer
from mlx_video.runs.run import Run
from mlx_video.runs.state.resume import keep_step
from mlx_video.sampling.denoise import Constrain, denoise
from mlx_video.sampling.experts import ExpertRelay, count_high_noise_steps
from mlx_video.sampling.guidance import Branch, Guidance, PromptName, Velocity
from mlx_video.sampling.noise import open_noise
from mlx_video.sampling.recipe import Recipe
from mlx_video.sampling.sampler_state import KeptArrays, SamplerState
from mlx_video.sampling.solvers.table import build_solver
from mlx_video.sampling.start import add_start_noise
from mlx_video.sampling.step_caches.step_cache import CachePlan, PredictionCache


def sample_latents(run: Run, conditioning: Conditioning) -> Work[mx.array]:
    """Walk the noise down to latents [C, T, H, W]."""
    request, recipe, shape = run.request, run.plan.recipe, run.plan.geometry.latent_shape
    assert recipe is not None  # only a run that decodes has none
    yield from describe_experts(run, recipe)
    noise = open_noise(request.noise, request.seed)
    frames = conditioning.frames
    sampled = (shape[0], frames.count(shape[1]), *shape[2:])
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
    with open_velocity(run, recipe, conditioning, memory) as velocity:
        steps = denoise(
            latents,
            recipe.schedule,
            solver,
            velocity,
            start=first_step,
            constrain=keep_first_frame(conditioning),
        )
        del latents
        result = yield from with_events(steps, partial(report_step, run, memory, frames))
    return frames.select_result(result)


def report_step(run: Run, memory: SamplerState, frames: LatentFrames, event: StepFinished) -> Iterator[Event]:
    """A step just taken, and what is kept and told of it; only the frames of the result are shown."""
    yield from keep_step(run, event, memory, frames)
    if frames != VIDEO_ALONE:
        result = frames.select_result(event.latents)
        mx.eval(result)
        event = replace(event, latents=result)
    yield event
    if run.request.debug_latents:
        yield describe_latents(event)


def describe_experts(run: Run, recipe: Recipe) -> Iterator[Notice]:
    """Say which steps each of two experts serves."""
    if recipe.expert_split:
        steps = recipe.schedule.steps
        high = count_high_noise_steps(recipe.schedule, recipe.expert_split)
        yield Notice(
            f"Of {steps} steps the high-noise expert serves {high}, then the low-noise expert "
            f"{steps - high} ({f'boundary {recipe.boundary:g}' if recipe.boundary else 'split by number'})."
        )


def keep_first_frame(conditioning: Conditioning) -> Constrain | None:
    """What is done to the latents after every step; None where noise becomes all of them."""
    first_frame = conditioning.first_frame
    return None if first_frame is None else lambda latents: impose_first_frame(latents, first_frame)


def open_velocity(
    run: Run, recipe: Recipe, conditioning: Conditioning, memory: SamplerState
) -> AbstractContextManager[Velocity]:
    """The velocity function of a run; its transformers are in memory at most while the context is open."""

    def open_expert(name: str) -> AbstractContextManager[Velocity]:
        return open_guided_transformer(run, recipe, conditioning, name, memory)

    if recipe.expert_split is None:
        return open_expert("model")
    return ExpertRelay(open_expert, recipe.expert_split, keep_both=run.request.experts == "parallel")


@contextmanager
def open_guided_transformer(
    run: Run, recipe: Recipe, conditioning: Conditioning, name: str, memory: SamplerState
) -> Iterator[Velocity]:
    """One transformer of the model under guidance, for the length of a `with` block.

    What its step caches and its guidance remember is forgotten with it.
    """
    given_frames = 0 if conditioning.first_frame is None else 1
    layout = conditioning.frames.layout(run.plan.geometry.grid, given_frames)
    own_memory = memory.within(name)
    try:
        with use_transformer(run, name) as (transformer, blocks):
            yield GuidedTransformer(
                transformer,
                recipe.guidance[name],
                conditioning,
                layout,
                memory=own_memory,
                caches=CachesOf(recipe.step_cache, name) if recipe.step_cache else None,
                blocks=blocks,
            )
    finally:
        own_memory.clear()


@dataclass(frozen=True, slots=True)
class CachesOf:
    """The step caches of one transformer."""

    plan: CachePlan
    transformer: str

    def new_cache(self, branch: Branch) -> StepCache | None:
        """The cache of a branch's forwards; None for none."""
        return self.plan.new_cache and self.plan.new_cache(self.transformer, branch)

    def new_prediction_cache(self) -> PredictionCache | None:
        """The cache of predictions; None for none."""
        return self.plan.new_prediction_cache and self.plan.new_prediction_cache(self.transformer)


class GuidedTransformer:
    """The velocity function of one transformer under guidance.

    Args:
        transformer: loaded.
        guidance: asks for predictions and joins them.
        conditioning: of the run.
        layout: of the video's tokens.
        memory: keeps what step caches and guidance remember; None for a memory that ends with this object.
        caches: the step caches of this transformer; None for none.
        blocks: where its blocks are read from; None where all are in memory.
    """

    def __init__(
        self,
        transformer: VideoTransformer,
        guidance: Guidance,
        conditioning: Conditioning,
        layout: TokenLayout,
        *,
        memory: SamplerState | None = None,
        caches: CachesOf | None = None,
        blocks: BlockSource | None = None,
    ) -> None:
        self._transformer = transformer
        self._guidance = guidance
        self._conditioning = conditioning
        self._layout = layout
        self._memory = memory or SamplerState()
        self._caches = caches
        self._blocks = blocks
        self._prompts = project_prompts(transformer, conditioning, guidance.prompts)
        self._passes: dict[str, Pass] = {}
        self._kept = self._memory.add("guidance", KeptArrays())
        predictions = caches.new_prediction_cache() if caches else None
        self._prediction_cache = predictions and self._memory.add("prediction_cache", predictions)

    def __call__(self, latents: mx.array, step: Step) -> mx.array:
        """Predict the velocity [C, T, H, W] of latents [C, T, H, W]; no forward is made without need."""
        branches = self._guidance.branches(step)
        compute = partial(self._predict, latents, step)
        if self._prediction_cache:
            velocities = self._prediction_cache.predict(latents, step, branches, compute)
        else:
            velocities = compute(branches)
        return self._guidance.combine(step, latents, velocities, self._kept)

    def _predict(self, latents: mx.array, step: Step, branches: Sequence[Branch]) -> list[mx.array]:
        """Velocities of some branches."""
        return self._transformer.predict(
            latents,
            step,
            [self._pass_of(branch) for branch in branches],
            concat_latents=self._conditioning.concat_latents,
            layout=self._layout,
            block_source=self._blocks,
        )

    def _pass_of(self, branch: Branch) -> Pass:
        """The pass of a branch, the same in every step: its hooks and its cache remember."""
        if branch.name not in self._passes:
            self._passes[branch.name] = self._build_pass(branch)
        return self._passes[branch.name]

    def _build_pass(self, branch: Branch) -> Pass:
        cache = self._caches.new_cache(branch) if self._caches else None
        if cache:
            self._memory.add(f"cache.{branch.name}", cache)
        one = Pass(
            self._prompts[branch.prompt],
            cache=cache,
            skip_layers=branch.skip_layers,
            attention=branch.make_attention(self._prompts) if branch.make_attention else attend_plainly,
        )
        for add in self._conditioning.add_ons:
            one = add(self._transformer, one)
        return one


def project_prompts(
    transformer: VideoTransformer, conditioning: Conditioning, names: Collection[PromptName]
) -> dict[PromptName, PromptTokens]:
    """Prompts as one transformer sees them; they share the image tokens.

    Raises:
        ValueError: a prompt is asked for that the conditioning does not hold.
    """
    contexts = {"positive": conditioning.context, "negative": conditioning.negative_context}
    image: mx.array | CrossAttentionCache | None = conditioning.image_tokens
    prompts: dict[PromptName, PromptTokens] = {}
    for name in sorted(names, reverse=True):  # the positive one first
        context = contexts[name]
        if context is None:
            raise ValueError(f"guidance asks for the {name} prompt, which was not encoded")
        prompts[name] = transformer.project_text(context, image)
        image = prompts[name].image
    return prompts


def describe_latents(event: StepFinished) -> Notice:
    """Statistics of the latents after a step."""
    values = event.latents
    return Notice(
        f"step {event.index + 1}: timestep {event.timestep:.1f}, latents mean {mx.mean(values).item():+.4f}, "
        f"std {mx.std(values).item():.4f}, range {mx.min(values).item():+.3f} to {mx.max(values).item():+.3f}"
    )
