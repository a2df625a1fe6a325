"""A Diffusers folder converts to the tensors of the original folder with the same numbers."""

import json
import shutil

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import WanPipeline
from mlx_video.config import config_from_json, find_vae_config
from mlx_video.convert.convert import convert
from mlx_video.errors import CheckpointError, ConfigError
from mlx_video.events import Notice
from mlx_video.request import ConvertRequest, LoraChoice
from tests.fixtures.adapter_files import write_adapter
from tests.fixtures.diffusers_checkpoint import write_diffusers_variant, write_json, write_weights
from tests.fixtures.tiny_variants import TINY_VARIANTS, write_tiny_variant

pytestmark = pytest.mark.slow

VARIANTS = (
    "wan2.1-t2v-1.3b", "wan2.1-i2v-14b", "wan2.1-flf2v-14b", "wan2.2-t2v-a14b", "wan2.2-i2v-a14b",
    "wan2.2-ti2v-5b", "wan2.1-vace-14b", "wan2.2-vace-fun-a14b",
)  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A Diffusers folder that no test may change."""
    folder = tmp_path_factory.mktemp("diffusers") / "Wan2.1-T2V-Diffusers"
    write_diffusers_variant(folder, "wan2.1-t2v-1.3b")
    return folder


@pytest.fixture
def own(tiny, tmp_path):
    return shutil.copytree(tiny, tmp_path / "own")


def run(source, output, **options):
    return list(convert(ConvertRequest(source, output, **options)))


def notices(events):
    return [event.text for event in events if isinstance(event, Notice)]


def change(path, **values):
    write_json(path, json.loads(path.read_text()) | values)


def read_config(folder):
    return config_from_json(json.loads((folder / "config.json").read_text()))


def assert_same_tensors(found, expected):
    files = sorted(path.name for path in expected.glob("*.safetensors"))
    assert sorted(path.name for path in found.glob("*.safetensors")) == files
    for file in files:
        ours, theirs = mx.load(str(found / file)), mx.load(str(expected / file))
        assert ours.keys() == theirs.keys()
        for name in theirs:
            assert ours[name].dtype == theirs[name].dtype
            assert mx.array_equal(ours[name], theirs[name]), f"{file}: {name}"


@pytest.mark.sample(4)
@pytest.mark.parametrize("name", VARIANTS)
def test_the_tensors_are_those_of_the_original_folder_bit_for_bit(tmp_path, name):
    write_tiny_variant(tmp_path / "original", name)
    shards = 3 if name == "wan2.2-t2v-a14b" else 1
    write_diffusers_variant(tmp_path / "diffusers", name, shards=shards)
    for layout in ("original", "diffusers"):
        run(tmp_path / layout, tmp_path / f"from_{layout}", dtype="float32")
    assert_same_tensors(tmp_path / "from_diffusers", tmp_path / "from_original")
    configs = [
        json.loads((tmp_path / f"from_{key}" / "config.json").read_text())
        for key in ("diffusers", "original")
    ]
    assert configs[0] | {"text_len": 0} == configs[1] | {"text_len": 0}  # Diffusers does not state it
    assert (tmp_path / "from_diffusers" / "tokenizer" / "tokenizer.json").is_file()


def test_the_transformer_folder_is_the_high_noise_expert(tmp_path):
    arrays = write_diffusers_variant(tmp_path / "source", "wan2.2-t2v-a14b")
    texts = notices(run(tmp_path / "source", tmp_path / "out", dtype="float32"))
    assert "Experts: low_noise from transformer_2/, high_noise from transformer/." in texts
    for folder, file in (("transformer", "high_noise"), ("transformer_2", "low_noise")):
        found = mx.load(str(tmp_path / "out" / f"{file}_model.safetensors"))["head.head.weight"]
        assert np.array_equal(np.array(found), arrays.transformers[folder]["proj_out.weight"])


def test_a_quantized_conversion_takes_diffusers_folders_too(tiny, tmp_path):
    write_tiny_variant(tmp_path / "original", "wan2.1-t2v-1.3b")
    run(tmp_path / "original", tmp_path / "from_original", quantize=True)
    run(tiny, tmp_path / "from_diffusers", quantize=True)
    assert_same_tensors(tmp_path / "from_diffusers", tmp_path / "from_original")


def test_adapters_are_baked_into_diffusers_folders_too(tiny, tmp_path):
    write_tiny_variant(tmp_path / "original", "wan2.1-t2v-1.3b")
    write_adapter(tmp_path / "style.safetensors", TINY_VARIANTS["wan2.1-t2v-1.3b"].sizes.transformer)
    chosen = {"loras": (LoraChoice(tmp_path / "style.safetensors", 0.5),)}
    run(tmp_path / "original", tmp_path / "from_original", **chosen)
    run(tiny, tmp_path / "from_diffusers", **chosen)
    run(tiny, tmp_path / "plain")
    assert_same_tensors(tmp_path / "from_diffusers", tmp_path / "from_original")
    with pytest.raises(AssertionError, match=r"model\.safetensors: blocks"):
        assert_same_tensors(tmp_path / "plain", tmp_path / "from_diffusers")


def test_both_layouts_generate_the_same_latents(tmp_path):
    name = "wan2.1-i2v-14b"
    write_tiny_variant(tmp_path / "original", name)
    write_diffusers_variant(tmp_path / "diffusers", name)
    image = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
    found = []
    for layout in ("original", "diffusers"):
        run(tmp_path / layout, tmp_path / f"from_{layout}", dtype="float32")
        pipeline = WanPipeline.from_pretrained(tmp_path / f"from_{layout}")
        found.append(
            pipeline("A red circle", image=image, width=48, height=32, num_frames=5, steps=2, seed=3)
        )
    assert mx.array_equal(found[0].latents, found[1].latents)
    assert np.array(found[0].latents).std() > 0.1, "silent latents would prove little"


def test_the_schedulers_shift_and_the_boundary_become_defaults_and_are_reported(tmp_path):
    write_diffusers_variant(tmp_path / "source", "wan2.2-t2v-a14b")
    write_json(tmp_path / "source" / "scheduler" / "scheduler_config.json", {"flow_shift": 3.0})
    change(tmp_path / "source" / "model_index.json", boundary_ratio=0.8)
    texts = notices(run(tmp_path / "source", tmp_path / "out"))
    sampling = read_config(tmp_path / "out").sampling
    assert (sampling.shift, sampling.boundary) == (3.0, 0.8)
    assert "source: shift 3 becomes the default (official: 12)." in texts
    assert "source: boundary 0.8 becomes the default (official: 0.875)." in texts


def test_a_folder_without_scheduler_keeps_the_official_defaults(own, tmp_path):
    shutil.rmtree(own / "scheduler")
    assert len(notices(run(own, tmp_path / "out"))) == 1
    assert read_config(tmp_path / "out").sampling.shift == 5.0


def test_both_copies_of_the_token_table_are_accepted_when_equal(own, tiny, tmp_path):
    file = own / "text_encoder" / "model.safetensors"
    tensors = mx.load(str(file))
    mx.save_safetensors(str(file), tensors | {"encoder.embed_tokens.weight": tensors["shared.weight"]})
    run(tiny, tmp_path / "a")
    run(own, tmp_path / "b")
    assert_same_tensors(tmp_path / "b", tmp_path / "a")
    mx.save_safetensors(str(file), tensors | {"encoder.embed_tokens.weight": tensors["shared.weight"] * 2})
    with pytest.raises(
        CheckpointError, match=r"shared.weight and .*embed_tokens.weight differ|embed_tokens.weight and"
    ):
        run(own, tmp_path / "c")


def test_a_token_table_under_its_other_name_and_a_decoder_beside_it_change_nothing(own, tiny, tmp_path):
    file = own / "text_encoder" / "model.safetensors"
    tensors = mx.load(str(file))
    table = tensors.pop("shared.weight")
    extra = {"decoder.block.0.layer.0.SelfAttention.q.weight": table, "lm_head.weight": table}
    mx.save_safetensors(str(file), tensors | extra | {"encoder.embed_tokens.weight": table})
    run(tiny, tmp_path / "a")
    run(own, tmp_path / "b")
    assert_same_tensors(tmp_path / "b", tmp_path / "a")


def test_gates_of_sparse_attention_are_left_out_with_a_notice(own, tiny, tmp_path):
    file = own / "transformer" / "diffusion_pytorch_model.safetensors"
    gates = {
        f"blocks.{n}.to_gate_compress.{part}": mx.ones((4, 4)) for n in (0, 1) for part in ("weight", "bias")
    }
    mx.save_safetensors(str(file), mx.load(str(file)) | gates)
    run(tiny, tmp_path / "a")
    texts = notices(run(own, tmp_path / "b"))
    assert any("transformer: 4 tensors of FastVideo's sparse attention" in text for text in texts)
    assert_same_tensors(tmp_path / "b", tmp_path / "a")


def test_fastwan_5b_gets_its_three_steps_as_defaults(tmp_path):
    source = tmp_path / "FastWan2.2-TI2V-5B-Diffusers"
    write_diffusers_variant(source, "wan2.2-ti2v-5b")
    change(source / "model_index.json", _class_name="WanDMDPipeline")
    texts = notices(run(source, tmp_path / "out"))
    sampling = read_config(tmp_path / "out").sampling
    assert (sampling.steps, sampling.shift, sampling.guide_scale) == (3, 3.0, (1.0, 1.0))
    assert f"{source.name}: the name suggests a distilled model: recipe fastwan" in texts[-1]
    assert "with 3 steps, guide scale 1 and shift 3" in texts[-1]
    assert sampling.recipe == "fastwan"


def test_a_changed_default_names_the_repository_that_it_comes_from(tmp_path):
    snapshot = tmp_path / "models--owner--Wan-Diffusers" / "snapshots" / "38ec498"
    write_diffusers_variant(snapshot, "wan2.2-ti2v-5b")
    change(snapshot / "scheduler/scheduler_config.json", flow_shift=7.5)
    assert "owner/Wan-Diffusers: shift 7.5 becomes the default (official: 5)." in notices(
        run(snapshot, tmp_path / "out")
    )


def own_transformer(tmp_path, name="wan2.1-t2v-1.3b", file="plain.safetensors"):
    """A transformer that the user has, in the original's names."""
    write_tiny_variant(tmp_path / "original", name)
    return shutil.copy(tmp_path / "original" / "diffusion_pytorch_model.safetensors", tmp_path / file)


def test_what_a_folder_says_of_sampling_is_not_of_the_transformer_that_replaces_its_own(tmp_path):
    source = tmp_path / "FastWan2.1-T2V-1.3B-Diffusers"
    write_diffusers_variant(source, "wan2.1-t2v-1.3b")
    change(source / "scheduler/scheduler_config.json", flow_shift=8.0)
    change(source / "model_index.json", _class_name="WanDMDPipeline")
    texts = notices(run(source, tmp_path / "out", transformer=own_transformer(tmp_path)))
    sampling = read_config(tmp_path / "out").sampling
    assert (sampling.steps, sampling.shift, sampling.guide_scale) == (50, 5.0, (5.0, 5.0))
    assert not [text for text in texts if "default" in text]


def test_a_dual_folder_may_lend_its_encoders_to_one_transformer(tmp_path):
    write_diffusers_variant(tmp_path / "source", "wan2.2-t2v-a14b")
    run(tmp_path / "source", tmp_path / "out", transformer=own_transformer(tmp_path))
    sampling = read_config(tmp_path / "out").sampling
    assert (sampling.shift, sampling.boundary) == (5.0, 0.0)


def test_a_ti2v_folder_may_lend_its_text_encoder_to_another_model(tmp_path):
    write_diffusers_variant(tmp_path / "source", "wan2.2-ti2v-5b")
    transformer = own_transformer(tmp_path)
    vae = tmp_path / "original" / "Wan2.1_VAE.pth"
    run(tmp_path / "source", tmp_path / "out", transformer=transformer, vae=vae)
    assert read_config(tmp_path / "out").transformer.model_type == "t2v"


def test_one_distilled_expert_alone_changes_no_defaults(tmp_path):
    source = tmp_path / "Wan2.2-T2V-A14B-Diffusers"
    arrays = write_diffusers_variant(source, "wan2.2-t2v-a14b")
    assert arrays
    name = "t2v_high_noise_lightx2v_4step.safetensors"
    own = shutil.copy(source / "transformer" / "diffusion_pytorch_model.safetensors", tmp_path / name)
    texts = notices(run(source, tmp_path / "out", high_noise=own))
    sampling = read_config(tmp_path / "out").sampling
    assert (sampling.steps, sampling.guide_scale) == (40, (3.0, 4.0))
    assert any(text.startswith(f"{name}: the name suggests a distilled model, that of") for text in texts)
    low = "t2v_low_noise_lightx2v_4step.safetensors"
    low = shutil.copy(source / "transformer_2" / "diffusion_pytorch_model.safetensors", tmp_path / low)
    run(source, tmp_path / "both", high_noise=own, low_noise=low)
    assert read_config(tmp_path / "both").sampling.steps == 4


CONTRADICTIONS = [
    ("transformer/config.json", "num_layers", 3, r"num_layers 3, but the number of blocks .* says 2"),
    ("transformer/config.json", "out_channels", 48, r"out_dim 48, but head.head.weight .* says 16"),
    ("transformer/config.json", "attention_head_dim", 128, r"dim 256, but .* says 128"),
    ("transformer/config.json", "image_dim", 1280, r"image_dim 1280, but .*without img_emb.* says None"),
    ("transformer/config.json", "pos_embed_seq_len", 514, r"image_positions 514, but .*img_emb.* says 0"),
    ("transformer/config.json", "patch_size", [1, 1, 1], r"patch_size \[1, 1, 1\], but .* \[1, 2, 2\]"),
    ("transformer/config.json", "qk_norm", None, r"qk_norm is None, Wan's network has 'rms_norm_across"),
    ("vae/config.json", "latents_std", [1.0] * 16, r"other latents_std than the Wan VAE of 16 channels"),
    (
        "vae/config.json",
        "latents_mean",
        list(find_vae_config(16).latent_mean[:4]),
        r"other latents_mean than",
    ),
    ("vae/config.json", "latents_mean", "none", r"other latents_mean than the Wan VAE of 16 channels"),
    ("model_index.json", "expand_timesteps", True, r"expand_timesteps true, .* are of wan2.1-t2v"),
    ("scheduler/scheduler_config.json", "flow_shift", -1, r"flow_shift is -1, expected a positive"),
]


@pytest.mark.parametrize(("file", "key", "value", "message"), CONTRADICTIONS)
def test_files_that_contradict_the_tensors_are_refused_with_both_values(
    own, tmp_path, file, key, value, message
):
    change(own / file, **{key: value})
    with pytest.raises(ConfigError, match=message):
        run(own, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_same_expert_twice_is_refused(tmp_path):
    arrays = write_diffusers_variant(tmp_path / "source", "wan2.2-t2v-a14b")
    write_weights(
        tmp_path / "source" / "transformer_2", "diffusion_pytorch_model", arrays.transformers["transformer"]
    )
    with pytest.raises(CheckpointError, match="both experts are identical"):
        run(tmp_path / "source", tmp_path / "out")


def test_a_vae_of_the_other_generation_is_refused_with_both_numbers(own, tmp_path):
    write_diffusers_variant(tmp_path / "other", "wan2.2-ti2v-5b")
    shutil.rmtree(own / "vae")
    shutil.copytree(tmp_path / "other" / "vae", own / "vae")
    with pytest.raises((CheckpointError, ConfigError), match="48 latent channels, the transformer makes 16"):
        run(own, tmp_path / "out")


def test_an_image_branch_without_image_encoder_is_refused(tmp_path):
    write_diffusers_variant(tmp_path / "source", "wan2.1-i2v-14b")
    shutil.rmtree(tmp_path / "source" / "image_encoder")
    with pytest.raises(
        CheckpointError, match=r"image_encoder/ not found in .*Wan2\.1-I2V-14B-480P-Diffusers"
    ):
        run(tmp_path / "source", tmp_path / "out")
    change(tmp_path / "source" / "model_index.json", image_encoder=[None, None])
    with pytest.raises(CheckpointError, match="the transformer has an image branch"):
        run(tmp_path / "source", tmp_path / "out")


@pytest.mark.parametrize("how", ["dropped", "renamed", "reshaped"])
@pytest.mark.parametrize("place", [0, 5, 17, 40])
@pytest.mark.parametrize("component", ["transformer", "text_encoder", "vae"])
def test_a_changed_tensor_is_refused(own, tmp_path, component, place, how):
    (file,) = (own / component).glob("*.safetensors")
    tensors = mx.load(str(file))
    name = sorted(tensors)[place % len(tensors)]
    values = tensors.pop(name)
    changed = {"renamed": {f"{name}_2": values}, "reshaped": {name: mx.concatenate([values, values[:1]])}}
    mx.save_safetensors(str(file), tensors | changed.get(how, {}))
    with pytest.raises((CheckpointError, ConfigError)):
        run(own, tmp_path / "out")


def test_a_diffusers_folder_given_as_a_model_says_how_to_convert_it(tiny):
    with pytest.raises(CheckpointError, match=r"is a Diffusers checkpoint\. Convert it first: python -m"):
        WanPipeline.from_pretrained(tiny)
