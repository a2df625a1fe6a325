"""Adapters as LongCat-Video's authors publish them change what their code changes."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.errors import CheckpointError
from mlx_video.lora.apply import apply_adapters
from mlx_video.lora.longcat_file import HYPHEN
from mlx_video.lora.read import read_adapters
from mlx_video.request import LoraChoice
from mlx_video.variants.longcat import NETWORK
from mlx_video.weights.names.longcat_names import AUTHORS_RULES
from mlx_video.weights.names.transformer_names import WAN_RULES
from mlx_video.weights.rules import apply_rules, target_shapes
from tests.fixtures.longcat_checkpoint import longcat_adapter, longcat_arrays
from tests.lora.adapter_files import DENSE, arrays_of, write
from tests.models.longcat_networks import LONGCAT, load_longcat
from tests.parity.golden import fill


def read(path, **options):
    return read_adapters([LoraChoice(path)], LONGCAT, network=NETWORK, **options)


def _our_name(name):
    return target_shapes({str(apply_rules(name, AUTHORS_RULES)[0]): (1, 1)}, WAN_RULES).popitem()[0]


@pytest.fixture
def model():
    return load_longcat(longcat_arrays(LONGCAT, 3))


def test_every_layer_changes_as_in_the_authors_code(tmp_path, model):
    arrays, theirs = longcat_adapter(LONGCAT)
    changes = {_our_name(name): change for name, change in theirs.items()}
    before = arrays_of(model)
    adapters = read(write(tmp_path / "cfg_step_lora.safetensors", arrays), strict=True)
    apply_adapters(model, adapters)
    for name, values in arrays_of(model).items():
        np.testing.assert_allclose(values, before[name] + changes.get(name, 0), **DENSE)


def test_an_adapter_beside_the_layers_gives_what_a_merged_one_gives(tmp_path):
    arrays, _ = longcat_adapter(LONGCAT)
    path = write(tmp_path / "a.safetensors", arrays)
    tokens = mx.array(fill((5, LONGCAT.dim), 9))
    found = []
    for mode in ("merge", "side"):
        model = load_longcat(longcat_arrays(LONGCAT, 3))
        apply_adapters(model, read(path), mode=mode)
        found.append(np.array(model.blocks[1].ffn(tokens)))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5, atol=1e-5)


def test_parts_that_do_not_fit_each_other_are_refused(tmp_path):
    arrays, _ = longcat_adapter(LONGCAT)
    name = HYPHEN.join(["lora", "blocks", "0", "attn", "qkv"])
    del arrays[f"{name}.lora_up.blocks.1.weight"]
    with pytest.raises(CheckpointError, match="the other parts of its layer, 2 in all, do not fit"):
        read(write(tmp_path / "a.safetensors", arrays))
    del arrays[f"{name}.lora_down.weight"]
    with pytest.raises(CheckpointError, match="has no lora_down beside it"):
        read(write(tmp_path / "b.safetensors", arrays))
