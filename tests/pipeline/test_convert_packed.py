"""Checkpoints stored in eight bits or in GGUF convert to the tensors that their numbers stand for."""

import shutil

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.checkpoint.float8 import decode_float8
from mlx_video.conditioning.text import load_tokenizer, read_tokenizer_model
from mlx_video.errors import CheckpointError
from mlx_video.events import Notice
from mlx_video.pipeline.convert import convert
from mlx_video.pipeline.inspect_path import inspect_path
from mlx_video.request import ConvertRequest
from tests.checkpoint.gguf_writer import pack, tokenizer_metadata, write_gguf
from tests.checkpoint.stored_arrays import write_raw
from tests.fixtures.comfy_files import tokenizer_model
from tests.fixtures.sentencepiece_fields import precompiled_charsmap
from tests.fixtures.tiny_checkpoint import TOKENIZER_FOLDER, write_tiny_checkpoint, write_transformer
from tests.fixtures.weight_files import store, write_torch_archive

BLOCK_PARTS = {
    "norm1": "attn_norm",
    "norm2": "ffn_norm",
    "attn.q": "attn_q",
    "attn.k": "attn_k",
    "attn.v": "attn_v",
    "attn.o": "attn_o",
    "ffn.gate.0": "ffn_gate",
    "ffn.fc1": "ffn_up",
    "ffn.fc2": "ffn_down",
    "pos_embedding.embedding": "attn_rel_b",
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A checkpoint that no test may change."""
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "Wan2.1-T2V", transformer_dtype="F16")


@pytest.fixture
def own(tiny, tmp_path):
    """A copy whose weights a test replaces."""
    return shutil.copytree(tiny.path, tmp_path / "own")


def run(source, output, **options):
    events = list(convert(ConvertRequest(source, output, **options)))
    return [event.text for event in events if isinstance(event, Notice)]


def file_bytes(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


def is_matrix(name, values):
    """Whether tools put a transformer's tensor into few bits."""
    return values.ndim == 2 and name.startswith("blocks.") and name.endswith(".weight")


def as_codes(values):
    """Numbers near the given ones that are E4M3 codes times a power of two: codes, scale, the numbers."""
    scale = np.float32(2.0 ** np.ceil(np.log2(np.abs(values).max() / 448)))
    table = decode_float8(np.arange(256, dtype=np.uint8), "F8_E4M3")
    order = np.argsort(table)[:254]  # NaN comes last
    codes = order[np.searchsorted(table[order], values / scale).clip(0, 253)].astype(np.uint8)
    return codes, scale, table[codes] * scale


def write_eight_bits(path, tensors, *, scale_end=None, lost=None):
    """A transformer whose block weights are E4M3; with the name's end a scale for each, else a plain cast.

    Returns:
        The float32 numbers that the file stands for.
    """
    header, data, numbers = {}, [], {}

    def put(name, dtype, words):
        begin = sum(map(len, data))
        data.append(words.tobytes())
        offsets = [begin, begin + words.nbytes]
        header[name] = {"dtype": dtype, "shape": list(words.shape), "data_offsets": offsets}

    for name, values in tensors.items():
        numbers[name] = values
        if is_matrix(name, values):
            codes, scale, scaled = as_codes(values)
            put(name, "F8_E4M3", codes)
            numbers[name] = scaled if scale_end else scaled / scale
            if scale_end and name != lost:
                put(name.removesuffix(".weight") + scale_end, "F32", scale)
        else:
            put(name, "F32", values)
    write_raw(path, header, b"".join(data))
    return numbers


@pytest.mark.parametrize("options", [{}, {"dtype": "float32"}, {"quantize": True}])
@pytest.mark.parametrize("scale_end", [".scale_weight", ".weight_scale"])
def test_weights_scaled_by_powers_of_two_convert_bit_for_bit(tiny, own, tmp_path, scale_end, options):
    numbers = write_eight_bits(own / tiny.transformer_file.name, tiny.transformer, scale_end=scale_end)
    assert not any("float8" in text or "F8" in text for text in run(own, tmp_path / "packed", **options))
    write_transformer(own, numbers)
    run(own, tmp_path / "plain", **options)
    assert file_bytes(tmp_path / "packed") == file_bytes(tmp_path / "plain")


def test_a_plain_cast_converts_and_is_reported(tiny, own, tmp_path):
    numbers = write_eight_bits(own / tiny.transformer_file.name, tiny.transformer)
    notices = run(own, tmp_path / "packed")
    assert any(
        "20 tensors are F8_E4M3 without scales, a plain cast to eight bits" in text for text in notices
    )
    write_transformer(own, numbers)
    run(own, tmp_path / "plain")
    assert file_bytes(tmp_path / "packed") == file_bytes(tmp_path / "plain")


def test_no_folder_is_begun_for_weights_of_which_one_lost_its_scale(tiny, own, tmp_path):
    path, lost = own / tiny.transformer_file.name, "blocks.1.ffn.2.weight"
    write_eight_bits(path, tiny.transformer, scale_end=".scale_weight", lost=lost)
    with pytest.raises(CheckpointError, match=f"{lost} is float8 but has no scale, while 19 others do"):
        run(own, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def gguf_transformer(tensors, kind):
    """Type and bytes of each tensor, as ComfyUI-GGUF's converter and llama.cpp's quantizer leave them."""
    packed = {}
    for name, values in tensors.items():
        small = "F16" if name == "patch_embedding.weight" else "F32"
        # The quantizer drops leading axes of length one.
        values = values[0] if name.endswith("modulation") else values
        chosen = kind if is_matrix(name, values) else small
        packed[name] = chosen, pack(values, chosen)
    return packed


def unpack(kind, data, shape):
    from gguf import GGMLQuantizationType, dequantize

    return dequantize(data, GGMLQuantizationType[kind]).reshape(shape)


# The content decides which reader is used, so the file may keep its name.
@pytest.mark.parametrize(
    ("kind", "options"),
    [("F16", {}), ("BF16", {}), ("Q8_0", {}), ("Q4_1", {"quantize": True}), ("IQ4_NL", {}), ("MXFP4", {})],
)
def test_a_gguf_transformer_converts_to_the_reference_decoders_numbers(tiny, own, tmp_path, kind, options):
    packed = gguf_transformer(tiny.transformer, kind)
    write_gguf(own / tiny.transformer_file.name, packed)
    run(own, tmp_path / "packed", **options)
    numbers = {name: unpack(*packed[name], values.shape) for name, values in tiny.transformer.items()}
    write_transformer(own, numbers)
    run(own, tmp_path / "plain", **options)
    assert file_bytes(tmp_path / "packed") == file_bytes(tmp_path / "plain")
    if kind == "F16":  # as the tiny checkpoint itself is stored
        run(tiny.path, tmp_path / "original", **options)
        assert file_bytes(tmp_path / "packed") == file_bytes(tmp_path / "original")


def gguf_text_name(name):
    if name == "token_embedding.weight":
        return "token_embd.weight"
    if name == "norm.weight":
        return "enc.output_norm.weight"
    _, index, part = name.removesuffix(".weight").split(".", 2)
    return f"enc.blk.{index}.{BLOCK_PARTS[part]}.weight"


def test_a_gguf_text_encoder_converts_under_its_own_names(tiny, own, tmp_path):
    kinds = {
        name: "Q8_0" if values.ndim == 2 and values.shape[1] % 32 == 0 else "F32"
        for name, values in tiny.text_encoder.items()
    }
    packed = {name: (kinds[name], pack(values, kinds[name])) for name, values in tiny.text_encoder.items()}
    path = own / tiny.text_encoder_file.name
    write_gguf(
        path, {gguf_text_name(name): entry for name, entry in packed.items()}, architecture="t5encoder"
    )
    run(own, tmp_path / "packed", dtype="float32")
    numbers = {name: unpack(*packed[name], values.shape) for name, values in tiny.text_encoder.items()}
    write_torch_archive(path, [store(name, values) for name, values in numbers.items()])
    run(own, tmp_path / "plain", dtype="float32")
    assert file_bytes(tmp_path / "packed") == file_bytes(tmp_path / "plain")
    made = mx.load(str(tmp_path / "packed" / "t5_encoder.safetensors"))
    assert np.array_equal(np.array(made["blocks.1.attn.q.weight"]), numbers["blocks.1.attn.q.weight"])


def test_the_tokenizer_of_a_gguf_text_encoder_is_written_out(tiny, own, tmp_path):
    shutil.rmtree(own / TOKENIZER_FOLDER)
    own.joinpath(tiny.text_encoder_file.name).unlink()
    metadata = tokenizer_metadata(tokenizer_model(), precompiled_charsmap(tokenizer_model()))
    tensors = {gguf_text_name(name): ("F32", values) for name, values in tiny.text_encoder.items()}
    encoder = write_gguf(tmp_path / "umt5.gguf", tensors, metadata, architecture="t5encoder")
    run(own, tmp_path / "out", text_encoder=encoder)
    made, trained = (
        load_tokenizer(tmp_path / "out" / "tokenizer"),
        read_tokenizer_model(tokenizer_model(), "x"),
    )
    assert made.encode("a red circle", 16) == trained.encode("a red circle", 16)
    (part,) = inspect_path(encoder).parts
    assert (part.has_tokenizer, part.tensors) == (True, len(tensors))
    assert part.nbytes == sum(values.nbytes for values in tiny.text_encoder.values())
