"""The generate command: options, results, exit codes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlx_video import RequestError, WanPipeline, convert_checkpoint, generate_wan
from mlx_video.latents.decode import decode_frames, to_uint8, to_uint8_rounded
from mlx_video.latents.latents_file import load_latents
from mlx_video.loading.components import open_model
from mlx_video.loading.vae_halves import load_vae_decoder
from mlx_video.media.video import read_frames, read_video_metadata
from mlx_video.runs.batch import maker
from tests.fixtures.tiny_checkpoint import write_tiny_checkpoint

SIZE = ["--width", "48", "--height", "32", "--num-frames", "5"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("model")
    checkpoint = write_tiny_checkpoint(root / "original")
    return convert_checkpoint(checkpoint.path, root / "converted", dtype="float32")


def test_the_command_writes_a_video_and_prints_its_path(folder: Path, tmp_path: Path, capsys):
    output = tmp_path / "cat.mp4"
    options = ["--prompt", "a cat", "--steps", "2", "--seed", "3", "--output-path", str(output)]
    assert generate_wan.main(["--model-dir", str(folder), *SIZE, *options]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{output}\n"
    assert "denoise" in captured.err
    assert read_frames(output).shape == (5, 32, 48, 3)
    assert read_video_metadata(output)["seed"] == "3"


def test_an_empty_prompt_and_the_largest_seed_make_a_video_that_records_both(folder: Path, tmp_path: Path):
    output, seed = tmp_path / "a.webp", 2**64 - 1
    options = ["--prompt", "", "--steps", "1", "--seed", str(seed), "--output-path", str(output)]
    assert generate_wan.main(["--model-dir", str(folder), *SIZE, *options]) == 0
    settings = read_video_metadata(output)
    assert settings["prompt"] == ""
    assert settings["seed"] == str(seed)


def test_the_seed_minus_one_is_a_random_one_on_the_command_line_too():
    parse = generate_wan.build_parser().parse_args
    seeds = {generate_wan.build_request(parse(["--prompt", "a", "--seed", "-1"])).seed for _ in range(8)}
    assert len(seeds) > 1
    assert generate_wan.build_request(parse(["--prompt", "a", "--seed", "-2"])).seed == 2**64 - 2


def test_every_output_option_writes_its_file(folder: Path, tmp_path: Path, capsys):
    latents, frames = tmp_path / "final.safetensors", tmp_path / "frames"
    options = [
        "--prompt",
        "a cat",
        "--steps",
        "1",
        "--save-latents",
        str(latents),
        "--save-frames",
        str(frames),
    ]
    more = [
        "--output-path",
        str(tmp_path / "a.gif"),
        "--no-negative-prompt",
        "--no-compile",
        "--debug-latents",
    ]
    assert generate_wan.main(["--model-dir", str(folder), *SIZE, *options, *more]) == 0
    assert load_latents(latents)[0].shape == (16, 2, 4, 6)
    assert len(list(frames.iterdir())) == 5
    assert set(capsys.readouterr().out.split()) == {str(latents), str(frames), str(tmp_path / "a.gif")}


def test_a_size_that_must_be_rounded_is_reported(folder: Path, tmp_path: Path, capsys):
    options = ["--width", "50", "--height", "32", "--num-frames", "1", "--steps", "1", "--prompt", "a cat"]
    output = ["--output-path", str(tmp_path / "a.mp4")]
    assert generate_wan.main(["--model-dir", str(folder), *options, *output]) == 0
    assert "Size 50x32 becomes 48x32" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (["--prompt", "a cat", "--num-frames", "80"], 2, "--num-frames 80: must be 4n+1"),
        ([], 2, "--prompt missing: say what the video should show"),
        (
            ["--prompt", "a cat", "--seed", str(2**64)],
            2,
            "must be between -9223372036854775808 and 18446744073709551615",
        ),
        (["--prompt", "a cat", "--steps", "0"], 2, "--steps 0: must be between 1 and 1000"),
        (["--prompt", "a cat", "--output-path", "a.avi"], 2, "--output-path"),
        (["--prompt", "a cat", "--end-image", "b.png"], 2, "--end-image needs --image, the first frame"),
        (
            ["--prompt", "a cat", "--num-frames", "5", "--output-path", "cat.png"],
            2,
            "--output-path cat.png: a .png file holds one picture, the video has 5",
        ),
        (
            ["--prompt", "a cat", "--guide-scale", "3,4"],
            2,
            "--guide-scale 3.0,4.0: two scales are for models",
        ),
    ],
)
def test_a_wrong_option_is_named_as_the_user_typed_it(
    folder: Path, capsys, options: list[str], code: int, text: str
):
    assert generate_wan.main(["--model-dir", str(folder), *options]) == code
    captured = capsys.readouterr()
    assert text in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_only_an_absent_prompt_is_missing():
    parse = generate_wan.build_parser().parse_args
    for prompt in ("", "  "):
        request = generate_wan.build_request(parse(["--model-dir", "m", "--prompt", prompt]))
        assert request.prompt == prompt
    assert generate_wan.build_request(parse(["--prompt", ""])).prompt == "", "not the demo model's example"
    assert generate_wan.build_request(parse(["--model-dir", "m", "--plan", "--prompt", ""])).prompt == ""
    assert generate_wan.build_request(parse(["--model-dir", "m", "--decode-only", "a"])).prompt == ""
    with pytest.raises(RequestError, match="prompt: missing"):
        generate_wan.build_request(parse(["--model-dir", "m"]))


def test_a_missing_model_folder_is_an_error_with_a_message(tmp_path: Path, capsys):
    assert generate_wan.main(["--model-dir", str(tmp_path / "none"), "--prompt", "a cat"]) == 1
    assert str(tmp_path / "none") in capsys.readouterr().err


def test_an_unconverted_folder_is_an_error_that_names_the_convert_command(tmp_path: Path, capsys):
    checkpoint = write_tiny_checkpoint(tmp_path / "original")
    assert generate_wan.main(["--model-dir", str(checkpoint.path), "--prompt", "a cat"]) == 1
    assert "mlx_video.convert_wan" in capsys.readouterr().err


def test_a_home_of_an_unknown_user_is_a_usage_error(capsys):
    with pytest.raises(SystemExit) as caught:
        generate_wan.main(["--prompt", "a cat", "--model-dir", "~no-such-user/model"])
    assert caught.value.code == 2
    assert "--model-dir: ~no-such-user/model: names the home of an unknown user" in capsys.readouterr().err


def test_unknown_options_are_a_usage_error(capsys):
    with pytest.raises(SystemExit) as caught:
        generate_wan.main(["--propmt", "a cat"])
    assert caught.value.code == 2


@pytest.mark.slow
def test_ctrl_c_ends_with_130_and_says_how_to_go_on(folder: Path, tmp_path: Path):
    output = tmp_path / "cat.mp4"
    options = ["--prompt", "a cat", "--steps", "1000", "--output-path", str(output)]
    command = [sys.executable, "-m", "mlx_video.generate_wan", "--model-dir", str(folder), *SIZE, *options]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    state = tmp_path / "cat.mp4.state.safetensors"
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        for line in process.stderr:
            if line.startswith("denoise"):
                break
        latest = time.monotonic() + 60
        while not state.exists() and time.monotonic() < latest:  # after a step, however busy the machine
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == 130
    assert "interrupted" in rest
    assert f"of 1000 steps are kept in {state}: the same command with --resume goes on from there." in rest
    assert "Traceback" not in rest
    assert list(tmp_path.iterdir()) == [state]


def test_generate_video_takes_the_keyword_arguments_that_programs_use(folder: Path, tmp_path: Path):
    path = generate_wan.generate_video(
        model_dir=str(folder), prompt="a cat", negative_prompt="dull", image=None, width=48, height=32,
        num_frames=5, steps=1, guide_scale="2.0", shift=3.0, seed=4, output_path=str(tmp_path / "a.mp4"),
        scheduler="euler", loras=None, loras_high=None, loras_low=None, tiling="none", no_compile=True,
        trim_first_frames=1, debug_latents=False,
    )  # fmt: skip
    assert path == tmp_path / "a.mp4"
    assert len(read_frames(path)) == 4
    assert read_video_metadata(path)["guide_scale"] == "2.0"


def test_generate_video_gives_the_path_of_the_file_it_wrote(folder: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    options = {"width": 32, "height": 32, "num_frames": 1, "steps": 1}
    path = generate_wan.generate_video(folder, "a cat", output_path="~/a.mp4", **options)
    assert path == tmp_path / "a.mp4"
    assert path.is_file()


@pytest.mark.parametrize("name", ["cat.png", "cat.jpg", "cat.webp"])
def test_one_frame_is_written_as_a_picture(folder: Path, tmp_path: Path, capsys, name: str):
    output = tmp_path / name
    options = ["--prompt", "a cat", "--width", "48", "--height", "32", "--num-frames", "1", "--steps", "1"]
    command = ["--model-dir", str(folder), *options, "--seed", "3", "--output-path", str(output)]
    assert generate_wan.main(command) == 0
    assert capsys.readouterr().out == f"{output}\n"
    assert read_frames(output).shape == (1, 32, 48, 3)
    assert read_video_metadata(output)["seed"] == "3"


def test_a_picture_is_rounded_to_bytes_where_a_video_is_cut_off(folder: Path, tmp_path: Path):
    options = {"width": 48, "height": 32, "num_frames": 1, "steps": 1, "seed": 3}
    video = WanPipeline.from_pretrained(folder)("a cat", output_path=tmp_path / "a.png", **options)
    model, config = open_model(folder)
    (frame,) = decode_frames(load_vae_decoder(model, config), video.latents)
    expected = to_uint8_rounded(frame)
    assert not np.array_equal(expected, to_uint8(frame))
    assert np.array_equal(video.frames, expected)
    assert np.array_equal(read_frames(tmp_path / "a.png"), expected)


@pytest.mark.parametrize("option", ["--image", "--output-path", "--save-frames", "--decode-only"])
def test_an_address_that_is_not_read_is_told_by_its_option(option: str, capsys):
    address = "https://example.com/cat.png"
    assert generate_wan.main(["--prompt", "a cat", option, address]) == 2
    read, written = (
        "addresses are not read. Download it first",
        "nothing is written to an address. Give a path",
    )
    told = written if option in ("--output-path", "--save-frames") else read
    assert capsys.readouterr().err.startswith(f"error: {option} {address}: {told}")


def test_image_options_may_be_addresses_of_files_here():
    options = ["--image", "file:///my%20photos/a.png", "--end-image", "file://localhost/b%C3%A9.png"]
    arguments = generate_wan.build_parser().parse_args(["--prompt", "a cat", *options])
    request = generate_wan.build_request(arguments)
    assert (request.image, request.end_image) == (Path("/my photos/a.png"), Path("/bé.png"))


def test_image_options_reach_the_request(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    options = ["--prompt", "a cat", "--image", "~/first.png", "--end-image", "last.jpg"]
    request = generate_wan.build_request(generate_wan.build_parser().parse_args(options))
    assert request.image == tmp_path / "first.png"
    assert request.end_image == Path("last.jpg")


@pytest.mark.parametrize(
    "image", ["~/first.png", Path("~/first.png"), Image.new("RGB", (4, 4)), np.zeros((4, 4, 3), np.uint8)]
)
def test_generate_video_passes_its_image_on(folder: Path, tmp_path: Path, monkeypatch, image):
    monkeypatch.setenv("HOME", str(tmp_path))
    seen = []

    def stop(request, *_):
        seen.append(request.image)
        raise RequestError("image", "seen.")

    monkeypatch.setattr(maker, "prepare_run", stop)
    with pytest.raises(RequestError, match="image: seen"):
        generate_wan.generate_video(folder, "a cat", image=image)
    is_path = isinstance(image, str | Path)
    assert seen == [tmp_path / "first.png"] if is_path else seen[0] is image


def test_a_guide_scale_that_is_no_number_is_refused(folder: Path):
    with pytest.raises(RequestError, match="neither a number nor two numbers"):
        generate_wan.generate_video(model_dir=folder, prompt="a cat", guide_scale="high")
