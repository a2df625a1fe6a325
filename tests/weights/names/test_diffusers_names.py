"""Diffusers' names of the transformer's tensors, as rules that weights and adapters share."""

import pytest

from mlx_video.weights.names.transformer_names import DIFFUSERS_RULES, WAN_RULES, transformer_tensors
from mlx_video.weights.rules import Rule, apply_rules, drop, find_sources, target_shapes
from tests.fixtures.published_sizes import PUBLISHED_TRANSFORMERS
from tests.parity.diffusers_transformer import diffusers_name

FLF2V = PUBLISHED_TRANSFORMERS["wan2.1-flf2v-14b"]


def test_every_diffusers_name_becomes_the_official_one():
    for name in transformer_tensors(FLF2V):
        assert apply_rules(diffusers_name(name), DIFFUSERS_RULES)[0] == name


def test_every_official_name_is_found_backwards():
    for name in list(transformer_tensors(FLF2V))[:80]:
        assert diffusers_name(name) in find_sources(name, DIFFUSERS_RULES)


def test_every_converted_name_leads_back_to_the_official_one():
    official = transformer_tensors(PUBLISHED_TRANSFORMERS["wan2.1-t2v-1.3b"])
    converted = target_shapes(official, WAN_RULES)
    sources = [set(find_sources(name, WAN_RULES)) for name in converted]
    for name, found in zip(official, sources, strict=True):
        assert name in found


def test_names_are_found_backwards_only_where_the_rules_lead_there():
    rules = (drop("a.old.*"), Rule("a.N.x", "b.N.y"), Rule("c.*", "b.*"), Rule("*", "*"))
    assert find_sources("b.3.y", rules) == ("a.3.x", "c.3.y", "b.3.y")
    assert find_sources("a.old.z", rules) == ()
    assert find_sources("a.3.x", rules) == ()


@pytest.mark.parametrize(
    ("name", "rules"),
    [
        ("blocks.0.attn2.norm_added_q.weight", DIFFUSERS_RULES),
        ("blocks.3.to_gate_compress.weight", WAN_RULES),  # reported, so it passes the first table
    ],
)
def test_tensors_that_inference_never_uses_are_dropped(name, rules):
    assert apply_rules(name, rules)[0] is None
