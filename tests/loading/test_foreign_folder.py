"""Converted folders of other tools: what their config.json leaves out or has wrong, and their other files."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_video import WanPipeline, convert_checkpoint
from mlx_video.config import WAN22_VAE, ModelConfig, TextEncoderConfig, config_from_json
from mlx_video.errors import CheckpointError
from mlx_video.events import Notice
from mlx_video.formats.tensor_source import open_tensors
from mlx_video.layouts.model_folder import ModelFolder
from mlx_video.loading.components import check_weights, load_transformer, open_model
from mlx_video.loading.streamed_text_encoder import encode_streamed
from mlx_video.loading.vae_halves import load_vae_decoder, load_vae_encoder
from mlx_video.models.encoders.text_encoder import UMT5Encoder
from mlx_video.variants.registry import VARIANTS, find_variant
from mlx_video.weights.names import text_encoder_names
from tests.fixtures.generators import finish
from tests.fixtures.published_models import headers
from tests.fixtures.published_sizes import PUBLISHED_TRANSFORMERS
from tests.fixtures.tiny_variants import write_tiny_variant
from tests.formats.stored_arrays import entry, raw_safetensors

pytestmark = pytest.mark.slow

T2V, I2V, T2V_DUAL, I2V_DUAL, TI2V = (
    "wan2.1-t2v-1.3b", "wan2.1-i2v-14b", "wan2.2-t2v-a14b", "wan2.2-i2v-a14b", "wan2.2-ti2v-5b"
)  # fmt: skip
SMALL = {"width": 48, "height": 32, "num_frames": 5, "steps": 1}
S2V_KEYS = {
    "audio_dim": 1024, "num_audio_token": 4, "audio_inject_layers": [0, 4], "cond_dim": 16,
    "enable_adain": True, "adain_mode": "attn_norm", "enable_framepack": True, "framepack_drop_mode": "padd",
    "enable_motioner": False, "motion_token_num": 1024, "trainable_token_pos_emb": False,
    "add_last_motion": True, "zero_timestep": True, "zero_init": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folders that this package converted, each made once."""
    root = tmp_path_factory.mktemp("converted")

    def make(name: str) -> Path:
        folder = root / name
        if not folder.exists():
            write_tiny_variant(root / f"{name}-source", name)
            convert_checkpoint(root / f"{name}-source", folder, dtype="float32")
        return folder

    return make


@pytest.fixture
def foreign(converted: Callable[[str], Path], tmp_path: Path) -> Callable[..., Path]:
    """Copies whose config.json is another tool's: without our key, with the changes given."""

    def make(name: str, **changes: object) -> Path:
        folder = shutil.copytree(converted(name), tmp_path / "model")
        config = json.loads((folder / "config.json").read_text())
        del config["mlx_video"]
        (folder / "config.json").write_text(json.dumps(config | changes))
        return folder

    return make


def read(file: Path) -> dict[str, mx.array]:
    """All tensors of a file, which may then be written over."""
    tensors = dict(mx.load(str(file)))
    mx.eval(tensors)
    return tensors


def rewrite(file: Path, change: Callable[[dict[str, mx.array]], dict[str, mx.array]]) -> None:
    mx.save_safetensors(str(file), change(read(file)))


def encode(model: ModelFolder, config: ModelConfig) -> mx.array:
    with open_tensors(model.text_encoder) as source:
        return finish(encode_streamed(source, config.text_encoder, [(1, 2)]))[0]


def load_all(folder: Path) -> tuple[str, ...]:
    """Load every network; what the user is told of the folder."""
    model, config = open_model(folder)
    check_weights(model, config)
    for name in model.transformers:
        load_transformer(model, config, name)
    encode(model, config)
    load_vae_decoder(model, config)
    load_vae_encoder(model, config)
    return model.notices


@pytest.mark.parametrize("name", [T2V, I2V, T2V_DUAL, I2V_DUAL, TI2V])
def test_a_right_config_of_another_tool_is_taken_as_it_is(converted, foreign, name: str):
    model, config = open_model(foreign(name))
    ours = open_model(converted(name))[1]
    assert model.notices == ()
    assert (config.transformer, config.vae, config.text_encoder) == (
        ours.transformer,
        ours.vae,
        ours.text_encoder,
    )
    assert (config.sampling, config.is_dual) == (ours.sampling, ours.is_dual)
    load_all(model.path)


@pytest.mark.parametrize("name", [T2V, I2V, T2V_DUAL, I2V_DUAL, TI2V])
def test_without_config_the_weights_tell_the_model(converted, foreign, name: str):
    folder, ours = foreign(name), open_model(converted(name))[1]
    (folder / "config.json").unlink()
    model, config = open_model(folder)
    assert "config.json: not found; the weights tell the sizes" in model.notices[0]
    assert model.notices[1].startswith(f"Found {find_variant(config).title}")
    assert (config.is_dual, config.vae, config.text_encoder) == (ours.is_dual, ours.vae, ours.text_encoder)
    assert find_variant(config).units == find_variant(ours).units
    load_all(folder)


def write_header(path: Path, tensors: list) -> None:
    """A file of the promised length whose numbers take no room on the disk."""
    header, end = {}, 0
    for info in tensors:
        header[info.name] = entry(end, *info.shape, dtype=info.dtype)
        end += info.nbytes
    raw = raw_safetensors(header)
    with path.open("wb") as file:
        file.write(raw)
        file.truncate(len(raw) + end)


@pytest.mark.parametrize("name", PUBLISHED_TRANSFORMERS)
def test_without_config_every_published_model_gets_its_own(tmp_path: Path, name: str):
    published = PUBLISHED_TRANSFORMERS[name]
    variant = next(variant for variant in VARIANTS if variant.name == name)
    shapes, rules = variant.network.tensors(published), variant.network.rules
    experts = ("low_noise_model", "high_noise_model") if name.endswith("a14b") else ("model",)
    for expert in experts:
        tensors = headers(shapes, rules, "BF16")
        write_header(tmp_path / f"{expert}.safetensors", tensors)
    texts = text_encoder_names.text_encoder_tensors(TextEncoderConfig())
    write_header(tmp_path / "t5_encoder.safetensors", headers(texts, text_encoder_names.WAN_RULES, "BF16"))
    (tmp_path / "vae.safetensors").touch()
    _, config = open_model(tmp_path)
    sizes = (config.transformer.dim, config.transformer.num_heads, config.transformer.num_layers)
    assert sizes == (published.dim, published.num_heads, published.num_layers)
    assert (config.variant, config.sampling, config.text_encoder) == (
        name,
        variant.sampling,
        TextEncoderConfig(),
    )


FASTWAN_PLACES = ["FastWan2.2-TI2V-5B-mlx", "models--owner--FastWan2.2-TI2V-5B-mlx/snapshots/38ec498"]


@pytest.mark.parametrize("place", FASTWAN_PLACES)
def test_a_folder_without_config_whose_name_says_fastwan_samples_as_fastwan(foreign, tmp_path: Path, place):
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    folder = foreign(TI2V).rename(tmp_path / place)
    (folder / "config.json").unlink()
    model, config = open_model(folder)
    assert (config.sampling.steps, config.sampling.guide_scale) == (3, (1.0, 1.0))
    assert config.sampling.recipe == "fastwan"
    assert "FastWan2.2-TI2V-5B-mlx: the name suggests a distilled model" in model.notices[-1]


def test_weights_for_images_win_over_a_config_that_says_text_to_video(converted, foreign):
    text_to_video = json.loads((converted(T2V_DUAL) / "config.json").read_text())
    del text_to_video["mlx_video"]
    folder = foreign(I2V_DUAL, **text_to_video)
    model, config = open_model(folder)
    assert config.transformer.in_dim == 36
    assert find_variant(config).name == I2V_DUAL
    # 0.9 and 5, where the config has the boundary and shift of T2V: 0.875 and 12.
    assert config.sampling == open_model(converted(I2V_DUAL))[1].sampling
    assert (
        "in_dim is 16, but patch_embedding_proj.weight [128, 144] in low_noise_model.safetensors says 36"
        in model.notices[0]
    )
    assert "the defaults are those of Wan2.2 I2V A14B" in model.notices[1]
    load_all(folder)


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("dim", 256),
        ("ffn_dim", 64),
        ("num_layers", 3),
        ("text_dim", 4096),
        ("freq_dim", 256),
        ("out_dim", 48),
    ],
)
def test_every_size_that_the_weights_show_is_corrected(foreign, key: str, wrong: int):
    folder = foreign(T2V, **{key: wrong})
    notices = load_all(folder)
    right = getattr(open_model(folder)[1].transformer, key)
    assert f"{key} is {wrong}, but " in notices[0]
    assert f" in model.safetensors says {right}; the weights are believed." in notices[0]


def test_a_size_that_the_config_leaves_out_is_read_without_a_notice(foreign):
    folder = foreign(TI2V)
    config = json.loads((folder / "config.json").read_text())
    left_out = {"in_dim", "out_dim", "text_dim", "freq_dim", "vae_z_dim", "vae_stride"}
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k not in left_out}))
    model, found = open_model(folder)
    assert (found.transformer.in_dim, found.transformer.out_dim, found.vae) == (48, 48, WAN22_VAE)
    assert model.notices == ()


def test_48_channels_with_the_wrong_vae_get_theirs_and_24_frames_a_second(foreign):
    folder = foreign(TI2V, vae_z_dim=16, vae_stride=[4, 8, 8], sample_fps=16)
    model, config = open_model(folder)
    assert (config.vae, config.sampling.fps) == (WAN22_VAE, 24)
    assert "vae_z_dim is 16, but the transformer makes latents of 48 channels" in model.notices[0]
    load_all(folder)


def test_frames_a_second_that_contradict_nothing_are_kept(foreign):
    assert open_model(foreign(TI2V, sample_fps=16))[1].sampling.fps == 16


def test_16_channels_that_a_converter_took_for_48_get_their_vae_back(foreign):
    folder = foreign(T2V, vae_z_dim=48, vae_stride=[4, 16, 16], sample_fps=24)
    assert (open_model(folder)[1].vae.z_dim, open_model(folder)[1].sampling.fps) == (16, 16)
    load_all(folder)


@pytest.mark.parametrize("changes", [S2V_KEYS, {"fastwan_dmd": False, "anything": "else"}])
def test_keys_of_forks_are_passed_over(foreign, changes: dict[str, object]):
    assert open_model(foreign(T2V, **changes))[0].notices == ()


def test_the_mark_of_fastwan_sets_its_recipe_and_says_so(foreign):
    model, config = open_model(foreign(TI2V, fastwan_dmd=True, sample_steps=40))
    assert (config.sampling.steps, config.sampling.shift, config.sampling.guide_scale) == (3, 3.0, (1.0, 1.0))
    assert config.sampling.recipe == "fastwan"
    assert "fastwan_dmd marks a FastWan model. Its defaults are those of recipe fastwan" in model.notices[0]


def test_sampling_that_is_written_beside_the_mark_is_believed(foreign):
    marked = foreign(TI2V, fastwan_dmd={"sigmas": [1.0, 0.757, 0.522]}, sample_steps=4, sample_shift=8.0)
    model, config = open_model(marked)
    assert (config.sampling.steps, config.sampling.shift, config.sampling.recipe) == (4, 8.0, "")
    assert "the 4 steps that are written there are taken, evenly spaced" in model.notices[0]


@pytest.fixture(scope="module")
def quantized(converted) -> Callable[[str], Path]:
    def make(name: str) -> Path:
        folder = converted(name).with_name(f"{name}-q4")
        if not folder.exists():
            convert_checkpoint(converted(name), folder, quantize_only=True, quantize=True, group_size=32)
        return folder

    return make


def test_a_quantized_folder_without_config_tells_the_sizes_of_its_layers(quantized, tmp_path: Path):
    folder = shutil.copytree(quantized(T2V), tmp_path / "model")
    whole = open_model(folder)[1].transformer
    (folder / "config.json").unlink()
    found = open_model(folder)[1].transformer
    assert (found.dim, found.ffn_dim, found.text_dim) == (whole.dim, whole.ffn_dim, whole.text_dim)
    load_all(folder)


def test_the_rotary_table_that_another_tool_saved_is_left_out(quantized, tmp_path: Path):
    folder = shutil.copytree(quantized(T2V), tmp_path / "model")
    rewrite(folder / "model.safetensors", lambda tensors: tensors | {"freqs": mx.zeros((1024, 32, 2))})
    load_all(folder)


def test_an_image_branch_that_was_lost_in_quantizing_is_refused(quantized, tmp_path: Path):
    folder = shutil.copytree(quantized(I2V), tmp_path / "model")
    lost = ("img_emb", "k_img", "v_img")
    rewrite(
        folder / "model.safetensors",
        lambda tensors: {n: a for n, a in tensors.items() if not any(part in n for part in lost)},
    )
    config = json.loads((folder / "config.json").read_text())
    del config["mlx_video"]
    (folder / "config.json").write_text(json.dumps(config))
    message = r"model\.safetensors: img_emb\.proj\.0\.weight and all .* missing, .*original checkpoint again"
    with pytest.raises(CheckpointError, match=message):
        open_model(folder)
    (folder / "config.json").write_text(json.dumps(config | {"model_version": "2.2"}))
    assert find_variant(open_model(folder)[1]).title == "Wan2.2 I2V with one transformer"


def quantize_text_encoder(file: Path, config: TextEncoderConfig, scales: mx.Dtype) -> dict[str, mx.array]:
    """Write an encoder with every linear layer and table in eight bits; returns it dense again."""
    mx.random.seed(0)
    encoder = UMT5Encoder(config)
    nn.quantize(encoder, group_size=64, bits=8)
    tensors = {
        name: array if array.dtype == mx.uint32 else array.astype(scales)
        for name, array in tree_flatten(encoder.parameters())
    }
    mx.save_safetensors(str(file), tensors)
    paths = [name.removesuffix(".scales") for name in tensors if name.endswith(".scales")]
    assert {"token_embedding", "blocks.0.pos_embedding.embedding", "blocks.1.ffn.fc2"} < set(paths)
    dense = {
        f"{path}.weight": mx.dequantize(
            *(tensors[f"{path}.{part}"] for part in ("weight", "scales", "biases")), group_size=64, bits=8
        )
        for path in paths
    }
    kept = {n: a for n, a in tensors.items() if not n.endswith((".scales", ".biases"))}
    return kept | dense


# The smallest whose every table can be quantized: 64 heads, as the published encoder has.
WIDE = TextEncoderConfig(vocab_size=160, dim=64, dim_attn=64, dim_ffn=128, num_heads=64, num_layers=2)


def test_an_encoder_quantized_with_its_tables_gives_the_features_of_its_dequantized_numbers(tmp_path: Path):
    dense, texts = UMT5Encoder(WIDE), ([3, 14, 15, 92, 1], [1])
    dense.load_weights(list(quantize_text_encoder(tmp_path / "q8.safetensors", WIDE, mx.float32).items()))
    with open_tensors(tmp_path / "q8.safetensors") as source:
        streamed = finish(encode_streamed(source, WIDE, texts))
    for text, features in zip(texts, streamed, strict=True):
        # float32 both: only the order of a product's sums differs.
        np.testing.assert_allclose(features, dense(mx.array(text)), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["t5_encoder_q8.safetensors", "t5_encoder.safetensors"])
def test_a_quantized_encoder_is_read_under_either_name(foreign, name: str):
    sizes = {f"t5_{key}": getattr(WIDE, key) for key in ("dim", "dim_attn", "dim_ffn", "num_heads")}
    folder = foreign(T2V, **sizes)
    (folder / "t5_encoder.safetensors").unlink()
    quantize_text_encoder(folder / name, WIDE, mx.bfloat16)
    assert encode(*open_model(folder)).shape == (2, WIDE.dim)
    (folder / "config.json").unlink()
    assert open_model(folder)[1].text_encoder == WIDE


def test_a_quantized_encoder_serves_a_run_which_tells_first_what_was_corrected(foreign):
    sizes = {f"t5_{key}": getattr(WIDE, key) for key in ("dim", "dim_attn", "dim_ffn", "num_heads")}
    folder = foreign(T2V, **sizes)
    (folder / "t5_encoder.safetensors").unlink()
    quantize_text_encoder(folder / "t5_encoder_q8.safetensors", WIDE, mx.float32)
    rewrite(folder / "model.safetensors", with_text_width(WIDE.dim))
    events: list[object] = []
    video = WanPipeline.from_pretrained(folder)("a cat", on_event=events.append, **SMALL)
    assert video.frames.shape == (5, 32, 48, 3)
    assert isinstance(events[0], Notice)
    assert "text_dim is 32, but text_embedding_0.weight [128, 64]" in events[0].text


def with_text_width(width: int) -> Callable[[dict[str, mx.array]], dict[str, mx.array]]:
    def change(tensors: dict[str, mx.array]) -> dict[str, mx.array]:
        rows = tensors["text_embedding_0.weight"].shape[0]
        return tensors | {"text_embedding_0.weight": mx.ones((rows, width)) / width}

    return change


def test_of_two_encoders_the_one_that_every_tool_knows_is_read(foreign):
    folder = foreign(T2V)
    (folder / "t5_encoder_q8.safetensors").touch()
    assert open_model(folder)[0].text_encoder.name == "t5_encoder.safetensors"


SPELLINGS = {
    r"\.(residual|head)\.(\d+)\.": r".\1.layer_\2.",
    r"\.resample\.1\.": ".resample_",
    r"\.(to_qkv|proj)\.": r".\1_",
}
OFFICIAL = {
    r"\.layer_(\d+)\.": r".\1.",
    r"\.resample_(weight|bias)": r".resample.1.\1",
    r"\.(to_qkv|proj)_(weight|bias)": r".\1.\2",
}


@pytest.mark.parametrize(("name", "spelling"), [(T2V, SPELLINGS), (TI2V, OFFICIAL)])
def test_either_vae_is_read_in_either_spelling(converted, foreign, name: str, spelling: dict[str, str]):
    folder = foreign(name)

    def respell(tensors: dict[str, mx.array]) -> dict[str, mx.array]:
        renamed = {}
        for tensor, array in tensors.items():
            for pattern, replacement in spelling.items():
                tensor = re.sub(pattern, replacement, tensor)
            renamed[tensor] = array
        assert renamed.keys() != tensors.keys()
        return renamed

    rewrite(folder / "vae.safetensors", respell)
    for load in (load_vae_decoder, load_vae_encoder):
        found, ours = (
            dict(tree_flatten(load(*open_model(path)).parameters())) for path in (folder, converted(name))
        )
        assert found.keys() == ours.keys()
        assert all(mx.array_equal(found[tensor], ours[tensor]) for tensor in ours)


def test_the_video_is_that_of_our_own_folder(converted, foreign):
    folder = foreign(T2V)
    rewrite(folder / "model.safetensors", lambda tensors: tensors | {"freqs": mx.zeros((1024, 32, 2))})
    for file in (folder / "tokenizer").iterdir():
        file.rename(folder / file.name)
    theirs, ours = (
        WanPipeline.from_pretrained(path)("a cat", seed=1, **SMALL) for path in (folder, converted(T2V))
    )
    assert np.array_equal(theirs.frames, ours.frames)


def test_quantizing_settles_what_was_corrected(foreign, tmp_path: Path):
    folder = foreign(I2V_DUAL, in_dim=16, model_type="t2v")
    out = convert_checkpoint(folder, tmp_path / "q", quantize_only=True, quantize=True, group_size=32)
    written = json.loads((out / "config.json").read_text())
    assert (written["in_dim"], written["model_type"], written["quantization"]["bits"]) == (36, "i2v", 4)
    assert open_model(out)[0].notices == ()
    assert config_from_json(written).transformer.in_dim == 36
    load_all(out)
