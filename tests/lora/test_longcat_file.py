"""Adapters as LongCat-Video's authors publish them change what their code changes."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.errors import CheckpointError
from mlx_video.lora.apply import apply_adapters
from mlx_video.lora.longcat_file import HYPHEN
from mlx_video.lora.read import read_adapters
from mlx_video.models.longcat.transformer import LongCatTransformer
from mlx_video.request import LoraChoice
from mlx_video.variants.longcat import NETWORK
from mlx_video.weights.names.longcat_names import longcat_tensors
from tests.fixtures.longcat_checkpoint import longcat_arrays
from tests.lora.adapter_files import DENSE, arrays_of, write
from tests.models.longcat_networks import LONGCAT, load_longcat
from tests.parity.golden import fill

RANK, SCALE = 4, 0.5
# Layers in the authors' spelling, in ours, and in how many parts they were trained.
LAYERS = {
    "blocks.0.attn.qkv": ("blocks.0.self_attn.qkv", 3),
    "blocks.1.attn.proj": ("blocks.1.self_attn.o", 1),
    "blocks.1.cross_attn.q_linear": ("blocks.1.cross_attn.q", 1),
    "blocks.2.cross_attn.kv_linear": ("blocks.2.cross_attn.kv", 2),
    "blocks.2.ffn.w1": ("blocks.2.ffn.fc1", 1),
    "blocks.0.ffn.w2": ("blocks.0.ffn.fc2", 1),
    "blocks.0.ffn.w3": ("blocks.0.ffn.gate", 1),
    "blocks.0.adaLN_modulation.1": ("blocks.0.time_projection", 1),
    "final_layer.linear": ("head.head", 1),
}


def adapter_arrays():
    """An adapter's tensors, and the change of each of our weights, worked out part by part."""
    model = arrays_of(LongCatTransformer(LONGCAT))
    arrays, changes = {}, {}
    for salt, (theirs, (ours, parts)) in enumerate(LAYERS.items(), 1):
        rows, columns = model[f"{ours}.weight"].shape
        name = HYPHEN.join(["lora", *theirs.split(".")])
        down = fill((parts * RANK, columns), salt, 0.3)
        ups = [fill((rows // parts, RANK), 100 * salt + part, 0.3) for part in range(parts)]
        arrays |= {f"{name}.lora_down.weight": down, f"{name}.alpha_scale": np.float32(SCALE)}
        if parts == 1:
            arrays[f"{name}.lora_up.weight"] = ups[0]
        else:
            arrays |= {f"{name}.lora_up.blocks.{part}.weight": up for part, up in enumerate(ups)}
        halves = [up @ down[part * RANK : (part + 1) * RANK] for part, up in enumerate(ups)]
        changes[f"{ours}.weight"] = SCALE * np.concatenate(halves)
    return arrays, changes


def read(path, **options):
    return read_adapters([LoraChoice(path)], LONGCAT, network=NETWORK, **options)


@pytest.fixture
def model():
    return load_longcat(longcat_arrays(LONGCAT, 3))


def test_every_layer_changes_as_in_the_authors_code(tmp_path, model):
    arrays, changes = adapter_arrays()
    before = arrays_of(model)
    adapters = read(write(tmp_path / "cfg_step_lora.safetensors", arrays), strict=True)
    apply_adapters(model, adapters)
    for name, values in arrays_of(model).items():
        np.testing.assert_allclose(values, before[name] + changes.get(name, 0), **DENSE)


def test_an_adapter_beside_the_layers_gives_what_a_merged_one_gives(tmp_path):
    arrays, _ = adapter_arrays()
    path = write(tmp_path / "a.safetensors", arrays)
    tokens = mx.array(fill((5, LONGCAT.dim), 9))
    found = []
    for mode in ("merge", "side"):
        model = load_longcat(longcat_arrays(LONGCAT, 3))
        apply_adapters(model, read(path), mode=mode)
        found.append(np.array(model.blocks[2].ffn(tokens)))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5, atol=1e-5)


def test_parts_that_do_not_fit_each_other_are_refused(tmp_path):
    arrays, _ = adapter_arrays()
    name = HYPHEN.join(["lora", "blocks", "0", "attn", "qkv"])
    del arrays[f"{name}.lora_up.blocks.1.weight"]
    with pytest.raises(CheckpointError, match="the other parts of its layer, 2 in all, do not fit"):
        read(write(tmp_path / "a.safetensors", arrays))
    del arrays[f"{name}.lora_down.weight"]
    with pytest.raises(CheckpointError, match="has no lora_down beside it"):
        read(write(tmp_path / "b.safetensors", arrays))


def test_all_layers_that_can_be_changed_have_a_name_of_the_authors():
    assert {f"{ours}.weight" for ours, _ in LAYERS.values()} <= set(NETWORK.parameters(LONGCAT))
    assert len(longcat_tensors(LONGCAT)) == len(NETWORK.parameters(LONGCAT))
