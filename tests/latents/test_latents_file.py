"""Latents in a file: exact, with settings, whole or absent."""

from __future__ import annotations

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
