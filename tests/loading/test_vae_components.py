"""Either VAE through conversion and loading: whole, in halves, in two files."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.config import WAN22_VAE
from mlx_video.convert.convert import convert
from mlx_video.errors import CheckpointError
from mlx_video.latents.decode import decode_frames
from mlx_video.latents.encode import encode_video
from mlx_video.loading.components import check_weights, open_model
from mlx_video.loading.vae_halves import check_vae_encoder, load_vae_decoder, load_vae_encoder
from mlx_video.models.vae.autoencoder import WanVAE
from mlx_video.request import ConvertRequest
from tests.fixtures.tiny_checkpoint import TinySizes, write_tiny_checkpoint
from tests.fixtures.weight_files import store, write_torch_archive
from tests.models.vae.tiny_vae import TINY, TINY22, draw, to_parameters

CONFIGS = {"2.1": TINY, "2.2": TINY22}


def write_source(path, version):
    """An original checkpoint that holds the VAEs of both generations, under each other's names."""
    vae, other = (CONFIGS[v] for v in (version, "2.1" if version == "2.2" else "2.2"))
    sizes = TinySizes()
    if version == "2.2":
        wide = replace(sizes.transformer, in_dim=vae.z_dim, out_dim=vae.z_dim, model_type="ti2v")
        sizes = replace(sizes, transformer=wide)
    source = write_tiny_checkpoint(path, replace(sizes, vae=vae))
    (path / "Wan2.1_VAE.pth").rename(path / "Wan2.2_VAE.pth")
    wrong = {"conv2.weight": np.zeros((other.z_dim, other.z_dim, 1, 1, 1), np.float32)}
    write_torch_archive(path / "Wan2.1_VAE.pth", [store(name, values) for name, values in wrong.items()])
    return source


@pytest.fixture(scope="module", params=["2.1", "2.2"])
def version(request):
    return request.param


@pytest.fixture(scope="module")
def made(version, tmp_path_factory):
    """A VAE of this generation with the source's numbers, and the folder converted from that source."""
    folder = tmp_path_factory.mktemp("made")
    source = write_source(folder / "source", version)
    list(convert(ConvertRequest(source.path, folder / "model")))
    vae = WanVAE(CONFIGS[version])
    vae.load_weights(to_parameters(source.vae))
    return vae, folder / "model"


@pytest.fixture
def own(made, tmp_path):
    """A copy of the converted folder to damage."""
    return shutil.copytree(made[1], tmp_path / "model")


def split_vae(folder, names=("encoder.", "conv1.")):
    """Move the tensors that begin so into vae_encoder.safetensors."""
    tensors = mx.load(str(folder / "vae.safetensors"))
    moved = {name: value for name, value in tensors.items() if name.startswith(names)}
    rest = {name: value for name, value in tensors.items() if name not in moved}
    mx.eval(tensors)
    mx.save_safetensors(str(folder / "vae_encoder.safetensors"), moved)
    mx.save_safetensors(str(folder / "vae.safetensors"), rest)


def decoded(vae):
    return mx.concatenate(list(decode_frames(vae, draw(vae.config.z_dim, 2, 1, 2))))


def encoded(vae):
    return encode_video(vae, mx.clip(draw(5, 16, 32, 3), -1, 1))


def test_the_vae_is_chosen_by_the_transformers_channels_and_told_by_config_json(made):
    vae, folder = made
    data = json.loads((folder / "config.json").read_text())
    assert (data["vae_z_dim"], data["vae_stride"]) == (vae.config.z_dim, list(vae.config.stride))
    assert open_model(folder)[1].vae.latent_std == vae.config.latent_std


def test_the_converted_vae_decodes_and_encodes_as_the_original_numbers_do(made):
    vae, folder = made
    decoder, encoder = load_vae_decoder(*open_model(folder)), load_vae_encoder(*open_model(folder))
    assert decoder.config == replace(vae.config, encoder_dim=None)
    assert encoder.config == replace(vae.config, decoder_dim=None)
    assert "encoder" not in decoder
    assert "decoder" not in encoder
    assert mx.array_equal(decoded(decoder), decoded(vae))
    assert mx.array_equal(encoded(encoder), encoded(vae))


def test_an_encoder_in_a_file_of_its_own_is_found(made, own):
    split_vae(own)
    check_vae_encoder(*open_model(own))
    assert mx.array_equal(encoded(load_vae_encoder(*open_model(own))), encoded(made[0]))
    assert mx.array_equal(decoded(load_vae_decoder(*open_model(own))), decoded(made[0]))


def test_of_two_encoders_the_one_beside_the_decoder_counts(made, own):
    tensors = mx.load(str(own / "vae.safetensors"))
    encoder = {n: 0 * value for n, value in tensors.items() if n.startswith(("encoder.", "conv1."))}
    mx.save_safetensors(str(own / "vae_encoder.safetensors"), encoder)
    assert mx.array_equal(encoded(load_vae_encoder(*open_model(own))), encoded(made[0]))


def test_a_folder_without_encoder_decodes_and_says_what_images_need(made, own):
    split_vae(own)
    (own / "vae_encoder.safetensors").unlink()
    check_weights(*open_model(own))
    assert mx.array_equal(decoded(load_vae_decoder(*open_model(own))), decoded(made[0]))
    message = (
        r"vae.safetensors in .*: encoder.conv1.weight is missing, .*no VAE encoder to read images\. Conv"
    )
    for refuse in (check_vae_encoder, load_vae_encoder):
        with pytest.raises(CheckpointError, match=message):
            refuse(*open_model(own))


def test_a_folder_without_decoder_is_refused_before_any_work(own):
    split_vae(own, ("decoder.", "conv2."))
    with pytest.raises(CheckpointError, match=r"decoder.head.0.gamma is missing, .*no VAE decoder to make"):
        check_weights(*open_model(own))


def test_a_vae_stored_in_half_precision_is_loaded_as_float32(own):
    tensors = {
        name: value.astype(mx.float16) for name, value in mx.load(str(own / "vae.safetensors")).items()
    }
    mx.eval(tensors)
    mx.save_safetensors(str(own / "vae.safetensors"), tensors)
    vae = load_vae_decoder(*open_model(own))
    assert {vae.conv2.weight.dtype, vae.decoder.conv1.bias.dtype} == {mx.float32}


def test_the_vae_of_another_generation_is_refused_with_both_channels(version, own):
    _, config = open_model(own)
    other = next(config for name, config in CONFIGS.items() if name != version)
    message = f"has {config.vae.z_dim} latent channels, this model takes {other.z_dim}"
    with pytest.raises(CheckpointError, match=message):
        load_vae_decoder(open_model(own)[0], replace(config, vae=other))


def test_a_missing_tensor_is_named(own):
    tensors = dict(mx.load(str(own / "vae.safetensors")))
    mx.eval(tensors)
    del tensors["decoder.conv1.bias"]
    mx.save_safetensors(str(own / "vae.safetensors"), tensors)
    with pytest.raises(CheckpointError, match=r"1 missing, first decoder.conv1.bias"):
        load_vae_decoder(*open_model(own))


def test_a_folder_with_the_other_vae_only_is_refused(tmp_path):
    source = write_source(tmp_path / "source", "2.2")
    (source.path / "Wan2.2_VAE.pth").unlink()
    with pytest.raises(
        CheckpointError, match=r"has 16 latent channels, the transformer makes 48.*TI2V-5B uses Wan2.2_VAE"
    ):
        list(convert(ConvertRequest(source.path, tmp_path / "out")))


def test_half_a_wan22_vae_is_not_converted(tmp_path):
    source = write_source(tmp_path / "source", "2.2")
    decoder = {name: v for name, v in source.vae.items() if name.startswith(("decoder.", "conv2."))}
    write_torch_archive(source.path / "Wan2.2_VAE.pth", [store(n, v) for n, v in decoder.items()])
    message = rf"86 tensors missing, first encoder.conv1.weight \[{WAN22_VAE.encoder_dim}, 12, 3, 3, 3\]"
    with pytest.raises(CheckpointError, match=message):
        list(convert(ConvertRequest(source.path, tmp_path / "out")))
