"""What plans add up, by hand."""

from __future__ import annotations

from dataclasses import fields, replace

from mlx_video.config import TransformerConfig
from mlx_video.models.dispatch import CPU_LIMITS
from mlx_video.models.longcat.memory import _rotation
from mlx_video.models.transformer_memory import ForwardSize
from mlx_video.planning.memory_task import MemoryTask
from mlx_video.planning.vae_layers import Need
from mlx_video.planning.vae_memory import Phase, add_stages

LONGCAT = TransformerConfig(256, 1024, 2, num_layers=3, time_dim=32, model_type="longcat")


def test_a_stage_is_held_until_the_next_has_taken_it_and_a_layer_until_its_neighbour_has():
    first = (Need(working=10, kept=1, given=4), Need(working=20, kept=2, given=5))
    second = (Need(working=18, kept=3, given=6), Need(working=14, kept=4, given=7))
    # 4 given within the first stage + 20; 5 held of the first + 18; 5 held + 6 given + 14.
    assert add_stages([first, second]) == Phase(kept=10, working=25)
    assert add_stages([first]) == Phase(kept=3, working=24)


def test_a_task_is_of_the_plainest_run_unless_it_says_otherwise():
    switches = {field.name: field.default for field in fields(MemoryTask) if isinstance(field.default, bool)}
    assert {name for name, value in switches.items() if value} == {"takes_steps"}


def test_rotation_in_longcat_holds_queries_keys_and_values_and_the_keys_once_more():
    size = ForwardSize(LONGCAT, 1000, 4, None, 0, 1, on_gpu=True, limits=CPU_LIMITS)
    stream = activation = 1000 * 256 * 4
    weight = 3 * 256 * 256 * 4 * size.weight_copies.needed
    assert _rotation(size).needed == stream + 6 * activation + weight
    on_cpu = replace(size, on_gpu=False)
    weight = 3 * 256 * 256 * 4 * on_cpu.weight_copies.needed
    assert _rotation(on_cpu).needed == 3 * stream + 6 * activation + weight
