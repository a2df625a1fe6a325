"""Checkpoints stored in eight bits or in GGUF convert to the tensors that their numbers stand for."""

import shutil

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.conditioning.text import load_tokenizer, read_tokenizer_model
from mlx_video.convert.convert import convert
from mlx_video.errors import CheckpointError
from mlx_video.events import Notice
from mlx_video.formats.float8 import decode_float8
from mlx_video.inspect.path import inspect_path
from mlx_video.request import ConvertRequest
from mlx_video.weights import stream
from mlx_video.weights.names.vae_names import vae_tensors
from tests.fixtures.comfy_files import Words, tokenizer_model, write_words
from tests.fixtures.sentencepiece_fields import precompiled_charsmap
from tests.fixtures.tiny_checkpoint import (
    IMAGE_ENCODER_FILE,
    TOKENIZER_FOLDER,
    TinySizes,
    random_arrays,
    write_tiny_checkpoint,
    write_transformer,
)
from tests.fixtures.tiny_variants import TEXT_AND_IMAGE_TO_VIDEO
from tests.fixtures.weight_files import store, write_torch_archive
from tests.formats.gguf_writer import pack, tokenizer_metadata, write_gguf
from tests.formats.stored_arrays import write_raw

pytestmark = pytest.mark.slow

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


def as_codes(values, scale=None):
    """Numbers near the given ones that are E4M3 codes times a power of two: codes, scale, the numbers."""
    scale = scale or np.float32(2.0 ** np.ceil(np.log2(np.abs(values).max() / 448)))
    table = decode_float8(np.arange(256, dtype=np.uint8), "F8_E4M3")
    order = np.argsort(table)[:254]  # NaN comes last
    codes = order[np.searchsorted(table[order], values / scale).clip(0, 253)].astype(np.uint8)
    return codes, scale, table[codes] * scale


def write_eight_bits(path, tensors, *, scale_end=None, lost=None, plain=()):
    """A transformer whose block weights are E4M3; with the name's end a scale for each, else a plain cast.

    One or "all" may have lost their scale; others may be plain casts, which have none.

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
        is_plain = is_matrix(name, values) and not (scale_end or lost)
        if name in plain or is_plain:
            codes, _, numbers[name] = as_codes(values, np.float32(1))
            put(name, "F8_E4M3", codes)
        elif is_matrix(name, values):
            codes, scale, scaled = as_codes(values)
            put(name, "F8_E4M3", codes)
            numbers[name] = scaled
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


def test_a_file_that_lost_every_scale_is_refused(tiny, own, tmp_path):
    path = own / tiny.transformer_file.name
    write_eight_bits(path, tiny.transformer, lost="all")
    with pytest.raises(CheckpointError, match=r"q\.weight is float8 without a scale.* lost its scales"):
        run(own, tmp_path / "packed")
    assert "lost its scales" in inspect_path(path).problems[0]
    assert not (tmp_path / "packed").exists()


def test_plain_casts_beside_scaled_weights_convert_as_they_are_and_are_reported(tiny, own, tmp_path):
    path = own / tiny.transformer_file.name
    plain = ("blocks.0.ffn.2.weight", "blocks.1.self_attn.q.weight", "head.head.weight")
    numbers = write_eight_bits(path, tiny.transformer, scale_end=".scale_weight", plain=plain)
    told = (
        f"{path.name}: 3 tensors are F8_E4M3 without scales, a plain cast to eight bits, read as they are (sc"
    )
    assert sum(text.startswith(told) for text in run(own, tmp_path / "packed")) == 1
    (part,) = inspect_path(path).parts
    assert (part.problem, part.model) == ("", inspect_path(tiny.transformer_file).parts[0].model)
    assert part.storage.endswith("scale_weight), float8 without scales (3 tensors)")
    write_transformer(own, numbers)
    run(own, tmp_path / "plain")
    assert file_bytes(tmp_path / "packed") == file_bytes(tmp_path / "plain")


def test_a_plain_cast_of_an_image_encoder_and_a_vae_is_reported_too(tmp_path):
    sizes = TinySizes().reading_images()
    tiny = write_tiny_checkpoint(tmp_path / "own", sizes)
    for file, arrays in ((IMAGE_ENCODER_FILE, tiny.image_encoder), (tiny.vae_file.name, tiny.vae)):
        one = next(name for name, values in arrays.items() if values.ndim > 1 and "bias" not in name)
        words = {name: Words("F32", values) for name, values in arrays.items()}
        write_words(
            tiny.path / file, words | {one: Words("F8_E4M3", as_codes(arrays[one], np.float32(1))[0])}
        )
    notices = run(tiny.path, tmp_path / "out")
    assert sum("1 tensors are F8_E4M3 without scales" in text for text in notices) == 2


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


def fold(values):
    """As stable-diffusion.cpp writes kernels: channels out and in on one axis, four axes at most."""
    return values.reshape(-1, *values.shape[2:]) if values.ndim == 5 else values


def folded_gguf(tensors, kind="F16"):
    """Type and bytes of each tensor, kernels folded, first axes of length one dropped."""
    packed = {}
    for name, values in tensors.items():
        values = values[0] if values.shape[:1] == (1,) and values.ndim > 1 else fold(values)
        chosen = kind if is_matrix(name, values) else "F32"
        packed[name] = chosen, pack(values, chosen)
    return packed


@pytest.fixture(scope="module", params=["wan2.1", "wan2.2", "flf2v"])
def any_model(request, tmp_path_factory):
    """A checkpoint of either VAE, and one with places for two images; no test may change it."""
    sizes = {
        "wan2.1": TinySizes(),
        "wan2.2": TEXT_AND_IMAGE_TO_VIDEO,
        "flf2v": TinySizes().reading_images("flf2v"),
    }[request.param]
    return write_tiny_checkpoint(tmp_path_factory.mktemp("any") / "Wan", sizes, transformer_dtype="F16")


def test_folded_gguf_files_convert_to_the_tensors_of_the_original(any_model, tmp_path):
    own = shutil.copytree(any_model.path, tmp_path / "own")
    write_gguf(own / any_model.transformer_file.name, folded_gguf(any_model.transformer))
    write_gguf(own / any_model.vae_file.name, folded_gguf(any_model.vae))
    run(own, tmp_path / "folded")
    run(any_model.path, tmp_path / "original")
    assert file_bytes(tmp_path / "folded") == file_bytes(tmp_path / "original")


def test_folded_gguf_files_convert_in_chunks_of_any_size(tiny, own, tmp_path, monkeypatch):
    write_gguf(own / tiny.transformer_file.name, folded_gguf(tiny.transformer))
    write_gguf(own / tiny.vae_file.name, folded_gguf(tiny.vae))
    monkeypatch.setattr(stream, "CHUNK_BYTES", 1000)
    run(own, tmp_path / "folded")
    monkeypatch.undo()
    run(tiny.path, tmp_path / "original")
    assert file_bytes(tmp_path / "folded") == file_bytes(tmp_path / "original")


def test_a_folded_file_converts_in_any_order_and_with_its_shape_stated(tiny, own, tmp_path):
    """Some tools state the shape of some tensors; the order of tensors is of no account."""
    packed = folded_gguf(tiny.transformer)
    shape = tiny.transformer["patch_embedding.weight"].shape
    metadata = {"comfy.gguf.orig_shape.patch_embedding.weight": list(shape)}
    run(tiny.path, tmp_path / "original")
    for number, stated in enumerate((metadata, {})):
        tensors = dict(sorted(packed.items(), reverse=True))
        write_gguf(own / tiny.transformer_file.name, tensors, stated)
        run(own, tmp_path / f"folded{number}")
        assert file_bytes(tmp_path / f"folded{number}") == file_bytes(tmp_path / "original")


def test_folded_gguf_files_are_inspected_as_the_models_they_are(any_model, tmp_path):
    transformer = write_gguf(tmp_path / "a.gguf", folded_gguf(any_model.transformer, "Q8_0"))
    vae = write_gguf(tmp_path / "b.gguf", folded_gguf(any_model.vae))
    for file, original in ((transformer, any_model.transformer_file), (vae, any_model.vae_file)):
        (found,), (expected,) = inspect_path(file).parts, inspect_path(original).parts
        assert (found.component, found.model, found.problem) == (expected.component, expected.model, "")


def test_folded_vaes_of_both_generations_are_told_apart_in_a_folder(any_model, tmp_path):
    """By their latent channels, which a folded kernel's first axis does not tell."""
    own = shutil.copytree(any_model.path, tmp_path / "own")
    for name, sizes in (("Wan2.1_VAE.pth", TinySizes()), ("Wan2.2_VAE.pth", TEXT_AND_IMAGE_TO_VIDEO)):
        write_gguf(own / name, folded_gguf(random_arrays(vae_tensors(sizes.vae), seed=2)))
    run(own, tmp_path / "out")
    made = mx.load(str(tmp_path / "out" / "vae.safetensors"))
    assert made["conv2.weight"].shape[0] == any_model.sizes.vae.z_dim


def test_a_kernel_of_other_axes_is_refused_by_its_shape(tiny, own, tmp_path):
    kernel = tiny.transformer["patch_embedding.weight"]
    swapped = np.ascontiguousarray(kernel[:, :, 0].swapaxes(0, 1))
    packed = folded_gguf(tiny.transformer) | {"patch_embedding.weight": ("F32", pack(swapped, "F32"))}
    write_gguf(own / tiny.transformer_file.name, packed)
    with pytest.raises(CheckpointError, match=r"patch_embedding.weight is \[16, 128, 2, 2\], expected"):
        run(own, tmp_path / "out")
    assert not (tmp_path / "out").exists()


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
