"""How a video is cut into blocks, and the noise levels of each."""

from __future__ import annotations

import numpy as np
import pytest

from mlx_video.errors import RequestError
from mlx_video.sampling.blocks import BlockPlan, block_schedule, plan_block_count

# Of shift 5. Source: krea-ai/realtime-video v2v.py, get_denoising_schedule, evaluated.
TIMESTEPS = {
    2: [1000, 0],
    4: [1000, 908.8427, 713.9794, 0],
    5: [1000, 937.5, 833.3333, 625, 0],
    6: [1000, 952.3810, 882.3529, 769.2308, 555.5556, 0],
}
LAST_SIGMA = 0.00498008


@pytest.mark.parametrize("steps", TIMESTEPS)
def test_the_timesteps_of_a_block_are_the_published_ones(steps: int):
    schedule = block_schedule(steps, 5.0)
    np.testing.assert_allclose(schedule.timesteps, TIMESTEPS[steps], atol=1e-4)
    expected = [*np.array(TIMESTEPS[steps][:-1]) / 1000, LAST_SIGMA, 0]
    np.testing.assert_allclose(schedule.sigmas, expected, atol=1e-7)


def test_one_step_is_taken_from_pure_noise():
    schedule = block_schedule(1, 5.0)
    assert (schedule.timesteps.tolist(), schedule.sigmas.tolist()) == ([1000], [1, 0])


@pytest.mark.parametrize(("steps", "shift"), [(0, 5.0), (5, 0.0)])
def test_steps_and_shift_out_of_range_are_refused(steps: int, shift: float):
    with pytest.raises(RequestError):
        block_schedule(steps, shift)


@pytest.mark.parametrize(
    ("num_frames", "count"), [(1, 1), (9, 1), (10, 2), (21, 2), (22, 3), (81, 7), (105, 9), (4860, 406)]
)
def test_blocks_hold_all_frames_that_are_asked_for(num_frames: int, count: int):
    assert plan_block_count(num_frames, 3, 4) == count
    assert BlockPlan(3, 3, count).num_frames(4) == 12 * count - 3 >= num_frames


@pytest.mark.parametrize(
    ("context", "seen", "anew"),
    [
        (1, [0, 1, 1, 1, 1], [2, 3, 4]),
        (3, [0, 3, 3, 3, 3], [2, 3, 4]),
        (4, [0, 3, 4, 4, 4], [3, 4]),
        (7, [0, 3, 6, 7, 7], [4]),
        (18, [0, 3, 6, 9, 12], []),
    ],
)
def test_a_block_sees_so_many_frames_and_the_videos_start_while_it_is_near(
    context: int, seen: list[int], anew: list[int]
):
    plan = BlockPlan(3, context, 5)
    assert [plan.context_of(index) for index in range(5)] == seen
    assert [index for index in range(5) if plan.begins_anew(index)] == anew
    assert plan.encodes == bool(anew)
