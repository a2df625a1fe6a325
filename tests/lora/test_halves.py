"""One adapter file for two experts: each takes its half."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mlx_video.errors import AdapterError
from mlx_video.lora.apply import apply_adapters
from mlx_video.lora.read import find_expert
from tests.lora.adapter_files import LAYERS, RANK, assert_changed, pair, product, read, write
from tests.lora.test_dialects import spell
from tests.models.networks import build_transformer
from tests.parity.golden import fill

EXPERTS = {"high_noise": 10, "low_noise": 40}
HALVES = {"high_noise": "high-noise half", "low_noise": "low-noise half"}
# Who writes it: how each expert's layers are spelled, the one for high noise first.
FORMS = {
    "AI-Toolkit": ("diffusion_model.transformer_1.{official}", "diffusion_model.transformer_2.{official}"),
    "AI-Toolkit of old": ("transformer.transformer_1.{diffusers}", "transformer.transformer_2.{diffusers}"),
    "Diffusers": ("transformer.{diffusers}", "transformer_2.{diffusers}"),
    "Diffusers' loader, Wan's names": ("transformer.{official}", "transformer_2.{official}"),
    "PEFT on a pipeline": (
        "base_model.model.transformer.{diffusers}", "base_model.model.transformer_2.{diffusers}",
    ),
    "without a root": ("transformer_1.{official}", "transformer_2.{official}"),
}  # fmt: skip


def halves(form: str, layers=tuple(LAYERS)) -> dict[str, np.ndarray]:
    """Pairs for both experts, of other numbers for each."""
    arrays = {}
    for template, base in zip(FORMS[form], EXPERTS.values(), strict=True):
        for salt, layer in enumerate(layers, base):
            path = spell(template, layer)
            arrays[f"{path}.lora_A.weight"], arrays[f"{path}.lora_B.weight"] = pair(layer, salt)
    return arrays


def deltas(expert: str, scale: float = 1.0) -> dict[str, np.ndarray]:
    return {
        f"{layer}.weight": product(pair(layer, salt), scale)
        for salt, layer in enumerate(LAYERS, EXPERTS[expert])
    }


@pytest.mark.parametrize("expert", EXPERTS)
@pytest.mark.parametrize("form", FORMS)
def test_each_expert_takes_its_half(tmp_path, form, expert):
    path = write(tmp_path / "style.safetensors", halves(form))
    adapters = read((path, 0.5), strict=True, transformer=expert)
    model = build_transformer()
    apply_adapters(model, adapters)
    assert_changed(model, deltas(expert, 0.5))
    count = len(LAYERS)
    (notice,) = adapters.notices
    assert notice.startswith(f"style.safetensors, {HALVES[expert]}: {count} of {count} pairs, {count} layers")
    assert find_expert(path) is None


@pytest.mark.parametrize("expert", EXPERTS)
def test_flattened_lokr_names_of_both_experts_come_apart(tmp_path, expert):
    # AI-Toolkit's old LoKr files.
    arrays = {
        f"lycoris_transformer_{number}_blocks_0_self_attn_q.{role}": fill((8, 8), number + salt)
        for number in (1, 2)
        for salt, role in ((10, "lokr_w1"), (20, "lokr_w2"))
    }
    model = build_transformer()
    path = write(tmp_path / "a.safetensors", arrays)
    apply_adapters(model, read(path, strict=True, transformer=expert))
    first, second = list(arrays.values())[:2] if expert == "high_noise" else list(arrays.values())[2:]
    delta = np.kron(first.astype(np.float64), second.astype(np.float64))
    assert_changed(model, {"blocks.0.self_attn.q.weight": delta})


@pytest.mark.parametrize("form", FORMS)
def test_a_model_with_one_transformer_refuses_both_halves_by_name(tmp_path, form):
    arrays = halves(form)
    count, names = len(arrays) // 2, list(arrays)
    first, second = min(names[:count]), min(names[count:])
    path = write(tmp_path / "style.safetensors", arrays)
    with pytest.raises(AdapterError) as caught:
        read(path)
    text = str(caught.value)
    assert text.startswith(
        "style.safetensors: holds two adapters, one for each expert of a Wan2.2 A14B model"
    )
    assert f"{count} keys for the high-noise expert (first: {first})" in text
    assert f"{count} for the low-noise expert (first: {second})" in text
    assert "This model has one transformer. Use an adapter for one." in text


@pytest.mark.parametrize("expert", EXPERTS)
def test_metadata_of_each_transformer_count_for_its_half(tmp_path, expert):
    settings = {"transformer.lora_alpha": 2, "transformer_2.lora_alpha": 6, "transformer_2.use_rslora": True}
    metadata = {"lora_adapter_metadata": json.dumps(settings)}
    path = write(tmp_path / "a.safetensors", halves("Diffusers"), metadata)
    model = build_transformer()
    apply_adapters(model, read(path, transformer=expert))
    scale = 2 / RANK if expert == "high_noise" else 6 / RANK**0.5
    assert_changed(model, deltas(expert, scale))


@pytest.mark.parametrize("expert", EXPERTS)
def test_a_half_of_zeros_is_said_to_change_nothing(tmp_path, expert):
    arrays = halves("AI-Toolkit")
    for name in arrays:
        if "transformer_2" in name and "lora_B" in name:
            arrays[name] = np.zeros_like(arrays[name])
    path = write(tmp_path / "style.safetensors", arrays)
    if expert == "high_noise":
        assert read(path, strict=True, transformer=expert)
        return
    text = f"low-noise half: changes nothing: what it holds for {len(LAYERS)} layers is zero"
    assert read(path, transformer=expert).notices[0].startswith(f"style.safetensors, {text}")
    with pytest.raises(AdapterError, match="low-noise half: changes nothing"):
        read(path, strict=True, transformer=expert)


def test_tensors_that_name_neither_expert_beside_both_halves_fit_nothing(tmp_path):
    arrays = halves("AI-Toolkit") | {
        "diffusion_model.head.head.diff_b": fill((64,), 1),
        "lora_te_encoder.alpha": np.ones(1, np.float32),
        "note": np.ones(1, np.float32),
    }
    path = write(tmp_path / "style.safetensors", arrays)
    keys = 2 * len(LAYERS)
    for expert, name in HALVES.items():
        text = read(path, transformer=expert).notices[1]
        assert text.startswith(f"style.safetensors, {name}: 3 of {keys + 3} keys fit nothing in the model:")
        assert "1 that name neither expert, where others do" in text
        assert "1 of a text encoder" in text
    with pytest.raises(AdapterError, match="diffusion_model.head.head.diff_b.*Leave out --strict-lora"):
        read(path, strict=True, transformer="high_noise")


@pytest.mark.parametrize("number", [1, 2])
def test_a_file_whose_tensors_name_one_expert_is_for_that_one(tmp_path, number):
    arrays = {name: array for name, array in halves("AI-Toolkit").items() if f"transformer_{number}." in name}
    # What the tensors say outranks the name of the file.
    path = write(tmp_path / f"style_{('low', 'high')[number - 1]}_noise.safetensors", arrays)
    expert, other = ("high_noise", "low_noise") if number == 1 else ("low_noise", "high_noise")
    assert find_expert(path) == expert
    assert len(read(path, transformer=expert).notices) == 1
    assert "is applied to the" in read(path, transformer=other).notices[1]


def test_diffusers_only_transformer_is_no_expert(tmp_path):
    arrays = {name: array for name, array in halves("Diffusers").items() if name.startswith("transformer.")}
    path = write(tmp_path / "style.safetensors", arrays)
    assert find_expert(path) is None
    assert len(read(path, strict=True).notices) == 1
