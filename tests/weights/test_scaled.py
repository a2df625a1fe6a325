"""Weights stored with scales, in the spelling of every tool that writes them, against float64 arithmetic."""

import json

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.errors import CheckpointError
from mlx_video.files.read_ahead import read_ahead
from mlx_video.formats.float8 import decode_float8
from mlx_video.formats.tensor_source import open_tensors
from mlx_video.weights.stored.scaled import DequantizedTensors, dequantize, report_plain_float8
from tests.formats.stored_arrays import write_raw

OUT, IN = 6, 8
RNG = np.random.default_rng(0)
# Of either sign, without the codes of NaN and infinity.
FLOAT_CODES = RNG.integers(0, 0x7C, (OUT, IN), np.uint8) | 0x80 * RNG.integers(0, 2, (OUT, IN), np.uint8)
INT_CODES = RNG.integers(-127, 128, (OUT, IN)).astype(np.int8)
ROW_SCALES = (1e-3 * RNG.uniform(0.5, 2, (OUT, 1))).astype(np.float32)
BLOCK_SCALES = (1e-3 * RNG.uniform(0.5, 2, (OUT, 4, 1))).astype(np.float32)
SCALE = np.float32(0.0017)
BIAS = RNG.standard_normal(OUT).astype(np.float32)
L = "blocks.0.self_attn.q"
DTYPES = {"float32": "F32", "uint8": "U8", "int8": "I8", "float16": "F16"}


def put(values, dtype=None):
    values = np.asarray(values)
    return dtype or DTYPES[values.dtype.name], values


def write(path, tensors, metadata=None):
    """A safetensors file of any dtypes: name → (dtype, words)."""
    header, data = {} if metadata is None else {"__metadata__": metadata}, b""
    for name, (dtype, words) in tensors.items():
        offsets = [len(data), len(data) + words.nbytes]
        header[name] = {"dtype": dtype, "shape": list(words.shape), "data_offsets": offsets}
        data += words.tobytes()
    return write_raw(path, header, data)


def describe(**stated):
    return put(np.frombuffer(json.dumps(stated).encode(), np.uint8))


E4M3, E5M2 = put(FLOAT_CODES, "F8_E4M3"), put(FLOAT_CODES & 0xBF, "F8_E5M2")  # below two
CAST = put(FLOAT_CODES & 0xBF, "F8_E4M3")  # below two
ONE_CODE = put(np.zeros(2, np.uint8), "F8_E4M3")
COMFY_LAYERS = {
    "_quantization_metadata": json.dumps(
        {"format_version": "1.0", "layers": {L: {"format": "float8_e4m3fn"}}}
    )
}

CONVENTIONS = {
    "comfy until 2025": {
        "scaled_fp8": ONE_CODE,
        f"{L}.weight": E4M3,
        f"{L}.scale_weight": put(SCALE),
        f"{L}.scale_input": put(SCALE),
    },
    "comfy until 2025, one element": {
        "scaled_fp8": put(np.zeros(0, np.uint8), "F8_E5M2"),
        f"{L}.weight": E5M2,
        f"{L}.scale_weight": put([SCALE]),
    },
    "comfy with a description": {
        f"{L}.weight": E4M3,
        f"{L}.weight_scale": put(SCALE),
        f"{L}.input_scale": put(SCALE),
        f"{L}.comfy_quant": describe(format="float8_e4m3fn", full_precision_matrix_mult=True),
    },
    "comfy int8": {
        f"{L}.weight": put(INT_CODES),
        f"{L}.weight_scale": put(SCALE),
        f"{L}.comfy_quant": describe(format="int8_tensorwise", convrot=False),
    },
    "comfy int8 by rows": {
        f"{L}.weight": put(INT_CODES),
        f"{L}.weight_scale": put(ROW_SCALES),
        f"{L}.comfy_quant": describe(format="int8"),
    },
    "musubi by tensor": {"scaled_fp8": ONE_CODE, f"{L}.weight": E4M3, f"{L}.scale_weight": put([SCALE])},
    "musubi by row": {"scaled_fp8": ONE_CODE, f"{L}.weight": E4M3, f"{L}.scale_weight": put(ROW_SCALES)},
    "musubi by block": {"scaled_fp8": ONE_CODE, f"{L}.weight": E4M3, f"{L}.scale_weight": put(BLOCK_SCALES)},
    "lightx2v float8": {f"{L}.weight": E4M3, f"{L}.weight_scale": put(ROW_SCALES)},
    "lightx2v int8": {f"{L}.weight": put(INT_CODES), f"{L}.weight_scale": put(ROW_SCALES)},
    "lightx2v for comfy": {"scaled_fp8": ONE_CODE, f"{L}.weight": E4M3, f"{L}.scale_weight": put(SCALE)},
    "quanto": {
        f"{L}.weight._data": put(INT_CODES),
        f"{L}.weight._scale": put(ROW_SCALES.astype(np.float16)),
        f"{L}.input_scale": put(SCALE),
        f"{L}.output_scale": put(SCALE),
    },
}


def expected(tensors):
    """Codes times scale in float64, where the product of two float32 is exact; then rounded once."""
    dtype, codes = tensors.get(f"{L}.weight") or tensors[f"{L}.weight._data"]
    numbers = (codes if dtype == "I8" else decode_float8(codes, dtype)).astype(np.float64)
    (scale,) = (
        words
        for name, (_, words) in tensors.items()
        if name.endswith((".scale_weight", ".weight_scale", "._scale"))
    )
    if scale.ndim == 3:
        scale = np.repeat(scale[:, :, 0], IN // scale.shape[1], axis=1)
    return (numbers * scale.astype(np.float64)).astype(np.float32)


@pytest.mark.parametrize("tensors", CONVENTIONS.values(), ids=CONVENTIONS)
def test_every_convention_gives_codes_times_scale_and_hides_the_rest(tmp_path, tensors):
    others = {f"{L}.bias": put(BIAS), "spiece_model": put(np.arange(9, dtype=np.uint8))}
    with DequantizedTensors(open_tensors(write(tmp_path / "x.safetensors", tensors | others))) as view:
        assert set(view.infos) == {f"{L}.weight", f"{L}.bias", "spiece_model"}
        assert (view.infos[f"{L}.weight"].shape, view.infos[f"{L}.weight"].dtype) == ((OUT, IN), "F32")
        assert view.file_of(f"{L}.weight") == tmp_path / "x.safetensors"
        whole = view.read(f"{L}.weight")
        assert whole.dtype == mx.float32
        assert np.array_equal(np.array(whole), expected(tensors))
        for rows in (slice(0, 1), slice(1, 4), slice(5, 6), slice(2, 2)):
            assert mx.array_equal(view.read(f"{L}.weight", rows), whole[rows])
        assert np.array_equal(np.array(view.read(f"{L}.bias")), BIAS)
        assert view.read("spiece_model").tolist() == list(range(9))
        assert view.infos["spiece_model"].dtype == "U8"


def test_any_thread_may_read_and_leaves_the_evaluation_to_another(tmp_path):
    scale = 0.0017 * np.linspace(0.5, 2, OUT)
    bits = (scale.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)[:, None]
    tensors = {f"{L}.weight": put(INT_CODES), f"{L}.weight_scale": put(bits, "BF16")}
    with dequantize(open_tensors(write(tmp_path / "x.safetensors", tensors))) as view:
        (weight,) = read_ahead([f"{L}.weight"], view.read)
        rounded = (bits.astype(np.uint32) << 16).view(np.float32)
        assert np.array_equal(np.array(weight), INT_CODES * rounded)


def test_a_description_in_the_files_metadata_serves_as_well(tmp_path):
    tensors = {f"{L}.weight": E4M3, f"{L}.weight_scale": put(SCALE)}
    with dequantize(open_tensors(write(tmp_path / "x.safetensors", tensors, COMFY_LAYERS))) as view:
        assert np.array_equal(np.array(view.read(f"{L}.weight")), expected(tensors))


def test_scales_may_lie_in_another_shard_than_their_weights(tmp_path):
    tensors = CONVENTIONS["lightx2v int8"]
    paths = [write(tmp_path / f"{name[-5:]}.safetensors", {name: tensors[name]}) for name in tensors]
    with dequantize(open_tensors(paths)) as view:
        assert np.array_equal(np.array(view.read(f"{L}.weight")), expected(tensors))
        assert view.file_of(f"{L}.weight") == paths[0]


def test_names_keep_their_prefix_and_their_order(tmp_path):
    prefix = "model.diffusion_model."
    tensors = {"b.bias": put(BIAS), **CONVENTIONS["comfy until 2025"], "a.bias": put(BIAS)}
    path = write(tmp_path / "x.safetensors", {prefix + name: stored for name, stored in tensors.items()})
    with dequantize(open_tensors(path)) as view:
        assert list(view.infos) == [f"{prefix}{name}" for name in ("b.bias", f"{L}.weight", "a.bias")]


def test_a_file_without_scales_is_left_as_it_is(tmp_path):
    with open_tensors(write(tmp_path / "x.safetensors", {f"{L}.weight": CAST})) as source:
        assert dequantize(source) is source
        assert list(report_plain_float8([source])) == [
            "x.safetensors: 1 tensors are F8_E4M3 without scales, a plain cast to eight bits, read as they "
            "are (scale 1): precision is lost compared with the bf16 file."
        ]


def test_a_file_with_scales_is_no_plain_cast(tmp_path):
    with dequantize(open_tensors(write(tmp_path / "x.safetensors", CONVENTIONS["lightx2v float8"]))) as view:
        assert not list(report_plain_float8([view]))


SCALED = {f"{L}.weight": E4M3, f"{L}.scale_weight": put(SCALE)}
OTHER = "blocks.0.self_attn.k"


def with_scale(words, dtype=None, weight=E4M3):
    return {f"{L}.weight": weight, f"{L}.weight_scale": put(words, dtype)}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (SCALED | {f"{OTHER}.weight": E4M3}, f"{OTHER}.weight is float8 but has no scale, while 1 others do"),
        ({f"{L}.weight": put(INT_CODES)}, f"{L}.weight is int8 but has no scale"),
        (
            SCALED | {f"{OTHER}.weight": put(INT_CODES)},
            f"{OTHER}.weight is int8 but has no scale, while 1 oth",
        ),
        (SCALED | {f"{OTHER}.weight._data": E4M3}, f"{OTHER}.weight._data is float8 but has no scale"),
        ({"scaled_fp8": ONE_CODE, f"{L}.weight": E4M3}, f"{L}.weight is float8 but has no scale"),
        (
            SCALED | {f"{OTHER}.scale_weight": put(SCALE)},
            f"scale_weight scales {OTHER}.weight, which is not in",
        ),
        (
            SCALED | {f"{OTHER}.scale_input": put(SCALE)},
            f"{OTHER}.scale_input belongs to a layer that has no",
        ),
        (SCALED | {f"{L}.weight_scale": put(SCALE)}, "is a second scale of"),
        (
            with_scale(np.zeros(0, np.float32)),
            r"weight_scale is \[0\] and .* \[6, 8\]; a scale is one number",
        ),
        (with_scale(np.ones((1, IN), np.float32)), r"is \[1, 8\] and"),
        (with_scale(np.ones((OUT, 3, 1), np.float32)), r"is \[6, 3, 1\] and"),
        (with_scale(INT_CODES[:, :1]), "weight_scale is I8, and"),
        (with_scale(SCALE, weight=put(np.zeros((OUT, IN), np.uint8))), "is F32, and .* is U8"),
        (
            with_scale(FLOAT_CODES[:, :1], "F8_E8M0"),
            "stored as mxfp8 .*not supported. Use the bf16, fp16 or fp8",
        ),
        (with_scale(FLOAT_CODES[:, :1], "F8_E4M3", put(FLOAT_CODES)), "stored as nvfp4"),
        (SCALED | {f"{L}.weight_scale_2": put(SCALE)}, f"{L} is stored as nvfp4, which is not supported"),
        (SCALED | {f"{L}.weight_global_scale": put(SCALE)}, "nvfp4 or mxfp4"),
        (SCALED | {f"{L}.pre_quant_scale": put(BIAS)}, "a format that also scales the layer's inputs"),
        (SCALED | {f"{L}.weight._shift": put(BIAS)}, "a quanto format below eight bits"),
        (SCALED | {f"{L}.comfy_quant": describe(format="mxfp8")}, f"{L} is stored as mxfp8"),
        (SCALED | {f"{L}.comfy_quant": describe(format="int8_tensorwise", convrot=True)}, "rotated weights"),
        (SCALED | {f"{L}.comfy_quant": describe(format="int8", params={"convrot": True})}, "rotated weights"),
        (SCALED | {f"{L}.comfy_quant": put(np.arange(4, dtype=np.uint8))}, "is no valid JSON"),
        (SCALED | {f"{L}.comfy_quant": put(np.frombuffer(b"[1]", np.uint8))}, "is no JSON object"),
        (
            {f"{L}.weight": put(BIAS), f"{L}.comfy_quant": describe(format="int8")},
            "belongs to a layer that has",
        ),
        (with_scale(np.float32(1.0)), rf"{L}.weight spreads by [\d.]+ once it is scaled, weights by 0.005"),
        (with_scale(np.float32(np.nan)), "weight_scale is zero, NaN or infinite: the file is damaged"),
        (with_scale(np.float32(0)), "weight_scale is zero"),
    ],
)
def test_what_would_give_wrong_numbers_is_refused(tmp_path, tensors, message):
    with (
        open_tensors(write(tmp_path / "x.safetensors", tensors)) as source,
        pytest.raises(CheckpointError, match=message) as refused,
    ):
        dequantize(source)
    assert "x.safetensors" in str(refused.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps({"layers": {L: {"format": "nvfp4"}}}), f"{L} is stored as nvfp4"),
        (json.dumps({"layers": {L: {"format": "int8_tensorwise", "convrot": True}}}), "rotated weights"),
        ("{", "_quantization_metadata should say how weights are stored, but is no valid JSON"),
    ],
)
def test_a_description_in_the_metadata_can_refuse_a_file_too(tmp_path, text, message):
    path = write(tmp_path / "x.safetensors", SCALED, {"_quantization_metadata": text})
    with open_tensors(path) as source, pytest.raises(CheckpointError, match=message):
        dequantize(source)


# Numbers of a weight's size, as codes that need no scale.
SMALL_CODES = put(
    RNG.integers(1, 0x18, (OUT, IN), np.uint8) | 0x80 * RNG.integers(0, 2, (OUT, IN), np.uint8), "F8_E4M3"
)


@pytest.mark.parametrize("marks", ["none", "sentinel", "descriptions", "metadata", "rows"])
def test_float8_weights_without_a_scale_beside_scaled_ones_stand_for_themselves(tmp_path, marks):
    """As ComfyUI reads them, whatever tells it of the others."""
    end = "scale_weight" if marks == "sentinel" else "weight_scale"
    scale = put(ROW_SCALES) if marks == "rows" else put(SCALE)
    tensors = {
        f"{L}.weight": E4M3,
        f"{L}.{end}": scale,
        f"{OTHER}.weight": SMALL_CODES,
        f"{OTHER}.bias": SMALL_CODES,
    }
    tensors |= {"sentinel": {"scaled_fp8": ONE_CODE}}.get(marks, {})
    if marks == "descriptions":
        tensors |= {f"{L}.comfy_quant": describe(format="float8_e4m3fn")}
    path = write(tmp_path / "x.safetensors", tensors, COMFY_LAYERS if marks == "metadata" else None)
    with dequantize(open_tensors(path)) as view:
        assert set(view.infos) == {f"{L}.weight", f"{OTHER}.weight", f"{OTHER}.bias"}
        numbers = decode_float8(SMALL_CODES[1], "F8_E4M3")
        assert np.array_equal(np.array(view.read(f"{OTHER}.weight")), numbers)
        assert np.array_equal(np.array(view.read(f"{OTHER}.weight", slice(1, 3))), numbers[1:3])
        assert np.array_equal(
            np.array(view.read(f"{L}.weight")),
            expected({n: tensors[n] for n in (f"{L}.weight", f"{L}.{end}")}),
        )
        (notice,) = report_plain_float8([view])
        assert notice.startswith("x.safetensors: 2 tensors are F8_E4M3 without scales")


@pytest.mark.parametrize("stated", [OTHER, OTHER.removeprefix("blocks.")])
def test_a_layer_that_the_metadata_call_scaled_needs_its_scale(tmp_path, stated):
    layers = {L: {"format": "float8_e4m3fn"}, stated: {"format": "float8_e4m3fn"}}
    path = write(
        tmp_path / "x.safetensors",
        SCALED | {f"{OTHER}.weight": SMALL_CODES},
        {"_quantization_metadata": json.dumps({"layers": layers})},
    )
    message = f"{OTHER}.weight is float8 but has no scale, while 1 others do: the file is damaged"
    with open_tensors(path) as source, pytest.raises(CheckpointError, match=message):
        dequantize(source)


def test_metadata_that_call_layers_scaled_are_not_believed_without_any_scale(tmp_path):
    path = write(tmp_path / "x.safetensors", {f"{OTHER}.weight": SMALL_CODES}, COMFY_LAYERS)
    with (
        open_tensors(path) as source,
        pytest.raises(CheckpointError, match="no scale, and cannot do without"),
    ):
        dequantize(source)


@pytest.mark.parametrize(
    ("layers", "is_lost"),
    [
        (("blocks.0.ffn.2", "blocks.1.ffn.2"), True),  # far from its kind
        (("blocks.0.ffn.0", "blocks.1.ffn.2"), True),  # none of its kind: a transformer's weights are small
        (("encoder.block.0.layer.1.DenseReluDense.wo", "encoder.block.3.layer.1.DenseReluDense.wo"), True),
        (("encoder.block.0.layer.1.DenseReluDense.wo", "shared"), False),  # a table is of any size
    ],
)
def test_codes_that_lost_their_scale_are_told_from_weights_by_their_spread(tmp_path, layers, is_lost):
    scaled, other = layers
    tensors = {f"{scaled}.weight": E4M3, f"{scaled}.scale_weight": put(SCALE), f"{other}.weight": E4M3}
    with open_tensors(write(tmp_path / "x.safetensors", tensors)) as source:
        if is_lost:
            message = rf"{other}.weight is float8 but has no scale, while 1 others do, and spreads by [\d.]+"
            with pytest.raises(CheckpointError, match=message):
                dequantize(source)
        else:
            assert set(dequantize(source).infos) == {f"{scaled}.weight", f"{other}.weight"}


@pytest.mark.parametrize(
    ("layer", "is_judged"),
    [
        ("blocks.3.cross_attn.v", True),
        ("model.diffusion_model.blocks.3.self_attn.k", True),
        ("blocks.3.attn1.to_q", True),
        ("blocks.3.ffn.0", False),
        ("encoder.block.0.layer.0.SelfAttention.q", False),
        ("blocks.0.attn.q", False),
    ],
)
def test_the_spread_of_a_transformers_attention_is_judged_and_no_other(tmp_path, layer, is_judged):
    path = write(
        tmp_path / "x.safetensors", {f"{layer}.weight": E4M3, f"{layer}.weight_scale": put(np.float32(1))}
    )
    with open_tensors(path) as source:
        if is_judged:
            with pytest.raises(CheckpointError, match="once it is scaled"):
                dequantize(source)
        else:
            assert list(dequantize(source).infos) == [f"{layer}.weight"]


@pytest.mark.parametrize(("layer", "is_judged"), [(L, True), ("encoder.block.0.layer.0.wi_0", False)])
def test_a_file_that_lost_all_its_scales_is_no_plain_cast(tmp_path, layer, is_judged):
    codes = {f"{layer}.weight": E4M3, f"{layer}.bias": put(BIAS)}
    with open_tensors(write(tmp_path / "codes.safetensors", codes)) as source:
        if is_judged:
            with pytest.raises(CheckpointError, match=r"without a scale, as all others.* lost its scales"):
                dequantize(source)
        else:
            assert dequantize(source) is source
    with open_tensors(write(tmp_path / "cast.safetensors", {f"{layer}.weight": CAST})) as source:
        assert dequantize(source) is source


def test_wrong_calls_are_refused(tmp_path):
    with dequantize(open_tensors(write(tmp_path / "x.safetensors", SCALED))) as view:
        with pytest.raises(KeyError, match="has no tensor"):
            view.read(f"{L}.scale_weight")
        with pytest.raises(ValueError, match="must be consecutive"):
            view.read(f"{L}.weight", slice(0, 6, 2))
