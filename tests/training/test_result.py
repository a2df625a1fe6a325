"""What a training writes: names and scales that others read, and models that run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import WanPipeline
from mlx_video.errors import RequestError
from mlx_video.formats.safetensors_header import read_header
from mlx_video.loading.components import load_transformer, open_model
from mlx_video.lora.apply import apply_adapters
from mlx_video.lora.read import read_adapters
from mlx_video.request import LoraChoice
from mlx_video.training.adapter import Adapter
from mlx_video.training.factors import KINDS
from mlx_video.training.state import load_state
from mlx_video.training.trainable import Values
from tests.lora.adapter_files import arrays_of
from tests.models.networks import relative_error
from tests.training.small_training import plan_small, run, write_experts, write_model

HALF = 2e-3  # of what rounding the factors to float16 changes in their products
EXPORTS = ("comfyui", "kohya", "diffusers", "peft")
SMALL = {"width": 16, "height": 16, "num_frames": 5, "steps": 2, "guide_scale": 3.0, "seed": 1}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


def changes_of(plan, values: Values) -> dict[str, np.ndarray]:
    """What an adapter of these values adds to the weights: it runs beside them on unit vectors."""
    adapter = Adapter(plan.adapter, 0)
    adapter.trainable.put(values)
    changes = {}
    for path, (rows, columns) in plan.adapter.layers.items():
        added = adapter._factors[path](mx.eye(columns), mx.zeros((columns, rows)))
        changes[f"{path}.weight"] = np.array(added.T, np.float64)
    return changes


def read_changes(plan, file: Path, name: str = "model") -> dict[str, np.ndarray]:
    """What --lora adds to the weights."""
    transformer = load_transformer(plan.model, plan.config, name)
    before = arrays_of(transformer)
    choice = [LoraChoice(file, 1.0)]
    network = plan.network
    adapters = read_adapters(choice, plan.config.transformer, network, strict=True, transformer=name)
    apply_adapters(transformer, adapters)
    after = arrays_of(transformer)
    changed = {key: after[key].astype(np.float64) - before[key] for key in before}
    return {key: change for key, change in changed.items() if np.any(change)}


def assert_alike(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, change in expected.items():
        assert relative_error(found[name], change) <= HALF, name


@pytest.mark.parametrize(
    ("network", "export"),
    [
        *(("lora", export) for export in EXPORTS),
        *((network, export) for network in ("loha", "lokr") for export in ("comfyui", "kohya")),
    ],
)
def test_an_adapter_is_read_by_lora_as_it_was_trained(model: Path, tmp_path: Path, network: str, export: str):
    plan = plan_small(model, tmp_path, network=network, export=export, alpha=5.0)
    _, file = run(plan)
    state, _ = load_state(plan.state_path)
    assert_alike(read_changes(plan, file), changes_of(plan, state.values))


# What ComfyUI looks for. Source: Comfy-Org/ComfyUI comfy/lora.py, model_lora_keys_unet; comfy/weight_adapter.
COMFY_TENSORS = {
    "lora": ("lora_A.weight", "lora_B.weight", "alpha"),
    "loha": ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "alpha"),
    "lokr": ("lokr_w1", "lokr_w2_a", "lokr_w2_b", "alpha"),
    "kohya": ("lora_down.weight", "lora_up.weight", "alpha"),
}


@pytest.mark.parametrize(
    ("network", "export"), [("lora", "comfyui"), ("loha", "comfyui"), ("lokr", "comfyui"), ("lora", "kohya")]
)
def test_comfyui_knows_every_tensor(model: Path, tmp_path: Path, network: str, export: str):
    plan = plan_small(model, tmp_path, network=network, export=export)
    _, file = run(plan)
    weights = [f"diffusion_model.{name}" for name in plan.network.tensors(plan.config.transformer)]
    layers = [name.removesuffix(".weight") for name in weights if name.endswith(".weight")]
    flat = [f"lora_unet_{layer.removeprefix('diffusion_model.').replace('.', '_')}" for layer in layers]
    endings = COMFY_TENSORS["kohya" if export == "kohya" else network]
    known = {f"{layer}.{ending}" for layer in (*layers, *flat) for ending in endings}
    found = set(mx.load(str(file)))
    assert found <= known
    assert len(found) == 40 * len(endings)


def test_the_header_tells_where_an_adapter_comes_from(model: Path, tmp_path: Path):
    _, file = run(plan_small(model, tmp_path, output_name="cats", alpha=3.0))
    told = read_header(file).metadata
    assert told["modelspec.title"] == "cats"
    assert told["mlx_video.base_model"] == "wan2.1-t2v, model.safetensors"
    assert told["mlx_video.dataset"] == "3 drawn examples"
    assert told["mlx_video.steps"] == "4"
    options = json.loads(told["mlx_video.training"])
    assert options["alpha"] == "3.0"
    assert not {"output_dir", "resume", "memory_limit"} & options.keys()


def test_experts_have_files_and_ranges_of_their_own(tmp_path: Path):
    model = write_experts(tmp_path)
    for expert, timesteps in (("high_noise", "875 to 1000"), ("low_noise", "0 to 875")):
        plan = plan_small(model, tmp_path / "out" / expert, expert=expert, export="diffusers")
        events, file = run(plan)
        assert file.name == f"trained_{expert}.safetensors"
        assert any(f"timesteps {timesteps}" in getattr(event, "text", "") for event in events)
        state, _ = load_state(plan.state_path)
        assert_alike(read_changes(plan, file, expert), changes_of(plan, state.values))
    with pytest.raises(RequestError, match="Train high_noise and low_noise one by one"):
        plan_small(model, tmp_path / "out")


def test_results_on_the_way_stay_as_many_as_are_asked_for(model: Path, tmp_path: Path):
    plan = plan_small(model, tmp_path, steps=6, save_every=1, keep_last=2)
    run(plan)
    assert sorted(path.name for path in tmp_path.glob("trained*")) == [
        "trained-step000004.safetensors",
        "trained-step000005.safetensors",
        "trained.safetensors",
    ]


def test_a_trained_model_is_a_folder_that_runs_with_what_was_trained(model: Path, tmp_path: Path):
    plan = plan_small(model, tmp_path, network="full", target_modules=("blocks.2", "ffn.fc1"))
    _, folder = run(plan)
    state, _ = load_state(plan.state_path)
    assert len(state.values) == 27 + 3 * 2
    trained, config = open_model(folder)
    found, before = (
        arrays_of(load_transformer(trained, config)),
        arrays_of(load_transformer(plan.model, plan.config)),
    )
    for name, array in found.items():
        expected = np.array(state.values[name]) if name in state.values else before[name]
        np.testing.assert_array_equal(array, expected, err_msg=name)
        assert np.array_equal(array, before[name]) == (name not in state.values), name
    clip = WanPipeline.from_pretrained(folder)("a cat", **SMALL).frames
    assert not np.array_equal(clip, WanPipeline.from_pretrained(model)("a cat", **SMALL).frames)


def test_the_moving_average_is_the_result(model: Path, tmp_path: Path):
    plan = plan_small(model, tmp_path, ema=0.5)
    _, file = run(plan)
    state, _ = load_state(plan.state_path)
    assert_alike(read_changes(plan, file), changes_of(plan, state.average))
    plain = plan_small(model, tmp_path / "plain")
    run(plain)
    values = load_state(plain.state_path)[0].values
    assert all(mx.array_equal(values[name], state.values[name]) for name in values)
    assert not all(mx.array_equal(values[name], state.average[name]) for name in values)


@pytest.mark.parametrize("network", ["lora", "loha", "lokr"])
def test_a_training_begins_with_an_adapter(model: Path, tmp_path: Path, network: str):
    first = plan_small(model, tmp_path / "first", network=network, alpha=3.0)
    _, file = run(first)
    second = plan_small(model, tmp_path / "second", network=network, init_lora=file, learning_rate=1e-45)
    run(second)
    values = load_state(second.state_path)[0].values
    assert_alike(changes_of(second, values), read_changes(first, file))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"rank": 4}, "has rank 2. Give --rank 2"),
        ({"network": "loha"}, "is no loha. Give --network as it is"),
        ({"network": "lokr"}, "is no lokr. Give --network as it is"),
        ({"target_modules": ("head.head",)}, "does not change head.head"),
    ],
)
def test_an_adapter_that_does_not_fit_is_not_begun_with(
    model: Path, tmp_path: Path, options: dict, text: str
):
    _, file = run(plan_small(model, tmp_path / "first"))
    with pytest.raises(RequestError, match=text):
        run(plan_small(model, tmp_path / "second", init_lora=file, **options))


@pytest.mark.parametrize(
    ("sizes", "shapes"),
    [
        ((1536, 1536), ((32, 32), (48, 4), (4, 48))),
        ((8960, 1536), ((80, 32), (112, 4), (4, 48))),
        ((13824, 5120), ((108, 64), (128, 4), (4, 80))),
        ((7, 12), ((1, 3), (7, 4), (4, 4))),
    ],
)
def test_kronecker_factors_have_the_sizes_of_lycoris(sizes: tuple[int, int], shapes):
    """As `factorization(n, -1)` of LyCORIS splits them."""
    assert KINDS["lokr"].shapes(*sizes, 4) == shapes


def test_an_adapter_of_other_kronecker_factors_is_not_begun_with(model: Path, tmp_path: Path):
    plan = plan_small(model, tmp_path / "first", network="lokr", target_modules=("blocks.0.self_attn.q",))
    _, file = run(plan)
    tensors = mx.load(str(file))
    for name, array in tensors.items():
        if name.endswith("lokr_w1"):
            tensors[name] = mx.ones((array.shape[0] // 2, array.shape[1]), array.dtype)
        elif name.endswith("lokr_w2_a"):
            tensors[name] = mx.ones((array.shape[0] * 2, array.shape[1]), array.dtype)
    mx.save_safetensors(str(tmp_path / "other.safetensors"), tensors)
    options = {"network": "lokr", "target_modules": ("blocks.0.self_attn.q",)}
    with pytest.raises(RequestError, match="is no lokr"):
        run(plan_small(model, tmp_path / "second", init_lora=tmp_path / "other.safetensors", **options))
