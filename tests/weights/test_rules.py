import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_video.errors import CheckpointError
from mlx_video.formats.tensor_source import open_tensors
from mlx_video.weights.rules import (
    CHANNELS_LAST,
    FLATTEN_KERNEL,
    IDENTITY,
    Rule,
    apply_rules,
    drop,
    find_prefix,
    plan_moves,
    target_shapes,
)
from tests.fixtures.weight_files import store, write_safetensors

RULES = (drop("freqs"), Rule("blocks.N.ffn.0.*", "blocks.N.ffn.fc1.*"), Rule("*", "*"))
EXPECTED = {"blocks.0.ffn.0.weight": (4, 2), "blocks.0.ffn.0.bias": (4,), "norm.weight": (2,)}


def write_source(path, shapes):
    write_safetensors(path, [store(name, np.zeros(shape, np.float32)) for name, shape in shapes.items()])
    return open_tensors(path)


def test_the_first_matching_rule_renames():
    assert apply_rules("blocks.12.ffn.0.weight", RULES)[0] == "blocks.12.ffn.fc1.weight"
    assert apply_rules("blocks.12.ffn.2.weight", RULES)[0] == "blocks.12.ffn.2.weight"
    assert apply_rules("blocks.x.ffn.0.weight", RULES)[0] == "blocks.x.ffn.0.weight"
    assert apply_rules("freqs", RULES)[0] is None


def test_a_name_that_no_rule_matches_is_a_wrong_table():
    with pytest.raises(ValueError, match="no rule matches b"):
        apply_rules("b", (Rule("a", "c"),))


def test_n_stands_for_a_whole_name_part_only():
    rules = (Rule("N.Nx.*", "N.y.*"), Rule("*", "*"))
    assert apply_rules("7.Nx.w", rules)[0] == "7.y.w"
    assert apply_rules("7.5x.w", rules)[0] == "7.5x.w"


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 4), min_size=2, max_size=5), st.integers(0, 4), st.integers(0, 4))
def test_transforms_of_row_slices_are_slices_of_the_transform(shape, start, count):
    array = mx.random.normal(shape)
    for transform in (IDENTITY, FLATTEN_KERNEL, CHANNELS_LAST):
        whole = transform.apply(array)
        assert whole.shape == transform.shape_of(array.shape)
        part = array[start : start + count]
        if part.size:
            assert mx.array_equal(transform.apply(part), whole[start : start + count])


def test_kernels_become_matrices_with_the_channel_slowest():
    kernel = mx.arange(2 * 3 * 1 * 2 * 2).reshape(2, 3, 1, 2, 2)
    assert FLATTEN_KERNEL.apply(kernel)[1, 5].item() == kernel[1, 1, 0, 0, 1].item()


def test_channels_go_last():
    kernel = mx.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    assert CHANNELS_LAST.apply(kernel)[1, 3, 4, 2].item() == kernel[1, 2, 3, 4].item()


def test_target_shapes_leave_dropped_tensors_out():
    shapes = target_shapes({"freqs": (9,), "blocks.0.ffn.0.bias": (4,)}, RULES)
    assert shapes == {"blocks.0.ffn.fc1.bias": (4,)}


@pytest.mark.parametrize(
    ("names", "prefix"),
    [
        (("model.diffusion_model.patch.weight", "model.diffusion_model.b"), "model.diffusion_model."),
        (("patch.weight", "b"), ""),
        (("vace_patch.weight",), ""),
        (("a.patch.weight", "b.patch.weight"), ""),
    ],
)
def test_the_prefix_is_what_stands_before_the_anchor(names, prefix):
    assert find_prefix(names, "patch.weight") == prefix


def test_every_expected_tensor_gets_a_move(tmp_path):
    with write_source(tmp_path / "a.safetensors", EXPECTED | {"freqs": (3,)}) as source:
        moves = plan_moves(source, RULES, EXPECTED)
    assert {(move.info.name, move.target, move.shape) for move in moves} == {
        ("blocks.0.ffn.0.weight", "blocks.0.ffn.fc1.weight", (4, 2)),
        ("blocks.0.ffn.0.bias", "blocks.0.ffn.fc1.bias", (4,)),
        ("norm.weight", "norm.weight", (2,)),
    }


def test_missing_unknown_and_misshapen_tensors_are_named_with_file_and_shape(tmp_path):
    without = {name: shape for name, shape in EXPECTED.items() if name != "norm.weight"}
    with (
        write_source(tmp_path / "a.safetensors", without) as source,
        pytest.raises(
            CheckpointError, match=r"a.safetensors: 1 tensor missing, first norm.weight \[2\].*fetch"
        ),
    ):
        plan_moves(source, RULES, EXPECTED)
    with (
        write_source(tmp_path / "b.safetensors", EXPECTED | {"lora_A": (1, 2)}) as source,
        pytest.raises(CheckpointError, match=r"1 tensor unknown, first lora_A \[1, 2\] in b.safetensors"),
    ):
        plan_moves(source, RULES, EXPECTED)
    with (
        write_source(tmp_path / "c.safetensors", EXPECTED | {"norm.weight": (3,)}) as source,
        pytest.raises(CheckpointError, match=r"c.safetensors: norm.weight is \[3\], expected \[2\]"),
    ):
        plan_moves(source, RULES, EXPECTED)
