"""Every spelling of a component leads to the official names and shapes, and from there nowhere else."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.config import WAN21_VAE, WAN22_VAE, ImageEncoderConfig, TextEncoderConfig
from mlx_video.errors import CheckpointError
from mlx_video.formats.tensor_info import TensorInfo
from mlx_video.formats.tensor_source import open_tensors
from mlx_video.weights.component_networks import as_original
from mlx_video.weights.names.image_encoder_names import image_encoder_tensors
from mlx_video.weights.names.text_encoder_names import HF_RULES, text_encoder_tensors
from mlx_video.weights.names.transformer_names import transformer_tensors
from mlx_video.weights.names.vae_names import diffusers_rules, vae_tensors
from mlx_video.weights.renamed import RenamedTensors
from mlx_video.weights.rules import Rule, apply_rules, find_sources
from mlx_video.weights.spellings import KEEP, have_equal_rows
from mlx_video.weights.stored.stacked import Stack, StackedTensors
from tests.fixtures.diffusers_checkpoint import image_encoder_arrays, text_encoder_name, vae_name
from tests.fixtures.published_sizes import PUBLISHED_TRANSFORMERS
from tests.parity.diffusers_transformer import diffusers_name

TOWER = ImageEncoderConfig()
VAES = {"2.1": WAN21_VAE, "2.2": WAN22_VAE}


class Headers:
    """A source that has only headers."""

    label = "headers"

    def __init__(self, shapes):
        self.infos = {name: TensorInfo(name, tuple(shape), "F32") for name, shape in shapes.items()}

    def close(self):
        pass


def found(shapes, component):
    """Names and shapes as the official code's, from a file with these."""
    infos = as_original(Headers(shapes), component).infos
    assert all(info.name == name for name, info in infos.items())
    return {name: info.shape for name, info in infos.items()}


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("name", PUBLISHED_TRANSFORMERS)
def test_published_transformers_are_found_in_both_spellings(name, prefix):
    official = transformer_tensors(PUBLISHED_TRANSFORMERS[name])
    theirs = {prefix + diffusers_name(tensor): shape for tensor, shape in official.items()}
    assert found(theirs, "transformer") == official
    assert found({prefix + tensor: shape for tensor, shape in official.items()}, "transformer") == official


@pytest.mark.parametrize("prefix", ["", "text_encoders.umt5xxl.transformer."])
def test_the_published_text_encoder_is_found_in_both_spellings(prefix):
    official = text_encoder_tensors(TextEncoderConfig())
    theirs = {prefix + text_encoder_name(tensor): shape for tensor, shape in official.items()}
    assert len(theirs) == 242
    assert found(theirs, "text_encoder") == official
    assert found({prefix + tensor: shape for tensor, shape in official.items()}, "text_encoder") == official


@pytest.mark.parametrize("config", VAES.values(), ids=VAES)
def test_both_published_vaes_are_found_in_both_spellings(config):
    official = vae_tensors(config)
    theirs = {vae_name(tensor, config.z_dim): shape for tensor, shape in official.items()}
    assert len(theirs) == len(official)
    assert found(theirs, "vae") == official
    assert found({f"vae.{tensor}": shape for tensor, shape in official.items()}, "vae") == official


@pytest.mark.parametrize("prefix", ["vision_model.", ""])
def test_the_published_image_tower_is_found_in_both_spellings(prefix):
    official = image_encoder_tensors(TOWER)
    # One number a tensor stands for all of it; as_strided makes the shape without the memory.
    arrays = {
        f"visual.{n}": np.lib.stride_tricks.as_strided(np.zeros(1), s, [0] * len(s))
        for n, s in official.items()
    }
    theirs = {name: values.shape for name, values in image_encoder_arrays(arrays, prefix).items()}
    theirs |= {"visual_projection.weight": (1024, 1280), f"{prefix}embeddings.position_ids": (1, 257)}
    assert found(theirs, "image_encoder") == official
    assert (
        found({f"visual.{tensor}": shape for tensor, shape in official.items()}, "image_encoder") == official
    )


def test_official_names_lead_back_to_the_spellings():
    for official in list(text_encoder_tensors(TextEncoderConfig()))[:20]:
        assert text_encoder_name(official) in find_sources(official, HF_RULES)
    for config in VAES.values():
        theirs = {official: vae_name(official, config.z_dim) for official in vae_tensors(config)}
        rules = diffusers_rules(theirs.values())
        for official, spelled in theirs.items():
            assert apply_rules(spelled, rules)[0] == official
            assert spelled in find_sources(official, rules)


def test_a_diffusers_transformer_that_lacks_one_tensor_is_still_told_by_the_others():
    official = transformer_tensors(PUBLISHED_TRANSFORMERS["wan2.1-t2v-1.3b"])
    theirs = {diffusers_name(tensor): shape for tensor, shape in official.items()}
    del theirs["condition_embedder.time_proj.weight"]
    assert official.keys() - found(theirs, "transformer").keys() == {"time_projection.1.weight"}


def test_what_no_spelling_knows_keeps_its_name():
    assert found({"something.weight": (2, 3)}, "vae") == {"something.weight": (2, 3)}


def test_numbers_arrive_stacked_reshaped_and_in_chunks_of_rows(tmp_path):
    arrays = {
        "vision_model.embeddings.class_embedding": mx.arange(4.0),
        "vision_model.embeddings.position_embedding.weight": mx.arange(12.0).reshape(3, 4),
        "vision_model.pre_layrnorm.weight": mx.ones(4),
    }
    for index, letter in enumerate("qkv"):
        layer = f"vision_model.encoder.layers.0.self_attn.{letter}_proj"
        arrays[f"{layer}.weight"] = mx.arange(16.0).reshape(4, 4) + 100 * index
    mx.save_safetensors(str(tmp_path / "clip.safetensors"), arrays)
    with open_tensors(tmp_path / "clip.safetensors") as file:
        source = as_original(file, "image_encoder")
        whole = source.read("transformer.0.attn.to_qkv.weight")
        assert whole[:, 0].tolist() == [0, 4, 8, 12, 100, 104, 108, 112, 200, 204, 208, 212]
        for rows in (slice(0, 5), slice(5, 7), slice(7, 12), slice(3, 9)):
            chunk = source.read("transformer.0.attn.to_qkv.weight", rows)
            assert mx.array_equal(chunk, whole[rows])
        assert source.read("cls_embedding", slice(0, 1)).tolist() == [[[0, 1, 2, 3]]]
        assert source.read("pos_embedding").shape == (1, 3, 4)
        assert source.read("pre_norm.weight", slice(1, 3)).tolist() == [1, 1]
        assert source.file_of("transformer.0.attn.to_qkv.weight") == tmp_path / "clip.safetensors"
        assert "self_attn.q_proj.weight" in source.infos["transformer.0.attn.to_qkv.weight"].title


def test_parts_of_one_tensor_must_be_alike():
    source = Headers({"q": (4, 4), "k": (4, 5)})
    with pytest.raises(CheckpointError, match=r"q is F32 \[4, 4\], k is F32 \[4, 5\]; both are parts"):
        StackedTensors(source, {"qk": Stack(("q", "k"))})


def test_a_tensor_with_and_without_the_prefix_is_refused_not_dropped():
    with pytest.raises(
        CheckpointError, match=r"norm\.weight and p\.norm\.weight|p\.norm\.weight and norm\.weight"
    ):
        RenamedTensors(Headers({"p.norm.weight": (2,), "norm.weight": (2,)}), KEEP, prefix="p.")


def test_a_title_tells_the_name_in_the_file_where_it_is_another():
    renamed = RenamedTensors(Headers({"p.norm.weight": (2,)}), KEEP, prefix="p.")
    assert renamed.infos["norm.weight"].title == "norm.weight (p.norm.weight)"
    assert TensorInfo("a", (1,), "F32").title == "a"


def test_equal_rows_are_told_from_different_ones(tmp_path):
    values = mx.arange(600.0).reshape(300, 2)
    other = mx.concatenate([values[:280], values[280:] + 1])
    mx.save_safetensors(
        str(tmp_path / "a.safetensors"), {"a": values, "b": values, "c": other, "d": values * 2}
    )
    with open_tensors(tmp_path / "a.safetensors") as source:
        assert have_equal_rows(source, source, "a", "b")
        assert not have_equal_rows(source, source, "a", "c")
        assert not have_equal_rows(source, source, "a", "d")


def test_scalars_are_compared_whole(tmp_path):
    mx.save_safetensors(
        str(tmp_path / "a.safetensors"), {"a": mx.array(1.0), "b": mx.array(1.0), "c": mx.array(2.0)}
    )
    with open_tensors(tmp_path / "a.safetensors") as source:
        assert have_equal_rows(source, source, "a", "b")
        assert not have_equal_rows(source, source, "a", "c")


def test_a_source_stays_open_where_its_names_are_refused(tmp_path):
    """Whoever opened it closes it: other components may lie in the same file."""
    mx.save_safetensors(str(tmp_path / "a.safetensors"), {"p.a": mx.ones(2), "p.b": mx.ones(2)})
    with open_tensors(tmp_path / "a.safetensors") as source:
        with pytest.raises(CheckpointError, match="two spellings of the same tensor"):
            RenamedTensors(source, (Rule("*", "x"),), prefix="p.")
        assert source.read("p.a").tolist() == [1, 1]
