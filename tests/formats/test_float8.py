"""Eight-bit floats are decoded code by code."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.formats.float8 import FLOAT8_DTYPES, decode_float8
from mlx_video.formats.tensor_source import open_tensors
from tests.formats.stored_arrays import entry, write_raw

CODES = np.arange(256, dtype=np.uint8)
TORCH = {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu"}


@pytest.mark.parity
@pytest.mark.parametrize("dtype", FLOAT8_DTYPES)
def test_every_code_is_the_number_that_torch_makes_of_it(dtype):
    torch = pytest.importorskip("torch")
    expected = torch.from_numpy(CODES).view(getattr(torch, TORCH[dtype])).float().numpy()
    np.testing.assert_array_equal(decode_float8(CODES, dtype), expected)


@pytest.mark.parametrize(
    ("dtype", "code", "number"),
    [
        ("F8_E4M3", 0x00, 0.0),
        ("F8_E4M3", 0x01, 2.0**-9),
        ("F8_E4M3", 0x08, 2.0**-6),
        ("F8_E4M3", 0x38, 1.0),
        ("F8_E4M3", 0xB9, -1.125),
        ("F8_E4M3", 0x7E, 448.0),
        ("F8_E4M3", 0x7F, np.nan),
        ("F8_E4M3", 0xFF, np.nan),
        ("F8_E5M2", 0x01, 2.0**-16),
        ("F8_E5M2", 0x3D, 1.25),
        ("F8_E5M2", 0xFB, -57344.0),
        ("F8_E5M2", 0x7C, np.inf),
        ("F8_E5M2", 0xFC, -np.inf),
        ("F8_E5M2", 0x7D, np.nan),
        ("F8_E8M0", 0x00, 2.0**-127),
        ("F8_E8M0", 0x7F, 1.0),
        ("F8_E8M0", 0xFE, 2.0**127),
        ("F8_E8M0", 0xFF, np.nan),
    ],
)
def test_codes_of_note_are_the_numbers_of_the_definition(dtype, code, number):
    decoded = decode_float8(CODES, dtype)
    assert decoded.dtype == np.float32
    np.testing.assert_array_equal(decoded[code], np.float32(number))


def test_zero_keeps_its_sign():
    assert np.signbit(decode_float8(CODES, "F8_E4M3")[0x80])


def test_mlx_decodes_e4m3_alike_on_this_device():
    np.testing.assert_array_equal(
        decode_float8(CODES, "F8_E4M3"), np.array(mx.from_fp8(mx.array(CODES), mx.float32))
    )


@pytest.mark.parametrize("dtype", FLOAT8_DTYPES)
def test_a_stored_tensor_is_read_as_float32_whole_and_in_rows(tmp_path, dtype):
    path = write_raw(tmp_path / "x.safetensors", {"x": entry(0, 16, 16, dtype=dtype)}, CODES.tobytes())
    with open_tensors(path) as source:
        assert source.infos["x"].dtype == dtype
        whole, part = source.read("x"), source.read("x", slice(3, 5))
    assert (whole.dtype, part.dtype) == (mx.float32, mx.float32)
    expected = decode_float8(CODES, dtype).reshape(16, 16)
    np.testing.assert_array_equal(np.array(whole), expected)
    np.testing.assert_array_equal(np.array(part), expected[3:5])


def test_more_codes_than_one_piece_and_scattered_ones_are_all_decoded():
    codes = np.random.default_rng(0).integers(0, 256, (1031, 700), dtype=np.uint8)
    np.testing.assert_array_equal(decode_float8(codes, "F8_E5M2"), decode_float8(CODES, "F8_E5M2")[codes])
    np.testing.assert_array_equal(decode_float8(codes.T, "F8_E5M2"), decode_float8(codes, "F8_E5M2").T)
