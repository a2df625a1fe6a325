"""The sampling stage: transformers loaded, guided, swapped and released around the loop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import mlx.core as mx

from mlx_video.conditioning.frames import impose_first_frame, token_timesteps
from mlx_video.conditioning.types import Conditioning
from mlx_video.events import Notice, StepFinished
from mlx_video.geometry import Triple
from mlx_video.memory.residency import resident
from mlx_video.models.transformer import PromptTokens, WanTransformer
from mlx_video.pipeline.components import load_transformer
from mlx_video.pipeline.run import Run, Work
from mlx_video.sampling.denoise import Constrain, denoise
from mlx_video.sampling.experts import ExpertRelay, count_high_noise_steps
from mlx_video.sampling.guidance import Velocity, guided
from mlx_video.sampling.noise import draw_noise
from mlx_video.sampling.schedule import Schedule, build_schedule
from mlx_video.sampling.solvers import build_solver


def sample_latents(run: Run, conditioning: Conditioning) -> Work[mx.array]:
    """Walk the noise down to latents [C, T, H, W]."""
    request, plan = run.request, run.plan
    noise = draw_noise(request.noise, request.seed, plan.geometry.latent_shape)
    schedule = build_schedule(request.scheduler, plan.steps, plan.shift)
    solver = build_solver(request.scheduler, schedule)
    yield from describe_experts(run, schedule)
    latents = noise
    with open_velocity(run, conditioning) as velocity:
        for event in denoise(noise, schedule, solver, velocity, constrain=keep_first_frame(conditioning)):
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
    with resident(lambda: load_transformer(run.model, run.config, name)) as transformer:
        yield guide_transformer(transformer, conditioning, guide_scale, run.plan.geometry.grid)


def guide_transformer(
    transformer: WanTransformer, conditioning: Conditioning, guide_scale: float, grid: Triple
) -> Velocity:
    """The velocity function of one transformer under guidance.

    Args:
        transformer: loaded.
        conditioning: of the run.
        guide_scale: of this transformer.
        grid: tokens (t, h, w) of the video.
    """
    positive = transformer.project_text(conditioning.context, conditioning.image_tokens)
    if conditioning.negative_context is None:
        return guided(_predict(transformer, conditioning, positive, grid), None, guide_scale)
    negative = transformer.project_text(conditioning.negative_context, positive.image)
    return guided(
        _predict(transformer, conditioning, positive, grid),
        _predict(transformer, conditioning, negative, grid),
        guide_scale,
    )


def _predict(
    transformer: WanTransformer, conditioning: Conditioning, prompt: PromptTokens, grid: Triple
) -> Velocity:
    holds_first_frame = conditioning.first_frame is not None

    def velocity(latents: mx.array, step: int, timestep: float) -> mx.array:
        return transformer(
            latents,
            token_timesteps(timestep, grid) if holds_first_frame else timestep,
            prompt,
            concat_latents=conditioning.concat_latents,
        )

    return velocity


def describe_latents(event: StepFinished) -> Notice:
    """Statistics of the latents after a step."""
    values = event.latents
    return Notice(
        f"step {event.index + 1}: timestep {event.timestep:.1f}, latents mean {mx.mean(values).item():+.4f}, "
        f"std {mx.std(values).item():.4f}, range {mx.min(values).item():+.3f} to {mx.max(values).item():+.3f}"
    )
