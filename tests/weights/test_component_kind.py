"""What a file holds is told by its tensors, whatever its name, prefix or spelling."""

import pytest

from mlx_video.formats.tensor_info import TensorInfo
from mlx_video.weights.component_kind import (
    ComponentKind,
    find_components,
    has_tokenizer,
    is_other_text_encoder,
)
from mlx_video.weights.names.text_encoder_names import text_encoder_tensors
from mlx_video.weights.names.transformer_names import transformer_tensors
from mlx_video.weights.names.vae_names import vae_tensors
from tests.fixtures.diffusers_checkpoint import image_encoder_arrays, rename, text_encoder_name, vae_name
from tests.fixtures.tiny_checkpoint import TinySizes, image_encoder_file_tensors, random_arrays
from tests.fixtures.tiny_variants import CLIP, TINY_VARIANTS

SIZES = TinySizes()
WAN22 = TINY_VARIANTS["wan2.2-ti2v-5b"].sizes.vae
TRANSFORMER = list(transformer_tensors(SIZES.transformer))
TEXT_ENCODER = list(text_encoder_tensors(SIZES.text_encoder))
TOWER = random_arrays(image_encoder_file_tensors(CLIP), 0)


def infos(names, prefix=""):
    return {prefix + name: TensorInfo(prefix + name, (1,), "F8_E4M3") for name in names}


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model.", "model.", "net."])
@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (TRANSFORMER, ("transformer", "original")),
        (list(rename(dict.fromkeys(TRANSFORMER))), ("transformer", "diffusers")),
        (TEXT_ENCODER, ("text_encoder", "original")),
        ([text_encoder_name(name) for name in TEXT_ENCODER], ("text_encoder", "huggingface")),
        (list(image_encoder_arrays(TOWER, "")), ("image_encoder", "huggingface")),
        (list(vae_tensors(SIZES.vae)), ("vae", "original", "2.1")),
        (list(vae_tensors(WAN22)), ("vae", "original", "2.2")),
        ([vae_name(name, 16) for name in vae_tensors(SIZES.vae)], ("vae", "diffusers", "2.1")),
        ([vae_name(name, 48) for name in vae_tensors(WAN22)], ("vae", "diffusers", "2.2")),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_a_component_is_known_behind_any_prefix(names, expected, prefix):
    component, spelling, *generation = expected
    found = find_components(infos(names, prefix))
    assert found == (ComponentKind(component, spelling, prefix, *generation),)


def test_the_whole_published_clip_file_is_its_visual_tower():
    assert find_components(infos(TOWER)) == (ComponentKind("image_encoder", "original", "visual."),)


def test_names_of_gguf_and_quanto_files_count_too():
    assert find_components(infos(["enc.blk.0.attn_q.weight"])) == (ComponentKind("text_encoder", "gguf"),)
    names = [f"{name}._data" if ".attn.q." in name else name for name in TEXT_ENCODER]
    assert [kind.component for kind in find_components(infos(names))] == ["text_encoder"]


def test_converted_transformers_are_told_from_those_to_convert():
    names = [name.replace("patch_embedding.", "patch_embedding_proj.") for name in TRANSFORMER]
    assert [kind.spelling for kind in find_components(infos(names))] == ["mlx"]


@pytest.mark.parametrize(
    "end",
    [
        ".lora_A.weight", ".lora_A", ".lora_B.style.weight", ".lora_down.weight", ".lora_up",
        ".lora.down.weight", "_lora.up.weight", ".lora_linear_layer.down.weight", ".lora_up.bias",
        ".lora_mid.weight", ".hada_w1_a", ".hada_t2", ".lokr_w1", ".lokr_w2_b", ".lokr_t2", ".dora_scale",
        ".lora_magnitude_vector.default.weight", ".diff", ".diff_b", ".diff_m", ".set_weight",
        ".reshape_weight", ".w_norm", ".b_norm",
    ],
)  # fmt: skip
def test_an_adapter_is_no_component_even_with_whole_tensors_in_it(end):
    kinds = find_components(infos([*TRANSFORMER, f"blocks.0.self_attn.q{end}"]))
    assert [kind.component for kind in kinds] == ["adapter"]


def test_an_all_in_one_file_holds_several():
    together = (
        infos(TRANSFORMER, "model.diffusion_model.")
        | infos(vae_tensors(SIZES.vae), "vae.")
        | infos(map(text_encoder_name, TEXT_ENCODER), "text_encoders.umt5xxl.transformer.")
    )
    assert [(kind.component, kind.prefix) for kind in find_components(together)] == [
        ("transformer", "model.diffusion_model."),
        ("text_encoder", "text_encoders.umt5xxl.transformer."),
        ("vae", "vae."),
    ]


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["double_blocks.0.img_attn.qkv.weight"],
        ["decoder.conv_in.weight"],
        TRANSFORMER[:20],
        [*TRANSFORMER, *(f"ema.{name}" for name in TRANSFORMER)],
    ],
    ids=["nothing", "another model", "another VAE", "one shard", "two models"],
)
def test_other_files_hold_nothing_known(names):
    assert find_components(infos(names)) == ()


def test_a_tokenizer_among_the_tensors_is_seen():
    assert has_tokenizer(["shared.weight", "spiece_model"])
    assert has_tokenizer(["text_encoders.spiece_model"])
    assert not has_tokenizer(["shared.weight"])


def test_t5_with_its_smaller_vocabulary_is_not_umt5():
    def table(rows):
        return {"shared.weight": TensorInfo("shared.weight", (rows, 4096), "F16")}

    assert is_other_text_encoder(table(32128))
    assert not is_other_text_encoder(table(256384))


def test_t5_and_its_kin_have_positions_in_their_first_block_alone():
    names = [f"encoder.block.{index}.layer.0.SelfAttention.q.weight" for index in range(3)]
    tables = [name.replace("q.weight", "relative_attention_bias.weight") for name in names]
    assert is_other_text_encoder(infos([*names, tables[0]]))
    assert not is_other_text_encoder(infos([*names, *tables]))
    layers, biases = (
        [f"enc.blk.{index}.attn_{part}.weight" for index in range(3)] for part in ("q", "rel_b")
    )
    assert is_other_text_encoder(infos([*layers, biases[0]]))
    assert not is_other_text_encoder(infos([*layers, *biases]))


def test_a_vae_in_a_file_of_another_model_is_no_part_of_wans():
    own = [f"vae.{name}" for name in vae_tensors(SIZES.vae)]
    others = [f"model.diffusion_model.transformer_blocks.{i}.attn.to_q.weight" for i in range(len(own) + 1)]
    assert find_components(infos([*own, *others])) == ()
    assert [kind.component for kind in find_components(infos(own))] == ["vae"]
