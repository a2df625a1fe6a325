"""Losses and gradients of direct distillation agree with PyTorch's in float32.

PyTorch walks with the official transformer, Diffusers' or one written out: by a loop written out, and by
DiffSynth-Studio's own loss. Tolerances as for one step, in `test_gradients_parity`: 1e-5 of the loss, 1e-4 of
each parameter's largest gradient.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mlx_video.models.block_context import Step
from mlx_video.training.distillation import Walk, WalkDrawing
from mlx_video.training.gradients import resident_gradients
from tests.parity.diffsynth_models import load_losses
from tests.training.examples import KINDS, SEED, SIZES, Kind, OneExample
from tests.training.test_gradients_parity import (
    LOSS_TOLERANCE,
    _precise_attention,  # noqa: F401  # a fixture
    adapted,
    adapter_of,
    check_gradients,
    weights_of,
)
from tests.training.torch_losses import build_velocity, numbers

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore:.*CUDA is not available")]

SHIFT = 3.0


def walk_of(kind: Kind, steps: int) -> Walk:
    (walk,) = WalkDrawing(steps, SHIFT).draw_batch(OneExample(kind), 0)
    if kind.level < 0.01:
        # Diffusers computes the sinusoid in float32, which is exact to 6e-8 only at early timesteps.
        walk = Walk(walk.name, walk.noise, walk.target, near_the_end(walk.steps), walk.conditioning)
    return walk


def near_the_end(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """The same steps at a thousandth of the noise."""
    return tuple(
        Step(step.index, step.count, step.timestep / 1000, step.sigma / 1000, step.next_sigma / 1000)
        for step in steps
    )


def loss_of(name: str, walk: Walk, weights: dict):
    """The loss by PyTorch, from the seed on."""
    kind, velocity = KINDS[name], build_velocity(name)
    scale = 1000 if kind.level < 0.01 else 1
    generator = torch.Generator("cpu").manual_seed(SEED)
    latents = torch.randn((1, kind.config.out_dim, *SIZES), generator=generator)[0]
    given = walk.conditioning.num_first_frames
    held = numbers(walk.conditioning.first_frames) if given else latents[:, :0]
    latents = torch.cat([held, latents[:, given:]], 1)
    sigmas = torch.linspace(1.0, 0.0, len(walk.steps) + 1)[:-1]
    sigmas = SHIFT * sigmas / (1 + (SHIFT - 1) * sigmas)
    for index, sigma in enumerate(sigmas):
        following = sigmas[index + 1] if index + 1 < len(sigmas) else 0
        asked = SimpleNamespace(
            noisy=latents, timestep=float(sigma) * 1000 / scale, conditioning=walk.conditioning
        )
        latents = latents + velocity(weights, asked) * (following - sigma) / scale
        latents = torch.cat([held, latents[:, given:]], 1)
    return torch.nn.functional.mse_loss(latents[:, given:], numbers(walk.target)[:, given:])


@pytest.mark.sample(4)
@pytest.mark.parametrize("name", KINDS)
def test_the_loss_and_the_gradients_of_an_adapter_agree(name: str):
    kind = KINDS[name]
    transformer, adapter, walk = kind.build(), adapter_of(kind), walk_of(kind, 2)
    adapter.attach(transformer)
    value, gradients = resident_gradients(transformer, adapter.trainable)(walk)
    factors = {key: numbers(each).requires_grad_() for key, each in adapter.trainable.values().items()}
    expected = loss_of(name, walk, adapted(kind, weights_of(kind, learn=False), factors))
    expected.backward()
    assert abs(value.item() - expected.item()) <= LOSS_TOLERANCE * expected.item()
    check_gradients(gradients, {key: factor.grad for key, factor in factors.items()})


class Pipeline:
    """As much of DiffSynth-Studio's pipeline as its loss asks for."""

    in_iteration_models = ()
    torch_dtype, device = torch.float32, "cpu"

    def __init__(self, scheduler, model_fn) -> None:
        self.scheduler, self.model_fn = scheduler, model_fn

    def step(self, scheduler, latents, progress_id, noise_pred, **_):
        return scheduler.step(noise_pred, scheduler.timesteps[progress_id], latents)


@pytest.mark.parametrize("steps", [1, 4])
def test_diffsynth_studios_own_loss_agrees(steps: int):
    losses, flow_match = load_losses()
    kind = KINDS["text to video"]
    transformer, adapter, velocity = kind.build(), adapter_of(kind), build_velocity("text to video")
    (walk,) = WalkDrawing(steps, 5.0).draw_batch(OneExample(kind), 0)  # the shift of its scheduler
    adapter.attach(transformer)
    value, gradients = resident_gradients(transformer, adapter.trainable)(walk)
    factors = {key: numbers(each).requires_grad_() for key, each in adapter.trainable.values().items()}
    weights = adapted(kind, weights_of(kind, learn=False), factors)

    def predict(latents, timestep, **_):
        asked = SimpleNamespace(noisy=latents, timestep=timestep.item(), conditioning=walk.conditioning)
        return velocity(weights, asked)

    expected = losses.DirectDistillLoss(
        Pipeline(flow_match.FlowMatchScheduler("Wan"), predict),
        latents=torch.randn(walk.noise.shape, generator=torch.Generator("cpu").manual_seed(SEED)),
        input_latents=numbers(walk.target),
        num_inference_steps=steps,
    )
    expected.backward()
    assert abs(value.item() - expected.item()) <= LOSS_TOLERANCE * expected.item()
    check_gradients(gradients, {key: factor.grad for key, factor in factors.items()})
