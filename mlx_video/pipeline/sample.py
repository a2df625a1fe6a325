"""The sampling stage: transformers loaded, guided, swapped and released around the loop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import mlx.core as mx

from mlx_video.conditioning.frames import impose_first_frame, token_timesteps
from mlx_video.conditioning.types import Conditioning
from mlx_video.events import Notice, StepFinished
from mlx_video.geometry import Triple
from mlx_video.memory.residency import resident
from mlx_video.models.transformer import BlockSource, PromptTokens, WanTransformer
from mlx_video.pipeline.components import load_transformer
from mlx_video.pipeline.resume import keep_step
from mlx_video.pipeline.run import Run, Work
from mlx_video.pipeline.streamed_transformer import open_streamed_transformer
from mlx_video.sampling.denoise import Constrain, denoise
from mlx_video.sampling.experts import ExpertRelay, count_high_noise_steps
from mlx_video.sampling.guidance import Velocity, VelocityPair, guided, guided_together
from mlx_video.sampling.noise import draw_noise
from mlx_video.sampling.schedule import Schedule, build_schedule
from mlx_video.sampling.solvers import build_solver


def sample_latents(run: Run, conditioning: Conditioning) -> Work[mx.array]:
    """Walk the noise down to latents [C, T, H, W]."""
    request, plan = run.request, run.plan
    schedule = build_schedule(request.scheduler, plan.steps, plan.shift)
    solver = build_solver(request.scheduler, schedule)
    yield from describe_experts(run, schedule)
    if run.state is None:
        first_step, latents = 0, draw_noise(request.noise, request.seed, plan.geometry.latent_shape)
    else:
        first_step, latents = run.state.next_step, run.state.latents
        solver.restore(run.state.solver)
    with open_velocity(run, conditioning) as velocity:
        constrain = keep_first_frame(conditioning)
        for event in denoise(latents, schedule, solver, velocity, start=first_step, constrain=constrain):
            yield from keep_step(run, event, solver)
            yield event
            if request.debug_latents:
                yield describe_latents(event)
            latents = event.latents
    return latents


def describe_experts(run: Run, schedule: Schedule) -> Iterator[Notice]:
    """Say which steps each of two experts serves."""
    if run.config.is_dual:
        high = count_high_noise_steps(schedule.timesteps, run.plan.boundary)
        yield Notice(
            f"Of {schedule.steps} steps the high-noise expert serves {high}, then the low-noise expert "
            f"{schedule.steps - high} (boundary {run.plan.boundary:g})."
        )


def keep_first_frame(conditioning: Conditioning) -> Constrain | None:
    """What is done to the latents after every step; None where noise becomes all of them."""
    first_frame = conditioning.first_frame
    return None if first_frame is None else lambda latents: impose_first_frame(latents, first_frame)


def open_velocity(run: Run, conditioning: Conditioning) -> AbstractContextManager[Velocity]:
    """The velocity function of a run; its transformers are in memory at most while the context is open."""
    low, high = run.plan.guide_scale
    if not run.config.is_dual:
        return open_transformer(run, conditioning, "model", low)
    scales = {"low_noise": low, "high_noise": high}
    return ExpertRelay(
        lambda name: open_transformer(run, conditioning, name, scales[name]),
        run.plan.boundary,
        keep_both=run.request.experts == "parallel",
    )


@contextmanager
def open_transformer(
    run: Run, conditioning: Conditioning, name: str, guide_scale: float
) -> Iterator[Velocity]:
    """One transformer of the model under guidance, released when the context is left."""
    grid, resident_blocks = run.plan.geometry.grid, run.plan.memory.resident_blocks
    if resident_blocks is None:
        with resident(lambda: load_adapted(run, name)) as transformer:
            yield guide_transformer(transformer, conditioning, guide_scale, grid)
        return
    adapters, mode = run.adapters.get(name), run.request.lora_mode
    with open_streamed_transformer(run.model, run.config, name, resident_blocks, adapters, mode) as streamed:
        transformer, blocks = streamed
        yield guide_transformer(transformer, conditioning, guide_scale, grid, blocks)


def load_adapted(run: Run, name: str) -> WanTransformer:
    """One transformer of the model with the adapters that the run has for it."""
    return load_transformer(run.model, run.config, name, run.adapters.get(name), run.request.lora_mode)


def guide_transformer(
    transformer: WanTransformer,
    conditioning: Conditioning,
    guide_scale: float,
    grid: Triple,
    blocks: BlockSource | None = None,
) -> Velocity:
    """The velocity function of one transformer under guidance.

    Args:
        transformer: loaded.
        conditioning: of the run.
        guide_scale: of this transformer.
        grid: tokens (t, h, w) of the video.
        blocks: where its blocks are read from; None where all are in memory.
    """
    predict = partial(_predict, transformer, conditioning, grid, blocks)
    positive = transformer.project_text(conditioning.context, conditioning.image_tokens)
    if conditioning.negative_context is None or guide_scale == 1.0:
        return guided(predict(positive), None, guide_scale)
    negative = transformer.project_text(conditioning.negative_context, positive.image)
    if blocks is None:
        return guided(predict(positive), predict(negative), guide_scale)
    both = _predict_both(transformer, conditioning, grid, blocks, (positive, negative))
    return guided_together(both, guide_scale)


def _predict(
    transformer: WanTransformer,
    conditioning: Conditioning,
    grid: Triple,
    blocks: BlockSource | None,
    prompt: PromptTokens,
) -> Velocity:
    def velocity(latents: mx.array, step: int, timestep: float) -> mx.array:
        return transformer(
            latents,
            _timesteps(conditioning, timestep, grid),
            prompt,
            concat_latents=conditioning.concat_latents,
            block_source=blocks,
        )

    return velocity


def _predict_both(
    transformer: WanTransformer,
    conditioning: Conditioning,
    grid: Triple,
    blocks: BlockSource,
    prompts: tuple[PromptTokens, PromptTokens],
) -> VelocityPair:
    def velocities(latents: mx.array, step: int, timestep: float) -> tuple[mx.array, mx.array]:
        positive, negative = transformer.predict_each(
            latents,
            _timesteps(conditioning, timestep, grid),
            prompts,
            concat_latents=conditioning.concat_latents,
            block_source=blocks,
        )
        return positive, negative

    return velocities


def _timesteps(conditioning: Conditioning, timestep: float, grid: Triple) -> float | mx.array:
    """One timestep, or one for each token where the first frame is given."""
    return timestep if conditioning.first_frame is None else token_timesteps(timestep, grid)


def describe_latents(event: StepFinished) -> Notice:
    """Statistics of the latents after a step."""
    values = event.latents
    return Notice(
        f"step {event.index + 1}: timestep {event.timestep:.1f}, latents mean {mx.mean(values).item():+.4f}, "
        f"std {mx.std(values).item():.4f}, range {mx.min(values).item():+.3f} to {mx.max(values).item():+.3f}"
    )
