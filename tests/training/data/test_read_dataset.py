"""Lists of DiffSynth-Studio and bare folders, and the options that go with them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mlx_video.config import ModelConfig
from mlx_video.errors import DatasetError, RequestError
from mlx_video.request.dataset import DatasetOptions
from mlx_video.training.data.bucket_sizes import BucketSizes, LimitedSizes
from mlx_video.training.data.clips import Clip, Table
from mlx_video.training.data.frame_windows import FrameRule
from mlx_video.training.data.input_names import OPTION_OF, read_extra_inputs
from mlx_video.training.data.musubi_file import CACHE_FOLDER
from mlx_video.training.data.read_dataset import read_dataset, refuse_missing_captions
from tests.fixtures.tiny_variants import TINY_VARIANTS

T2V = ModelConfig("wan2.1-t2v-1.3b", "2.1", TINY_VARIANTS["wan2.1-t2v-1.3b"].sizes.transformer)


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def read(**options: object) -> Table:
    (table,) = read_dataset(DatasetOptions(**options), T2V).tables
    return table


def read_list(path: Path, text: str, **options: object) -> tuple[Clip, ...]:
    return read(dataset_config=write(path, text), **options).clips


def test_a_csv_names_clips_and_prompts(tmp_path: Path):
    text = 'video,prompt\na.mp4,"a cat, on a mat"\nsub/b.mp4,"two\nlines"\n\nc.png,still\n'
    clips = read_list(tmp_path / "metadata.csv", text)
    assert [(clip.path, clip.caption, clip.is_picture) for clip in clips] == [
        (tmp_path / "a.mp4", "a cat, on a mat", False),
        (tmp_path / "sub/b.mp4", "two\nlines", False),
        (tmp_path / "c.png", "still", True),
    ]
    assert [clip.caption_place.split()[-1] for clip in clips] == ["2", "4", "6"]


ROWS = [
    {"video": "a.mp4", "prompt": "x", "control_video": "c.mp4", "vace_reference_image": ["1.png", "2.png"]},
    {"image": "b.jpg", "prompt": "y", "camera_control_direction": "Left", "camera_control_speed": 0.5},
]


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_lists_in_json_say_the_same(suffix: str, tmp_path: Path):
    text = json.dumps(ROWS) if suffix == ".json" else "\n".join(map(json.dumps, ROWS))
    first, second = read_list(tmp_path / f"metadata{suffix}", text)
    assert first.inputs == {
        "control_video": tmp_path / "c.mp4",
        "vace_reference_image": (tmp_path / "1.png", tmp_path / "2.png"),
    }
    assert (second.path, second.is_picture) == (tmp_path / "b.jpg", True)
    assert second.inputs == {"camera_control_direction": "Left", "camera_control_speed": 0.5}


def test_every_column_of_a_csv_becomes_the_option_of_a_run(tmp_path: Path):
    numbers = {"camera_control_speed": 0.25, "motion_bucket_id": 60.0}
    cells = {name: numbers.get(name, f"{name}.png") for name in OPTION_OF}
    text = f"video,prompt,{','.join(cells)}\na.mp4,x,{','.join(map(str, cells.values()))}\n"
    (clip,) = read_list(tmp_path / "m.csv", text)
    expected = {option: tmp_path / f"{name}.png" for name, option in OPTION_OF.items()}
    expected |= numbers | {"camera_control_direction": "camera_control_direction.png"}
    expected["vace_reference_image"] = (tmp_path / "vace_reference_image.png",)
    assert clip.inputs == expected


def test_paths_of_a_list_start_where_the_option_says(tmp_path: Path):
    text = f"video,prompt\na.mp4,x\n{tmp_path}/elsewhere/b.mp4,y\n"
    clips = read_list(tmp_path / "lists/m.csv", text, dataset_base_path=tmp_path / "clips")
    assert [clip.path for clip in clips] == [tmp_path / "clips/a.mp4", tmp_path / "elsewhere/b.mp4"]
    table = read(dataset_config=tmp_path / "lists/m.csv", dataset_base_path=tmp_path / "clips")
    assert table.cache_directory == tmp_path / "clips" / CACHE_FOLDER
    assert read(dataset_config=tmp_path / "lists/m.csv").cache_directory == tmp_path / "lists" / CACHE_FOLDER


LIST_OPTIONS = {
    "dataset_repeat": (7, "num_repeats", 7),
    "batch_size": (3, "batch_size", 3),
    "max_pixels": (4096, "sizes", LimitedSizes(None, 4096)),
    "num_frames": (49, "frames", FrameRule("full", max_frames=49)),
    "cache_directory": (Path("kept"), "cache_directory", Path("kept")),
}


@pytest.mark.parametrize("name", LIST_OPTIONS)
def test_every_option_of_lists_does_what_it_says(name: str, tmp_path: Path):
    value, attribute, expected = LIST_OPTIONS[name]
    path = write(tmp_path / "m.csv", "video,prompt\na.mp4,x\n")
    plain, changed = read(dataset_config=path), read(dataset_config=path, **{name: value})
    assert getattr(changed, attribute) == expected != getattr(plain, attribute)
    assert changed == replace(plain, **{attribute: expected})


def test_sizes_and_frames_of_lists_are_diffsynths(tmp_path: Path):
    path = write(tmp_path / "m.csv", "video,prompt\na.mp4,x\n")
    table = read(dataset_config=path)
    assert (table.sizes, table.fit) == (LimitedSizes(None, 1024 * 1024), "diffsynth")
    assert table.frames == FrameRule("full", max_frames=81)
    assert read(dataset_config=path, width=832, height=480).sizes == LimitedSizes((832, 480))


def test_columns_that_decide_nothing_are_said(tmp_path: Path):
    path = write(tmp_path / "m.csv", "video,prompt,source\na.mp4,x,web\n")
    assert "columns that decide nothing: source" in read(dataset_config=path).notices[0]


WRONG_LISTS = {
    "": "m.csv: is empty. Its first line names the columns",
    "video,prompt\n": "no picture and no video",
    "video,promt\na.mp4,x\n": "m.csv line 2: unknown column promt. Did you mean prompt",
    "clip,prompt\na.mp4,x\n": "m.csv line 2: neither video nor image is there, but clip, prompt",
    "video,prompt\n,x\n": "m.csv line 2: neither video nor image",
    "video,prompt\na.mp4,a cat, on a mat\n": "m.csv line 2: 3 cells, 2 columns. Quote prompts with commas",
    "video,prompt,motion_bucket_id\na.mp4,x,fast\n": "motion_bucket_id = 'fast' must be a number",
    "video,prompt\nhttps://x.org/a.mp4,x\n": "addresses are not read. Download the file first",
    f'video,prompt\na.mp4,"{"x" * 200_000}"\n': "m.csv line 2: field larger than field limit",
}


@pytest.mark.parametrize("text", WRONG_LISTS)
def test_what_is_wrong_in_a_list_is_told_with_its_line(text: str, tmp_path: Path):
    with pytest.raises(DatasetError, match=WRONG_LISTS[text]):
        read_list(tmp_path / "m.csv", text)


WRONG_JSON = {
    '[{"video": 3}]': "m.json entry 1: video = 3 must be a path",
    '[{"video": "a.mp4", "prompt": 3}]': "m.json entry 1: prompt must be a text",
    '[{"video": "a.mp4", "vace_reference_image": []}]': "vace_reference_image is an empty list",
    "[1]": "m.json: is no list of JSON objects",
    "[": "m.json: is no JSON",
}


@pytest.mark.parametrize("text", WRONG_JSON)
def test_what_is_wrong_in_json_is_told_with_its_entry(text: str, tmp_path: Path):
    with pytest.raises(DatasetError, match=WRONG_JSON[text]):
        read_list(tmp_path / "m.json", text)


def test_a_folder_holds_pictures_and_clips_with_captions_beside_them(tmp_path: Path):
    for name in ("b.mp4", "a.png", "c.gif", "notes.md", ".x.mp4", "sub/d.mp4"):
        write(tmp_path / name)
    write(tmp_path / "a.txt", " a still\n")
    table = read(dataset=tmp_path)
    assert [(clip.path.name, clip.caption, clip.is_picture) for clip in table.clips] == [
        ("a.png", "a still", True),
        ("b.mp4", None, False),
        ("c.gif", None, False),
    ]
    assert (table.sizes, table.fit) == (BucketSizes((832, 480)), "musubi")
    assert table.frames == FrameRule("full", max_frames=81, follows_file=True)
    assert read(dataset=tmp_path, width=320, height=192).sizes == BucketSizes((320, 192))


def test_the_first_clip_without_a_caption_is_told_with_where_it_goes(tmp_path: Path):
    for name in ("a.mp4", "b.mp4"):
        write(tmp_path / name)
    with pytest.raises(DatasetError, match=r"a.mp4: has no caption, nor have 1 other clips. .*a.txt"):
        refuse_missing_captions(read_dataset(DatasetOptions(dataset=tmp_path), T2V))
    write(tmp_path / "a.txt")  # empty captions are captions
    write(tmp_path / "b.txt", "x")
    refuse_missing_captions(read_dataset(DatasetOptions(dataset=tmp_path), T2V))


def test_options_that_do_not_go_together_are_refused(tmp_path: Path):
    folder, toml = tmp_path / "clips", write(tmp_path / "d.toml")
    csv = write(tmp_path / "m.csv", "video,prompt\na.mp4,x\n")
    write(folder / "a.mp4")
    wrong = {
        "missing: name a dataset": {},
        "a training has one dataset": {"dataset": folder, "dataset_config": toml},
        "is a folder. Give it as --dataset": {"dataset_config": folder},
        "its name ends in none of .toml": {"dataset_config": write(tmp_path / "m.txt")},
        "the dataset's TOML file says this itself": {"dataset_config": toml, "batch_size": 2},
        "is for a list of clips": {"dataset": folder, "dataset_base_path": tmp_path},
        "examples have both sides given, or none": {"dataset_config": csv, "width": 832},
        "must be 4n\\+1": {"dataset_config": csv, "num_frames": 80},
        "is drawn by --inspect-dataset alone": {"dataset": folder, "contact_sheet": tmp_path / "a.png"},
        "which encodes nothing": {"dataset": folder, "cache_only": True, "inspect_dataset": True},
        "must be at least 1": {"dataset": folder, "batch_size": 0},
    }
    for told, options in wrong.items():
        with pytest.raises(RequestError, match=told):
            read(**options)
    with pytest.raises(DatasetError, match="no such folder"):
        read(dataset=tmp_path / "absent")
    with pytest.raises(DatasetError, match="no picture and no video"):
        read(dataset=toml.parent / "clips" / "..")


def test_extra_inputs_are_named_by_diffsynths_words():
    assert read_extra_inputs(None) is None
    assert read_extra_inputs("none") == frozenset()
    assert read_extra_inputs("input_image, end_image,control_video") == {
        "image",
        "end_image",
        "control_video",
    }
    with pytest.raises(RequestError, match="inputimage: unknown. Did you mean input_image"):
        read_extra_inputs("inputimage")
