"""Latents in a file: exact, with settings, whole or absent."""

from __future__ import annotations

import re
from pathlib import Path

import mlx.core as mx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_video.errors import MediaError
from mlx_video.latents.latents_file import load_latents, save_latents

LATENTS = mx.random.normal((16, 2, 3, 4), key=mx.random.key(0))


@pytest.mark.parametrize("name", ["a.safetensors", "a.latents", "a"])
def test_latents_and_settings_come_back_exactly(tmp_path: Path, name: str) -> None:
    path = tmp_path / "new" / name
    save_latents(path, LATENTS, {"prompt": '一只猫\n"x"', "seed": "7"})
    latents, found = load_latents(path)
    assert latents.dtype == mx.float32
    assert mx.array_equal(latents, LATENTS).item()
    assert found == {"prompt": '一只猫\n"x"', "seed": "7"}
    assert [file.name for file in path.parent.iterdir()] == [name]


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text(max_size=8), st.text(max_size=40), max_size=3))
def test_any_text_survives_as_a_setting(tmp_path: Path, metadata: dict[str, str]) -> None:
    save_latents(tmp_path / "a.safetensors", LATENTS, metadata)
    assert load_latents(tmp_path / "a.safetensors")[1] == metadata


def test_other_tools_can_read_the_file(tmp_path: Path) -> None:
    from safetensors import safe_open

    save_latents(tmp_path / "a.safetensors", LATENTS, {"seed": "7"})
    with safe_open(tmp_path / "a.safetensors", "numpy") as file:
        assert file.metadata()["seed"] == "7"
        assert file.get_tensor("latents").shape == (16, 2, 3, 4)


@pytest.mark.parametrize("wrong", [mx.zeros((16, 2, 3)), mx.zeros((16, 2, 3, 4), mx.bfloat16)])
def test_other_shapes_and_dtypes_are_not_written(tmp_path: Path, wrong: mx.array) -> None:
    with pytest.raises(ValueError, match=r"expected float32 \[C, T, H, W\]"):
        save_latents(tmp_path / "a.safetensors", wrong, {})
    assert not list(tmp_path.iterdir())


def test_a_folder_that_takes_no_files_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MediaError, match=r"a\.safetensors: cannot be written"):
        save_latents(tmp_path / "file" / "a.safetensors", LATENTS, {})


def test_a_full_disk_leaves_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"earlier")

    def break_off(file: str, *_: object) -> None:
        Path(file).write_bytes(b"half")
        raise RuntimeError("[write] Unable to write 8 bytes to file.")

    monkeypatch.setattr(mx, "save_safetensors", break_off)
    with pytest.raises(MediaError, match=r"a\.safetensors: cannot be written .*free space"):
        save_latents(path, LATENTS, {})
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [(path.name, b"earlier")]


def test_a_truncated_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_latents(path, LATENTS, {})
    content = path.read_bytes()
    for length in (0, 5, 40, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(MediaError, match=r"a\.safetensors: no complete safetensors file"):
            load_latents(path)


def test_files_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(MediaError, match="no such file"):
        load_latents(path)
    path.write_bytes(b"<!DOCTYPE html>" * 20)
    with pytest.raises(MediaError, match="no complete safetensors file"):
        load_latents(path)
    mx.save_safetensors(str(path), {"blocks.0.weight": mx.zeros((2, 2))})
    with pytest.raises(MediaError, match=r"holds blocks\.0\.weight, but no tensor 'latents'"):
        load_latents(path)
    mx.save_safetensors(str(path), {"latents": mx.zeros((2, 2, 2, 2), mx.float16)})
    with pytest.raises(MediaError, match=r"latents is mlx\.core\.float16 \(2, 2, 2, 2\), expected float32"):
        load_latents(path)


def test_a_file_that_is_cut_short_is_called_that_with_both_sizes(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_latents(path, LATENTS, {})
    content = path.read_bytes()
    for length in (len(content) - 1, len(content) // 2, 20):
        path.write_bytes(content[:length])
        with pytest.raises(MediaError) as caught:
            load_latents(path)
        whole = f"{len(content):,} bytes" if length != 20 else r".* bytes"
        text = (
            rf"no complete safetensors file: cut short, {length:,} bytes of {whole} are there\. Copy it again"
        )
        assert re.search(text, str(caught.value)), caught.value
        assert "mlx" not in str(caught.value).lower().replace(str(path), "")


@pytest.mark.parametrize("length", [1, 4, 8])
def test_a_file_that_ends_before_its_header_is_called_cut_short(tmp_path: Path, length: int) -> None:
    path = tmp_path / "a.safetensors"
    save_latents(path, LATENTS, {})
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(MediaError, match=rf"file: cut short, {length} bytes are there\. Copy it again, or"):
        load_latents(path)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2avc1mp41" + bytes(64), "a video"),
        (b"\0\0\0\x14ftypqt  \0\0\x02\0qt  " + bytes(64), "a video"),
        (b"\x1a\x45\xdf\xa3" + bytes(64), "a Matroska or WebM video"),
        (b"\x89PNG\r\n\x1a\n" + bytes(64), "a PNG picture"),
        (b"\xff\xd8\xff\xe0" + bytes(64), "a JPEG picture"),
        (b"GIF89a" + bytes(64), "a GIF"),
        (b"RIFF\0\0\0\0WEBPVP8 " + bytes(64), "a WebP, AVI or WAV file"),
        (b"PK\x03\x04" + bytes(64), "a zip archive, perhaps of torch.save"),
        (b"GGUF\x03" + bytes(64), "a GGUF file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"<!DOCTYPE html>", "an HTML page"),
        (b'{"seed": 1}', "JSON text"),
        (b"", "an empty file"),
    ],
)
def test_another_kind_of_file_is_named_with_what_is_wanted(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(MediaError) as caught:
        load_latents(path)
    wanted = "what --save-latents wrote, or the state of a run, *.state.safetensors"
    assert str(caught.value) == f"{path}: no complete safetensors file, but {what}. Give {wanted}."


def test_a_folder_is_no_file_of_latents(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="is a folder. Give the file that --save-latents wrote"):
        load_latents(tmp_path)
