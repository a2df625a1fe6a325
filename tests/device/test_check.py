"""Operations are judged by their worst row, and replaced by another way where one is right."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from types import SimpleNamespace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_video.device import check as check_module
from mlx_video.device import trials
from mlx_video.device.check import ROUNDING, check, check_operation, relative_error
from mlx_video.device.operations import OPERATIONS, Fallback, Operation
from mlx_video.device.trials import Draw, Trial, sample_rows
from mlx_video.models import matmul
from mlx_video.models.dispatch import WINOGRAD_SWITCH, Limits, current_limits, use_limits
from mlx_video.models.elementwise import enable_compile
from mlx_video.models.kernels.metal_kernel import MetalKernel
from mlx_video.models.vae import convolutions as vae_convolutions
from tests.models.kernels.metal_in_cpp import COMPILER, run_in_cpp
from tests.models.networks import run_gpu_code

pytestmark = pytest.mark.slow

NAMES = [operation.name for operation in OPERATIONS]
FUSED = ["GELU by tanh", "GELU by erf", "SiLU", "sum", "gated sum", "rotary positions"]


def find(name: str) -> Operation:
    return next(operation for operation in OPERATIONS if operation.name == name)


@pytest.fixture
def gpu(monkeypatch):
    run_gpu_code(monkeypatch)
    monkeypatch.setattr(vae_convolutions, "on_gpu", lambda: True)


# Judging


def test_the_error_is_that_of_the_worst_row():
    expected = np.array([[3.0, 4.0], [30.0, 40.0]])
    assert relative_error(expected, expected) == 0
    assert relative_error(expected + np.array([[0.0, 1.0]]), expected) == 1 / 5
    assert relative_error(np.array([[3.0, 4.0], [math.nan, 40.0]]), expected) == math.inf
    assert relative_error(expected[:1], expected) == math.inf


def test_drawn_arrays_have_the_type_that_is_asked_for():
    assert Draw()(2, 3, dtype=mx.bfloat16).dtype == mx.bfloat16
    assert mx.allclose(Draw()(2, 3, scale=3.0), 3 * Draw()(2, 3)).item()


@pytest.mark.parametrize("count", [1, 20, 5000, 33000, 65520])
def test_sampled_rows_include_both_ends_and_the_limit_of_sixteen_bits(count):
    rows = sample_rows(count)
    assert {0, count - 1} <= set(rows)
    assert (np.diff(rows) > 0).all()
    assert len(rows) <= 96
    if count > 32768:
        assert {32767, 32768} <= set(rows)


def a_trial(error: float) -> Trial:
    """Ones that are off by a relative error."""
    return Trial(lambda: mx.ones((4, 2)) * (1 + error), np.arange(4), lambda: np.ones((4, 2)))


@pytest.mark.parametrize(
    ("error", "verdict"), [(0.0, "right"), (1e-3, "imprecise"), (1.0, "wrong"), (math.nan, "wrong")]
)
def test_a_verdict_tells_rounding_from_less_precision_and_from_garbage(error, verdict):
    result = check_operation(Operation("made up", lambda: a_trial(error), (), (), ()), "small")
    assert result.verdict == verdict
    assert result.bound == ROUNDING[mx.float32]


def test_the_first_way_that_is_right_is_taken():
    def trial() -> Trial:
        run = lambda: mx.ones((1, 2)) * (0 if current_limits().fuses else 1)  # noqa: E731
        return Trial(run, np.arange(1), lambda: np.ones((1, 2)))

    ways = (
        Fallback("does not help", {"quantized_rows": 1}),
        Fallback("helps", {"fuses": False}),
        Fallback("is not tried", {}),
    )
    before = current_limits()
    result = check_operation(Operation("made up", trial, (), (), (), ways), "small")
    assert (result.verdict, result.note, result.changes) == ("avoided", "helps", {"fuses": False})
    assert result.error == 1
    assert current_limits() is before


def test_an_operation_that_the_device_refuses_is_wrong_and_says_how():
    def refuse() -> mx.array:
        raise RuntimeError("[metal] unable to load kernel")

    trial = replace(a_trial(0), run=refuse)
    result = check_operation(Operation("made up", lambda: trial, (), (), ()), "small")
    assert (result.verdict, result.error) == ("wrong", math.inf)
    assert "RuntimeError: [metal] unable to load kernel" in result.note


# The table


@pytest.mark.parametrize("name", NAMES)
def test_every_operation_is_right_here(name):
    result = check_operation(find(name), "small")
    assert result.verdict == "right", result


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("name", NAMES)
def test_every_operation_is_right_by_the_ways_of_a_gpu(name):
    result = check_operation(replace(find(name), gives_rate=False), "small")
    assert result.verdict == "right", result


@pytest.mark.usefixtures("gpu")
def test_operations_are_right_in_each_of_their_ways():
    for operation in OPERATIONS:
        for way in operation.fallbacks:
            with use_limits(check_module.change_limits(Limits(), way.changes)):
                assert check_operation(operation, "small").verdict == "right", (operation.name, way.text)


def test_names_are_unique_and_the_sizes_grow():
    assert len(set(NAMES)) == len(NAMES)
    for operation in OPERATIONS:
        sizes = [math.prod(operation.size(sizes)) for sizes in ("small", "medium", "full")]
        assert sizes == sorted(sizes), operation.name


def test_large_sizes_pass_the_rows_and_keys_that_faulty_kernels_can_count():
    for name in ("quantized product, 4 bits", "quantized product, 8 bits"):
        assert find(name).medium[0] > 32768
        assert find(name).full[0] > 32768
    assert find("attention to many keys").medium[2] > 32768
    assert min(find("attention among tokens").full[1:3]) > 32768


def test_the_rate_of_attention_is_measured():
    (result,) = check([find("attention among tokens")], "small")
    assert result.flops_per_second == pytest.approx(4 * 2 * 320 * 320 * 64 / result.seconds)


def test_the_rate_of_others_is_not_told():
    (result,) = check([find("SiLU")], "small")
    assert result.flops_per_second is None


def test_a_function_of_two_types_gives_the_first(monkeypatch):
    monkeypatch.setattr(trials, "working_dtype", lambda dtype: dtype)  # as on a GPU
    trial = trials.try_elementwise(lambda x, y: x + y, lambda x, y: x + y, 4, 4, (mx.float32, mx.bfloat16))
    assert trial.dtype == trial.run().dtype == mx.float32


# Faults


def garbage(array: mx.array) -> mx.array:
    """What a faulty kernel leaves: the first rows hold something else."""
    return mx.concatenate([mx.zeros_like(array[:3]), array[3:]])


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("bits", [4, 8])
def test_garbage_from_many_quantized_rows_leads_to_fewer_at_a_time(monkeypatch, bits):
    call = nn.QuantizedLinear.__call__

    def faulty(self: nn.QuantizedLinear, x: mx.array) -> mx.array:
        return garbage(call(self, x)) if len(x) > 128 else call(self, x)

    monkeypatch.setattr(nn.QuantizedLinear, "__call__", faulty)
    few = Fallback("few rows", {"quantized_rows": 128})
    operation = replace(find(f"quantized product, {bits} bits"), small=(140, 64, 64), fallbacks=(few,))
    result = check_operation(operation, "small")
    assert (result.verdict, result.changes) == ("avoided", {"quantized_rows": 128})


@pytest.mark.usefixtures("gpu")
def test_garbage_from_any_quantized_product_leads_to_unpacked_weights(monkeypatch):
    call = nn.QuantizedLinear.__call__
    monkeypatch.setattr(nn.QuantizedLinear, "__call__", lambda self, x: garbage(call(self, x)))
    result = check_operation(replace(find("quantized product, 4 bits"), small=(40, 64, 64)), "small")
    assert (result.verdict, result.changes) == ("avoided", {"quantized_matmul": False})


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("attention")])
def test_garbage_from_attention_leads_to_attention_written_out(monkeypatch, name):
    fused = mx.fast.scaled_dot_product_attention
    monkeypatch.setattr(
        mx.fast, "scaled_dot_product_attention", lambda *heads, **more: fused(*heads, **more) * math.nan
    )
    result = check_operation(find(name), "small")
    assert (result.verdict, result.changes) == ("avoided", {"fused_attention": False})
    assert result.error == math.inf


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("name", ["causal convolution", "convolution of pixels"])
def test_garbage_from_convolutions_leads_to_products(monkeypatch, name):
    monkeypatch.setattr(mx, "conv2d", lambda x, weight, **_: mx.zeros((*x.shape[:3], len(weight))))
    result = check_operation(find(name), "small")
    assert (result.verdict, result.changes) == ("avoided", {"plane_convolutions": False})


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("switch_helps", "changes"), [(True, {"winograd": False}), (False, {"plane_convolutions": False})]
)
def test_lost_digits_of_many_channels_lead_to_another_method(monkeypatch, switch_helps, changes):
    convolve = mx.conv2d

    def lossy(x: mx.array, weight: mx.array, **more: int) -> mx.array:
        is_off = os.environ.get(WINOGRAD_SWITCH) == "0"
        return convolve(x, weight, **more) * (1 if is_off and switch_helps else 1.004)

    monkeypatch.setattr(mx, "conv2d", lossy)
    result = check_operation(find("causal convolution of many channels"), "small")
    assert (result.verdict, result.changes) == ("avoided", changes)
    assert 1e-3 < result.error < 1e-2
    assert WINOGRAD_SWITCH not in os.environ
    # Fewer channels never take the method: such an error is no garbage there.
    assert check_operation(find("causal convolution"), "small").verdict == "imprecise"


# What is faster


@pytest.fixture
def take(monkeypatch):
    """Changes of a result that takes a second by its usual way, and so many by its alternative."""
    seconds = [0.0]
    monkeypatch.setattr(check_module, "time", SimpleNamespace(perf_counter=lambda: seconds[0]))

    def measure(alternative: float | None, *, error: float = 0.0) -> dict[str, object]:
        def build() -> Trial:
            trial = a_trial(0)

            def run() -> mx.array:
                is_usual = not current_limits().unpacked
                seconds[0] += 1.0 if is_usual else alternative
                return trial.run() * (1 if is_usual else 1 + error)

            return replace(trial, run=run)

        ways = () if alternative is None else (Fallback("unpacked", {"unpacked": "4 bits by 64"}),)
        result = check_operation(Operation("made up", build, (), (), (), alternatives=ways), "small")
        assert result.verdict == "right"
        assert bool(result.note) == bool(result.changes)
        return dict(result.changes)

    return measure


def test_a_gpu_takes_another_way_where_it_is_right_and_clearly_faster(monkeypatch, take):
    monkeypatch.setattr(check_module, "on_gpu", lambda: True)
    assert take(0.9) == {"unpacked": "4 bits by 64"}
    assert take(0.95) == take(1.5) == take(None) == {}
    assert take(0.3, error=1e-2) == {}


def test_a_cpu_keeps_to_its_way(monkeypatch, take):
    monkeypatch.setattr(check_module, "on_gpu", lambda: False)
    assert take(0.1) == {}


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("name", [one.name for one in OPERATIONS if one.alternatives])
def test_alternatives_give_what_the_usual_way_gives(monkeypatch, name):
    monkeypatch.setattr(matmul, "UNPACKED_ROWS", 1)
    monkeypatch.setattr(MetalKernel, "run", run_in_cpp)
    operation = find(name)
    trial = operation.build(*operation.small)
    usual = trial.run()
    for alternative in operation.alternatives:
        with use_limits(check_module.change_limits(Limits(), alternative.changes)):
            found = trial.run()
            assert check_operation(operation, "small").verdict == "right"
        if trial.dtype == mx.float32:
            assert (mx.abs(found - usual).max() / mx.abs(usual).max()).item() <= 1e-5


@pytest.mark.usefixtures("gpu")
def test_a_kernel_that_does_not_compile_is_not_taken(monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("[metal::Device] Unable to build metal library from source")

    monkeypatch.setattr(MetalKernel, "run", refuse)
    result = check_operation(find("layer norm, rounded"), "small")
    assert (result.verdict, result.changes) == ("right", {})


@pytest.mark.parametrize("name", FUSED)
def test_fusing_that_fails_leads_to_work_that_is_not_fused(monkeypatch, name):
    def refuse(*_: mx.array) -> mx.array:
        raise RuntimeError("no compiler")

    enable_compile(True)
    try:
        with pytest.MonkeyPatch.context() as patch:
            for function in fused_functions():
                cell = function.__closure__[function.__code__.co_freevars.index("compiled")]
                patch.setattr(cell, "cell_contents", refuse)
            result = check_operation(find(name), "small")
    finally:
        enable_compile(None)
    assert (result.verdict, result.changes) == ("avoided", {"fuses": False})


def fused_functions():
    from mlx_video.models import elementwise, rope
    from mlx_video.models.kernels import channel_norm

    yield from (elementwise.add_residual, elementwise.add_gated, elementwise.gelu_erf)
    yield from (elementwise._gelu_by_tanh, elementwise._gelu_by_power, rope._rotate_pairs, channel_norm.silu)


@pytest.mark.parametrize("name", ["product, bfloat16", "layer norm", "softmax"])
def test_garbage_without_another_way_is_wrong(monkeypatch, name):
    operation = find(name)

    def build(*size: int) -> Trial:
        trial = operation.build(*size)
        return replace(trial, run=lambda: garbage(trial.run()))

    result = check_operation(replace(operation, build=build), "small")
    assert (result.verdict, result.changes) == ("wrong", {})
