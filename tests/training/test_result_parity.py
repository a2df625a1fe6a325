"""Diffusers and PEFT load what a training writes, and change the same weights by the same numbers."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.lora.apply import apply_adapters
from mlx_video.training.adapter import Adapter, AdapterPlan, find_layers
from mlx_video.training.result import AdapterNames, write_adapter
from mlx_video.weights.network import PLAIN
from tests.lora.adapter_files import IMAGE_TO_VIDEO, arrays_of, base_arrays, read
from tests.models.networks import build_transformer, transformer_arrays
from tests.parity.diffusers_transformer import build_diffusers, diffusers_name
from tests.parity.golden import fill

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.parity

# float32 rounds at 6e-8, and PEFT scales, multiplies and adds in another order.
TOLERANCE = {"rtol": 1e-6, "atol": 2e-6}


def write_trained(path: Path, export: str) -> Path:
    layers = find_layers(PLAIN, IMAGE_TO_VIDEO, ())
    # Diffusers multiplies the factors by alpha over rank in float16, which is exact for a half.
    plan = AdapterPlan("lora", 4, 2.0, layers)
    values = {
        name: mx.array(fill(value.shape, salt, 0.5))
        for salt, (name, value) in enumerate(Adapter(plan, 0).trainable.values().items(), 1)
    }
    return write_adapter(path, AdapterNames(plan, PLAIN), values, export, {"format": "pt"})


@pytest.mark.parametrize("export", ["comfyui", "kohya", "diffusers"])
def test_diffusers_loads_a_trained_adapter(tmp_path: Path, export: str):
    path = write_trained(tmp_path / "trained.safetensors", export)
    theirs = build_diffusers(IMAGE_TO_VIDEO, transformer_arrays(IMAGE_TO_VIDEO))
    loader = diffusers.loaders.WanLoraLoaderMixin
    state, metadata = loader.lora_state_dict(str(path), return_lora_metadata=True)
    theirs.load_lora_adapter(state, metadata=metadata, prefix="transformer")
    theirs.fuse_lora()
    theirs.unload_lora()
    names = dict(theirs.named_parameters())
    assert_merged_alike(path, {name: names[diffusers_name(name)] for name in official_layers()})


def test_peft_loads_a_trained_adapter_onto_the_official_names(tmp_path: Path):
    folder = write_trained(tmp_path / "trained", "peft")
    root = torch.nn.Module()
    for name in official_layers():
        place(root, name, transformer_arrays(IMAGE_TO_VIDEO)[name])
    merged = peft.PeftModel.from_pretrained(root, folder).merge_and_unload()
    assert_merged_alike(folder, dict(merged.named_parameters()))


def place(root, name: str, weight: np.ndarray) -> None:
    """A linear layer where a name says."""
    *path, last, _ = name.split(".")
    for part in path:
        if not hasattr(root, part):
            root.add_module(part, torch.nn.Module())
        root = getattr(root, part)
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data = torch.tensor(weight)
    root.add_module(last, layer)


def official_layers() -> list[str]:
    """Weights that the default adapter changes."""
    ends = ("self_attn.{}", "cross_attn.{}")
    layers = [end.format(letter) for end in ends for letter in "qkvo"] + ["ffn.0", "ffn.2"]
    return [
        f"blocks.{index}.{layer}.weight" for index in range(IMAGE_TO_VIDEO.num_layers) for layer in layers
    ]


def assert_merged_alike(path: Path, theirs: dict) -> None:
    model = build_transformer(IMAGE_TO_VIDEO)
    apply_adapters(model, read(path, config=IMAGE_TO_VIDEO, strict=True))
    ours = arrays_of(model)
    for name in official_layers():
        layer = name.replace("ffn.0", "ffn.fc1").replace("ffn.2", "ffn.fc2")
        np.testing.assert_allclose(ours[layer], theirs[name].detach().numpy(), **TOLERANCE, err_msg=name)
        assert np.abs(ours[layer] - base_arrays(IMAGE_TO_VIDEO)[layer]).max() > 0.1
