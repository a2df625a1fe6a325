import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_video.sampling.schedule import build_schedule
from mlx_video.sampling.solvers.table import build_solver

SOLVERS = ["unipc", "dpm++", "euler"]

# From 1.0 under v = 0.7·x - 0.3 + 0.05·step, recorded from the official schedulers (Euler: from its formula).
SCALAR_RUNS = [
    ("unipc", 4, 5, [0.9749863, 0.9287505, 0.8324552, 0.5621413]),
    ("unipc", 6, 12, [0.9934372, 0.9824646, 0.963406, 0.9274334, 0.8419052, 0.4613336]),
    ("dpm++", 4, 5, [0.975, 0.929948, 0.834074, 0.5629166]),
    ("dpm++", 6, 12, [0.9934427, 0.982928, 0.9643123, 0.9284557, 0.8426405, 0.4615711]),
    ("euler", 4, 5, [0.975, 0.9299479, 0.8359972, 0.5639985]),
    ("euler", 6, 12, [0.9934427, 0.982928, 0.9649078, 0.9302637, 0.8468913, 0.4637215]),
]
CORRECTED = {
    (4, 5): [0.9740339, 0.9280596, 0.8351795],
    (6, 12): [0.9930708, 0.9820089, 0.9632673, 0.9277061, 0.8444408],
}


def velocity(latents: mx.array, step: int) -> mx.array:
    return 0.7 * latents - 0.3 + 0.05 * step


def run(solver, latents, first, last):
    """The latents after each step from `first` up to `last`."""
    after = []
    for index in range(first, last):
        latents = solver.step(index, velocity(latents, index), latents)
        after.append(latents)
    return after


@pytest.mark.parametrize(("name", "steps", "shift", "expected"), SCALAR_RUNS)
def test_a_scalar_run_gives_the_recorded_values(name, steps, shift, expected):
    solver = build_solver(name, build_schedule(name, steps, shift))
    values = [latents.item() for latents in run(solver, mx.array(1.0), 0, steps)]
    # Seven digits are recorded; float32 of values below one adds 6e-8 a step.
    np.testing.assert_allclose(values, expected, rtol=0, atol=3e-7)


@pytest.mark.parametrize(("steps", "shift"), CORRECTED)
def test_unipc_corrects_the_start_of_each_step_but_first_and_last(steps, shift):
    solver = build_solver("unipc", build_schedule("unipc", steps, shift))
    latents, starts = mx.array(1.0), []
    for index in range(steps - 1):
        latents = solver.step(index, velocity(latents, index), latents)
        starts.append(solver.state()["start"].item())
    # The last step's correction does not reach the result, so it is not made; see the scalar runs for that.
    np.testing.assert_allclose(starts, [1.0, *CORRECTED[steps, shift][:-1]], rtol=0, atol=3e-7)


@settings(deadline=None, max_examples=25)
@given(name=st.sampled_from(SOLVERS), shift=st.floats(0.1, 100), seed=st.integers(0, 99))
def test_a_single_step_subtracts_the_velocity_at_full_noise(name, shift, seed):
    schedule = build_schedule(name, 1, shift)
    latents, direction = mx.random.normal((2, 3, 4, 5, 6), key=mx.random.key(seed))
    result = build_solver(name, schedule).step(0, direction, latents)
    expected = latents - schedule.sigmas[0].item() * direction
    # Equal up to how x - s·v is rounded: fused or in two operations.
    np.testing.assert_allclose(np.array(result), np.array(expected), rtol=0, atol=5e-7)


@settings(deadline=None, max_examples=25)
@given(name=st.sampled_from(SOLVERS), steps=st.integers(1, 60), shift=st.floats(0.5, 20))
def test_a_velocity_that_points_at_one_place_leads_there(name, steps, shift):
    """On the exact flow towards one clean video every solver is exact, whatever its order."""
    schedule = build_schedule(name, steps, shift)
    clean, noise = mx.random.normal((2, 16), key=mx.random.key(7))
    first = schedule.sigmas[0].item()
    latents = (1 - first) * clean + first * noise
    solver = build_solver(name, schedule)
    for index, sigma in enumerate(schedule.sigmas[:-1].tolist()):
        latents = solver.step(index, (latents - clean) / sigma, latents)
    # float32 rounding of about 1e-7 a step, and of the division by a small sigma.
    np.testing.assert_allclose(np.array(latents), np.array(clean), rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_converges_to_the_same_curve(name):
    """dx/ds = x is solved by x(0) = x(1)·exp(-1)."""
    schedule = build_schedule(name, 200, 1.0)
    solver, latents = build_solver(name, schedule), mx.array(float(np.exp(schedule.sigmas[0])))
    for index in range(schedule.steps):
        latents = solver.step(index, latents, latents)
    # Euler's error is half a step width, 2.5e-3; second order leaves the first-order last step, 1.3e-5.
    assert latents.item() == pytest.approx(1.0, abs=3e-3 if name == "euler" else 3e-5)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("pause", range(7))
def test_a_restored_solver_goes_on_bit_for_bit(name, pause):
    schedule = build_schedule(name, 7, 5.0)
    start = mx.random.normal((2, 3), key=mx.random.key(3))
    straight = run(build_solver(name, schedule), start, 0, 7)[-1]

    early = build_solver(name, schedule)
    latents = [start, *run(early, start, 0, pause)][-1]
    saved = {key: np.array(value) for key, value in early.state().items()}
    late = build_solver(name, schedule)
    late.restore({key: mx.array(value) for key, value in saved.items()})
    resumed = run(late, latents, pause, 7)[-1]
    assert np.array_equal(np.array(resumed), np.array(straight))


@pytest.mark.parametrize("name", ["unipc", "dpm++"])
def test_the_history_changes_the_result(name):
    """Without it the test above would hold for a solver that restores nothing."""
    schedule = build_schedule(name, 7, 5.0)
    start = mx.array([1.0, -2.0])
    solver = build_solver(name, schedule)
    latents = run(solver, start, 0, 3)[-1]
    remembering = run(solver, latents, 3, 7)[-1]
    forgetful = run(build_solver(name, schedule), latents, 3, 7)[-1]
    assert not mx.allclose(remembering, forgetful, atol=1e-5).item()


@pytest.mark.parametrize("name", SOLVERS)
def test_the_state_is_empty_before_and_after_a_run(name):
    solver = build_solver(name, build_schedule(name, 3, 5.0))
    assert solver.state() == {}
    run(solver, mx.array(1.0), 0, 3)
    assert solver.state() == {}


@pytest.mark.parametrize("name", SOLVERS)
def test_a_state_of_another_solver_is_refused(name):
    solver = build_solver(name, build_schedule(name, 3, 5.0))
    with pytest.raises(ValueError, match=r"\['momentum'\] cannot be one of"):
        solver.restore({"momentum": mx.array(1.0)})


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("index", [-1, 3])
def test_a_step_outside_the_schedule_is_refused(name, index):
    solver = build_solver(name, build_schedule(name, 3, 5.0))
    with pytest.raises(ValueError, match="outside a schedule of 3 steps"):
        solver.step(index, mx.array(0.0), mx.array(1.0))


def test_an_unknown_solver_is_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"'ddim'; choose from unipc, dpm\+\+, euler"):
        build_solver("ddim", build_schedule("euler", 3, 5.0))


@pytest.mark.parametrize("name", ["unipc", "dpm++"])
@pytest.mark.parametrize(("steps", "shift"), [(200, 12.0), (80, 16.0), (1000, 100.0)])
def test_schedules_with_repeated_timesteps_run_to_the_end(name, steps, shift):
    """The official schedulers look the first index up by timestep and stumble over these.

    dx/ds = x again; the last step is first order from a level of up to 0.17, an error of 0.17**2 / 2.
    """
    schedule = build_schedule(name, steps, shift)
    assert len(set(schedule.timesteps.tolist())) < steps
    solver, latents = build_solver(name, schedule), mx.array(float(np.exp(schedule.sigmas[0])))
    for index in range(steps):
        latents = solver.step(index, latents, latents)
    assert latents.item() == pytest.approx(1.0, abs=0.02)
