"""Names tell experts and pairs of them, or hint at them."""

from pathlib import PurePath

import pytest

from mlx_video.layouts.expert_names import find_sure_expert, guess_expert_of_name, propose_pairs


@pytest.mark.parametrize(
    ("name", "expert"),
    [
        ("wan2.2_t2v_high_noise_14B_fp16", "high_noise"),
        ("Wan2_2-T2V-A14B-LOW_fp8", "low_noise"),
        ("HighNoise", "high_noise"),
        ("x_L_y", "low_noise"),
        ("i2vHighV30", None),
        ("wan-LN-v2", None),
        ("slow_flow", None),
        ("high_and_low", None),
    ],
)
def test_an_expert_is_told_by_clear_names_alone(name, expert):
    assert guess_expert_of_name(name) == expert


def test_an_expert_is_sure_where_a_name_says_noise():
    assert find_sure_expert(PurePath("wan/x_high_noise.safetensors")) == "high_noise"
    assert find_sure_expert(PurePath("low_noise_model/a.safetensors")) == "low_noise"
    assert find_sure_expert(PurePath("wan/Wan2_2-T2V-A14B-LOW_fp8.safetensors")) is None


@pytest.mark.parametrize(
    ("high", "low"),
    [
        ("wan22RemixT2VI2V_i2vHighV30-Q5_K_M.gguf", "wan22RemixT2VI2V_i2vLowV30-Q5_K_M.gguf"),
        ("wan22_high_noise_v2.safetensors", "wan22-LN-v3.safetensors"),
        ("high_noise_model/a.safetensors", "low_noise_model/b.safetensors"),
        ("I2V/v3.0/High/a-Q4.gguf", "I2V/v3.0/Low/a-Q4.gguf"),
        ("wan-H.safetensors", "wan-L.safetensors"),
    ],
)
def test_hints_make_a_pair_in_any_order(high, low):
    assert propose_pairs([high, low]) == propose_pairs([low, high]) == [(high, low)]


def test_files_are_paired_with_those_that_differ_in_nothing_else():
    names = [f"{stage}/wan-{stage}-{kind}.gguf" for kind in ("Q4_K_M", "Q8_0") for stage in ("High", "Low")]
    found = propose_pairs([*names, "High/wan-High-Q2_K.gguf"])
    assert found == [(names[0], names[1]), (names[2], names[3])]


@pytest.mark.parametrize(
    "names",
    [
        ["wan.safetensors", "slowflow_wan.safetensors"],
        ["wan_high.safetensors"],
        ["wan_high_a.safetensors", "wan_high_b.safetensors", "wan_low_c.safetensors"],
        ["high_and_low.safetensors", "wan.safetensors"],
        [],
    ],
)
def test_what_hints_at_no_pair_is_none(names):
    assert propose_pairs(names) == []
