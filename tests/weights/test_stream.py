from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mlx_video.config import QuantizationConfig
from mlx_video.errors import AdapterError, CheckpointError
from mlx_video.formats.tensor_source import open_tensors
from mlx_video.weights import stream
from mlx_video.weights.rules import CHANNELS_LAST, Rule, plan_moves
from mlx_video.weights.stream import is_finite, plan_jobs, write_tensors
from tests.fixtures.weight_files import store, write_safetensors

KEEP = (Rule("*", "*"),)


def convert(tmp_path, tensors, *, rules=KEEP, **options):
    """Write tensors, run the jobs, and return what the result holds."""
    write_safetensors(tmp_path / "in.safetensors", tensors)
    with open_tensors(tmp_path / "in.safetensors") as source:
        moves = plan_moves(source, rules, {tensor.name: tensor.shape for tensor in tensors})
        progress = list(write_tensors(tmp_path / "out.safetensors", source, plan_jobs(moves, **options)))
    return mx.load(str(tmp_path / "out.safetensors")), progress


def test_chunks_of_a_tensor_add_up_to_the_whole(tmp_path, monkeypatch):
    values = np.random.default_rng(0).standard_normal((50, 6, 2, 2), np.float32)
    rules = (Rule("*", "*", CHANNELS_LAST),)
    monkeypatch.setattr(stream, "CHUNK_BYTES", 700)  # 7 rows of 96 bytes
    made, progress = convert(tmp_path, [store("w.weight", values)], rules=rules, dtype="F32")
    assert np.array_equal(np.array(made["w.weight"]), values.transpose(0, 2, 3, 1))
    assert progress == [rows * 96 for rows in (7, 14, 21, 28, 35, 42, 49, 50)]


def test_quantizing_in_chunks_gives_the_bits_of_quantizing_at_once(tmp_path, monkeypatch):
    values = np.random.default_rng(0).standard_normal((50, 64), np.float32)
    monkeypatch.setattr(stream, "CHUNK_BYTES", 3000)
    setting = QuantizationConfig(8, 32)
    made, _ = convert(tmp_path, [store("b.ffn.fc1.weight", values)], dtype="BF16", quantization=setting)
    expected = mx.quantize(mx.array(values).astype(mx.bfloat16), group_size=32, bits=8)
    for part, want in zip(("weight", "scales", "biases"), expected, strict=True):
        assert mx.array_equal(made[f"b.ffn.fc1.{part}"], want)


def merge_jobs(tmp_path, values, merge, *, dtype="F32", **options):
    """Convert one layer's weight with something merged into it, and return what the result holds."""
    write_safetensors(tmp_path / "in.safetensors", [store("b.ffn.fc1.weight", values, dtype)])
    with open_tensors(tmp_path / "in.safetensors") as source:
        (job,) = plan_jobs(plan_moves(source, KEEP, {"b.ffn.fc1.weight": values.shape}), **options)
        jobs = [replace(job, merge=merge)]
        list(write_tensors(tmp_path / "out.safetensors", source, jobs))
    return mx.load(str(tmp_path / "out.safetensors"))


def test_what_is_merged_sees_the_whole_tensor_in_float32_and_is_rounded_once(tmp_path, monkeypatch):
    values = np.random.default_rng(0).standard_normal((50, 64), np.float32)
    monkeypatch.setattr(stream, "CHUNK_BYTES", 3000)
    seen = []

    def merge(weight):
        seen.append((weight.shape, weight.dtype))
        return weight + 2.0**-10  # lost if added after rounding to bfloat16

    made = merge_jobs(tmp_path, values, merge, dtype="F16")
    assert seen == [((50, 64), mx.float32)]
    expected = (mx.array(values).astype(mx.float16).astype(mx.float32) + 2.0**-10).astype(mx.float16)
    assert mx.array_equal(made["b.ffn.fc1.weight"], expected)
    packed = merge_jobs(tmp_path, values, merge, dtype="F16", quantization=QuantizationConfig(8, 32))
    for part, want in zip(
        ("weight", "scales", "biases"), mx.quantize(expected, group_size=32, bits=8), strict=True
    ):
        assert mx.array_equal(packed[f"b.ffn.fc1.{part}"], want)


def test_an_adapter_that_makes_numbers_infinite_is_named_as_the_cause(tmp_path):
    def merge(weight):
        return weight + mx.where(mx.arange(4) == 1, 70000.0, 0.0)

    message = r"b.ffn.fc1.weight: 3 values exceed the float16 range once the adapters are merged. .* lower it"
    with pytest.raises(AdapterError, match=message):
        merge_jobs(tmp_path, np.ones((3, 4), np.float32), merge, dtype="F16")
    damaged = np.full((3, 4), np.nan, np.float32)
    with pytest.raises(CheckpointError, match="12 numbers that are NaN or infinite: the file is damaged"):
        merge_jobs(tmp_path, damaged, merge, dtype="F16")


def test_scalars_and_empty_tensors_pass(tmp_path):
    made, _ = convert(
        tmp_path,
        [store("s", np.float32(2.5)[()].reshape(())), store("e", np.zeros((0, 3), np.float32))],
        dtype="F16",
    )
    assert made["s"].item() == 2.5
    assert made["e"].shape == (0, 3)


def test_without_a_dtype_every_tensor_keeps_its_own(tmp_path):
    tensors = [store(name, np.ones((2, 2), np.float32), name) for name in ("F32", "BF16", "F16", "F64")]
    made, _ = convert(tmp_path, tensors)
    kinds = {name: array.dtype for name, array in made.items()}
    assert kinds == {"F32": mx.float32, "BF16": mx.bfloat16, "F16": mx.float16, "F64": mx.float32}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -np.nan])
@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
def test_numbers_that_are_not_finite_show_a_damaged_source(tmp_path, value, dtype):
    values = np.ones((4, 4), np.float32)
    values[2, 1] = values[3, 0] = value
    with pytest.raises(CheckpointError, match=r"in.safetensors: w contains 2 numbers .* damaged. Download"):
        convert(tmp_path, [store("w", values, dtype)], dtype="F32")
    assert not (tmp_path / "out.safetensors").exists()


def test_numbers_beyond_the_range_of_the_dtype_are_counted(tmp_path, monkeypatch):
    values = np.ones((40, 4), np.float32)
    values[[1, 20, 39], 2] = 70000.0
    monkeypatch.setattr(stream, "CHUNK_BYTES", 64)
    message = r"--dtype float16: 3 values exceed the float16 range in w of in.safetensors. Use bfloat16."
    with pytest.raises(CheckpointError, match=message):
        convert(tmp_path, [store("w", values)], dtype="F16")
    values[0, 0] = 3.4e38
    with pytest.raises(CheckpointError, match=r"--dtype bfloat16: 1 value exceeds .* Use float32."):
        convert(tmp_path, [store("w", values)], dtype="BF16")


def test_tensors_that_are_no_floats_are_refused_before_anything_is_written(tmp_path):
    tensors = [store("w", np.ones(2, np.float32)), store("step", np.ones(2), "I64")]
    with pytest.raises(CheckpointError, match=r"in.safetensors: step is I64; only F64, F32, F16, BF16"):
        convert(tmp_path, tensors, dtype="F32")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.safetensors"]


@settings(deadline=None, max_examples=25)
@given(arrays(np.float32, st.integers(0, 9), elements=st.floats(width=32)))
def test_finiteness_is_told_as_elementwise(values):
    for dtype in (mx.float32, mx.float16, mx.bfloat16):
        array = mx.array(values).astype(dtype)
        assert is_finite(array) == bool(mx.all(mx.isfinite(array)).item())
