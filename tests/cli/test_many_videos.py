"""Several videos by one command: files of prompts, seeds, earlier settings, prompts at the keyboard."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlx_video import convert_checkpoint, generate_wan
from mlx_video.cli import interactive
from mlx_video.cli.interactive import run_interactive
from mlx_video.errors import MLXVideoError
from mlx_video.events import StepFinished
from mlx_video.latents.latents_file import load_latents
from mlx_video.media.video import read_frames, read_video_metadata
from mlx_video.progress.lines import Lines
from tests.fixtures.tiny_checkpoint import write_tiny_checkpoint

pytestmark = pytest.mark.slow

SMALL = ["--width", "16", "--height", "16", "--num-frames", "1", "--steps", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("model")
    return convert_checkpoint(write_tiny_checkpoint(root / "original").path, root / "model", dtype="float32")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(folder: Path, *options: str) -> int:
    return generate_wan.main(["--model-dir", str(folder), *SMALL, *options])


def test_a_file_of_prompts_makes_a_video_of_each_line(folder: Path, tmp_path: Path, capsys):
    Path("list.txt").write_text('# two\na cat --d 3\n{"prompt": "two dogs", "seed": 4, "width": 32}\n')
    assert run(folder, "--prompt-file", "list.txt", "--output-path", "v.webp") == 0
    captured = capsys.readouterr()
    assert captured.out.split() == ["v_3_1.webp", "v_4_2.webp"]
    assert "video 2 of 2: v_4_2.webp" in captured.err
    assert read_frames(Path("v_4_2.webp")).shape == (1, 16, 32, 3)
    assert read_video_metadata(Path("v_3_1.webp"))["prompt"] == "a cat"


def test_a_list_from_stdin_and_several_seeds(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("a cat\n"))
    options = ["--prompt-file", "-", "--seeds", "5,6", "--output-path", "{prompt}/{seed}.png"]
    assert run(folder, *options) == 0
    assert capsys.readouterr().out.split() == ["a-cat/5.png", "a-cat/6.png"]


def test_one_that_fails_is_told_the_others_are_made_and_resume_makes_the_rest(folder: Path, capsys):
    Path("list.txt").write_text("a cat --d 1\na dog --d 2 --lora none.safetensors\na cow --d 3\n")
    options = ["--prompt-file", "list.txt", "--output-path", "v.webp"]
    assert run(folder, *options) == 1
    captured = capsys.readouterr()
    assert captured.out.split() == ["v_1_1.webp", "v_3_3.webp"]
    assert "video 2 of 3 (v_2_2.webp): none.safetensors" in captured.err
    assert "1 of 3 videos are not made: 2 (v_2_2.webp)" in captured.err
    assert "Traceback" not in captured.err
    Path("list.txt").write_text("a cat --d 1\na dog --d 2\na cow --d 3\n")
    before = Path("v_1_1.webp").stat().st_mtime_ns
    assert run(folder, *options, "--resume") == 0
    captured = capsys.readouterr()
    assert set(captured.out.split()) == {"v_1_1.webp", "v_2_2.webp", "v_3_3.webp"}
    assert "v_1_1.webp is made already." in captured.err
    assert Path("v_1_1.webp").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--prompt-file", "list.txt"], "--width 'x' is no whole number, such as 4. In list.txt, line 2."),
        (["--prompt", "a", "--count", "0"], "--count 0: must be at least 1"),
        (["--prompt", "a", "--count", "2", "--seeds", "1,2"], "--count beside --seeds"),
        (["--prompt", "a", "--seeds", "1,1"], "--seeds (1, 1): must be different seeds"),
        (["--prompt", "a", "--seeds", "1", "--seed", "2"], "--seeds beside --seed"),
        (["--interactive", "--plan"], "--interactive beside --plan"),
        (
            ["--prompt", "a", "--count", "2", "--output-path", "{prompt}.webp"],
            "videos 1 and 2 of the list both",
        ),
        (["--prompt-file", "empty.txt"], "--prompt-file empty.txt: holds no prompt"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_made(folder: Path, capsys, options: list[str], text: str):
    Path("list.txt").write_text("a cat\na dog --w x\n")
    Path("empty.txt").write_text("# nothing\n")
    assert run(folder, *options) == 2
    captured = capsys.readouterr()
    assert text in captured.err
    assert captured.out == ""
    assert sorted(os.listdir()) == ["empty.txt", "list.txt"]


def test_plans_of_a_list_are_printed_once_where_they_are_equal(folder: Path, capsys):
    Path("list.txt").write_text("a cat\na cow\na dog --w 64 --h 64\n")
    assert run(folder, "--prompt-file", "list.txt", "--plan") == 0
    assert capsys.readouterr().out.count("denoise") == 2


def test_settings_of_an_earlier_video_make_it_again_and_other_options_win(folder: Path, capsys):
    first = [
        "--prompt",
        "a cat",
        "--seed",
        "9",
        "--guide-scale",
        "2",
        "--no-negative-prompt",
        "--output-path",
        "a.png",
    ]
    assert run(folder, *first) == 0
    again = ["--model-dir", str(folder), "--from-video", "a.png"]
    assert generate_wan.main([*again, "--output-path", "b.png"]) == 0
    assert (read_frames(Path("a.png")) == read_frames(Path("b.png"))).all()
    assert read_video_metadata(Path("a.png")) == read_video_metadata(Path("b.png"))
    assert generate_wan.main([*again, "--prompt", "a dog", "--steps", "2", "--output-path", "c.png"]) == 0
    changed = read_video_metadata(Path("c.png"))
    assert (changed["prompt"], changed["steps"], changed["seed"]) == ("a dog", "2", "9")
    capsys.readouterr()


def test_printed_settings_are_a_line_of_a_prompt_file(folder: Path, capsys):
    run(folder, "--prompt", "a cat", "--seed", "9", "--output-path", "a.png")
    capsys.readouterr()
    assert generate_wan.main(["--from-video", "a.png", "--print-settings", "--steps", "2"]) == 0
    line = capsys.readouterr().out
    assert json.loads(line) | {"prompt": "a cat", "seed": 9, "steps": 2, "width": 16} == json.loads(line)
    Path("list.txt").write_text(line)
    assert (
        generate_wan.main(["--model-dir", str(folder), "--prompt-file", "list.txt", "--output-path", "b.png"])
        == 0
    )
    assert read_video_metadata(Path("b.png"))["steps"] == "2"


# What an output becomes


def test_latents_alone_are_not_decoded_and_decode_later(folder: Path, capsys):
    latent = ["--prompt", "a cat", "--seed", "1", "--output-path", "a.webp", "--output-type", "latent"]
    assert run(folder, *latent) == 0
    captured = capsys.readouterr()
    assert captured.out.split() == ["a.safetensors"]
    assert "decode ..." not in captured.err
    assert os.listdir() == ["a.safetensors"]
    both = ["--prompt", "a cat", "--seed", "1", "--output-path", "b.webp", "--output-type", "both"]
    assert run(folder, *both) == 0
    assert sorted(os.listdir()) == ["a.safetensors", "b.safetensors", "b.webp"]
    assert (load_latents(Path("a.safetensors"))[0] == load_latents(Path("b.safetensors"))[0]).all()
    decode = ["--decode-only", "a.safetensors", "--output-path", "c.webp"]
    assert generate_wan.main(["--model-dir", str(folder), *decode]) == 0
    assert (read_frames(Path("c.webp")) == read_frames(Path("b.webp"))).all()


def test_images_are_a_folder_of_numbered_pictures(folder: Path, capsys):
    options = ["--prompt", "a cat", "--seed", "1", "--num-frames", "5", "--output-type", "images"]
    assert run(folder, *options, "--output-path", "a.mp4") == 0
    assert capsys.readouterr().out.split() == ["a"]
    assert sorted(os.listdir("a")) == [f"frame_0000{index}.png" for index in range(5)]
    assert not Path("a.mp4").exists()


@pytest.mark.parametrize("kind", ["latent", "both", "images"])
def test_a_list_knows_what_is_made_whatever_its_output(folder: Path, kind: str, capsys):
    options = ["--prompt", "a cat", "--seeds", "1,2", "--output-path", "a.webp", "--output-type", kind]
    assert run(folder, *options) == 0
    made, told = sorted(os.listdir()), capsys.readouterr().out
    assert run(folder, *options, "--resume") == 0
    captured = capsys.readouterr()
    assert captured.err.count("is made already.") == 2
    assert captured.out == told
    assert sorted(os.listdir()) == made


def test_latents_alone_with_segments_or_frames_are_refused(folder: Path, capsys):
    options = ["--prompt", "a", "--output-type", "latent"]
    assert run(folder, *options, "--segments", "2") == 2
    assert "--output-type latent: beside --segments every clip is decoded" in capsys.readouterr().err
    assert run(folder, *options, "--save-frames", "f") == 2
    assert "--save-frames beside --output-type latent nothing is decoded" in capsys.readouterr().err


# At the keyboard


def talk(folder: Path, lines: list[str | type[BaseException]], *options: str) -> int:
    said: Iterator[str | type[BaseException]] = iter(lines)

    def read(question: str) -> str:
        line = next(said, EOFError)
        if isinstance(line, str):
            return line
        raise line

    command = ["--model-dir", str(folder), *SMALL, "--interactive", "--output-path", "v.png", *options]
    return run_interactive(generate_wan.build_parser().parse_args(command), read)


def test_prompts_are_made_as_they_are_typed_with_the_model_in_memory(folder: Path, capsys):
    lines = ["", "help", "a cat --d 3", "--seed 5 --steps 2", "settings", "a dog", "quit", "never read"]
    assert talk(folder, lines) == 0
    captured = capsys.readouterr()
    assert captured.out.split() == ["v_3_1.png", "v_5_2.png"]
    assert "Ctrl-D ends the session." in captured.err
    assert "--steps 2" in captured.err
    assert "in memory from an earlier run: transformer" in captured.err
    assert read_video_metadata(Path("v_5_2.png"))["steps"] == "2"


def test_what_is_wrong_with_a_line_ends_no_session(folder: Path, capsys):
    assert talk(folder, ["a cat --x 1", "a cat --i none.png", KeyboardInterrupt, "a cat --d 1"]) == 0
    captured = capsys.readouterr()
    assert "error: --x unknown option" in captured.err
    assert "--image" in captured.err
    assert len(captured.out.split()) == 1
    assert "Traceback" not in captured.err


def test_ctrl_c_ends_the_video_and_the_same_line_goes_on_with_it(
    folder: Path, capsys, monkeypatch: pytest.MonkeyPatch
):
    show, interrupted = Lines.show, []

    def show_and_interrupt(self, event):
        show(self, event)
        if isinstance(event, StepFinished) and event.index == 1 and not interrupted:
            interrupted.append(event)
            raise KeyboardInterrupt

    monkeypatch.setattr(Lines, "show", show_and_interrupt)
    assert talk(folder, ["a cat --s 4", "a cat --s 4 --resume"]) == 0
    captured = capsys.readouterr()
    assert "Type another prompt, or Ctrl-D to end." in captured.err
    assert "2 of 4 steps are kept in v_" in captured.err
    assert "Going on after 2 of 4 steps" in captured.err
    (made,) = captured.out.split()
    assert made.endswith("_1.png")


def test_a_session_tells_the_user_of_each_video_and_of_nothing_else(folder: Path):
    lines = ["help", "a cat --d 1", "--steps 1", "a dog --w x", "a dog --d 2"]
    assert talk(folder, lines, "--notify", 'echo "$MLX_VIDEO_STATUS $MLX_VIDEO_OUTPUT" >> told.txt') == 0
    told = [line.split(" ") for line in Path("told.txt").read_text().splitlines()]
    assert [(status, Path(output).name) for status, output in told] == [
        ("success", "v_1_1.png"),
        ("error", ""),
        ("success", "v_2_2.png"),
    ]


def test_a_session_refuses_previews_among_lines_that_are_no_terminal(folder: Path, capsys):
    assert talk(folder, ["a cat --d 1"], "--preview", "terminal") == 0
    captured = capsys.readouterr()
    assert "error: --preview terminal: stderr is no terminal" in captured.err
    assert captured.out == ""


@pytest.mark.parametrize("option", ["image", "continue_from"])
def test_a_session_that_begins_with_a_picture_opens_a_model_for_it(option: str, monkeypatch):
    asked: list[bool] = []

    def open_nothing(args, inputs):
        asked.append("image" in inputs)
        raise MLXVideoError("none")
        yield

    monkeypatch.setattr(interactive, "open_maker", open_nothing)
    flag = f"--{option.replace('_', '-')}"
    Path("a.png").touch()
    parser = generate_wan.build_parser()
    for options in ([], [flag, "a.png"]):
        assert run_interactive(parser.parse_args(["--interactive", *options]), input) == 1
    assert asked == [False, True]


def test_a_model_that_is_not_there_ends_the_session_at_once(tmp_path: Path, capsys):
    assert generate_wan.main(["--model-dir", str(tmp_path / "none"), "--interactive"]) == 1
    assert str(tmp_path / "none") in capsys.readouterr().err


def test_a_session_on_a_terminal_survives_ctrl_c_and_ends_with_ctrl_d(folder: Path):
    ours, theirs = pty.openpty()
    command = [
        sys.executable,
        "-m",
        "mlx_video.generate_wan",
        "--model-dir",
        str(folder),
        "--interactive",
        *SMALL,
    ]
    process = subprocess.Popen(
        [*command, "--output-path", "v.png"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    said = b""

    def wait_for(text: bytes) -> None:
        nonlocal said
        end = time.monotonic() + 30
        while text not in said:
            assert select.select([ours], [], [], max(0.0, end - time.monotonic()))[0], said
            said += os.read(ours, 4096)
        said = said.partition(text)[2]

    wait_for(b"prompt> ")
    os.write(ours, b"a cat --s 900 --w 64 --h 64\n")
    wait_for(b"denoise")
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    wait_for(b"Type another prompt, or Ctrl-D to end.")
    wait_for(b"prompt> ")
    os.write(ours, b"a dog\n")
    wait_for(b"_2.png")
    wait_for(b"prompt> ")
    os.write(ours, b"\x04")
    assert process.wait(timeout=30) == 0
    os.close(ours)
