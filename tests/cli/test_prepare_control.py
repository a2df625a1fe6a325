"""The command that prepares controls: each kind from the command line, and what it refuses."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlx_video import prepare_control
from mlx_video.media.control.canny import canny_edges
from mlx_video.media.sources.source_video import open_video
from mlx_video.media.video import open_video_writer, read_frames, read_video_metadata

WIDTH, HEIGHT = 48, 32
SETTINGS = {"prompt": "a cat", "seed": "7"}


def frames(count: int = 5) -> np.ndarray:
    """A light square that moves over a dark slope."""
    video = np.empty((count, HEIGHT, WIDTH, 3), np.uint8)
    video[...] = np.linspace(20, 60, WIDTH, dtype=np.uint8)[:, None]
    for number, frame in enumerate(video):
        frame[8:20, 4 + 4 * number : 16 + 4 * number] = (230, 210, 160)
    return video


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.webp"
    with open_video_writer(path, WIDTH, HEIGHT, 20, SETTINGS) as writer:
        writer.write(frames())
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "frames"
    path.mkdir()
    for number, frame in enumerate(frames()):
        Image.fromarray(frame).save(path / f"{number}.png")
    return path


def run(*arguments: object) -> int:
    return prepare_control.main([str(argument) for argument in arguments])


def read(path: Path) -> np.ndarray:
    return np.stack([frame for frame, _ in open_video(path).read()])


def test_edges_of_every_frame_are_written(tmp_path: Path, folder: Path, capsys):
    output = tmp_path / "edges"
    assert run("canny", folder, output, "--low", 50, "--high", 120) == 0
    assert capsys.readouterr().out.strip() == str(output)
    expected = np.stack([canny_edges(frame, 50, 120) for frame in frames()])
    np.testing.assert_array_equal(read(output), expected)
    assert expected.any()


def test_a_blurred_video_has_softer_edges(tmp_path: Path, folder: Path):
    assert run("blur", folder, tmp_path / "blurred", "--radius", 3) == 0
    found = read(tmp_path / "blurred").astype(int)
    steps = [np.abs(np.diff(video.astype(int), axis=2)).max() for video in (found, frames())]
    assert steps[0] < steps[1] / 3
    assert abs(found.mean() - frames().mean()) < 3


def test_a_grey_video_has_no_colours(tmp_path: Path, folder: Path):
    assert run("grey", folder, tmp_path / "grey") == 0
    found = read(tmp_path / "grey")
    assert (found == found[..., :1]).all()
    expected = frames() @ np.array([0.299, 0.587, 0.114])
    assert np.abs(found[..., 0] - expected).max() <= 1


def test_a_mask_is_a_box_or_its_inverse(tmp_path: Path, folder: Path):
    expected = np.zeros((5, HEIGHT, WIDTH), bool)
    expected[:, 4:14, 8:32] = True
    for option, mask in (((), expected), (("--invert",), ~expected)):
        assert run("mask", folder, tmp_path / "mask", "--box", "8,4,24,10", *option) == 0
        np.testing.assert_array_equal(read(tmp_path / "mask")[..., 0] == 255, mask)
        assert {*np.unique(read(tmp_path / "mask")).tolist()} == {0, 255}


def test_a_mask_of_a_picture_covers_the_video(tmp_path: Path, folder: Path):
    picture = np.zeros((HEIGHT * 2, WIDTH * 2), np.uint8)
    picture[:, :WIDTH] = 200
    Image.fromarray(picture).save(tmp_path / "picture.png")
    assert run("mask", folder, tmp_path / "mask", "--picture", tmp_path / "picture.png") == 0
    found = read(tmp_path / "mask")
    assert (found[:, :, : WIDTH // 2] == 255).all()
    assert not found[:, :, WIDTH // 2 :].any()


@pytest.mark.parametrize(("option", "colour"), [((), "all white"), (("--invert",), "all black")])
def test_a_mask_of_one_colour_is_said(tmp_path: Path, folder: Path, capsys, option, colour):
    assert run("mask", folder, tmp_path / "mask", "--box", f"0,0,{WIDTH},{HEIGHT}", *option) == 0
    assert f"{tmp_path / 'mask'} is {colour}" in capsys.readouterr().err


def test_a_still_picture_is_shown_all_the_time(tmp_path: Path, folder: Path):
    assert run("still", folder / "0.png", tmp_path / "still", "--num-frames", 3) == 0
    np.testing.assert_array_equal(read(tmp_path / "still"), frames()[[0, 0, 0]])


def test_padding_is_grey_and_its_mask_white(tmp_path: Path, folder: Path):
    mask = tmp_path / "mask"
    options = ("--left", 8, "--bottom", 16, "--mask-output", mask)
    assert run("pad", folder, tmp_path / "padded", *options) == 0
    padded, masks = read(tmp_path / "padded"), read(mask)
    assert padded.shape == masks.shape == (5, HEIGHT + 16, WIDTH + 8, 3)
    np.testing.assert_array_equal(padded[:, :HEIGHT, 8:], frames())
    inside = np.zeros(padded.shape[:3], bool)
    inside[:, :HEIGHT, 8:] = True
    assert (padded[~inside] == 128).all()
    np.testing.assert_array_equal(masks[..., 0] == 0, inside)


# Rates, lengths and what files keep


def test_rate_and_settings_of_the_source_are_kept(tmp_path: Path, clip: Path):
    output = tmp_path / "edges.mp4"
    assert run("canny", clip, output) == 0
    video = open_video(output)
    assert video.fps == 20
    assert len(read_frames(output)) == 5
    settings = read_video_metadata(output)
    assert settings == SETTINGS | {"control": "canny", "control_source": str(clip)}


def test_a_rate_is_met_by_picking_frames(tmp_path: Path, clip: Path):
    assert run("grey", clip, tmp_path / "slow.mp4", "--fps", 10) == 0
    assert len(read_frames(tmp_path / "slow.mp4")) == 3
    assert open_video(tmp_path / "slow.mp4").fps == 10


def test_more_frames_than_there_are_is_refused(tmp_path: Path, clip: Path, capsys):
    assert run("grey", clip, tmp_path / "a.mp4", "--num-frames", 9) == 2
    assert "--num-frames" in (text := capsys.readouterr().err)
    assert "has 5 frames, 9 are needed" in text
    assert not (tmp_path / "a.mp4").exists()
    assert run("grey", clip, tmp_path / "a.mp4", "--num-frames", 3) == 0
    assert len(read_frames(tmp_path / "a.mp4")) == 3


# Refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("canny", "--low", 300), "--low 300: must be from 0 to --high, which is 200"),
        (("blur", "--radius", 0), "--radius 0: must be a positive number"),
        (
            ("mask", "--box", "40,0,20,10"),
            "--box 40,0,20,10: does not lie within the frames, which are 48x32",
        ),
        (("mask", "--box", "0,0,0,10"), "--box 0,0,0,10: does not lie within"),
        (("pad",), "--left 0, and all other sides too"),
        (("pad", "--top", -1), "--top -1: must be 0 or a number of pixels"),
        (("grey", "--num-frames", 0), "--num-frames 0: must be at least 1"),
        (("grey", "--fps", -1), "--fps -1: must be a positive number"),
        (("still",), "--input"),
    ],
)
def test_a_wrong_option_is_refused_and_writes_nothing(tmp_path: Path, clip: Path, capsys, options, message):
    kind, *rest = options
    assert run(kind, clip, tmp_path / "out.mp4", *rest) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["clip.webp"]


def test_a_box_of_another_form_is_refused(tmp_path: Path, clip: Path, capsys):
    with pytest.raises(SystemExit):
        run("mask", clip, tmp_path / "a.mp4", "--box", "1,2,3")
    assert "'1,2,3' is no box" in capsys.readouterr().err


def test_an_odd_size_is_refused_for_mp4_alone(tmp_path: Path, clip: Path, capsys):
    assert run("pad", clip, tmp_path / "a.mp4", "--left", 1) == 1
    assert "would be 49x32, and MP4 needs an even width" in capsys.readouterr().err
    assert run("pad", clip, tmp_path / "a.webp", "--left", 1) == 0


def test_a_file_of_others_is_not_replaced(tmp_path: Path, clip: Path, capsys):
    Image.fromarray(frames()[0]).save(tmp_path / "a.webp")
    assert run("grey", clip, tmp_path / "a.webp") == 1
    assert "was not made by mlx-video" in capsys.readouterr().err


def test_a_missing_source_is_refused(tmp_path: Path, capsys):
    assert run("grey", tmp_path / "none.mp4", tmp_path / "a.mp4") == 1
    assert "none.mp4: no such file or folder" in capsys.readouterr().err


# Documentation


def test_every_option_is_documented_and_its_help_says_what_counts_without_it():
    document = (Path(__file__).parents[2] / "docs" / "preparing-controls.md").read_text(encoding="utf-8")
    for action, is_choice in options_of(prepare_control.build_parser()):
        flag = action.option_strings[-1]
        if flag == "--help":
            continue
        assert f"`{flag}" in document, flag
        assert "default" in action.help or is_choice, flag


def options_of(parser: argparse.ArgumentParser) -> Iterator[tuple[argparse.Action, bool]]:
    """Options of all kinds; whether an option is one of several of which one must be given."""
    groups = [group for group in parser._mutually_exclusive_groups if group.required]
    chosen = {id(action) for group in groups for action in group._group_actions}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for kind in action.choices.values():
                yield from options_of(kind)
        elif action.option_strings:
            yield action, id(action) in chosen


# Checks


def test_a_check_tells_size_length_and_colour(tmp_path: Path, clip: Path, capsys):
    assert run("check", clip) == 0
    assert capsys.readouterr().out.strip() == f"{clip}: 5 frames of 48x32, 20 per second, 0.25 s"
    Image.new("L", (8, 8)).save(tmp_path / "black.png")
    assert run("check", tmp_path / "black.png", "--mask") == 0
    captured = capsys.readouterr()
    assert captured.out.strip().endswith("1 frames of 8x8, no frame rate")
    assert "black.png is all black" in captured.err
