import itertools

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.errors import NonFiniteError
from mlx_video.sampling.denoise import denoise
from mlx_video.sampling.schedule import build_schedule
from mlx_video.sampling.solvers.table import build_solver

NOISE = mx.random.normal((2, 3, 4, 5), key=mx.random.key(0))


def velocity(latents, step):
    return 0.7 * latents - 0.3 + 0.05 * step.index


def start_run(velocity=velocity, noise=NOISE, name="unipc", steps=5, **options):
    schedule = build_schedule(name, steps, 5.0)
    return denoise(noise, schedule, build_solver(name, schedule), velocity, **options)


def test_each_step_is_one_event_with_its_place_and_timestep():
    events = list(start_run(steps=4))
    assert [(event.index, event.total, event.timestep) for event in events] == [
        (0, 4, 999.0),
        (1, 4, 937.0),
        (2, 4, 833.0),
        (3, 4, 624.0),
    ]
    assert all(event.wall_seconds > 0 for event in events)


def test_the_velocity_sees_the_latents_of_the_step_before():
    seen = []

    def recording(latents, step):
        seen.append((np.array(latents), step.index, step.timestep))
        return velocity(latents, step)

    events = list(start_run(recording))
    before = [NOISE] + [event.latents for event in events[:-1]]
    assert [(step, timestep) for _, step, timestep in seen] == [
        (event.index, event.timestep) for event in events
    ]
    assert all(np.array_equal(latents, np.array(b)) for (latents, *_), b in zip(seen, before, strict=True))


@pytest.mark.parametrize("name", ["unipc", "dpm++", "euler"])
def test_the_loop_does_what_the_solver_does_by_hand(name):
    schedule = build_schedule(name, 5, 5.0)
    solver, latents = build_solver(name, schedule), NOISE
    for index in range(5):
        latents = solver.step(index, velocity(latents, schedule.step(index)), latents)
    *_, last = start_run(name=name)
    assert np.array_equal(np.array(last.latents), np.array(latents))


@pytest.mark.parametrize("name", ["unipc", "dpm++", "euler"])
def test_a_run_that_starts_late_with_a_restored_solver_ends_the_same(name):
    schedule = build_schedule(name, 5, 5.0)
    first_solver, second_solver = build_solver(name, schedule), build_solver(name, schedule)
    *_, pause = itertools.islice(denoise(NOISE, schedule, first_solver, velocity), 2)
    second_solver.restore(first_solver.state())
    *_, resumed = denoise(pause.latents, schedule, second_solver, velocity, start=2)
    *_, straight = start_run(name=name)
    assert np.array_equal(np.array(resumed.latents), np.array(straight.latents))


def test_half_precision_velocities_leave_the_latents_in_float32():
    def half(latents, step):
        return velocity(latents, step).astype(mx.bfloat16)

    def rounded(latents, step):
        return half(latents, step).astype(mx.float32)

    *_, last = start_run(half, noise=NOISE.astype(mx.bfloat16))
    *_, expected = start_run(rounded, noise=NOISE.astype(mx.bfloat16).astype(mx.float32))
    assert last.latents.dtype == mx.float32
    assert np.array_equal(np.array(last.latents), np.array(expected.latents))


def test_no_step_is_taken_before_its_event_is_asked_for():
    calls = []

    def counting(latents, step):
        calls.append(step.index)
        return latents

    run = start_run(counting)
    assert calls == []
    next(run)
    run.close()
    assert calls == [0]


def test_an_interruption_passes_through():
    def interrupted(latents, step):
        if step.index == 2:
            raise KeyboardInterrupt
        return latents

    run = start_run(interrupted)
    assert [next(run).index, next(run).index] == [0, 1]
    with pytest.raises(KeyboardInterrupt):
        next(run)


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_stops_the_run_at_its_step(broken):
    def failing(latents, step):
        flat = mx.zeros(latents.size)
        if step.index == 2:
            flat[:7] = broken
        return flat.reshape(latents.shape)

    run = start_run(failing, steps=4)
    assert [next(run).index, next(run).index] == [0, 1]
    with pytest.raises(NonFiniteError) as caught:
        next(run)
    text = str(caught.value)
    assert text.startswith("step 3 of 4 (timestep 833): 7 of 120 latent values are infinite or not a number")
    assert "convert with --dtype bfloat16" in text
    assert mx.__version__ in text


def test_float16_overflow_is_what_the_check_catches():
    def overflowing(latents, step):
        return (latents.astype(mx.float16) * 60000) * 60000

    with pytest.raises(NonFiniteError, match="step 1 of 5"):
        next(start_run(overflowing))


@pytest.mark.parametrize(("name", "kept"), [("unipc", 4), ("dpm++", 2), ("euler", 1)])
def test_memory_holds_the_latents_and_the_history_of_two_steps_at_most(name, kept):
    shape = (16, 4, 64, 64)
    size = 4 * 16 * 4 * 64 * 64
    mx.clear_cache()
    before = mx.get_active_memory()
    used = []
    for event in start_run(name=name, noise=mx.zeros(shape) + 1.0, steps=8):
        del event
        used.append(mx.get_active_memory() - before)
    # UniPC: latents, corrected start, two clean estimates. A few KB are scalars of the check.
    assert max(used) < kept * size + size / 2
    assert used[-1] < 1.5 * size  # the history is let go with the last step


def hold_first(latents):
    """Latents whose first frame is known."""
    return mx.concatenate([mx.full((2, 1, 4, 5), 0.25), latents[:, 1:]], axis=1)


@pytest.mark.parametrize("name", ["unipc", "dpm++", "euler"])
def test_what_is_known_of_the_latents_is_put_back_into_the_noise_and_after_every_step(name):
    seen = []

    def recording(latents, step):
        seen.append(np.array(latents))
        return velocity(latents, step)

    events = list(start_run(recording, name=name, constrain=hold_first))
    assert all((latents[:, 0] == 0.25).all() for latents in seen)
    assert all((np.array(event.latents)[:, 0] == 0.25).all() for event in events)
    assert np.array_equal(seen[0], np.array(hold_first(NOISE)))


@pytest.mark.parametrize("name", ["unipc", "dpm++", "euler"])
def test_what_is_put_back_leaves_the_rest_of_the_latents_alone(name):
    *_, free = start_run(name=name)
    *_, held = start_run(name=name, constrain=hold_first)
    # The velocity here works value by value, so the known frame cannot reach the others.
    assert np.array_equal(np.array(held.latents)[:, 1:], np.array(free.latents)[:, 1:])


def test_a_constrained_run_that_starts_late_ends_the_same():
    schedule = build_schedule("unipc", 5, 5.0)
    first_solver, second_solver = build_solver("unipc", schedule), build_solver("unipc", schedule)
    run = denoise(NOISE, schedule, first_solver, velocity, constrain=hold_first)
    *_, pause = itertools.islice(run, 3)
    second_solver.restore(first_solver.state())
    *_, resumed = denoise(pause.latents, schedule, second_solver, velocity, start=3, constrain=hold_first)
    *_, straight = start_run(constrain=hold_first)
    assert np.array_equal(np.array(resumed.latents), np.array(straight.latents))


@pytest.mark.parametrize("name", ["unipc", "dpm++", "euler"])
def test_the_clean_latents_of_a_step_are_those_that_its_velocity_leads_to(name):
    clean = mx.random.normal(NOISE.shape, key=mx.random.key(1))

    def straight(latents, step):
        return (latents - clean) / step.sigma

    events = list(start_run(straight, name=name, estimates_clean=lambda index: True))
    assert all(np.allclose(event.clean, clean, atol=1e-5) for event in events)


def test_clean_latents_are_estimated_where_asked_and_change_nothing():
    plain, asked = list(start_run()), list(start_run(estimates_clean=lambda index: index % 2 == 1))
    assert [event.clean is not None for event in asked] == [False, True, False, True, False]
    assert all(event.clean is None for event in plain)
    assert all(np.array_equal(a.latents, b.latents) for a, b in zip(plain, asked, strict=True))


def test_what_is_known_of_the_latents_stands_in_the_clean_ones():
    def constrain(latents):
        return mx.concatenate([mx.ones_like(latents[:, :1]), latents[:, 1:]], axis=1)

    events = list(start_run(constrain=constrain, estimates_clean=lambda index: True))
    assert all(np.all(np.array(event.clean)[:, 0] == 1) for event in events)
    assert not np.any(np.array(events[0].clean)[:, 1:] == 1)
