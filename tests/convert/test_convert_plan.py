"""Every tensor is accounted for: whichever one is dropped, renamed or reshaped, the error names it."""

import dataclasses
import shutil
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mlx_video.convert.plan import plan_conversion
from mlx_video.convert.quantize_plan import plan_quantization
from mlx_video.errors import MLXVideoError
from mlx_video.request import ConvertRequest
from tests.fixtures.tiny_checkpoint import TinyCheckpoint, write_tiny_checkpoint, write_transformer
from tests.fixtures.weight_files import store, write_torch_archive

# Sizes are read from these, so a wrong one shows at the tensors that contradict it, or in config.json.
TELL_SIZES = {
    "patch_embedding.weight",
    "head.head.weight",
    "text_embedding.0.weight",
    "time_embedding.0.weight",
    "blocks.0.ffn.0.weight",
    "token_embedding.weight",
    "blocks.0.attn.q.weight",
    "blocks.0.ffn.fc1.weight",
    "blocks.0.pos_embedding.embedding.weight",
    "encoder.conv1.weight",
    "decoder.head.0.gamma",
    "conv2.weight",
}
COMPONENTS = ("transformer", "text_encoder", "vae")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "Wan2.1-T2V")


@pytest.fixture(scope="module")
def own(tiny, tmp_path_factory):
    return shutil.copytree(tiny.path, tmp_path_factory.mktemp("own") / "Wan2.1-T2V")


def plan(folder):
    with ExitStack() as opened:
        return plan_conversion(ConvertRequest(folder, folder / "out"), opened)


def write_component(checkpoint, component, arrays):
    if component == "transformer":
        write_transformer(checkpoint.path, arrays)
    else:
        dtype = "BF16" if component == "text_encoder" else "F32"
        path = getattr(checkpoint, f"{component}_file")
        write_torch_archive(path, [store(name, values, dtype) for name, values in arrays.items()])


@contextmanager
def rewritten(tiny, own, component, arrays):
    """Put other tensors into one component's file for a while."""
    checkpoint: TinyCheckpoint = dataclasses.replace(tiny, path=own)
    write_component(checkpoint, component, arrays)
    try:
        yield
    finally:
        write_component(checkpoint, component, getattr(tiny, component))


def change(arrays, name, how):
    rest = {other: values for other, values in arrays.items() if other != name}
    values = arrays[name]
    if how == "renamed":
        rest[f"{name}_2"] = values
    if how == "reshaped":
        rest[name] = np.concatenate([values, values[:1]])
    if how == "flattened":
        rest[name] = values.reshape(-1, 1)
    return rest


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(
    component=st.sampled_from(COMPONENTS),
    place=st.integers(0, 10_000),
    how=st.sampled_from(["dropped", "renamed", "reshaped", "flattened"]),
)
def test_a_changed_tensor_is_named(tiny, own, component, place, how):
    arrays = getattr(tiny, component)
    name = sorted(arrays)[place % len(arrays)]
    # One more row is a larger vocabulary: no other tensor and no file states its size.
    assume((name, how) != ("token_embedding.weight", "reshaped"))
    with rewritten(tiny, own, component, change(arrays, name, how)), pytest.raises(MLXVideoError) as caught:
        plan(own)
    assert name in str(caught.value) or name in TELL_SIZES


@pytest.mark.parametrize("component", COMPONENTS)
def test_an_added_tensor_is_named(tiny, own, component):
    arrays = getattr(tiny, component) | {"extra.lora_down.weight": np.zeros((4, 2), np.float32)}
    message = r"extra.lora_down.weight \[4, 2\]"
    with rewritten(tiny, own, component, arrays), pytest.raises(MLXVideoError, match=message):
        plan(own)


def test_half_a_vae_is_refused(tiny, own):
    decoder = {name: values for name, values in tiny.vae.items() if name.startswith(("decoder.", "conv2."))}
    message = r"Wan2.1_VAE.pth: \d+ tensors missing, first encoder.conv1.weight"
    with rewritten(tiny, own, "vae", decoder), pytest.raises(MLXVideoError, match=message):
        plan(own)


def test_a_rotary_table_in_the_transformer_is_dropped(tiny, own):
    arrays = tiny.transformer | {"freqs": np.zeros((4, 2), np.float32)}
    with rewritten(tiny, own, "transformer", arrays):
        names = [job.move.target for job in plan(own).components[0].jobs]
    assert len(names) == len(tiny.transformer)
    assert "freqs" not in names


def test_a_converted_folder_that_does_not_fit_its_config_is_not_quantized(tiny, tmp_path):
    from mlx_video.convert.convert import convert

    list(convert(ConvertRequest(tiny.path, tmp_path / "dense")))
    config = tmp_path / "dense" / "config.json"
    config.write_text(config.read_text().replace('"num_layers": 2', '"num_layers": 3'))
    request = ConvertRequest(tmp_path / "dense", tmp_path / "out", quantize_only=True)
    with ExitStack() as opened, pytest.raises(MLXVideoError, match=r"27 tensors missing, first blocks\.2\."):
        plan_quantization(request, opened)
