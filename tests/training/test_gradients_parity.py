"""Losses, gradients and optimizer steps agree with PyTorch's in float32, for every kind of model.

Tolerances: 1e-5 of the loss, 1e-4 of each parameter's largest gradient, since errors grow on the way through
the blocks and back; 1e-5 of each parameter's largest value after five steps of AdamW.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.training.adapter import Adapter, AdapterPlan, find_layers
from mlx_video.training.gradients import resident_gradients
from mlx_video.training.network import own_weights
from mlx_video.training.optimizers import Descent, Schedule
from mlx_video.training.result import official_path
from mlx_video.training.trainable import Trainable, Values
from mlx_video.weights.rules import apply_rules
from tests.models.networks import relative_error
from tests.parity.golden import fill
from tests.training.examples import KINDS, Kind
from tests.training.torch_losses import Loss, build_loss, numbers

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore:.*CUDA is not available")]

LOSS_TOLERANCE, GRADIENT_TOLERANCE, STEP_TOLERANCE = 1e-5, 1e-4, 1e-5
ROUNDING = 1e-6
"""Of the largest gradient: smaller ones are no more than the rounding of others."""
RANK, ALPHA = 4, 2.0


@pytest.fixture(autouse=True, scope="module")
def _precise_attention():
    """Flash attention's gradients are a tenth as precise among the many alike keys of padding."""
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        yield


@pytest.fixture(params=KINDS, scope="module")
def case(request) -> tuple[Kind, Loss]:
    return KINDS[request.param], build_loss(request.param)


def weights_of(kind: Kind, *, learn: bool) -> dict:
    return {name: torch.tensor(values, requires_grad=learn) for name, values in kind.arrays.items()}


def adapter_of(kind: Kind) -> Adapter:
    layers = find_layers(kind.network, kind.config, ())
    adapter = Adapter(AdapterPlan("lora", RANK, ALPHA, layers), seed=3)
    trainable = adapter.trainable
    ups = [name for name in trainable.names if name.endswith(".up")]
    # Zeros would hide the gradient of the other factor.
    trainable.put(
        {name: mx.array(fill(trainable.value(name).shape, 9000 + n, 0.2)) for n, name in enumerate(ups)}
    )
    return adapter


def adapted(kind: Kind, weights: dict, factors: dict) -> dict:
    """Weights of PyTorch with an adapter's change."""
    changed = dict(weights)
    for path in {name.rpartition(".")[0] for name in factors}:
        name = f"{official_path(path, kind.network)}.weight"
        change = factors[f"{path}.up"] @ factors[f"{path}.down"]
        changed[name] = changed[name] + change * (ALPHA / RANK)
    return changed


def check_gradients(found: Values, expected: dict) -> None:
    assert found.keys() == expected.keys()
    largest = max(float(each.abs().max()) for each in expected.values())
    for name, gradient in found.items():
        # Some are zero but for rounding: a bias of keys shifts all scores alike.
        if float(expected[name].abs().max()) < ROUNDING * largest:
            assert float(mx.abs(gradient).max()) < 1e-5 * largest, name
        else:
            assert relative_error(gradient, expected[name]) <= GRADIENT_TOLERANCE, name


def test_the_loss_and_the_gradients_of_an_adapter_agree(case):
    kind, loss = case
    one, transformer, adapter = kind.example(), kind.build(), adapter_of(kind)
    adapter.attach(transformer)
    value, gradients = resident_gradients(transformer, adapter.trainable)(one)
    factors = {name: numbers(each).requires_grad_() for name, each in adapter.trainable.values().items()}
    expected = loss(adapted(kind, weights_of(kind, learn=False), factors), one)
    expected.backward()
    assert abs(value.item() - expected.item()) <= LOSS_TOLERANCE * expected.item()
    check_gradients(gradients, {name: factor.grad for name, factor in factors.items()})


def test_the_loss_and_the_gradients_of_all_weights_agree(case):
    kind, loss = case
    one, transformer = kind.example(), kind.build()
    trainable = own_weights(transformer, ())
    value, gradients = resident_gradients(transformer, trainable)(one)
    weights = weights_of(kind, learn=True)
    expected = loss(weights, one)
    expected.backward()
    assert abs(value.item() - expected.item()) <= LOSS_TOLERANCE * expected.item()
    check_gradients(gradients, in_our_layout(kind, {name: each.grad for name, each in weights.items()}))


def in_our_layout(kind: Kind, arrays: dict) -> dict:
    """Arrays under our names and in our shapes."""
    found = {}
    for name, values in arrays.items():
        target, transform = apply_rules(name, kind.network.rules)
        if target is not None:
            found[target] = numbers(transform.apply(mx.array(values.detach().numpy())))
    return found


@pytest.mark.parametrize("is_adapter", [True, False], ids=["adapter", "all weights"])
def test_five_steps_of_adamw_agree(is_adapter):
    """But for numbers whose gradient is rounding in some step: Adam makes whole steps of that."""
    kind, loss = KINDS["text to video"], build_loss("text to video")
    transformer, adapter = kind.build(), adapter_of(kind)
    weights, theirs = weights_of(kind, learn=not is_adapter), {}
    if is_adapter:
        adapter.attach(transformer)
        theirs = {name: numbers(each).requires_grad_() for name, each in adapter.trainable.values().items()}
    trainable = adapter.trainable if is_adapter else own_weights(transformer, ())
    ours, learned = descend(trainable, transformer, kind), theirs or weights
    optimizer = torch.optim.AdamW([*learned.values()], lr=1e-4, betas=(0.9, 0.999), weight_decay=0.01)
    least = {name: torch.full_like(each, torch.inf) for name, each in learned.items()}
    for step in range(5):
        optimizer.zero_grad()
        loss(adapted(kind, weights, theirs), kind.example(step)).backward()
        largest = max(float(each.grad.abs().max()) for each in learned.values())
        least = {n: torch.minimum(least[n], each.grad.abs() / largest) for n, each in learned.items()}
        torch.nn.utils.clip_grad_norm_([*learned.values()], 1.0)
        optimizer.step()
    if not is_adapter:
        learned, least = in_our_layout(kind, weights), in_our_layout(kind, least)
    clear = {name: (each > ROUNDING).numpy() for name, each in least.items()}
    sizes = [each.size for each in clear.values()]
    assert sum(each.sum() for each in clear.values()) > 0.97 * sum(sizes)
    for name, expected in learned.items():
        if clear[name].any():
            found, wanted = np.array(ours[name])[clear[name]], expected.detach().numpy()[clear[name]]
            assert relative_error(found, wanted) <= STEP_TOLERANCE, name


def descend(trainable: Trainable, transformer, kind: Kind) -> Values:
    """Five steps of ours."""
    descent = Descent("adamw", 0.01, Schedule("constant", 1e-4, 0, 5), 1.0)
    gradients = resident_gradients(transformer, trainable)
    for step in range(5):
        _, found = gradients(kind.example(step))
        values, norm = descent.take_step(step, trainable.values(), found)
        mx.eval(values, norm, descent.state())
        trainable.put(values)
    return trainable.values()


def test_clipping_agrees():
    arrays = {name: fill((5, 4), salt, 3.0) for salt, name in enumerate("ab", 1)}
    theirs = [torch.zeros(5, 4, requires_grad=True) for _ in arrays]
    for parameter, gradient in zip(theirs, arrays.values(), strict=True):
        parameter.grad = torch.tensor(gradient)
    norm = torch.nn.utils.clip_grad_norm_(theirs, 1.0)
    from mlx_video.training.optimizers import clip_gradients

    clipped, found = clip_gradients({name: mx.array(each) for name, each in arrays.items()}, 1.0)
    assert found.item() == pytest.approx(norm.item(), rel=1e-6)
    for parameter, name in zip(theirs, arrays, strict=True):
        np.testing.assert_allclose(np.array(clipped[name]), parameter.grad.numpy(), rtol=1e-6)
