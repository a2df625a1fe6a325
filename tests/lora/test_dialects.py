"""Adapters of every spelling change the same weights by the same numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mlx_video.lora.apply import apply_adapters
from mlx_video.lora.dialects import Spellings, parse_key
from mlx_video.weights.network import PLAIN
from tests.fixtures.published_sizes import PUBLISHED_TRANSFORMERS
from tests.lora.adapter_files import IMAGE_TO_VIDEO, LAYERS, RANK, assert_changed, pair, product, read, write
from tests.models.networks import build_transformer
from tests.parity.golden import fill

ALPHA = 2.0
# Who writes it: (layer with its prefix, down, up, whether an alpha lies beside them). `flat` has underscores.
DIALECTS = {
    "ComfyUI": ("diffusion_model.{official}", "lora_down.weight", "lora_up.weight", True),
    "ComfyUI A and B": ("diffusion_model.{official}", "lora_A.weight", "lora_B.weight", True),
    "ComfyUI whole checkpoint": ("model.diffusion_model.{official}", "lora_A", "lora_B", False),
    "kohya and musubi": ("lora_unet_{flat_official}", "lora_down.weight", "lora_up.weight", True),
    "kohya on Diffusers": ("lora_transformer_{flat_diffusers}", "lora_down.weight", "lora_up.weight", True),
    "VideoX-Fun": ("lora_unet__{flat_official}", "lora_down.weight", "lora_up.weight", True),
    "Diffusers": ("transformer.{diffusers}", "lora_A.weight", "lora_B.weight", False),
    "Diffusers, second expert": ("transformer_2.{diffusers}", "lora_A.weight", "lora_B.weight", False),
    "Diffusers of old": ("unet.{diffusers}", "lora.down.weight", "lora.up.weight", True),
    "PEFT": ("base_model.model.{diffusers}", "lora_A.weight", "lora_B.weight", False),
    "PEFT on a pipeline": (
        "base_model.model.transformer.{diffusers}", "lora_A.default.weight", "lora_B.default.weight", False,
    ),
    "DiffSynth": ("{official}", "lora_A.default.weight", "lora_B.default.weight", False),
    "DiffSynth pipeline": ("pipe.dit.{official}", "lora_A.default.weight", "lora_B.default.weight", False),
    "AI-Toolkit of old": ("transformer.{official}", "lora_A.weight", "lora_B.weight", False),
    "lightx2v": ("{official}", "lora_down.weight", "lora_up.weight", True),
    "our own names": ("{ours}", "lora_A.weight", "lora_B.weight", False),
}  # fmt: skip


def spell(template: str, layer: str) -> str:
    official, diffusers = LAYERS[layer]
    return template.format(
        ours=layer,
        official=official,
        diffusers=diffusers,
        flat_official=official.replace(".", "_"),
        flat_diffusers=diffusers.replace(".", "_"),
    )


def dialect_arrays(dialect: str) -> dict[str, np.ndarray]:
    template, down, up, has_alpha = DIALECTS[dialect]
    arrays = {}
    for salt, layer in enumerate(LAYERS, 1):
        path = spell(template, layer)
        arrays[f"{path}.{down}"], arrays[f"{path}.{up}"] = pair(layer, salt)
        if has_alpha:
            arrays[f"{path}.alpha"] = np.array(ALPHA, np.float32)
    return arrays


def expected_deltas(scale: float) -> dict[str, np.ndarray]:
    return {f"{layer}.weight": product(pair(layer, salt), scale) for salt, layer in enumerate(LAYERS, 1)}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_is_merged_alike(tmp_path, dialect):
    path = write(tmp_path / "style.safetensors", dialect_arrays(dialect))
    model = build_transformer()
    adapters = read((path, 0.5), strict=True)
    apply_adapters(model, adapters)
    has_alpha = DIALECTS[dialect][3]
    assert_changed(model, expected_deltas(0.5 * (ALPHA / RANK if has_alpha else 1.0)))
    assert f"{len(LAYERS)} of {len(LAYERS)} pairs" in adapters.notices[0]
    assert f"rank {RANK}, alpha {'in the file' if has_alpha else 'absent'}" in adapters.notices[0]


def test_old_lokr_files_of_ai_toolkit_mix_both_spellings(tmp_path):
    # Its converter renames attention and projections, but not what dots would tell apart.
    layers = {
        "lycoris_blocks_0_self_attn_q": "blocks.0.self_attn.q",
        "lycoris_blocks_0_self_attn_to_out_0": "blocks.0.self_attn.o",
        "lycoris_blocks_1_cross_attn_to_out_0": "blocks.1.cross_attn.o",
        "lycoris_blocks_1_ffn_net_2": "blocks.1.ffn.fc2",
    }
    arrays = {}
    for salt, (path, layer) in enumerate(layers.items(), 1):
        columns = 12 if "ffn" in layer else 8
        arrays |= {f"{path}.lokr_w1": fill((8, 8), salt), f"{path}.lokr_w2": fill((8, columns), salt + 10)}
    model = build_transformer()
    apply_adapters(model, read(write(tmp_path / "a.safetensors", arrays), strict=True))
    pairs = zip(*[iter(array.astype(np.float64) for array in arrays.values())] * 2, strict=True)
    assert_changed(
        model,
        {f"{layer}.weight": np.kron(*pair) for layer, pair in zip(layers.values(), pairs, strict=True)},
    )


@pytest.mark.parametrize("wrapper", [None, "state_dict"])
def test_torch_files_are_read_without_torch_objects(tmp_path, wrapper):
    torch = pytest.importorskip("torch")
    tensors = {name: torch.tensor(array) for name, array in dialect_arrays("ComfyUI").items()}
    path = tmp_path / "style.ckpt"
    torch.save({wrapper: tensors} if wrapper else tensors, path)
    model = build_transformer()
    apply_adapters(model, read(path))
    assert_changed(model, expected_deltas(ALPHA / RANK))


def test_a_peft_folder_is_read_with_its_settings(tmp_path):
    folder = tmp_path / "my_adapter"
    folder.mkdir()
    write(folder / "adapter_model.safetensors", dialect_arrays("PEFT"))
    (folder / "adapter_config.json").write_text(json.dumps({"r": RANK, "lora_alpha": 6}))
    model = build_transformer()
    adapters = read(folder)
    apply_adapters(model, adapters)
    assert_changed(model, expected_deltas(6 / RANK))
    assert "alpha adapter_config.json, scale 1.5 × strength 1 = 1.5" in adapters.notices[0]


def test_image_layers_are_found_in_every_spelling(tmp_path):
    spellings = {
        "blocks.0.cross_attn.k_img": ("blocks.0.attn2.add_k_proj", "blocks_0_cross_attn_k_img"),
        "blocks.1.cross_attn.v_img": ("blocks.1.attn2.add_v_proj", "blocks_1_attn2_add_v_proj"),
        "img_emb.proj.1": ("condition_embedder.image_embedder.ff.net.0.proj", "img_emb_proj_1"),
        "img_emb.proj.3": ("condition_embedder.image_embedder.ff.net.2", "img_emb_proj_3"),
    }
    for spelled in zip(*[(layer, *others) for layer, others in spellings.items()], strict=True):
        arrays, deltas = {}, {}
        for path, layer in zip(spelled, spellings, strict=True):
            factors = pair(layer, config=IMAGE_TO_VIDEO)
            arrays |= {f"{path}.lora_A.weight": factors[0], f"{path}.lora_B.weight": factors[1]}
            deltas[f"{layer}.weight"] = product(factors)
        model = build_transformer(IMAGE_TO_VIDEO)
        path = write(tmp_path / "style.safetensors", arrays)
        apply_adapters(model, read(path, config=IMAGE_TO_VIDEO, strict=True))
        assert_changed(model, deltas)


@pytest.mark.parametrize("name", ["wan2.1-t2v-1.3b", "wan2.1-flf2v-14b"])
def test_no_spelling_could_mean_two_layers(name):
    config = PUBLISHED_TRANSFORMERS[name]
    names = tuple(PLAIN.parameters(config))
    for diffusers in (False, True):
        spellings = Spellings(names, diffusers=diffusers)
        last = config.num_layers - 1
        for path in (f"blocks.{last}.ffn.2", f"blocks_{last}_ffn_2", f"blocks.{last}.ffn.fc2"):
            assert spellings.find(parse_key(f"{path}.alpha")) == f"blocks.{last}.ffn.fc2"


@pytest.mark.parametrize(("diffusers", "found"), [(True, "blocks.0.norm3"), (False, None)])
def test_norm2_is_a_layer_in_diffusers_spelling_only(diffusers, found):
    spellings = Spellings(tuple(PLAIN.parameters(IMAGE_TO_VIDEO)), diffusers=diffusers)
    assert spellings.find(parse_key("blocks.0.norm2.w_norm")) == found


@pytest.mark.parametrize(
    ("name", "path", "role"),
    [
        ("diffusion_model.blocks.0.diff_m", "blocks.0", "diff_m"),
        ("diffusion_model.blocks.0.modulation.diff", "blocks.0.modulation", "diff"),
        ("base_model.model.transformer.blocks.0.attn1.to_q.lora_magnitude_vector.default.weight",
         "blocks.0.attn1.to_q", "magnitude"),
        ("blocks.0.attn1.to_q.lora_magnitude_vector", "blocks.0.attn1.to_q", "magnitude"),
        ("lycoris_blocks_26_ffn_net_0_proj.lokr_w2_a", "blocks_26_ffn_net_0_proj", "lokr_w2_a"),
        ("unet.blocks.0.attn1.to_q_lora.down.weight", "blocks.0.attn1.to_q", "down"),
        ("transformer.blocks.0.attn1.to_q.lora_B.default.bias", "blocks.0.attn1.to_q", "up_bias"),
        ("transformer.blocks.0.attn1.to_q.lora_linear_layer.up.weight", "blocks.0.attn1.to_q", "up"),
        ("diffusion_model.blocks.0.norm3.b_norm", "blocks.0.norm3", "diff_b"),
        ("diffusion_model.blocks.0.self_attn.q.weight", "blocks.0.self_attn.q.weight", None),
    ],
)  # fmt: skip
def test_names_come_apart_into_layer_and_role(name, path, role):
    key = parse_key(name)
    assert (key.path, key.role) == (path, role)
