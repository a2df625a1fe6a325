"""Wan2.1's image-to-video checkpoints: conversion, quantization and loading of the image branch."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_video.config import ImageEncoderConfig
from mlx_video.convert.convert import convert
from mlx_video.convert.plan import plan_conversion
from mlx_video.errors import CheckpointError
from mlx_video.events import Notice, StageStarted
from mlx_video.loading.components import check_weights, load_image_encoder, load_transformer, open_model
from mlx_video.models.encoders.image_encoder import CLIPImageEncoder
from mlx_video.request import ConvertRequest
from mlx_video.weights.names.image_encoder_names import wan_rules
from tests.fixtures.tiny_checkpoint import IMAGE_ENCODER_FILE, TinySizes, write_tiny_checkpoint
from tests.fixtures.weight_files import round_to, store, write_torch_archive
from tests.models.networks import load, relative_error
from tests.parity.golden import fill

SIZES = TinySizes().reading_images()
PIXELS = mx.array(fill((1, 28, 28, 3), 81))
CONVERTED = "clip_vision.safetensors"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A checkpoint that no test may change."""
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "Wan2.1-I2V", SIZES)


@pytest.fixture(scope="module")
def dense(tiny, tmp_path_factory):
    """The model converted from it, in bfloat16."""
    folder = tmp_path_factory.mktemp("dense") / "model"
    run(tiny.path, folder)
    return folder


@pytest.fixture
def own(tiny, tmp_path):
    """A copy of the checkpoint that a test may damage."""
    return shutil.copytree(tiny.path, tmp_path / "own")


@pytest.fixture(scope="module")
def damaged(tiny, tmp_path_factory):
    """A copy whose CLIP file is written anew by each example."""
    return shutil.copytree(tiny.path, tmp_path_factory.mktemp("damaged") / "Wan2.1-I2V")


@pytest.fixture
def own_model(dense, tmp_path):
    """A copy of the model that a test may damage."""
    return shutil.copytree(dense, tmp_path / "own_model")


def run(source, output, **options):
    return list(convert(ConvertRequest(source, output, **options)))


def converted_name(name):
    short = name.removeprefix("visual.")
    return short.replace(".mlp.0.", ".mlp.fc1.").replace(".mlp.2.", ".mlp.fc2.")


def is_unused(name):
    unused = ("textual.", "log_scale", "visual.post_norm.", "visual.head", "visual.transformer.2.")
    return name.startswith(unused)


@pytest.mark.parametrize(("dtype", "stored"), [("bfloat16", "F16"), ("float16", "F16"), ("float32", "F32")])
def test_the_blocks_that_run_arrive_and_the_rest_of_the_file_is_left_out(tiny, tmp_path, dtype, stored):
    run(tiny.path, tmp_path / "out", dtype=dtype)
    made = mx.load(str(tmp_path / "out" / CONVERTED))
    used = {name: values for name, values in tiny.image_encoder.items() if not is_unused(name)}
    text_tower = [name for name in tiny.image_encoder if name.startswith("textual.")]
    assert "textual.blocks.1.attn.q.weight" in text_tower
    assert len(tiny.image_encoder) - len(used) == len(text_tower) + 1 + 3 + 12
    assert made.keys() == {converted_name(name) for name in used}
    for name, values in used.items():
        found = made[converted_name(name)]
        # Not bfloat16: the official code runs the tower in float16, which is finer.
        assert found.dtype == (mx.float32 if stored == "F32" else mx.float16)
        expected = round_to(values, stored).reshape(found.shape)
        assert np.array_equal(np.array(found.astype(mx.float32)), expected), name


def test_the_branch_of_the_transformer_keeps_its_names_and_its_size_is_in_the_config(tiny, dense):
    made = mx.load(str(dense / "model.safetensors"))
    assert len(made) == len(tiny.transformer) == 87
    for name, values in tiny.transformer.items():
        if "img" in name:
            assert np.array_equal(np.array(made[name].astype(mx.float32)), round_to(values, "BF16")), name
    data = json.loads((dense / "config.json").read_text())
    assert data["mlx_video"]["image_dim"] == 160
    assert open_model(dense)[1].transformer == SIZES.transformer


def test_places_for_two_images_arrive_with_the_config(tmp_path):
    sizes = TinySizes().reading_images("flf2v")
    run(write_tiny_checkpoint(tmp_path / "source", sizes).path, tmp_path / "out")
    model, config = open_model(tmp_path / "out")
    assert config.transformer == sizes.transformer
    assert load_transformer(model, config).img_emb.emb_pos.shape == (1, 10, 160)


def test_image_keys_and_values_stay_dense_where_blocks_are_quantized(tiny, tmp_path):
    run(tiny.path, tmp_path / "out", quantize=True)
    made = mx.load(str(tmp_path / "out" / "model.safetensors"))
    assert len(made) == 87 + 2 * 20
    packed = [name for name in made if name.endswith(".scales")]
    assert not any("img" in name for name in packed)
    assert made["blocks.1.cross_attn.k_img.weight"].dtype == mx.bfloat16
    load_transformer(*open_model(tmp_path / "out"))


def test_quantizing_later_gives_the_files_of_quantizing_at_once(tiny, dense, tmp_path):
    run(dense, tmp_path / "later", quantize_only=True, bits=8)
    run(tiny.path, tmp_path / "at_once", quantize=True, bits=8)
    for name in ("model.safetensors", CONVERTED, "config.json"):
        assert (tmp_path / "later" / name).read_bytes() == (tmp_path / "at_once" / name).read_bytes()


def test_the_image_encoder_is_a_stage_of_its_own(tiny, tmp_path):
    stages = [e.stage for e in run(tiny.path, tmp_path / "out") if isinstance(e, StageStarted)]
    assert stages == ["transformer", "text_encoder", "image_encoder", "vae"]


def test_a_converted_image_encoder_gives_the_features_of_its_source(tiny, tmp_path):
    run(tiny.path, tmp_path / "out", dtype="float32")
    model, config = open_model(tmp_path / "out")
    check_weights(model, config)
    encoder = load_image_encoder(model, config)
    assert encoder.config == SIZES.image_encoder
    visual = {
        name.removeprefix("visual."): values
        for name, values in tiny.image_encoder.items()
        if name.startswith("visual.")
    }
    reference = load(
        CLIPImageEncoder(SIZES.image_encoder), visual, wan_rules(SIZES.image_encoder), mx.float32
    )
    np.testing.assert_array_equal(np.array(encoder(PIXELS)), np.array(reference(PIXELS)))


def test_an_encoder_stored_in_float16_gives_nearly_the_same(tiny, dense, tmp_path):
    run(tiny.path, tmp_path / "out", dtype="float32")
    expected = load_image_encoder(*open_model(tmp_path / "out"))(PIXELS)
    # Weights rounded to 11 bits, nothing else.
    assert relative_error(load_image_encoder(*open_model(dense))(PIXELS), expected) <= 2e-3


def test_a_checkpoint_without_the_clip_file_says_which_file_and_where_it_is(own, tmp_path):
    (own / IMAGE_ENCODER_FILE).unlink()
    with pytest.raises(
        CheckpointError, match=rf"{IMAGE_ENCODER_FILE} not found in .*own; .*Wan-AI/Wan2.1-I2V"
    ):
        run(own, tmp_path / "out")


def test_a_clip_of_another_width_is_refused_with_both_widths(own, tmp_path):
    other = TinySizes(image_encoder=ImageEncoderConfig(80, 96, 1, 2, 28, 14))
    wrong = write_tiny_checkpoint(tmp_path / "other", other)
    shutil.copy(wrong.path / IMAGE_ENCODER_FILE, own)
    message = r"cls_embedding is 80 wide, the transformer's img_emb.proj.0.weight takes 160"
    with pytest.raises(CheckpointError, match=message):
        run(own, tmp_path / "out")


@pytest.mark.slow
@settings(deadline=None, max_examples=25)
@given(place=st.integers(0, 10_000), how=st.sampled_from(["dropped", "renamed", "reshaped"]))
def test_a_changed_tensor_of_the_tower_is_named(tiny, damaged, place, how):
    arrays = dict(tiny.image_encoder)
    names = sorted(name for name in arrays if not is_unused(name))
    name = names[place % len(names)]
    values = arrays.pop(name)
    if how == "renamed":
        arrays[f"{name}_2"] = values
    if how == "reshaped":
        arrays[name] = np.concatenate([values, values[:1]])
    write_torch_archive(damaged / IMAGE_ENCODER_FILE, [store(n, v) for n, v in arrays.items()])
    with ExitStack() as opened, pytest.raises(CheckpointError) as caught:
        plan_conversion(ConvertRequest(damaged, damaged / "out"), opened)
    # The width of the feed-forward is read from this one, so a wrong one shows at what contradicts it.
    assert name.removeprefix("visual.") in str(caught.value) or name == "visual.transformer.0.mlp.0.weight"


def test_a_text_to_video_checkpoint_leaves_a_clip_file_alone(tmp_path):
    sizes = TinySizes(image_encoder=SIZES.image_encoder)
    run(write_tiny_checkpoint(tmp_path / "source", sizes).path, tmp_path / "out")
    assert not (tmp_path / "out" / CONVERTED).exists()


def test_the_branch_of_another_tools_folder_is_read_from_its_weights(own_model):
    config = json.loads((own_model / "config.json").read_text())
    del config["mlx_video"]
    (own_model / "config.json").write_text(json.dumps(config))
    model, found = open_model(own_model)
    assert found.transformer == SIZES.transformer
    load_transformer(model, found)


def test_a_model_without_its_image_encoder_is_refused_before_anything_is_loaded(own_model, tmp_path):
    (own_model / CONVERTED).unlink()
    model, config = open_model(own_model)
    message = rf"{CONVERTED} not found; .*models_clip_open-clip"
    with pytest.raises(CheckpointError, match=message):
        check_weights(model, config)
    with pytest.raises(CheckpointError, match=message):
        load_image_encoder(model, config)
    notices = [e.text for e in run(own_model, tmp_path / "q", quantize_only=True) if isinstance(e, Notice)]
    assert any(f"holds no {CONVERTED}" in text for text in notices)


def test_an_image_encoder_of_another_width_is_refused_with_both_widths(own_model):
    tensors = mx.load(str(own_model / CONVERTED))
    mx.save_safetensors(str(own_model / CONVERTED), tensors | {"cls_embedding": mx.zeros((1, 1, 80))})
    model, config = open_model(own_model)
    with pytest.raises(CheckpointError, match=r"cls_embedding is 80 wide, .* takes 160"):
        check_weights(model, config)
