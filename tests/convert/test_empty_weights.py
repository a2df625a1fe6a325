"""Weights that a file holds as nothing but zeros are refused, whatever its format, and nothing is left."""

import shutil

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.convert.convert import convert
from mlx_video.errors import CheckpointError
from mlx_video.events import Notice
from mlx_video.inspect.path import inspect_path
from mlx_video.loading.components import check_weights, open_model
from mlx_video.request import ConvertRequest
from tests.convert.test_convert_packed import gguf_text_name
from tests.fixtures.comfy_files import SIZES, Words, comfy_text_encoder, scaled_text_encoder, write_words
from tests.fixtures.tiny_checkpoint import IMAGE_ENCODER_FILE, write_tiny_checkpoint, write_transformer
from tests.fixtures.weight_files import store, write_torch_archive
from tests.formats.gguf_writer import pack, write_gguf

TABLE = "token_embedding.weight"
SHARED, EMBEDDED = "shared.weight", "encoder.embed_tokens.weight"
EMPTY = (
    "holds nothing but zeros, where every published file has numbers: whatever saved this file left them out"
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A checkpoint of all four components that no test may change."""
    folder = tmp_path_factory.mktemp("tiny") / "Wan2.1-I2V"
    return write_tiny_checkpoint(folder, SIZES.reading_images(), transformer_dtype="F16")


@pytest.fixture(scope="module")
def converted(tiny, tmp_path_factory):
    """What it converts to; no test may change it."""
    folder = tmp_path_factory.mktemp("converted") / "out"
    run(tiny.path, folder)
    return folder


@pytest.fixture
def own(tiny, tmp_path):
    """A copy whose weights a test replaces."""
    return shutil.copytree(tiny.path, tmp_path / "own")


def run(source, output, **options):
    return [e.text for e in convert(ConvertRequest(source, output, **options)) if isinstance(e, Notice)]


def emptied(arrays, name):
    return arrays | {name: np.zeros_like(arrays[name])}


def write_text_encoder(path, arrays, kind):
    """UMT5 in one of the forms that people have it in."""
    if kind == "original":
        return write_torch_archive(path, [store(name, values, "BF16") for name, values in arrays.items()])
    if kind == "comfy":
        return write_words(path, comfy_text_encoder(arrays))
    if kind == "scaled float8":
        return write_words(path, scaled_text_encoder(arrays)[0])
    is_packed = {name: values.ndim == 2 and values.shape[1] % 32 == 0 for name, values in arrays.items()}
    kinds = {name: "Q8_0" if packed else "F32" for name, packed in is_packed.items()}
    tensors = {
        gguf_text_name(name): (kinds[name], pack(values, kinds[name])) for name, values in arrays.items()
    }
    return write_gguf(path, tensors, architecture="t5encoder")


@pytest.mark.parametrize("kind", ["original", "comfy", "scaled float8", "gguf"])
def test_an_empty_table_of_tokens_is_refused_before_anything_is_written(tiny, own, tmp_path, kind):
    write_text_encoder(own / tiny.text_encoder_file.name, emptied(tiny.text_encoder, TABLE), kind)
    with pytest.raises(CheckpointError, match=rf"models_t5.*: token_embedding\.weight .*\[160, 32\] {EMPTY}"):
        run(own, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (part,) = inspect_path(own / tiny.text_encoder_file.name).parts
    assert EMPTY in part.problem


def both_tables(arrays, shared, embedded):
    names = {SHARED: shared, EMBEDDED: embedded}
    tables = {name: Words("F32", values) for name, values in names.items()}
    return comfy_text_encoder(arrays) | tables


@pytest.mark.parametrize("empty", [SHARED, EMBEDDED])
def test_of_two_tables_the_one_with_numbers_is_taken_and_said(tiny, own, tmp_path, converted, empty):
    table = tiny.text_encoder[TABLE]
    tables = {name: np.zeros_like(table) if name == empty else table for name in (SHARED, EMBEDDED)}
    path = own / tiny.text_encoder_file.name
    write_words(path, both_tables(tiny.text_encoder, tables[SHARED], tables[EMBEDDED]))
    (other,) = {SHARED, EMBEDDED} - {empty}
    told = f"{path.name}: {empty} holds nothing but zeros; {other}, the same table, is taken."
    assert run(own, tmp_path / "out").count(told) == 1
    made = mx.load(str(tmp_path / "out" / "t5_encoder.safetensors"))
    wanted = mx.load(str(converted / "t5_encoder.safetensors"))
    assert mx.array_equal(made[TABLE], wanted[TABLE])
    (part,) = inspect_path(path).parts
    assert (part.problem, told in part.notices) == ("", True)


def test_two_empty_tables_are_refused_and_two_that_differ_still_are(tiny, own, tmp_path):
    table, path = tiny.text_encoder[TABLE], own / tiny.text_encoder_file.name
    write_words(path, both_tables(tiny.text_encoder, 0 * table, 0 * table))
    with pytest.raises(CheckpointError, match=EMPTY):
        run(own, tmp_path / "out")
    write_words(path, both_tables(tiny.text_encoder, table, 2 * table))
    with pytest.raises(CheckpointError, match=f"{SHARED} and {EMBEDDED} differ"):
        run(own, tmp_path / "out")


MATRICES = {
    "transformer": "blocks.1.ffn.2.weight",
    "text_encoder": "blocks.1.attn.o.weight",
    "vae": "decoder.upsamples.3.time_conv.weight",
    "image_encoder": "visual.transformer.1.attn.to_qkv.weight",
}


def write_component(tiny, own, component, arrays):
    if component == "transformer":
        write_transformer(own, arrays)
        return
    files = {"vae": tiny.vae_file.name, "image_encoder": IMAGE_ENCODER_FILE}
    name = files.get(component, tiny.text_encoder_file.name)
    write_torch_archive(own / name, [store(tensor, values) for tensor, values in arrays.items()])


@pytest.mark.parametrize(("component", "name"), MATRICES.items())
def test_an_empty_matrix_of_any_component_is_refused_and_nothing_is_left(
    tiny, own, tmp_path, component, name
):
    write_component(tiny, own, component, emptied(getattr(tiny, component), name))
    with pytest.raises(CheckpointError, match=rf"{name.removeprefix('visual.')} .*\[.*\] {EMPTY}"):
        run(own, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["own"]


def test_an_empty_matrix_of_a_gguf_transformer_is_refused(tiny, own, tmp_path):
    arrays = emptied(tiny.transformer, MATRICES["transformer"])
    kinds = {name: "Q8_0" if name == MATRICES["transformer"] else "F32" for name in arrays}
    tensors = {name: (kinds[name], pack(values, kinds[name])) for name, values in arrays.items()}
    write_gguf(own / tiny.transformer_file.name, tensors)
    with pytest.raises(CheckpointError, match=rf"{MATRICES['transformer']} \[128, 256\] {EMPTY}"):
        run(own, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_biases_norms_and_modulations_may_be_zero(tiny, own, tmp_path):
    arrays = {
        n: 0 * v if n.endswith(("bias", "modulation", "norm3.weight")) else v
        for n, v in tiny.transformer.items()
    }
    write_transformer(own, arrays)
    vae = emptied(tiny.vae, "decoder.middle.1.proj.weight")  # the official code begins with zeros there
    write_component(tiny, own, "vae", vae)
    run(own, tmp_path / "out")
    assert (tmp_path / "out" / "config.json").is_file()


def test_a_matrix_of_which_only_the_end_is_not_zero_is_none(tiny, own, tmp_path):
    values = 0 * tiny.transformer[MATRICES["transformer"]]
    values[-1, -1] = 1
    write_transformer(own, tiny.transformer | {MATRICES["transformer"]: values})
    run(own, tmp_path / "out")
    assert (tmp_path / "out" / "config.json").is_file()


def test_an_empty_matrix_of_a_converted_folder_is_refused_when_it_is_quantized(converted, tmp_path):
    folder = shutil.copytree(converted, tmp_path / "folder")
    path = folder / "model.safetensors"
    tensors = dict(mx.load(str(path)))
    tensors["blocks.1.ffn.fc2.weight"] = mx.zeros_like(tensors["blocks.1.ffn.fc2.weight"])
    mx.save_safetensors(str(path), tensors)
    with pytest.raises(CheckpointError, match=rf"blocks\.1\.ffn\.fc2\.weight \[128, 256\] {EMPTY}"):
        run(folder, tmp_path / "out", quantize_only=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("is_packed", [False, True], ids=["dense", "packed"])
def test_an_empty_table_of_a_converted_folder_is_found_before_it_runs(converted, tmp_path, is_packed):
    """Other tools' folders are not made by this converter, and hold packed tables too."""
    folder = shutil.copytree(converted, tmp_path / "folder")
    path = folder / "t5_encoder.safetensors"
    tensors = dict(mx.load(str(path)))
    full = tensors[TABLE]

    def put(table):
        parts = mx.quantize(table, group_size=32, bits=8) if is_packed else (table,)
        names = ("weight", "scales", "biases")[: len(parts)]
        tensors.update({f"token_embedding.{name}": part for name, part in zip(names, parts, strict=True)})
        mx.save_safetensors(str(path), dict(tensors))

    put(full)
    check_weights(*open_model(folder))
    put(mx.zeros_like(full))
    with pytest.raises(CheckpointError, match=rf"token_embedding\.weight .*{EMPTY}"):
        check_weights(*open_model(folder))
    assert any(EMPTY in problem for problem in inspect_path(folder).problems)
