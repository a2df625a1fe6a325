"""What machines that share a step send, and what they gain, by formulas that public figures agree with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.simulate_cluster import COUNTS, count_messages, expected_counts, gain_table
from mlx_video.models.dispatch import CHIPS
from mlx_video.planning.machine_gains import (
    PUBLISHED,
    Link,
    StepSize,
    context_traffic,
    predict_gain,
    size_published,
    step_seconds,
    step_traffic,
    tensor_traffic,
    weights_traffic,
)

DOCS = Path(__file__).parents[2] / "docs" / "several-macs.md"
FAST, ETHERNET = Link(0.0, 5e9), Link(0.0, 1.1e9)


def step(name: str, tokens: int, passes: int = 1) -> StepSize:
    return size_published(PUBLISHED[name], tokens, passes)


@pytest.mark.parametrize(
    ("name", "tokens", "operations"),
    [("1.3B", 32760, 2.83e14), ("5B", 18480, 2.90e14), ("14B", 32760, 1.68e15), ("14B", 75600, 6.52e15)],
)
def test_operations_of_a_pass_are_those_of_the_published_models(name: str, tokens: int, operations: float):
    assert step(name, tokens).operations == pytest.approx(operations, rel=0.01)


@pytest.mark.parametrize(
    ("name", "tokens", "machines", "context", "tensor"),
    [
        ("1.3B", 32760, 2, 3.0, 9.1),
        ("1.3B", 32760, 4, 4.5, 13.6),
        ("5B", 18480, 2, 3.4, 10.2),
        ("14B", 32760, 2, 13.4, 40.3),
        ("14B", 75600, 4, 46.4, 139.3),
    ],
)
def test_gigabytes_of_a_pass(name: str, tokens: int, machines: int, context: float, tensor: float):
    one = step(name, tokens)
    assert context_traffic(one, machines).nbytes / 1e9 == pytest.approx(context, rel=0.02)
    assert tensor_traffic(one, machines).nbytes / 1e9 == pytest.approx(tensor, rel=0.02)


def test_guidance_sends_the_latents_alone_and_weights_are_gathered_once_a_step():
    guided = step("14B", 32760, passes=2)
    assert step_traffic("guidance", guided, 2).nbytes == 2 * 4 * 32760 * 64  # there, and a velocity back
    assert weights_traffic(guided, 2).nbytes == guided.block_bytes / 2 == pytest.approx(14e9, rel=0.01)
    more = step_traffic("sharded", guided, 2).nbytes - step_traffic("context", guided, 2).nbytes
    assert more == pytest.approx(guided.block_bytes / 2)


@pytest.mark.parametrize(
    ("chip", "name", "tokens", "machines", "gains"),
    [
        ("M4 Max", "1.3B", 32760, 2, (1.92, 1.68, 1.78, 1.28)),
        ("M4 Max", "14B", 75600, 2, (1.96, 1.84, 1.89, 1.60)),
        ("M5 Max", "1.3B", 32760, 2, (1.74, 1.19, 1.38, 0.66)),
        ("M5 Max", "14B", 32760, 2, (1.80, 1.32, 1.50, 0.79)),
    ],
)
def test_gains_of_two(chip: str, name: str, tokens: int, machines: int, gains: tuple[float, ...]):
    one, rate = step(name, tokens), CHIPS[chip].tflops * 1e12
    found = [
        predict_gain(mode, one, machines, rate, link)
        for mode in ("context", "tensor")
        for link in (FAST, ETHERNET)
    ]
    assert found == pytest.approx(gains, rel=0.012)


def test_guidance_doubles_a_guided_step_and_no_other():
    guided = step("14B", 32760, passes=2)
    assert predict_gain("guidance", guided, 2, 1e13, ETHERNET) == pytest.approx(2, rel=0.001)
    assert predict_gain("guidance", replace(guided, passes=1), 2, 1e13, ETHERNET) == pytest.approx(
        1, rel=0.001
    )
    four = predict_gain("guidance", guided, 4, 1e13, FAST)
    assert predict_gain("context", guided, 4, 1e13, FAST) < four < 4


def test_latency_counts_with_every_hop():
    one, slow = step("1.3B", 1000), Link(1.0, 1e30)
    blocks = PUBLISHED["1.3B"].num_layers
    assert context_traffic(one, 3).seconds(slow) == pytest.approx(2 * (blocks + 1))
    assert tensor_traffic(one, 3).seconds(slow) == pytest.approx(2 * 2 * 5 * blocks)


def test_a_disk_can_be_what_is_waited_for():
    one = step("14B", 1000)
    assert step_seconds(None, one, 1, 1e15, FAST, read_bytes=30e9) == 10
    assert step_seconds("context", one, 2, 1e15, FAST, read_bytes=30e9) == 10


def test_the_table_of_the_page_is_what_the_formula_says():
    told = DOCS.read_text(encoding="utf-8").split("<!-- gains -->\n")[1].split("<!-- end of gains -->")[0]
    assert {*told.splitlines()} <= {*gain_table()}
    assert len(told.splitlines()) > 10


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("machines", COUNTS)
def test_processes_send_what_the_formula_says(machines: int):
    assert count_messages(machines) == expected_counts(machines)
