"""Pictures of every kind come in as a viewer shows them, or are refused with a reason."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from mlx_video.errors import MediaError
from mlx_video.events import Notice
from mlx_video.media.open_image import name_image, open_image
from mlx_video.media.video import read_frames, read_video_metadata

RED, BLUE = (255, 0, 0), (0, 0, 255)
RGB = np.random.default_rng(0).integers(0, 256, (6, 10, 3), dtype=np.uint8)
ORIENTATION = 0x0112


def save(path: Path, picture: np.ndarray | Image.Image, **options) -> Path:
    (Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture).save(path, **options)
    return path


def ramp(top: float, dtype: type) -> np.ndarray:
    """A grey ramp from 0 to `top`, [4, 256]."""
    return np.linspace(0, top, 1024).astype(dtype).reshape(4, 256)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".ppm"])
def test_an_rgb_picture_keeps_every_byte(tmp_path: Path, suffix: str):
    opened = open_image(save(tmp_path / f"a{suffix}", RGB))
    np.testing.assert_array_equal(opened.pixels, RGB)
    assert opened.pixels.dtype == np.uint8
    assert opened.notices == ()


def test_a_picture_is_opened_by_its_address_and_in_the_home_folder(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save(tmp_path / "a cat.png", RGB)
    address = f"file://{tmp_path}/a%20cat.png"
    local = f"file://localhost{tmp_path}/a%20cat.png"
    for source in (address, Path(address), local, Path(local), "~/a cat.png", Path("~/a cat.png")):
        np.testing.assert_array_equal(open_image(source).pixels, RGB)


@pytest.mark.parametrize(
    "address",
    [
        "https://example.com/cat.png",
        "https://huggingface.co/Wan-AI/x/resolve/main/cat.png",
        "ftp://a.b/c.png",
    ],
)
def test_a_picture_elsewhere_must_be_downloaded_first(address: str):
    for source in (address, Path(address)):
        with pytest.raises(
            MediaError, match=f"^{address}: addresses are not read. Download it first, and give"
        ):
            open_image(source)


def test_a_jpeg_gives_what_pillow_decodes(tmp_path: Path):
    path = save(tmp_path / "a.jpg", RGB)
    with Image.open(path) as picture:
        np.testing.assert_array_equal(open_image(str(path)).pixels, np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda x: x),
        (2, lambda x: x[:, ::-1]),
        (3, lambda x: x[::-1, ::-1]),
        (6, lambda x: np.rot90(x, -1)),
        (8, np.rot90),
    ],
)
def test_a_photo_is_set_upright(tmp_path: Path, orientation: int, turn):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = save(tmp_path / "a.png", RGB, exif=exif)
    np.testing.assert_array_equal(open_image(path).pixels, turn(RGB))


def test_damaged_tags_do_not_make_a_photo_unreadable(tmp_path: Path):
    path = save(tmp_path / "a.jpg", RGB, exif=b"Exif\0\0MM\0\x2a\xff\xff\xff\xff")
    assert open_image(path).pixels.shape == RGB.shape


def test_transparent_parts_become_white_and_the_user_is_told(tmp_path: Path):
    layers = np.zeros((2, 3, 4), np.uint8)
    layers[0] = (*RED, 255)
    layers[1] = (*BLUE, 0)  # blue that nobody sees
    layers[1, 2] = (*BLUE, 51)
    opened = open_image(save(tmp_path / "logo.png", layers))
    assert opened.pixels[0].tolist() == [list(RED)] * 3
    assert opened.pixels[1].tolist() == [[255, 255, 255]] * 2 + [[204, 204, 255]]
    text = f"{tmp_path / 'logo.png'} is transparent in places; they become white."
    assert opened.notices == (Notice(text),)


def test_an_opaque_alpha_channel_changes_nothing(tmp_path: Path):
    layers = np.dstack([RGB, np.full(RGB.shape[:2], 255, np.uint8)])
    opened = open_image(save(tmp_path / "a.png", layers))
    np.testing.assert_array_equal(opened.pixels, RGB)
    assert opened.notices == ()


def test_a_transparent_colour_of_a_palette_becomes_white(tmp_path: Path):
    indexed = Image.fromarray(np.uint8([[0, 1, 1]])).convert("P")
    indexed.putpalette([*RED, *BLUE])
    path = save(tmp_path / "a.gif", indexed, transparency=0)
    assert open_image(path).pixels.tolist() == [[[255, 255, 255], list(BLUE), list(BLUE)]]


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_other_colour_spaces_become_rgb(mode: str):
    picture = Image.fromarray(RGB).convert(mode)
    opened = open_image(picture)
    np.testing.assert_array_equal(opened.pixels, np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_grey_bits_are_scaled_not_cut_off(tmp_path: Path, name: str):
    values = ramp(65535, np.uint16)
    pixels = open_image(save(tmp_path / name, values)).pixels
    assert np.abs(pixels - values[..., None] / 257).max() <= 0.5
    assert (pixels[..., 0] == pixels[..., 1]).all()


def test_sixteen_bits_of_colour_are_scaled_not_cut_off(tmp_path: Path):
    values = np.linspace(0, 65535, 6 * 10 * 3).astype(">u2").reshape(6, 10, 3)
    pixels = open_image(write_deep_png(tmp_path / "a.png", values)).pixels
    # Below one byte: Pillow keeps the upper eight bits.
    assert np.abs(pixels - values.astype(float) / 257).max() < 1


def write_deep_png(path: Path, values: np.ndarray) -> Path:
    """An RGB PNG of 16 bits a channel, which Pillow cannot write."""
    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.tobytes() for row in values)

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    return path


def test_grey_of_floating_point_is_scaled(tmp_path: Path):
    values = ramp(1.0, np.float32)
    pixels = open_image(save(tmp_path / "a.tif", values)).pixels
    assert np.abs(pixels - values[..., None] * 255).max() <= 0.5 + 1e-4


def test_grey_values_without_a_known_scale_are_refused(tmp_path: Path):
    path = save(tmp_path / "a.tif", ramp(1000.0, np.float32))
    with pytest.raises(MediaError, match=r"a\.tif: grey values from 0 to 1000, expected 0 to 1\. Save it"):
        open_image(path)


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".tif"])
def test_the_first_picture_of_an_animation_counts_and_the_user_is_told(tmp_path: Path, suffix: str):
    first, second = (Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE))
    options = {"lossless": True} if suffix == ".webp" else {}
    path = save(tmp_path / f"a{suffix}", first, save_all=True, append_images=[second], **options)
    opened = open_image(path)
    assert opened.pixels[0, 0].tolist() == list(RED)
    assert opened.notices == (Notice(f"{path} holds several pictures; the first one is used."),)


def test_an_opened_animation_gives_the_picture_it_stands_at(tmp_path: Path):
    first, second = (Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE))
    path = save(tmp_path / "a.tif", first, save_all=True, append_images=[second])
    with Image.open(path) as picture:
        picture.seek(1)
        assert open_image(picture).pixels[0, 0].tolist() == list(BLUE)
        assert picture.tell() == 1


@pytest.mark.parametrize(
    "values",
    [
        RGB,
        RGB.astype(np.uint16) * 257,
        RGB / 255,
        (RGB / 255).astype(np.float32),
        np.dstack([RGB, np.full(RGB.shape[:2], 255, np.uint8)]),
        np.asfortranarray(RGB),
    ],
)
def test_arrays_of_bytes_words_and_unit_floats_are_the_same_picture(values: np.ndarray):
    np.testing.assert_array_equal(open_image(values).pixels, RGB)


@pytest.mark.parametrize("shape", [(6, 10), (6, 10, 1)])
def test_an_array_of_one_channel_is_grey(shape: tuple[int, ...]):
    values = RGB[..., 0].reshape(shape)
    np.testing.assert_array_equal(open_image(values).pixels, np.repeat(RGB[..., :1], 3, axis=2))


def test_the_pixels_do_not_change_with_the_array_they_came_from():
    values = RGB.copy()
    opened = open_image(values)
    values[:] = 0
    np.testing.assert_array_equal(opened.pixels, RGB)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.zeros((2, 3, 4, 3), np.uint8), "no picture. Give"),
        (np.zeros((0, 3, 3), np.uint8), "no picture. Give"),
        (np.zeros((4, 4, 2), np.uint8), "no picture. Give"),
        (np.zeros((4, 4, 3), np.int64), "no known scale"),
        (np.full((4, 4, 3), -0.5), "no known scale"),
        (np.full((4, 4, 3), 200.0), "no known scale"),
        (np.full((4, 4, 3), np.nan), "no known scale"),
    ],
)
def test_an_array_that_is_no_picture_is_refused(values: np.ndarray, reason: str):
    with pytest.raises(MediaError, match=reason) as caught:
        open_image(values)
    assert str(values.dtype) in str(caught.value)


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path: Path):
    with pytest.raises(MediaError, match=r"none\.png: no such file\. Check the path\."):
        open_image(tmp_path / "none.png")
    with pytest.raises(MediaError, match="is a folder, not a picture"):
        open_image(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n", bytes(100)])
def test_a_file_that_is_no_picture_is_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(MediaError, match=r"a\.png: .*(Use|cannot be read)"):
        open_image(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".gif", ".tif"])
def test_a_picture_that_ends_early_is_refused(tmp_path: Path, suffix: str):
    pixels = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = save(tmp_path / f"a{suffix}", pixels)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(MediaError, match=rf"a\{suffix}: "):
        open_image(path)


def type_box(*brands: bytes) -> bytes:
    """The first box of a file of the ISO family: major brand, version, compatible brands."""
    return struct.pack(">I", 12 + 4 * len(brands)) + b"ftyp" + brands[0] + bytes(4) + b"".join(brands[1:])


@pytest.mark.parametrize(
    "brands", [(b"heic", b"mif1", b"heic"), (b"mif1", b"heic"), (b"mif1", b"mif1", b"miaf", b"heix")]
)
def test_an_iphone_photo_is_named_as_heic_whatever_its_ending(tmp_path: Path, brands: tuple[bytes, ...]):
    path = tmp_path / "IMG 0001.jpg"
    path.write_bytes(type_box(*brands) + bytes(100))
    with pytest.raises(MediaError) as caught:
        open_image(path)
    assert str(caught.value) == (
        f"{path}: is a HEIC picture, which cannot be read. Export it as PNG, on a Mac with Preview or with "
        f"`sips -s format png '{path}' --out '{path.with_suffix('.png')}'`."
    )


def test_the_export_of_a_heic_picture_called_png_gets_another_name(tmp_path: Path):
    path = tmp_path / "photo.png"
    path.write_bytes(type_box(b"heic", b"heic") + bytes(100))
    with pytest.raises(MediaError, match=r"--out \S+/photo-copy\.png`\.$"):
        open_image(path)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow does not read AVIF")
@pytest.mark.parametrize("name", ["a.avif", "a.png"])
def test_an_avif_picture_is_read_where_pillow_reads_it(tmp_path: Path, name: str):
    path = save(tmp_path / name, Image.new("RGB", (16, 16), RED), format="AVIF", quality=100)
    assert np.abs(open_image(path).pixels.astype(int) - RED).max() <= 3


@pytest.mark.parametrize("brands", [(b"avif", b"mif1", b"avif"), (b"mif1", b"avif", b"miaf")])
def test_an_avif_picture_is_named_where_pillow_does_not_read_it(tmp_path: Path, monkeypatch, brands):
    path = tmp_path / "a.jpg"
    path.write_bytes(type_box(*brands) + bytes(100))
    with pytest.raises(MediaError, match=r"a\.jpg: .*(damaged|cannot be read)"):
        open_image(path)
    monkeypatch.delitem(Image.OPEN, "AVIF", raising=False)
    monkeypatch.setattr(features, "get_supported_modules", list)
    with pytest.raises(
        MediaError, match="is an AVIF picture, which this Pillow cannot read.*pip install.*sips"
    ):
        open_image(path)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (type_box(b"isom", b"isom", b"avc1"), "is a video, not a picture. Save one frame"),
        (b"\x1a\x45\xdf\xa3" + bytes(40), "is a Matroska or WebM video"),
        (b"%PDF-1.7\n", "is a PDF file, which is not read. Export it as PNG or JPEG"),
        (b"8BPS\0\x01" + bytes(40), "is a Photoshop file"),
        (b"\xff\x0a" + bytes(40), "is a JPEG XL picture"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "is a JPEG XL picture"),
        (b'\n<svg xmlns="http://www.w3.org/2000/svg"/>', "is an SVG drawing"),
    ],
)
def test_what_is_no_picture_for_us_is_named_by_its_content(tmp_path: Path, content: bytes, what: str):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(MediaError, match=what):
        open_image(path)


@pytest.fixture
def ghostscript(tmp_path: Path, monkeypatch) -> Path:
    """A program called gs, first on PATH; the file is there once anybody has started it."""
    mark, folder = tmp_path / "started", tmp_path / "bin"
    folder.mkdir()
    program = folder / "gs"
    program.write_text(f"#!/bin/sh\ntouch {mark}\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return mark


@pytest.mark.parametrize("name", ["a.eps", "a.png", "a.jpg", "a.gif", "a.webp", "a"])
def test_an_eps_under_any_name_starts_no_program(tmp_path: Path, ghostscript: Path, name: str):
    path = save(tmp_path / name, RGB, format="EPS")
    with pytest.raises(MediaError, match="is an EPS or PostScript file, which is not read. Export it as PNG"):
        open_image(path)
    if path.suffix in (".gif", ".webp", ".png", ".jpg"):
        for read in (read_frames, read_video_metadata):
            with pytest.raises(MediaError, match="no picture that Pillow can read"):
                read(path)
    assert not ghostscript.exists()


def test_an_eps_with_a_preview_starts_no_program(tmp_path: Path, ghostscript: Path):
    save(tmp_path / "a.eps", RGB, format="EPS")
    text = (tmp_path / "a.eps").read_bytes()
    path = tmp_path / "b.png"
    path.write_bytes(struct.pack("<IIIIIIIH", 0xC6D3D0C5, 30, len(text), 0, 0, 0, 0, 0xFFFF) + text)
    with pytest.raises(MediaError, match="is an EPS file"):
        open_image(path)
    assert not ghostscript.exists()


def test_an_opened_eps_starts_no_program_either(tmp_path: Path, ghostscript: Path):
    path = save(tmp_path / "a.eps", RGB)
    with Image.open(path) as picture, pytest.raises(MediaError, match=r"a\.eps: its kind, EPS, is not read"):
        open_image(picture)
    assert not ghostscript.exists()


def test_a_loaded_picture_may_be_of_any_kind(tmp_path: Path):
    path = save(tmp_path / "a.tga", RGB)
    with Image.open(path) as picture:
        picture.load()
        np.testing.assert_array_equal(open_image(picture).pixels, RGB)


def test_pictures_of_every_named_kind_are_read(tmp_path: Path):
    lossless = {"PNG": {}, "WEBP": {"lossless": True}, "BMP": {}, "DIB": {}, "TIFF": {}, "PPM": {}}
    for kind, options in lossless.items():
        path = save(tmp_path / f"{kind}.bin", RGB, format=kind, **options)
        np.testing.assert_array_equal(open_image(path).pixels, RGB)
    for kind in ("JPEG", "MPO", "GIF"):
        assert open_image(save(tmp_path / f"{kind}.bin", RGB, format=kind)).pixels.shape == RGB.shape


def test_an_absurdly_large_picture_is_refused_before_it_fills_the_memory(tmp_path: Path, monkeypatch):
    path = save(tmp_path / "a.png", RGB)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(MediaError, match=r"a\.png: too large to open, .* Shrink the picture first"):
        open_image(path)


def test_a_large_photo_below_the_limit_is_opened_without_a_warning(tmp_path: Path, monkeypatch):
    path = save(tmp_path / "a.png", RGB)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)  # Pillow refuses from twice as many on
    np.testing.assert_array_equal(open_image(path).pixels, RGB)


def test_a_picture_has_a_name_for_messages(tmp_path: Path):
    path = save(tmp_path / "a.png", RGB)
    with Image.open(path) as picture:
        assert name_image(picture) == str(path)
    assert name_image(path) == name_image(str(path)) == str(path)
    assert name_image(RGB) == "array uint8 [6, 10, 3]"
    assert name_image(Image.fromarray(RGB)) == "picture RGB 10x6"
