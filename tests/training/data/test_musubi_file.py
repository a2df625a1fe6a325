"""musubi-tuner's dataset file: every key does what it says, and wrong ones are told with their place."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mlx_video.conditioning.control.one_frame import OneFrame
from mlx_video.errors import DatasetError
from mlx_video.training.data.bucket_sizes import BucketSizes
from mlx_video.training.data.clips import CONTROL, Table
from mlx_video.training.data.frame_windows import FrameRule
from mlx_video.training.data.musubi_file import CACHE_FOLDER, read_musubi_file
from mlx_video.training.data.musubi_keys import COMMON, IMAGE, OLD_NAMES, VIDEO

GENERAL = '[general]\ncaption_extension = ".txt"\n'


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset of empty files, for nothing is opened, as the current folder."""
    monkeypatch.chdir(tmp_path)
    for name in (
        "clips/a.mp4",
        "clips/b.MOV",
        "clips/.hidden.mp4",
        "clips/c.gif",
        "stills/a.png",
        "stills/b.jpg",
    ):
        write(name)
    for name in ("clips/a", "clips/b", "stills/a", "stills/b"):
        write(f"{name}.txt", f" a {name[-1]}\n")
        write(f"{name}.cap", name)
    return tmp_path


def write(name: str, text: str = "") -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def read(text: str) -> tuple[Table, ...]:
    return read_musubi_file(write("data.toml", text))


def read_videos(keys: str = "", general: str = GENERAL) -> Table:
    (table,) = read(f'{general}[[datasets]]\nvideo_directory = "clips"\n{keys}')
    return table


def read_images(keys: str = "", general: str = GENERAL) -> Table:
    (table,) = read(f'{general}[[datasets]]\nimage_directory = "stills"\n{keys}')
    return table


def refuse(text: str, told: str) -> None:
    with pytest.raises(DatasetError, match=told):
        read(text)


def test_clips_come_in_the_order_of_their_names_with_their_captions():
    clips = read_videos().clips
    assert [(str(clip.path), clip.caption) for clip in clips] == [
        ("clips/a.mp4", "a a"),
        ("clips/b.MOV", "a b"),
    ]
    assert not any(clip.is_picture for clip in clips)
    clips = read_images().clips
    assert [(str(clip.path), clip.caption) for clip in clips] == [
        ("stills/a.png", "a a"),
        ("stills/b.jpg", "a b"),
    ]
    assert all(clip.is_picture for clip in clips)


def test_without_keys_the_defaults_of_musubi_tuner_count():
    table = read_videos()
    assert (table.sizes, table.frames) == (BucketSizes((960, 544)), FrameRule("head", (1,)))
    assert (table.batch_size, table.num_repeats, table.fit) == (1, 1, "musubi")
    assert table.cache_directory == Path("clips", CACHE_FOLDER)
    assert read_images().sizes == BucketSizes((960, 544), enable_bucket=False)


VIDEO_KEYS = {
    "resolution = [832, 480]": ("sizes", BucketSizes((832, 480))),
    "resolution = 512": ("sizes", BucketSizes((512, 512))),
    "batch_size = 4": ("batch_size", 4),
    "num_repeats = 3": ("num_repeats", 3),
    'cache_directory = "kept"': ("cache_directory", Path("kept")),
    "target_frames = [1, 25, 45]": ("frames", FrameRule("head", (1, 25, 45))),
    "target_frames = [45, 26, 27]": ("frames", FrameRule("head", (25, 45))),
    'frame_extraction = "full"\nmax_frames = 45': ("frames", FrameRule("full", (1,), max_frames=45)),
    'frame_extraction = "slide"\nframe_stride = 10': ("frames", FrameRule("slide", (1,), stride=10)),
    'frame_extraction = "uniform"\nframe_sample = 4': ("frames", FrameRule("uniform", (1,), sample=4)),
    'frame_extraction = "uniform"': ("frames", FrameRule("head", (1,))),
    'frame_extraction = "chunk"\ntarget_frames = [13]': ("frames", FrameRule("chunk", (13,))),
    "source_fps = 30.0": ("frames", FrameRule("head", (1,), source_fps=30.0)),
    "fp_latent_window_size = 9": ("frames", FrameRule("head", (1,))),
}


@pytest.mark.parametrize("keys", VIDEO_KEYS)
def test_every_key_of_videos_does_what_it_says(keys: str):
    name, value = VIDEO_KEYS[keys]
    assert getattr(read_videos(keys), name) == value


IMAGE_KEYS = {
    "enable_bucket = true": ("sizes", BucketSizes((960, 544))),
    "enable_bucket = true\nbucket_no_upscale = true": ("sizes", BucketSizes((960, 544), no_upscale=True)),
    "bucket_no_upscale = true": ("sizes", BucketSizes((960, 544), enable_bucket=False)),
    "resolution = [640, 480]": ("sizes", BucketSizes((640, 480), enable_bucket=False)),
    "multiple_target = false\nno_resize_control = false\nfp_1f_no_post = true": ("one_frame", None),
}


@pytest.mark.parametrize("keys", IMAGE_KEYS)
def test_every_key_of_pictures_does_what_it_says(keys: str):
    name, value = IMAGE_KEYS[keys]
    assert getattr(read_images(keys), name) == value


def test_a_dataset_has_the_last_word_over_the_general_section():
    general = '[general]\ncaption_extension = ".txt"\nbatch_size = 2\nresolution = [320, 192]\n'
    first, second = read(
        f'{general}[[datasets]]\nvideo_directory = "clips"\nbatch_size = 5\ncaption_extension = ".cap"\n'
        '[[datasets]]\nimage_directory = "stills"\n'
    )
    assert (first.batch_size, second.batch_size) == (5, 2)
    assert (first.clips[0].caption, second.clips[0].caption) == ("clips/a", "a a")
    assert first.sizes.resolution == second.sizes.resolution == (320, 192)
    assert (first.name, second.name) == ("data.toml [[datasets]] 0", "data.toml [[datasets]] 1")


def test_a_file_in_json_says_the_same():
    path = write(
        "data.json", json.dumps({"datasets": [{"video_directory": "clips", "caption_extension": ".txt"}]})
    )
    (table,) = read_musubi_file(path)
    assert [clip.caption for clip in table.clips] == ["a a", "a b"]


def test_what_is_decided_for_the_user_is_said():
    assert "rounded down to 4n+1: 25, 45" in read_videos("target_frames = [45, 26]").notices[0]
    assert not read_videos("target_frames = [45, 25]").notices
    assert "pictures alone" in read_videos("enable_bucket = true\nbucket_no_upscale = true").notices[0]
    Path("stills/b.txt").unlink()
    table = read_images()
    assert [clip.path.name for clip in table.clips] == ["a.png"]
    assert "left out, as musubi-tuner does: 1, first b.jpg" in table.notices[0]


def test_videos_without_a_caption_stay_to_be_told():
    Path("clips/b.txt").unlink()
    assert [clip.caption for clip in read_videos().clips] == ["a a", None]


def test_controls_of_videos_are_found_by_name_folder_or_another_suffix():
    write("control/a.mp4")
    write("control/b/000.png")
    clips = read_videos('control_directory = "control"').clips
    assert [clip.inputs for clip in clips] == [{CONTROL: Path("control/a.mp4")}, {CONTROL: Path("control/b")}]
    Path("control/a.mp4").rename("control/a.webm")
    assert read_videos('control_directory = "control"').clips[0].inputs == {CONTROL: Path("control/a.webm")}
    Path("control/a.webm").unlink()
    refuse(
        f'{GENERAL}[[datasets]]\nvideo_directory = "clips"\ncontrol_directory = "control"\n',
        "clips/a.mp4: control holds no control of this name. Put a.mp4 there",
    )


ONE_FRAME = 'control_directory = "control"\nfp_1f_clean_indices = [0, 10]\nfp_1f_target_index = 1\n'


def test_controls_of_pictures_go_to_the_longest_name_in_the_order_of_their_numbers():
    write("stills/a_1.png")
    write("stills/a_1.txt", "a longer name")
    for name in ("a_10.png", "a_2.jpg", "a_1.png", "a_1_0.png", "b.png", "b_0.png"):
        write(f"control/{name}")
    inputs = {clip.path.name: clip.inputs for clip in read_images(ONE_FRAME).clips}
    controls = {name: [path.name for path in each["control_image"]] for name, each in inputs.items()}
    assert controls == {
        "a.png": ["a_2.jpg", "a_10.png"],
        "a_1.png": ["a_1.png", "a_1_0.png"],
        "b.jpg": ["b.png", "b_0.png"],
    }
    Path("control/a_2.jpg").unlink()
    refuse(
        f'{GENERAL}[[datasets]]\nimage_directory = "stills"\n{ONE_FRAME}',
        "stills/a.png: control holds 1 control pictures named after it, 2 are needed",
    )


def test_one_frame_lies_where_its_indices_say():
    for name in ("a_0.png", "a_1.png", "b_0.png", "b_1.png"):
        write(f"control/{name}")
    assert read_images(ONE_FRAME).one_frame == OneFrame(1, (0, 10))
    table = f'{GENERAL}[[datasets]]\nimage_directory = "stills"\n'
    refuse(f"{table}fp_1f_clean_indices = [0]\n", "go together. Give both")
    refuse(f"{table}fp_1f_clean_indices = [0]\nfp_1f_target_index = 1\n", "need control_directory")
    refuse(
        f"{table}{ONE_FRAME.replace('index = 1', 'index = 10')}", "fp_1f_clean_indices, fp_1f_target_index"
    )


def test_a_jsonl_file_names_clips_captions_and_controls():
    write("v.jsonl", '{"video_path": "clips/a.mp4", "caption": "x", "control_path": "control/a"}\n\n')
    (table,) = read('[[datasets]]\nvideo_jsonl_file = "v.jsonl"\n')
    (clip,) = table.clips
    assert (clip.path, clip.caption, clip.inputs) == (Path("clips/a.mp4"), "x", {CONTROL: Path("control/a")})
    assert table.cache_directory == Path(CACHE_FOLDER)
    lines = [
        {"image_path": "stills/a.png", "caption": "x", "control_path_1": "2.png", "control_path_0": "1.png"},
        {
            "image_path_0": "stills/b.jpg",
            "caption": "y",
            "control_path": "3.png",
            "control_path_0010": "4.png",
        },
    ]
    write("i.jsonl", "\n".join(map(json.dumps, lines)))
    (table,) = read(
        '[[datasets]]\nimage_jsonl_file = "i.jsonl"\nfp_1f_clean_indices = [0, 10]\nfp_1f_target_index = 1\n'
    )
    assert [clip.inputs["control_image"] for clip in table.clips] == [
        (Path("1.png"), Path("2.png")),
        (Path("3.png"), Path("4.png")),
    ]


WRONG_LINES = {
    '{"video_paht": "a.mp4", "caption": "x"}': "line 1: video_path is missing. .* Did you mean video_path",
    '{"video_path": 3}': "v.jsonl line 1: video_path and caption must be texts",
    '{"video_path": "a.mp4", "control_path_x": "b"}': "v.jsonl line 1: control_path_x must be a path",
    '{"video_path": "a.mp4"': "v.jsonl: is no JSON object in line 1",
    "[1]": "v.jsonl: is no JSON object in line 1",
    "": "video_jsonl_file = 'v.jsonl': no picture and no video",
}


@pytest.mark.parametrize("line", WRONG_LINES)
def test_wrong_lines_are_told_with_their_number(line: str):
    write("v.jsonl", line)
    refuse('[[datasets]]\nvideo_jsonl_file = "v.jsonl"\n', WRONG_LINES[line])


IMAGES = f"{GENERAL}[[datasets]]\nimage_directory = 'stills'\n"
VIDEOS = '[[datasets]]\nvideo_directory = "clips"\n'
WRONG_FILES = {
    "[general]\nbatch_sise = 1\n": r"data.toml \[general\]: unknown key batch_sise. Did you mean batch_size",
    "[general]\nvideo_directory = 'clips'\n": r"unknown key video_directory. It belongs into a section",
    f"{GENERAL}{VIDEOS}target_frame = [1]\n": r"\]\] 0: unknown key target_frame. Did you mean target_frames",
    f"{GENERAL}{VIDEOS}{VIDEOS}zzz = 1\n": r"\[\[datasets\]\] 1: unknown key zzz. Known: batch_size,",
    f"{IMAGES}target_frames = [1]\n": "unknown key target_frames. It counts for videos alone",
    f"{GENERAL}[dataset]\nx = 1\n": "unknown section dataset. Did you mean datasets",
    GENERAL: r"no dataset. Write a section \[\[datasets\]\]",
    f"{GENERAL}[datasets]\nvideo_directory = 'clips'\n": "no dataset. Write a section",
    "[[datasets]]\nbatch_size = 2\n": "needs one of image_directory, image_jsonl_file, .* has 0",
    f"{VIDEOS}video_jsonl_file = 'v.jsonl'\n": "has 2",
    VIDEOS: "caption_extension is missing. Write caption_extension = \".txt\"",
    f"{VIDEOS}caption_extension = 'txt'\n": "\"txt\" is no suffix",
    f"{VIDEOS}resolution = [960]\n": r"resolution = \[960\] must be \[width, height\]",
    f"{VIDEOS}resolution = [960, -1]\n": "must be",
    f"{VIDEOS}resolution = [100000, 100000]\n": "pixels, up to",
    f"{VIDEOS}batch_size = 0\n": "batch_size = 0 must be a whole number, 1 to",
    f"{VIDEOS}batch_size = true\n": "batch_size = True must be a whole number",
    f"{VIDEOS}num_repeats = 1.5\n": "num_repeats = 1.5 must be",
    f"{VIDEOS}enable_bucket = 1\n": "enable_bucket = 1 must be true or false",
    f"{VIDEOS}target_frames = []\n": r"target_frames = \[\] must be a list such as",
    f"{VIDEOS}target_frames = 25\n": "target_frames = 25 must be a list such as",
    f"{VIDEOS}frame_extraction = 'tail'\n": "must be one of head, chunk, slide, uniform, full",
    f"{VIDEOS}frame_stride = 0\n": "frame_stride = 0 must be",
    f"{VIDEOS}source_fps = 0\n": "source_fps = 0 must be a positive number",
    f"{VIDEOS}source_fps = nan\n": "source_fps = nan must be",
    f"{GENERAL}[[datasets]]\nvideo_directory = 'clisp'\n": "\"clisp\": not found from the current folder, ",
    f"{GENERAL}[[datasets]]\nvideo_directory = 'clips/a.mp4'\n": "is a file, a folder is expected",
    f"{GENERAL}[[datasets]]\nimage_directory = 'clips'\n": "no picture and no video",
    f"{IMAGES}multiple_target = true\n": "Qwen-Image-Layered",
    f"{IMAGES}no_resize_control = true\n": "size of the picture",
    f"{IMAGES}control_resolution = 512\n": "size of the picture",
    "[general\n": "data.toml: is no TOML .*line 1",
    "x = [" + 5000 * "[": "nested too deeply|is no TOML",
}  # fmt: skip


@pytest.mark.parametrize("text", WRONG_FILES)
def test_what_is_wrong_in_a_file_is_told_with_its_place(text: str):
    refuse(text, WRONG_FILES[text])


def test_files_that_are_no_text_are_told():
    Path("data.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DatasetError, match="is no UTF-8 text at byte 0"):
        read_musubi_file(Path("data.toml"))
    write("clips/a.txt").write_bytes(b"caf\xe9")
    refuse(f"{GENERAL}{VIDEOS}", "clips/a.txt: is no UTF-8 text at byte 3")
    with pytest.raises(DatasetError, match="none.toml"):
        read_musubi_file(Path("none.toml"))


def test_a_mark_that_editors_put_before_a_text_is_no_part_of_it():
    Path("clips/a.txt").write_bytes(b"\xef\xbb\xbfa cat\r\n")
    assert read_videos().clips[0].caption == "a cat"


def test_every_key_of_the_documentation_is_known():
    documented = {
        "resolution", "caption_extension", "batch_size", "num_repeats", "enable_bucket", "bucket_no_upscale",
        "image_directory", "image_jsonl_file", "video_directory", "video_jsonl_file", "cache_directory",
        "control_directory", "target_frames", "frame_extraction", "frame_stride", "frame_sample",
        "max_frames", "source_fps", "multiple_target", "no_resize_control", "control_resolution",
        "fp_latent_window_size",
        "fp_1f_clean_indices", "fp_1f_target_index", "fp_1f_no_post",
    }  # fmt: skip
    assert documented == COMMON.keys() | IMAGE.keys() | VIDEO.keys()
    assert set(OLD_NAMES.values()) <= IMAGE.keys()


def test_names_of_earlier_versions_count_as_those_of_today():
    refuse(
        f"{IMAGES}qwen_image_edit_no_resize_control = true\n",
        "no_resize_control",
    )


def test_the_file_in_the_documentation_is_read():
    page = Path(__file__).parents[3] / "docs" / "datasets.md"
    (text,) = re.findall(r"^```toml\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    videos, images = read(text)
    assert videos.frames == FrameRule("head", (1, 25, 45), source_fps=30.0)
    assert (videos.num_repeats, images.cache_directory) == (2, Path("cache"))
