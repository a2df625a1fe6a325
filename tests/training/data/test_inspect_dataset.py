"""What a training would see, told and drawn before anything is encoded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlx_video import MediaError
from mlx_video.config import ModelConfig
from mlx_video.events import ClipsRead, Event, FileWritten, TextResult, finish
from mlx_video.request.dataset import DatasetOptions
from mlx_video.training.data import inspect_dataset, prepare_dataset, read_dataset
from mlx_video.training.data.contact_sheet import Cell, choose_evenly, draw_cell, write_sheet
from tests.fixtures.tiny_variants import TINY_VARIANTS
from tests.training.data.clip_files import draw_frames, write_picture, write_video

T2V, VACE, I2V = (
    ModelConfig(name, "2.1", TINY_VARIANTS[name].sizes.transformer)
    for name in ("wan2.1-t2v-1.3b", "wan2.1-vace-1.3b", "wan2.1-i2v-14b")
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    write_video(folder / "clips/a.mp4", draw_frames(20, 64, 48), "a cat")
    write_video(folder / "clips/b.mp4", draw_frames(9, 48, 64))
    write_video(folder / "clips/c.mp4", draw_frames(3), "")
    (folder / "clips/d.mp4").write_bytes(b"nothing")
    (folder / "clips/d.txt").write_text("x")
    for name in "abcd":
        (folder / f"control/{name}.mp4").parent.mkdir(exist_ok=True)
        (folder / f"control/{name}.mp4").symlink_to(folder / f"clips/{name}.mp4")
    for name in "ab":
        write_picture(folder / f"stills/{name}.png", draw_frames(1)[0], name)
    return folder


def write_toml(folder: Path, files: Path, keys: str = "") -> Path:
    path = folder / "d.toml"
    path.write_text(
        '[general]\nresolution = [64, 48]\ncaption_extension = ".txt"\nbatch_size = 2\n'
        f'[[datasets]]\nvideo_directory = "{files}/clips"\ntarget_frames = [5, 9]\n'
        f'frame_extraction = "chunk"\n{keys}[[datasets]]\n'
        f'image_directory = "{files}/stills"\nnum_repeats = 3\nenable_bucket = true\n'
    )
    return path


def inspect(path: Path, config: ModelConfig, sheet: Path, **options: object) -> tuple[str, list[Event]]:
    events: list[Event] = []
    dataset = read_dataset(DatasetOptions(dataset_config=path), config)
    finish(inspect_dataset(dataset, config, sheet, **options), events.append)
    (text,) = [event.text for event in events if isinstance(event, TextResult)]
    return text, events


def test_buckets_counts_and_everything_that_is_wrong_are_told(files: Path, tmp_path: Path):
    path, sheet = write_toml(tmp_path, files), tmp_path / "sheet.png"
    text, events = inspect(path, T2V, sheet)
    head, _, tail = text.partition("\n\nCannot be used (1):\n")
    # Of a, 20 frames: 4 of 5, 2 of 9; of b, 9 frames: 1 of 5, 1 of 9.
    assert (
        head
        == f"""{path}: 6 clips, 10 examples

{path} [[datasets]] 0: 4 clips, batches of 2
  48x64  5 frames  1 example   1 batch
  48x64  9 frames  1 example   1 batch
  64x48  5 frames  4 examples  2 batches
  64x48  9 frames  2 examples  1 batch

{path} [[datasets]] 1: 2 clips, batches of 2, each 3 times an epoch
  64x48  1 frame  2 examples  3 batches

An epoch shows 14 examples in 8 batches.

Captions missing (1):
  {files}/clips/b.txt

Captions empty (1):
  {files}/clips/c.txt

Clips too short (1):
  {files}/clips/c.mp4: 3 frames, at least 5 are needed"""
    )
    assert tail.startswith(f"  {files}/clips/d.mp4: no video that ffmpeg can read")
    assert [event.done for event in events if isinstance(event, ClipsRead)] == [1, 2, 3, 4, 5, 6]
    assert events[-1] == FileWritten(sheet)
    assert {path.name for path in tmp_path.iterdir()} == {"d.toml", "sheet.png"}  # no cache


def test_inputs_make_buckets_and_controls_that_nothing_takes_are_told(files: Path, tmp_path: Path):
    path = write_toml(tmp_path, files, f'control_directory = "{files}/control"\n')
    sheet = tmp_path / "sheet.png"
    assert "9 frames  2 examples  1 batch    vace_video" in inspect(path, VACE, sheet)[0]
    text, _ = inspect(path, T2V, sheet)
    assert "Cannot be used (4)" in text
    assert "a.mp4: comes with a control, and Wan2.1 T2V" in text
    assert "9 frames  2 examples  1 batch    image\n" in inspect(write_toml(tmp_path, files), I2V, sheet)[0]


def test_long_lists_end_with_how_many_more_there_are(tmp_path: Path):
    for number in range(25):
        write_picture(tmp_path / f"{number:02}.png", draw_frames(1)[0])
    events: list[Event] = []
    dataset = read_dataset(DatasetOptions(dataset=tmp_path, width=32, height=32), T2V)
    finish(inspect_dataset(dataset, T2V, tmp_path / "sheet.png"), events.append)
    text = next(event.text for event in events if isinstance(event, TextResult))
    assert "Captions missing (25):" in text
    assert text.endswith("19.txt\n  and 5 others")


def test_a_sheet_that_cannot_be_written_is_told_before_clips_are_read(files: Path, tmp_path: Path):
    path = write_toml(tmp_path, files)
    dataset = read_dataset(DatasetOptions(dataset_config=path), T2V)
    with pytest.raises(MediaError, match="is a folder"):
        next(inspect_dataset(dataset, T2V, tmp_path))


def test_options_ask_for_it_and_name_the_sheet(files: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for sheet, written in ((None, Path("contact-sheet.png")), (tmp_path / "a.png", tmp_path / "a.png")):
        options = DatasetOptions(dataset=files / "stills", inspect_dataset=True, contact_sheet=sheet)
        events: list[Event] = []
        assert (
            finish(prepare_dataset(options, None, T2V), events.append) is None
        )  # no file of a model is read
        assert events[-1] == FileWritten(written)
        assert written.exists()


def colours(picture: Image.Image) -> set[tuple[int, ...]]:
    return {colour for _, colour in picture.convert("RGB").getcolors(1 << 20)}


def flat(colour: tuple[int, int, int], width: int = 64, height: int = 48) -> np.ndarray:
    return np.broadcast_to(np.array(colour, np.uint8), (height, width, 3)).copy()


def test_a_cell_shows_first_and_last_frames_controls_and_a_missing_caption():
    shades = [flat((number, 0, 255)) for number in range(9)]
    controls = [flat((0, 255, number)) for number in range(9)]
    shown = colours(draw_cell(Cell("a.mp4", "a cat", {"": shades, "control_video": controls})))
    assert {(0, 0, 255), (8, 0, 255), (0, 255, 0), (0, 255, 8)} <= shown
    assert not {(1, 0, 255), (0, 255, 1)} & shown  # four of nine
    alarm = (190, 20, 20)
    assert alarm in colours(draw_cell(Cell("a.mp4", None, {"": shades})))
    assert alarm not in shown


def test_long_captions_and_odd_letters_do_no_harm():
    plain = draw_cell(Cell("a.mp4", "x", {"": [flat((1, 2, 3))]}))
    for caption in ("a cat " * 500, "x" * 5000, "一只猫\n\x1b[2J", ""):
        assert draw_cell(Cell("a.mp4", caption, {"": [flat((1, 2, 3))]})).size == plain.size


def test_cells_lie_beside_each_other_and_none_is_cut(tmp_path: Path):
    cells = [Image.new("RGB", (300, 50 + number), (number, 99, 7)) for number in range(30)]
    write_sheet(tmp_path / "sheet.png", cells)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.height < 30 * 65 / 2  # at least two to a row
        counts = {colour: count for count, colour in sheet.getcolors(1 << 20)}
    assert all(counts[number, 99, 7] == 300 * (50 + number) for number in range(30))


def test_examples_are_chosen_evenly():
    assert choose_evenly(3, 4) == [0, 1, 2]
    assert choose_evenly(9, 4) == [0, 2, 5, 8]
    assert len(set(choose_evenly(1000, 48))) == 48
