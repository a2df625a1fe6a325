"""Where the scale of a pair comes from: its alpha tensor, PEFT's metadata, kohya's, or its rank."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest

from mlx_video.errors import AdapterError
from tests.lora.adapter_files import RANK, pair, read, write

Q, K, FC1 = "blocks.0.self_attn.q", "blocks.1.cross_attn.k", "blocks.0.ffn.fc1"
PATHS = {Q: "blocks.0.attn1.to_q", K: "blocks.1.attn2.to_k", FC1: "blocks.0.ffn.net.0.proj"}


def scales(path) -> dict[str, float]:
    return {
        name.removesuffix(".weight"): change[0].delta.scale for name, change in read(path).changes.items()
    }


def write_diffusers(path, settings: dict | str | None, layers=(Q,), prefix="transformer.", alpha=None):
    arrays = {}
    for layer in layers:
        down, up = pair(layer)
        arrays[f"transformer.{PATHS[layer]}.lora_A.weight"] = down
        arrays[f"transformer.{PATHS[layer]}.lora_B.weight"] = up
        if alpha is not None:
            arrays[f"transformer.{PATHS[layer]}.alpha"] = np.array(alpha, np.float32)
    if isinstance(settings, dict):
        settings = json.dumps({prefix + key: value for key, value in settings.items()})
    return write(path, arrays, None if settings is None else {"lora_adapter_metadata": settings})


def write_kohya(path, names=("lora_down", "lora_up"), alpha=None, metadata=None):
    arrays = {f"lora_unet_blocks_0_self_attn_q.{n}.weight": a for n, a in zip(names, pair(Q), strict=True)}
    if alpha is not None:
        arrays["lora_unet_blocks_0_self_attn_q.alpha"] = np.array(alpha, np.float32)
    return write(path, arrays, metadata or {"ss_network_dim": "4", "ss_network_alpha": "8"})


@pytest.mark.parametrize("prefix", ["transformer.", "transformer_2.", ""])
def test_peft_metadata_give_the_alpha(tmp_path, prefix):
    path = write_diffusers(tmp_path / "a.safetensors", {"r": 4, "lora_alpha": 6}, prefix=prefix)
    assert scales(path) == {Q: 6 / RANK}
    assert "alpha lora_adapter_metadata" in read(path).notices[0]


def test_a_root_of_the_rank_is_taken_where_peft_says_so(tmp_path):
    settings = {"r": 4, "lora_alpha": 6, "use_rslora": True}
    assert scales(write_diffusers(tmp_path / "a.safetensors", settings)) == {Q: 6 / math.sqrt(RANK)}


def test_peft_patterns_match_the_end_of_a_path(tmp_path):
    patterns = {"to_q": 1, r"ffn\.net\.\d\.proj": 2, "o_q": 50}
    settings = {"r": 4, "lora_alpha": 16, "alpha_pattern": patterns}
    path = write_diffusers(tmp_path / "a.safetensors", settings, layers=(Q, K, FC1))
    assert scales(path) == {Q: 1 / RANK, FC1: 2 / RANK, K: 16 / RANK}


def test_an_alpha_tensor_outranks_all_metadata(tmp_path):
    path = write_diffusers(tmp_path / "a.safetensors", {"r": 4, "lora_alpha": 6}, alpha=1.0)
    assert scales(path) == {Q: 1 / RANK}
    assert scales(write_kohya(tmp_path / "b.safetensors", alpha=1.0)) == {Q: 1 / RANK}


def test_kohya_metadata_count_for_its_own_names_without_any_alpha(tmp_path):
    path = write_kohya(tmp_path / "a.safetensors")
    assert scales(path) == {Q: 8 / RANK}
    assert "alpha ss_network_alpha" in read(path).notices[0]


def test_kohya_metadata_are_not_counted_twice_in_a_converted_file(tmp_path):
    # Converters for ComfyUI multiply alpha into the factors, rename them, and keep the metadata.
    assert scales(write_kohya(tmp_path / "a.safetensors", ("lora_A", "lora_B"))) == {Q: 1.0}


@pytest.mark.parametrize("metadata", [{"ss_network_alpha": "None"}, {"ss_network_alpha": "0"}, {"a": "b"}])
def test_without_a_usable_alpha_the_scale_is_one(tmp_path, metadata):
    assert scales(write_kohya(tmp_path / "a.safetensors", metadata=metadata)) == {Q: 1.0}


def test_an_alpha_of_zero_stands_for_the_rank(tmp_path):
    assert scales(write_kohya(tmp_path / "a.safetensors", alpha=0.0)) == {Q: 1.0}


def test_dora_by_the_metadata_without_magnitudes_is_refused(tmp_path):
    path = write_diffusers(tmp_path / "a.safetensors", {"r": 4, "lora_alpha": 4, "use_dora": True})
    with pytest.raises(AdapterError, match=r"q: is DoRA by the file's metadata, but has no magnitudes"):
        read(path)


@pytest.mark.parametrize("text", ["no json", "[1, 2]", "[" * 100_000])
def test_metadata_that_cannot_be_read_are_refused(tmp_path, text):
    path = write_diffusers(tmp_path / "a.safetensors", text)
    with pytest.raises(AdapterError, match=r"a\.safetensors: metadata lora_adapter_metadata is no JSON"):
        read(path)


@pytest.mark.parametrize("content", [b'{"lora_alpha": "\xff"}', b"[" * 100_000], ids=["not UTF-8", "nested"])
def test_a_description_beside_the_file_that_cannot_be_read_is_refused(tmp_path, content):
    (tmp_path / "style").mkdir()
    write_diffusers(tmp_path / "style" / "adapter_model.safetensors", None)
    (tmp_path / "style" / "adapter_config.json").write_bytes(content)
    with pytest.raises(AdapterError, match=r"style: adapter_config\.json is no JSON object"):
        read(tmp_path / "style")


def test_a_pattern_beyond_reason_does_not_count(tmp_path):
    patterns = {"a{99999999999}": 1}
    path = write_diffusers(tmp_path / "a.safetensors", {"lora_alpha": 8, "alpha_pattern": patterns})
    assert scales(path) == {Q: 8 / RANK}


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"lora_alpha": 10**400}, "lora_alpha is 1000"),
        ({"lora_alpha": "x"}, "lora_alpha is 'x', which is no finite number"),
        ({"alpha_pattern": {"to_q": 10**400}}, "alpha_pattern to_q is 1000"),
        ({"alpha_pattern": {"(x+x+)+y": 1}}, "repeats a group"),
        ({"alpha_pattern": {"a*b*c*d*e*": 1}}, "repeats often"),
        ({"alpha_pattern": [1]}, "alpha_pattern is no object"),
    ],
)
def test_metadata_that_no_tool_writes_are_refused(tmp_path, settings, text):
    path = write_diffusers(tmp_path / "a.safetensors", {"lora_alpha": 8, **settings})
    with pytest.raises(AdapterError, match=re.escape(text)):
        scales(path)
