"""What is refused before any weight is read, and what the user is told."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.errors import AdapterError, CheckpointError
from mlx_video.lora.families import guess_expert
from mlx_video.lora.read import read_adapters
from mlx_video.models.control.vace import VACETransformer
from mlx_video.request import LoraChoice
from mlx_video.weights.names.vace_names import VACE_RULES, vace_tensors
from mlx_video.weights.network import TransformerNetwork
from tests.lora.adapter_files import IMAGE_TO_VIDEO, RANK, TRANSFORMER, pair, read, write
from tests.parity.golden import fill

Q = "blocks.0.self_attn.q"


def factors(rows: int, columns: int, rank: int = RANK, path: str = Q) -> dict[str, np.ndarray]:
    return {
        f"diffusion_model.{path}.lora_A.weight": np.ones((rank, columns), np.float32),
        f"diffusion_model.{path}.lora_B.weight": np.ones((rows, rank), np.float32),
    }


FITTING = factors(64, 64)


def refuse(path, *texts: str, **options) -> None:
    """The adapter is refused with a message that holds all texts, in this order."""
    pattern = ".*".join(re.escape(text) for text in texts)
    with pytest.raises(AdapterError, match=f"(?s)^{pattern}"):
        read(path, **options)


def refuse_arrays(tmp_path, arrays, *texts: str, **options) -> None:
    refuse(write(tmp_path / "style.safetensors", arrays), "style.safetensors: ", *texts, **options)


@pytest.mark.parametrize(
    ("key", "family"),
    [
        ("lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight", "Stable Diffusion (a U-Net)"),
        ("lora_unet_input_blocks_4_1_proj_in.lora_down.weight", "Stable Diffusion (a U-Net)"),
        ("transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight", "Flux"),
        ("lora_unet_double_blocks_0_img_attn_proj.lora_down.weight", "Flux or HunyuanVideo"),
        ("diffusion_model.transformer_blocks.0.attn1.to_q.lora_A.weight", "LTX-Video, CogVideoX"),
        (
            "transformer.transformer_blocks.0.attn.add_q_proj.lora_A.weight",
            "Stable Diffusion 3 or Qwen-Image",
        ),
        ("lora_te_encoder_block_0_layer_0_SelfAttention_q.lora_down.weight", "a text encoder"),
        ("text_encoders.umt5xxl.encoder.block.0.q.lora_A.weight", "a text encoder"),
        ("diffusion_model.vace_blocks.0.self_attn.q.lora_A.weight", "Wan VACE"),
        ("diffusion_model.face_adapter.fuser_blocks.0.linear1_q.lora_A.weight", "Wan2.2 Animate"),
        ("diffusion_model.blocks.0.renamed.q.lora_A.weight", "another Wan model or a renamed one"),
        ("layers.0.attention.lora_A.weight", "a model that this version does not know"),
    ],
)
def test_a_file_in_which_nothing_fits_names_its_keys_and_what_it_looks_made_for(tmp_path, key, family):
    other = key.replace("lora_A", "lora_B").replace("lora_down", "lora_up")
    arrays = {key: np.ones((4, 8), np.float32), other: np.ones((8, 4), np.float32)}
    refuse_arrays(tmp_path, arrays, "none of 2 keys matched the transformer (first: ", key, family)


def test_a_whole_model_is_no_adapter(tmp_path):
    arrays = {"blocks.0.self_attn.q.weight": np.ones((64, 64), np.float32)}
    refuse_arrays(tmp_path, arrays, "holds no adapter: its 1 keys are whole weights", Q, "convert_wan")


def test_a_part_that_does_not_fit_is_counted_named_and_refused_if_strict(tmp_path):
    arrays = FITTING | factors(64, 64, path="blocks.0.cross_attn.k_img")
    arrays |= factors(64, 64, path="blocks.7.self_attn.q") | factors(64, 64, path="vace_blocks.0.self_attn.q")
    arrays |= {"lora_te_encoder.alpha": np.ones(1, np.float32), "blocks.0.gate.diff": np.ones(2, np.float32)}
    arrays |= {"note": np.ones(1, np.float32)}
    path = write(tmp_path / "style.safetensors", arrays)
    reasons = (
        "2 of image cross-attention, which this model lacks",
        "2 of blocks beyond the model's 2",
        "2 of VACE, which this model lacks",
        "1 of a text encoder, which is not supported",
        "1 of layers that this model lacks",
        "1 that are no adapter's",
    )
    adapters = read(path)
    assert adapters.targets == {f"{Q}.weight"}
    assert "1 of 4 pairs, 1 layer changed, rank 4" in adapters.notices[0]
    assert adapters.notices[1].startswith("style.safetensors: 9 of 11 keys fit nothing in the model: ")
    assert all(reason in adapters.notices[1] for reason in reasons)
    assert len(adapters.notices) == 2
    refuse(
        path, "style.safetensors: 9 of 11 keys fit nothing", "first: ", "Leave out --strict-lora", strict=True
    )


VACE = replace(TRANSFORMER, vace_layers=(0, 1), vace_in_dim=96)
VACE_NETWORK = TransformerNetwork(VACETransformer, vace_tensors, VACE_RULES)


@pytest.mark.parametrize(
    ("path", "parameter"),
    [
        ("vace_blocks.1.self_attn.q", "vace_blocks.1.self_attn.q"),
        ("vace_blocks.0.before_proj", "vace_before_proj"),
        ("vace_blocks.1.after_proj", "vace_blocks.1.after_proj"),
        ("vace_blocks.1.proj_out", "vace_blocks.1.after_proj"),
        ("vace_blocks.0.attn2.to_k", "vace_blocks.0.cross_attn.k"),
    ],
)
def test_layers_of_vace_are_changed_in_a_model_that_has_them(tmp_path, path, parameter):
    file = write(tmp_path / "style.safetensors", factors(64, 64, path=path))
    adapters = read_adapters([LoraChoice(file, 1.0)], VACE, VACE_NETWORK)
    assert adapters.targets == {f"{parameter}.weight"}


def test_vace_blocks_beyond_those_of_a_model_are_counted(tmp_path):
    arrays = FITTING | factors(64, 64, path="vace_blocks.2.self_attn.q")
    file = write(tmp_path / "style.safetensors", arrays)
    adapters = read_adapters([LoraChoice(file, 1.0)], VACE, VACE_NETWORK)
    assert "2 of VACE blocks beyond the model's 2" in adapters.notices[1]


def image_branch(root: str = "diffusion_model.") -> dict[str, np.ndarray]:
    """What LightX2V's distilled image-to-video adapters hold for the image branch."""
    arrays = {f"{root}blocks.1.cross_attn.norm_k_img.diff": fill((64,), 1)}
    for layer in ("blocks.1.cross_attn.k_img", "blocks.1.cross_attn.v_img", "img_emb.proj.3"):
        down, up = pair(layer, config=IMAGE_TO_VIDEO)
        arrays |= {f"{root}{layer}.lora_down.weight": down, f"{root}{layer}.lora_up.weight": up}
        arrays[f"{root}{layer}.diff_b"] = fill((len(up),), 2)
    arrays[f"{root}img_emb.proj.0.diff"] = fill((32,), 3)
    return arrays


@pytest.mark.parametrize("root", ["diffusion_model.", ""])
def test_known_leftovers_are_said_to_be_harmless_and_pass_if_strict(tmp_path, root):
    arrays = FITTING | image_branch(root)
    path = write(tmp_path / "lightx2v.safetensors", arrays)
    adapters = read(path, strict=True)
    assert adapters.targets == {f"{Q}.weight"}
    assert adapters.notices[1].startswith(
        "lightx2v.safetensors: 11 of 13 keys fit nothing in the model: 11 of image cross-attention, which "
        "this model lacks, as in LightX2V's image-to-video adapters: harmless (first: "
    )


def test_known_leftovers_are_applied_where_the_model_has_the_layers(tmp_path):
    path = write(tmp_path / "lightx2v.safetensors", FITTING | image_branch())
    adapters = read(path, config=IMAGE_TO_VIDEO, strict=True)
    assert len(adapters.notices) == 1
    assert "blocks.1.cross_attn.norm_k_img.weight" in adapters.targets


def test_a_lone_norm_of_the_image_branch_is_a_known_leftover_in_every_spelling(tmp_path):
    for name in ("blocks.0.attn2.norm_added_k.diff", "lora_unet_blocks_0_cross_attn_norm_k_img.diff"):
        path = write(tmp_path / "a.safetensors", FITTING | {name: fill((64,), 1)})
        assert "harmless" in read(path, strict=True).notices[1]


def test_unknown_tensors_beside_known_leftovers_are_refused_if_strict(tmp_path):
    arrays = FITTING | image_branch() | factors(64, 64, path="blocks.7.self_attn.q")
    path = write(tmp_path / "lightx2v.safetensors", arrays)
    refuse(path, "lightx2v.safetensors: 2 of 15 keys fit nothing", "2 of blocks beyond", strict=True)
    assert "11 of image cross-attention" in read(path).notices[1]


def test_a_trained_image_branch_is_no_leftover(tmp_path):
    arrays = FITTING | factors(64, 64, path="blocks.0.cross_attn.k_img")
    refuse_arrays(tmp_path, arrays, "2 of 4 keys fit nothing", "image cross-attention", strict=True)


@pytest.mark.parametrize(
    ("rows", "columns", "origin"),
    [
        (5120, 5120, "The adapter is for dim 5120 (Wan 14B); use one that was made for this model."),
        (1536, 1536, "The adapter is for dim 1536 (Wan 1.3B)"),
        (64, 3072, "The adapter is for dim 3072 (Wan 5B)"),
        (80, 64, "The adapter is for another model"),
    ],
)
def test_a_shape_that_does_not_fit_names_the_layer_and_both_shapes(tmp_path, rows, columns, origin):
    text = f"{Q}: is [64, 64] in the model, the adapter changes [{rows}, {columns}]. "
    refuse_arrays(tmp_path, factors(rows, columns), text, origin)


def test_an_adapter_of_another_width_is_told_by_its_width_first(tmp_path):
    wide = {
        "patch_embedding.lora_A.weight": np.ones((4, 36, 1, 2, 2), np.float32),
        "patch_embedding.lora_B.weight": np.ones((5120, 4, 1, 1, 1), np.float32),
    }
    refuse_arrays(tmp_path, wide, "patch_embedding_proj: is [64, 64] in the model", "dim 5120 (Wan 14B)")


@pytest.mark.parametrize("kernel", [True, False])
def test_an_adapter_with_more_input_channels_is_refused(tmp_path, kernel):
    down = np.ones((4, 36, 1, 2, 2), np.float32)
    arrays = FITTING | {
        "patch_embedding.lora_A.weight": down if kernel else down.reshape(4, -1),
        "patch_embedding.lora_B.weight": np.ones((64, 4), np.float32),
    }
    text = "patch_embedding_proj: the adapter enlarges it from 16 to 36 channels, as for an image-to-video"
    refuse_arrays(tmp_path, arrays, text)


@pytest.mark.parametrize(
    ("down", "up", "text"),
    [
        ((4, 64), (), "patch_embedding.lora_B.weight is [], no matrix"),
        ((), (64, 4), "patch_embedding.lora_A.weight is [], no matrix"),
        ((4, 0), (64, 4), "is [64, 64] in the model, the adapter changes [64, 0]"),
        ((4, 1), (64, 4), "is [64, 64] in the model, the adapter changes [64, 1]"),
    ],
)
def test_misshapen_factors_of_the_patch_embedding_are_refused(tmp_path, down, up, text):
    arrays = {
        "patch_embedding.lora_A.weight": np.ones(down, np.float32),
        "patch_embedding.lora_B.weight": np.ones(up, np.float32),
    }
    refuse_arrays(tmp_path, arrays, f"patch_embedding_proj: {text}")


A, B = f"diffusion_model.{Q}.lora_A.weight", f"diffusion_model.{Q}.lora_B.weight"
ONE = np.ones(1, np.float32)
MALFORMED = {
    "no up": ({A: FITTING[A]}, f"{Q}: has {A}, but its up is missing"),
    "no down": ({B: FITTING[B]}, f"{Q}: has {B}, but its down is missing"),
    "alpha alone": ({f"{Q}.alpha": ONE}, f"{Q}: has {Q}.alpha, but no pair that it belongs to"),
    "ranks": ({A: FITTING[A], B: factors(64, 64, 8)[B]}, f"{Q}: down has rank 4, up has rank 8"),
    "rank 0": (factors(64, 64, 0), f"{Q}: has rank 0. The file is damaged"),
    "empty alpha": (FITTING | {f"{Q}.alpha": np.ones(0, np.float32)}, f"{Q}.alpha holds 0 numbers instead"),
    "two alphas": (FITTING | {f"{Q}.alpha": np.ones(2, np.float32)}, f"{Q}.alpha holds 2 numbers instead"),
    "alpha NaN": (FITTING | {f"{Q}.alpha": ONE * np.nan}, f"{Q}.alpha holds nan instead of one"),
    "Tucker": (FITTING | {f"{Q}.lora_mid.weight": ONE}, f"{Q}: {Q}.lora_mid.weight is a Tucker core, which"),
    "LoHa Tucker": (FITTING | {f"{Q}.hada_t1": ONE}, f"{Q}.hada_t1 is a Tucker core"),
    "enlarged": (FITTING | {f"{Q}.reshape_weight": ONE}, f"{Q}.reshape_weight enlarges it to [1], the"),
    "integers": (
        FITTING | {A: np.ones((4, 64), np.int8)}, f"{Q}: {A} is I8; adapters must be F32, F16 or BF16",
    ),
    "a vector": ({A: FITTING[A], B: np.ones(64, np.float32)}, f"{Q}: {B} is [64], no matrix"),
    "diff": (
        {f"{Q}.diff": np.ones((64, 32), np.float32)},
        f"{Q}: is [64, 64] in the model, the adapter changes [64, 32]",
    ),
    "bias": ({f"{Q}.diff_b": ONE}, f"{Q}: is [64] in the model, the adapter changes [1]"),
    "no bias": (
        {"blocks.0.self_attn.norm_q.diff_b": np.ones(64, np.float32)},
        "blocks.0.self_attn.norm_q.diff_b changes a bias, which the layer does not have",
    ),
    "a norm": (
        factors(64, 64, path="blocks.0.norm3"), "blocks.0.norm3: is [64] in the model, no matrix",
    ),
    "modulation": (
        factors(64, 64, path="head.modulation"), "head.modulation: is [1, 2, 64] in the model, no matrix",
    ),
    "two adapters": (
        {f"{Q}.lora_A.one.weight": FITTING[A], f"{Q}.lora_A.two.weight": FITTING[A]},
        f"{Q}: {Q}.lora_A.one.weight and {Q}.lora_A.two.weight are the same part of two adapters",
    ),
    "two kinds": (
        FITTING | {f"{Q}.lokr_w1": fill((8, 8), 1), f"{Q}.lokr_w2": fill((8, 8), 2)},
        f"{Q}: has tensors of two kinds of adapters",
    ),
    "half LoHa": ({f"{Q}.hada_w1_a": fill((64, 4), 1)}, f"{Q}: has {Q}.hada_w1_a, but its hada_w1_b is"),
    "LoKr": (
        {f"{Q}.lokr_w1": fill((8, 8), 1), f"{Q}.lokr_w2": fill((8, 4), 2)},
        f"{Q}: is [64, 64] in the model, the adapter changes [64, 32]",
    ),
    "half LoKr": ({f"{Q}.lokr_w1": fill((8, 8), 1)}, f"{Q}: has {Q}.lokr_w1, but its lokr_w2_a is missing"),
    "magnitudes": (
        FITTING | {f"{Q}.dora_scale": np.ones(32, np.float32)},
        f"{Q}: {Q}.dora_scale is [32], the layer is [64, 64]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MALFORMED)
def test_tensors_that_do_not_belong_together_are_refused(tmp_path, case):
    arrays, text = MALFORMED[case]
    refuse_arrays(tmp_path, arrays, text)


def test_8_bit_floats_are_refused(tmp_path):
    header = json.dumps(
        {
            A: {"dtype": "F8_E4M3", "shape": [4, 64], "data_offsets": [0, 256]},
            B: {"dtype": "F8_E4M3", "shape": [64, 4], "data_offsets": [256, 512]},
        }
    ).encode()
    path = tmp_path / "style.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(512))
    refuse(path, f"style.safetensors: {Q}: {A} is F8_E4M3; adapters must be F32, F16 or BF16")


def test_a_file_that_is_absent_or_no_weight_file_is_refused(tmp_path):
    refuse(tmp_path / "nowhere.safetensors", str(tmp_path), "there is no such adapter file. Check the path")
    page = tmp_path / "page.safetensors"
    page.write_text("<!DOCTYPE html>")
    with pytest.raises(CheckpointError, match="is an HTML page"):
        read(page)


def test_a_folder_of_several_adapters_asks_for_one(tmp_path):
    refuse(tmp_path, str(tmp_path), "the folder holds no safetensors file. Give the path of one adapter file")
    for name in ("low_noise_model", "high_noise_model"):
        write(tmp_path / f"{name}.safetensors", FITTING)
    held = "the folder holds high_noise_model.safetensors, low_noise_model.safetensors. Give the path"
    refuse(tmp_path, str(tmp_path), held)
    write(tmp_path / "pytorch_lora_weights.safetensors", FITTING)
    assert read(tmp_path)


def test_the_report_states_ranks_alphas_and_effective_scales(tmp_path):
    k = "blocks.1.cross_attn.k"
    arrays = FITTING | {f"{Q}.alpha": ONE} | factors(64, 64, 2, k) | {"head.diff_m": fill((1, 2, 64), 1)}
    path = write(tmp_path / "style.safetensors", arrays)
    assert read((path, 0.5)).notices == (
        "style.safetensors: 2 of 2 pairs, 1 whole delta, 3 layers changed, rank 2 to 4, "
        "alpha in the file and absent, scale 0.25 to 1 × strength 0.5 = 0.125 to 0.5.",
    )


@pytest.mark.parametrize(("alpha", "is_odd"), [(1.0, False), (40.0, True), (0.01, True)])
def test_a_scale_far_from_the_usual_is_pointed_out(tmp_path, alpha, is_odd):
    path = write(tmp_path / "style.safetensors", FITTING | {f"{Q}.alpha": ONE * alpha})
    assert any("far from the usual 1" in notice for notice in read(path).notices) == is_odd


def test_the_first_lightning_adapters_are_told_from_their_lack_of_alpha(tmp_path):
    path = write(tmp_path / "Wan2.2-Lightning.safetensors", FITTING)
    assert "made for 0.125" in read(path).notices[-1]
    assert len(read((path, 0.125)).notices) == 1


@pytest.mark.parametrize(
    ("name", "expert"),
    [
        ("wan2.2_i2v_lightx2v_high_noise_model", "high_noise"),
        ("Wan22_A14B_T2V_LOW_Lightning_4steps", "low_noise"),
        ("style-HighNoise-v2", "high_noise"),
        ("style_H_e20", "high_noise"),
        ("style-L", "low_noise"),
        ("style_high_and_low", None),
        ("slowmotion_highlights", None),
        ("style_h264", None),
    ],
)
def test_file_names_tell_the_expert(name, expert):
    assert guess_expert(name, []) == expert


@pytest.mark.parametrize(
    ("name", "transformer", "text"),
    [
        ("a_high_noise", "low_noise", "high-noise expert, and is applied to the low-noise expert. Give it"),
        ("a_low_noise", "high_noise", "low-noise expert, and is applied to the high-noise expert. Give it"),
        ("a_low_noise", "model", "low-noise expert, and is applied to the transformer. This model has one "
         "transformer: such an adapter suits it where that is this expert, converted alone"),
        ("a_low_noise", "low_noise", None),
        ("a", "low_noise", None),
    ],
)  # fmt: skip
def test_an_adapter_for_the_other_expert_is_pointed_out(tmp_path, name, transformer, text):
    notices = read(write(tmp_path / f"{name}.safetensors", FITTING), transformer=transformer).notices
    assert len(notices) == (2 if text else 1)
    assert text is None or text in notices[-1]


def test_keys_of_the_second_transformer_are_for_the_low_noise_expert(tmp_path):
    arrays = {key.replace("diffusion_model.", "transformer_2."): array for key, array in FITTING.items()}
    path = write(tmp_path / "a.safetensors", arrays)
    assert "looks made for the low-noise expert" in read(path, transformer="high_noise").notices[-1]
    assert len(read(path, transformer="low_noise").notices) == 1


def test_text_to_video_adapters_fit_image_to_video_models(tmp_path):
    path = write(tmp_path / "a.safetensors", FITTING)
    assert len(read(path, config=IMAGE_TO_VIDEO, strict=True).notices) == 1


def test_bfloat16_factors_are_read(tmp_path):
    path = tmp_path / "a.safetensors"
    mx.save_safetensors(
        str(path), {key: mx.array(array).astype(mx.bfloat16) for key, array in FITTING.items()}
    )
    assert read(path).nbytes == 2 * 2 * RANK * 64


def test_a_pair_keeps_its_place_among_the_layers_of_the_model(tmp_path):
    arrays = factors(64, 64, path="head.head") | factors(64, 64, path="blocks.1.self_attn.v") | FITTING
    adapters = read(write(tmp_path / "a.safetensors", arrays))
    expected = [f"{Q}.weight", "blocks.1.self_attn.v.weight", "head.head.weight"]
    assert list(adapters.changes) == expected
    assert pair(Q)[0].shape == (RANK, 64)
