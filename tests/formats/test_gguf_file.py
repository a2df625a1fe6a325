"""GGUF files give the numbers of the gguf package's reference decoder, a few rows at a time."""

import json
import os
import struct
import subprocess
import sys

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_video.errors import CheckpointError
from mlx_video.formats import gguf_file
from mlx_video.formats.gguf_header import BLOCKS, read_gguf_header
from mlx_video.formats.tensor_source import open_tensors
from tests.formats.gguf_writer import PACKED, pack, write_gguf

VALUES = np.random.default_rng(0).standard_normal((6, 512), np.float32)


def quants_class(kind):
    from gguf import quants

    return getattr(quants, kind)


def reference(data, kind):
    from gguf import GGMLQuantizationType, dequantize

    return dequantize(data, GGMLQuantizationType[kind])


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", *PACKED])
def test_every_type_gives_the_reference_decoders_numbers_bit_for_bit(tmp_path, kind, monkeypatch):
    data = pack(VALUES, kind)
    if kind in PACKED:  # as in a process that has unpacked nothing yet
        monkeypatch.setattr(quants_class(kind), "grid", None)
    path = write_gguf(tmp_path / "x.gguf", {"before": ("F32", VALUES[:1].view(np.uint8)), "w": (kind, data)})
    with open_tensors(path) as source:
        info, whole = source.infos["w"], source.read("w")
        parts = [source.read("w", slice(start, start + 2)) for start in range(0, 6, 2)]
    assert info.shape == whole.shape == (6, 512)
    assert info.dtype == (kind if kind in ("F32", "F16", "BF16") else "F32")
    assert whole.dtype == {"F16": mx.float16, "BF16": mx.bfloat16}.get(kind, mx.float32)
    expected = reference(data, kind)
    assert np.isfinite(expected).all()
    assert np.array_equal(np.array(whole.astype(mx.float32)), expected)
    assert mx.array_equal(mx.concatenate(parts), whole)


def low_and_high(packed):
    """Four-bit codes of a block: the low halves of all bytes, then the high ones."""
    return np.concatenate([packed & 15, packed >> 4], axis=-1).astype(np.float64)


def words(blocks, start):
    return blocks[:, start : start + 2].copy().view(np.float16).astype(np.float64)


def fifth_bits(blocks, start):
    return 16.0 * np.unpackbits(blocks[:, start : start + 4], axis=-1, bitorder="little")


# Each block worked out from its layout in ggml-common.h: scale, lowest number, codes.
BY_HAND = {
    "Q4_0": lambda b: words(b, 0) * (low_and_high(b[:, 2:]) - 8),
    "Q4_1": lambda b: words(b, 0) * low_and_high(b[:, 4:]) + words(b, 2),
    "Q5_0": lambda b: words(b, 0) * (low_and_high(b[:, 6:]) + fifth_bits(b, 2) - 16),
    "Q5_1": lambda b: words(b, 0) * (low_and_high(b[:, 8:]) + fifth_bits(b, 4)) + words(b, 2),
    "Q8_0": lambda b: words(b, 0) * b[:, 2:].view(np.int8),
}


@pytest.mark.parametrize("kind", BY_HAND)
def test_plain_blocks_give_the_numbers_worked_out_by_hand(tmp_path, kind):
    data = pack(VALUES, kind)
    with open_tensors(write_gguf(tmp_path / "x.gguf", {"w": (kind, data)})) as source:
        found = np.array(source.read("w"))
    expected = BY_HAND[kind](data.reshape(-1, BLOCKS[kind][1])).reshape(VALUES.shape)
    assert np.allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["Q4_1", "IQ4_NL", "IQ4_XS", "MXFP4", "IQ3_S"])
def test_a_file_of_one_type_may_hold_tensors_of_another(tmp_path, kind):
    tensors = {"a": ("Q4_K", pack(VALUES, "Q4_K")), "b": (kind, pack(VALUES, kind))}
    with open_tensors(write_gguf(tmp_path / "x-Q4_K_M.gguf", tensors)) as source:
        for name, (stored, data) in tensors.items():
            assert np.array_equal(np.array(source.read(name)), reference(data, stored))


def test_a_type_that_an_older_package_lacks_is_refused_by_name_before_it_is_read(tmp_path, monkeypatch):
    from gguf import quants

    path = write_gguf(tmp_path / "x.gguf", {"w": ("MXFP4", pack(VALUES, "MXFP4"))})
    monkeypatch.delattr(quants, "MXFP4")
    message = r"x\.gguf: w is MXFP4, which the installed gguf package [\d.]+ cannot unpack. Update it"
    with pytest.raises(CheckpointError, match=message):
        open_tensors(path)


@pytest.mark.parametrize(
    ("kind", "share"),
    [("Q8_0", 1 / 254), ("Q5_1", 1 / 31), ("Q4_1", 1 / 15), ("Q4_0", 1 / 8), ("Q5_0", 1 / 16)],
)
def test_unpacked_numbers_are_near_those_packed(tmp_path, kind, share):
    """Half a step of the type's grid, of Q4_0 a whole one at the cut end; 1% for the scale in float16."""
    path = write_gguf(tmp_path / "x.gguf", {"w": (kind, pack(VALUES, kind))})
    with open_tensors(path) as source:
        error = np.abs(np.array(source.read("w")) - VALUES).max()
    assert error < 1.01 * share * np.abs(VALUES).max()


def test_only_plain_tensors_can_be_read_into_memory(tmp_path):
    tensors = {"plain": ("F32", VALUES.view(np.uint8)), "packed": ("Q8_0", pack(VALUES, "Q8_0"))}
    memory = np.zeros(VALUES.shape, np.float32)
    with open_tensors(write_gguf(tmp_path / "x.gguf", tensors)) as source:
        source.read_into("plain", memory.reshape(-1).view(np.uint8).data)
        assert np.array_equal(memory, VALUES)
        with pytest.raises(ValueError, match=r"x\.gguf: packed is not stored as it is read"):
            source.read_into("packed", memory.reshape(-1).view(np.uint8).data)
        with pytest.raises(KeyError, match="has no tensor 'none'"):
            source.read_into("none", memory.reshape(-1).view(np.uint8).data)


def test_a_tensor_of_several_pieces_is_the_same_numbers(tmp_path, monkeypatch):
    data = pack(VALUES, "Q4_K")
    path = write_gguf(tmp_path / "x.gguf", {"w": ("Q4_K", data)})
    monkeypatch.setattr(gguf_file, "_PIECE", 768)
    with open_tensors(path) as source:
        assert np.array_equal(np.array(source.read("w")), reference(data, "Q4_K"))
        assert np.array_equal(np.array(source.read("w", slice(1, 4))), reference(data, "Q4_K")[1:4])


def test_rows_of_a_vector_and_of_more_axes_are_cut_where_they_begin(tmp_path):
    cube = VALUES.reshape(3, 4, 256)
    tensors = {"v": ("Q8_0", pack(VALUES[0], "Q8_0")), "c": ("Q8_0", pack(cube, "Q8_0"))}
    with open_tensors(write_gguf(tmp_path / "x.gguf", tensors)) as source:
        assert source.infos["c"].shape == (3, 4, 256)
        assert mx.array_equal(source.read("v", slice(7, 301)), source.read("v")[7:301])
        assert mx.array_equal(source.read("c", slice(1, 3)), source.read("c")[1:3])
        assert source.read("c", slice(2, 2)).shape == (0, 4, 256)
        with pytest.raises(ValueError, match="must be consecutive"):
            source.read("c", slice(0, 3, 2))
        with pytest.raises(KeyError, match="has no tensor 'w'"):
            source.read("w")


@given(rows=st.integers(1, 9), start=st.integers(0, 9), count=st.integers(0, 9), kind=st.sampled_from(PACKED))
@settings(deadline=None, max_examples=25)
def test_any_rows_are_those_of_the_whole(tmp_path_factory, rows, start, count, kind):
    values = np.random.default_rng(rows).standard_normal((rows, 256), np.float32)
    path = write_gguf(tmp_path_factory.mktemp("g") / "x.gguf", {"w": (kind, pack(values, kind))})
    with open_tensors(path) as source:
        chosen = slice(start, start + count)
        assert mx.array_equal(source.read("w", chosen), source.read("w")[chosen])


def test_the_files_metadata_is_known_and_vocabularies_are_left_out(tmp_path):
    metadata = {
        "a.text": "hello",
        "a.number": 7,
        "a.tokens": ["x"] * 50,
        "a.many": list(range(50)),
        "a.few": [2, 3],
    }
    path = write_gguf(
        tmp_path / "x.gguf", {"w": ("F32", VALUES.view(np.uint8))}, metadata, architecture="t5encoder"
    )
    known = read_gguf_header(path).metadata
    assert known["general.architecture"] == "t5encoder"
    assert (known["a.text"], known["a.number"], known["a.few"]) == ("hello", 7, (2, 3))
    assert known["a.tokens"] == known["a.many"] == ()


def test_a_kernel_that_was_folded_gets_its_five_axes_back(tmp_path):
    kernel = VALUES.reshape(48, 16, 1, 2, 2)
    metadata = {"comfy.gguf.orig_shape.patch_embedding.weight": [48, 16, 1, 2, 2]}
    tensors = {"patch_embedding.weight": ("F16", pack(kernel.reshape(48, 64), "F16"))}
    with open_tensors(write_gguf(tmp_path / "x.gguf", tensors, metadata)) as source:
        found = source.read("patch_embedding.weight")
    assert np.array_equal(np.array(found), kernel.astype(np.float16))


def test_a_kernel_that_was_folded_into_rows_of_blocks_can_be_read_in_its_own_rows(tmp_path):
    """Its rows of 144 elements then begin inside blocks of 32 and of 256."""
    for kind in ("Q4_0", "Q4_K"):
        data = pack(VALUES.reshape(12, 256)[:9], kind)
        metadata = {"comfy.gguf.orig_shape.conv.weight": [16, 16, 3, 3]}
        path = write_gguf(tmp_path / f"{kind}.gguf", {"conv.weight": (kind, data)}, metadata)
        expected = reference(data, kind).reshape(16, 16, 3, 3)
        with open_tensors(path) as source:
            assert np.array_equal(np.array(source.read("conv.weight")), expected)
            for rows in (slice(0, 1), slice(3, 5), slice(15, 16), slice(4, 4)):
                assert np.array_equal(np.array(source.read("conv.weight", rows)), expected[rows])


def raw_gguf(tensors, *, version=3, count=None, metadata=b"", entries=0, data=b""):
    """A file of any header: tensors are (name, lengths as stored, type number, offset)."""

    def text(value):
        return struct.pack("<Q", len(value)) + value.encode()

    header = (
        b"GGUF" + struct.pack("<IQQ", version, len(tensors) if count is None else count, entries) + metadata
    )
    for name, lengths, kind, offset in tensors:
        header += text(name) + struct.pack(f"<I{len(lengths)}QIQ", len(lengths), *lengths, kind, offset)
    return header + bytes(-len(header) % 32) + data


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            raw_gguf([("w", (256, 2), 35, 0)]),
            "w is TQ2_0, which is not supported. Use the Q8_0, Q6_K, Q5_K_M",
        ),
        (raw_gguf([("w", (256, 2), 99, 0)]), "w is type 99, which is not supported"),
        (
            raw_gguf([("w", (4,), 0, 0)], data=bytes(8)),
            r"bytes on disk, header promises .* Download it again",
        ),
        (raw_gguf([("w", (4,), 0, 2**62)], data=bytes(16)), "on disk, header promises"),
        (raw_gguf([("w", (2**40,), 8, 0)]), "on disk, header promises"),
        (raw_gguf([("w", (4,), 0, 0)] * 2, data=bytes(16)), "w occurs twice"),
        (raw_gguf([("w", (40, 2), 2, 0)], data=bytes(90)), r"w \[2, 40\] is Q4_0, which packs 32 neighbours"),
        (raw_gguf([("w", (1,) * 9, 0, 0)]), "w has 9 axes"),
        (raw_gguf([], count=5), "ends at byte .* in the middle of a value"),
        (raw_gguf([], count=2**60), "names 1,152,921,504,606,846,976 tensors, at most 100,000 are read"),
        (raw_gguf([], version=1), "is of GGUF version 1"),
        (raw_gguf([], version=3 << 24), "is big-endian"),
        (raw_gguf([], entries=1, metadata=struct.pack("<QcI", 1, b"k", 77)), "k has type 77"),
        (raw_gguf([], entries=1, metadata=struct.pack("<QcIIQ", 1, b"k", 9, 9, 2)), "k is a list of type 9"),
        (raw_gguf([], entries=1, metadata=struct.pack("<QcIIQ", 1, b"k", 9, 0, 2**50)), "middle of a value"),
        (raw_gguf([], entries=1, metadata=struct.pack("<QcIQ", 1, b"k", 8, 2**50)), "middle of a value"),
        (
            raw_gguf([], entries=1, metadata=struct.pack("<Q17sII", 17, b"general.alignment", 4, 0)),
            "general.alignment is 0",
        ),
    ],
    ids=[
        "TQ2_0",
        "unknown type",
        "truncated",
        "offset beyond the end",
        "larger than the file",
        "twice",
        "broken block",
        "nine axes",
        "five tensors missing",
        "countless tensors",
        "version 1",
        "big-endian",
        "unknown value",
        "list of lists",
        "endless list",
        "endless text",
        "no alignment",
    ],
)
def test_what_cannot_be_read_is_refused_with_a_reason(tmp_path, content, message):
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as refused:
        open_tensors(path)
    assert str(path) in str(refused.value)


@given(cut=st.integers(0, 4000), flip=st.integers(0, 400), byte=st.integers(0, 255))
@settings(deadline=None, max_examples=25)
def test_any_damage_is_an_error_or_leaves_a_file_that_reads(tmp_path_factory, cut, flip, byte):
    path = tmp_path_factory.mktemp("g") / "x.gguf"
    write_gguf(path, {"w": ("Q4_0", pack(VALUES, "Q4_0")), "b": ("F32", VALUES[:1].view(np.uint8))})
    content = bytearray(path.read_bytes())
    content[flip] = byte
    path.write_bytes(content[: len(content) - cut])
    try:
        with open_tensors(path) as source:
            for name, info in source.infos.items():
                assert source.read(name).shape == info.shape
    except CheckpointError:
        pass


def test_every_cut_is_noticed(tmp_path):
    path = write_gguf(tmp_path / "x.gguf", {"w": ("Q8_0", pack(VALUES, "Q8_0"))})
    content = path.read_bytes()
    for size in range(8, len(content), 97):
        path.write_bytes(content[:size])
        with pytest.raises(CheckpointError):
            open_tensors(path)


def test_a_file_cut_while_open_is_an_error(tmp_path):
    path = write_gguf(tmp_path / "x.gguf", {"w": ("Q8_0", pack(VALUES, "Q8_0"))})
    with open_tensors(path) as source:
        os.truncate(path, path.stat().st_size - 100)
        with pytest.raises(CheckpointError, match="100 bytes too early"):
            source.read("w")


PEAK_SCRIPT = """
import json, resource, sys
from pathlib import Path
import mlx.core as mx
from mlx_video.formats.tensor_source import open_tensors

def peak():
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else 1024 * used

with open_tensors(Path(sys.argv[1])) as source:
    mx.eval(source.read("w", slice(0, 64)))
    before = peak()
    array = source.read("w", slice(0, 4096))
    mx.eval(array)
    print(json.dumps([peak() - before, array.nbytes]))
"""


def test_the_peak_of_a_read_is_about_twice_the_unpacked_rows(tmp_path):
    elements, size = BLOCKS["Q6_K"]
    rows = 1 << 20
    content = raw_gguf([("w", (4096, rows), 14, 0)])
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    os.truncate(path, len(content) + rows * 4096 // elements * size)  # zeros that take no room on the disk
    run = subprocess.run(
        [sys.executable, "-c", PEAK_SCRIPT, str(path)], capture_output=True, text=True, check=True
    )
    grown, nbytes = json.loads(run.stdout)
    # One buffer and one array; 8 MiB for what the decoder takes of a piece, and for the allocators' pages.
    assert nbytes == 64 * 2**20
    assert grown <= 2 * nbytes + 8 * 2**20


def test_reading_needs_no_package_until_a_packed_tensor_is_met(tmp_path):
    path = write_gguf(tmp_path / "x.gguf", {"w": ("F16", pack(VALUES, "F16"))})
    script = (
        "import sys\nfrom pathlib import Path\nfrom mlx_video.formats.tensor_source import open_tensors\n"
        "with open_tensors(Path(sys.argv[1])) as source: source.read('w')\nassert 'gguf' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=True)
