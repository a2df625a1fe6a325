"""Video files: what is written can be read back, and a broken run leaves nothing behind."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_video.errors import MediaError, RequestError
from mlx_video.media.animation import frame_durations_ms
from mlx_video.media.ffmpeg import find_ffmpeg, format_tags, read_tags, run_ffmpeg
from mlx_video.media.video import check_output, open_video_writer, read_frames, read_video_metadata

SETTINGS = {
    "prompt": "一只猫 & a \"dog\" <b> = 1; # 'x' \\",
    "negative_prompt": "line 1\nline 2\r\n",
    "seed": "7",
}
FORMATS = [".mp4", ".gif", ".webp"]


def moving_square(count: int = 5, height: int = 32, width: int = 48) -> np.ndarray:
    """A light square that moves over a smooth background: [F, H, W, 3], uint8."""
    frames = np.empty((count, height, width, 3), np.uint8)
    frames[..., 0] = np.linspace(40, 200, width).astype(np.uint8)
    frames[..., 1] = np.linspace(60, 120, height).astype(np.uint8)[:, None]
    frames[..., 2] = 90
    for index, frame in enumerate(frames):
        frame[8:20, 4 + 4 * index : 16 + 4 * index] = (230, 210, 60)
    return frames


def write(path: Path, frames: np.ndarray, fps: float = 16, metadata: dict[str, str] | None = None) -> Path:
    with open_video_writer(path, frames.shape[2], frames.shape[1], fps, metadata or {}) as writer:
        for frame in frames:
            writer.write(frame[None])
    return path


def describe(path: Path) -> str:
    """What ffmpeg says about a file."""
    command = [find_ffmpeg(), "-hide_banner", "-i", str(path)]
    return subprocess.run(command, capture_output=True, check=False).stderr.decode("utf-8", "replace")


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_keeps_frames_size_and_settings(tmp_path: Path, suffix: str) -> None:
    frames = moving_square()
    path = write(tmp_path / f"clip{suffix}", frames, metadata=SETTINGS)
    assert read_frames(path).shape == frames.shape
    assert read_video_metadata(path) == SETTINGS
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_single_frame_is_a_video(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"clip{suffix}", moving_square(1), metadata=SETTINGS)
    assert read_frames(path).shape == (1, 32, 48, 3)
    assert read_video_metadata(path) == SETTINGS


def test_mp4_colours_survive_the_codec(tmp_path: Path) -> None:
    colours = np.array(
        [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0], [10, 200, 90]], np.uint8
    )
    frames = np.broadcast_to(colours[:, None, None], (6, 32, 32, 3))
    decoded = read_frames(write(tmp_path / "flat.mp4", frames)).astype(int)
    # 8-bit limited-range YUV has 219 levels, so a channel may be off by two; a wrong matrix is off by 20.
    assert np.abs(decoded - frames).max() <= 2


PURE = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


@pytest.mark.parametrize("colour", PURE)
@pytest.mark.parametrize("suffix", FORMATS)
def test_a_pure_colour_comes_back_within_two_levels(tmp_path: Path, suffix: str, colour: str) -> None:
    frames = np.full((5, 48, 64, 3), PURE[colour], np.uint8)
    decoded = read_frames(write(tmp_path / f"pure{suffix}", frames)).astype(int)
    assert np.abs(decoded - np.array(PURE[colour])).max() <= 2


@pytest.mark.parametrize("colour", PURE)
def test_the_samples_in_an_mp4_are_those_of_bt709_in_limited_range(tmp_path: Path, colour: str) -> None:
    path = write(tmp_path / "pure.mp4", np.full((5, 48, 64, 3), PURE[colour], np.uint8))
    planes = run_ffmpeg("-v", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "yuv420p", "-")
    first = np.frombuffer(planes, np.uint8)[: 48 * 64 * 3 // 2].astype(int)
    luma, blue, red = np.split(first, [48 * 64, 48 * 64 * 5 // 4])
    # Recommendation ITU-R BT.709-6, items 3.2 to 3.4, with eight bits a sample.
    r, g, b = (level / 255 for level in PURE[colour])
    y = 0.2126 * r + 0.7152 * g + 0.0722 * b
    for samples, expected in (
        (luma, 16 + 219 * y),
        (blue, 128 + 224 * (b - y) / 1.8556),
        (red, 128 + 224 * (r - y) / 1.5748),
    ):
        assert np.abs(samples - expected).max() <= 1


def test_bt709_stands_in_the_stream_and_in_the_container(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mp4", moving_square())
    # Primaries, transfer and matrix number 1 are BT.709; the last byte's highest bit would say full range.
    content = path.read_bytes()
    box = content[content.index(b"colr") :]
    assert box[4:15] == b"nclx" + bytes([0, 1, 0, 1, 0, 1, 0])
    stream = tmp_path / "clip.h264"
    stream.write_bytes(run_ffmpeg("-v", "error", "-i", str(path), "-c", "copy", "-f", "h264", "-"))
    assert re.search(r"Video: h264 \(High\).*yuv420p\(tv, bt709", describe(stream))


def test_mp4_pictures_survive_the_codec(tmp_path: Path) -> None:
    frames = moving_square()
    decoded = read_frames(write(tmp_path / "clip.mp4", frames)).astype(int)
    # Edges of the square lose colour detail to 4:2:0; the mean stays near the quantizer's error.
    assert np.abs(decoded - frames).mean() < 2


def test_gif_is_exact_while_a_frame_has_few_colours(tmp_path: Path) -> None:
    frames = moving_square()
    frames[..., 1] = 60  # leaves at most 49 colours
    frames[..., 2] = 90
    assert np.array_equal(read_frames(write(tmp_path / "clip.gif", frames)), frames)


def test_mp4_plays_everywhere(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mp4", moving_square())
    text = describe(path)
    assert re.search(r"Video: h264 \(High\).*yuv420p\(tv, bt709", text)
    assert ", 48x32" in text
    assert ", 16 fps" in text
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # a browser can start before it has everything


@pytest.mark.parametrize(("fps", "shown"), [(24, "24 fps"), (24000 / 1001, "23.98 fps"), (8, "8 fps")])
def test_mp4_has_the_frame_rate_asked_for(tmp_path: Path, fps: float, shown: str) -> None:
    assert f", {shown}" in describe(write(tmp_path / "clip.mp4", moving_square(2), fps=fps))


@pytest.mark.parametrize("size", [(16, 16), (24, 40), (64, 64), (2, 2)])
def test_mp4_takes_small_sizes_as_they_are(tmp_path: Path, size: tuple[int, int]) -> None:
    frames = np.full((2, *size, 3), 128, np.uint8)
    assert read_frames(write(tmp_path / "clip.mp4", frames)).shape == frames.shape


def test_tags_are_where_other_programs_look(tmp_path: Path) -> None:
    tags = read_tags(
        write(tmp_path / "clip.mp4", moving_square(1), metadata={"prompt": "a cat\n[STREAM]", "seed": "3"})
    )
    assert tags["title"] == "a cat\n[STREAM]"
    assert json.loads(tags["comment"]) == {"prompt": "a cat\n[STREAM]", "seed": "3"}


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text(max_size=8), st.text(st.characters(), max_size=40), max_size=3))
def test_any_text_survives_in_mp4_tags(tmp_path: Path, metadata: dict[str, str]) -> None:
    path = write(tmp_path / "clip.mp4", np.zeros((1, 16, 16, 3), np.uint8), metadata=metadata)
    assert read_video_metadata(path) == metadata


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompt=st.text(st.characters(), max_size=40), suffix=st.sampled_from([".gif", ".webp"]))
def test_any_text_survives_in_animations(tmp_path: Path, prompt: str, suffix: str) -> None:
    path = write(tmp_path / f"clip{suffix}", np.zeros((1, 8, 8, 3), np.uint8), metadata={"prompt": prompt})
    assert read_video_metadata(path) == {"prompt": prompt}


@pytest.mark.parametrize(
    "prompt", ["ends with \\", "\r\n\r", "; # = \\\n", "zero\0half\ud800", "长提示词，" * 40_000]
)
def test_awkward_and_very_long_prompts_survive(tmp_path: Path, prompt: str) -> None:
    path = write(tmp_path / "clip.mp4", np.zeros((1, 16, 16, 3), np.uint8), metadata={"prompt": prompt})
    assert read_video_metadata(path) == {"prompt": prompt}


def test_a_title_that_ffmpeg_would_misread_does_not_swallow_the_next_tag() -> None:
    lines = format_tags({"title": "back\\", "comment": "x"}).decode().splitlines()
    assert lines[1:] == ["title=back\\\\ ", "comment=x"]


@pytest.mark.parametrize("suffix", FORMATS)
def test_files_of_other_programs_have_no_settings(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"clip{suffix}", moving_square(2))
    assert read_video_metadata(path) == {}


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_run_leaves_only_the_earlier_file(
    tmp_path: Path, suffix: str, failure: type[BaseException]
) -> None:
    path = tmp_path / f"clip{suffix}"
    path.write_bytes(b"earlier")

    def interrupted_run() -> None:
        with open_video_writer(path, 48, 32, 16, {}) as writer:
            writer.write(moving_square(2))
            raise failure

    with pytest.raises(failure):
        interrupted_run()
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [(path.name, b"earlier")]


@pytest.mark.parametrize("suffix", FORMATS)
def test_empty_pieces_between_others_change_nothing(tmp_path: Path, suffix: str) -> None:
    frames = moving_square(3)
    with open_video_writer(tmp_path / f"a{suffix}", 48, 32, 16, {}) as writer:
        for piece in (frames[:0], frames[:2], frames[3:], frames[2:]):
            writer.write(piece)
    assert writer.frames_written == len(read_frames(tmp_path / f"a{suffix}")) == 3


def test_frames_that_are_views_are_written_in_order(tmp_path: Path) -> None:
    frames = moving_square(4)
    with open_video_writer(tmp_path / "a.gif", 48, 32, 16, {}) as writer:
        writer.write(frames[::-1])
    exact = read_frames(write(tmp_path / "b.gif", frames[::-1].copy()))
    assert np.array_equal(read_frames(tmp_path / "a.gif"), exact)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_finished_run_replaces_the_earlier_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"clip{suffix}"
    path.write_bytes(b"earlier")
    write(path, moving_square(2))
    assert len(read_frames(path)) == 2


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_video_without_frames_is_an_error(tmp_path: Path, suffix: str) -> None:
    with (
        pytest.raises(MediaError, match="no frames arrived"),
        open_video_writer(tmp_path / f"a{suffix}", 48, 32, 16, {}),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_a_wrong_frame_ends_the_run_at_the_call(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="expected uint8"),
        open_video_writer(tmp_path / "a.mp4", 48, 32, 16, {}) as to,
    ):
        to.write(moving_square().astype(np.float32))
    with (
        pytest.raises(ValueError, match="expected uint8"),
        open_video_writer(tmp_path / "a.mp4", 32, 48, 16, {}) as to,
    ):
        to.write(moving_square())
    with pytest.raises(ValueError, match="even width and height"):
        open_video_writer(tmp_path / "a.mp4", 33, 32, 16, {})
    with pytest.raises(ValueError, match="must be positive"):
        open_video_writer(tmp_path / "a.mp4", 32, 32, 0, {})
    assert not list(tmp_path.iterdir())


def test_a_closed_writer_takes_nothing_more(tmp_path: Path) -> None:
    with open_video_writer(tmp_path / "a.mp4", 48, 32, 16, {}) as writer:
        writer.write(moving_square(1))
        writer.close()
        with pytest.raises(ValueError, match="after close"):
            writer.write(moving_square(1))
    assert len(read_frames(tmp_path / "a.mp4")) == 1


def test_a_failing_ffmpeg_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = fake_ffmpeg(tmp_path, "echo 'No space left on device' >&2; exit 7")
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
    folder = tmp_path / "out"
    with pytest.raises(
        MediaError, match=r"a\.mp4: ffmpeg stopped with exit code 7 \(No space left.*free space"
    ):
        write(folder / "a.mp4", moving_square(40, 128, 128))
    assert not list(folder.iterdir())


def test_a_missing_ffmpeg_is_found_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "nowhere"))
    with pytest.raises(MediaError, match=r"nowhere: cannot be started.*IMAGEIO_FFMPEG_EXE"):
        check_output(tmp_path / "a.mp4", num_frames=5)
    check_output(tmp_path / "a.gif", num_frames=5)  # needs no ffmpeg
    with pytest.raises(MediaError, match=r"nowhere: cannot be started"):
        open_video_writer(tmp_path / "a.mp4", 48, 32, 16, {})
    assert not list(tmp_path.iterdir())


def test_an_ffmpeg_without_h264_is_found_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(fake_ffmpeg(tmp_path, "exit 0")))
    with pytest.raises(MediaError, match=r"without the H\.264 encoder libx264.*\.gif or \.webp"):
        check_output(tmp_path / "a.mp4", num_frames=5)


def test_check_output_creates_the_folder_and_leaves_no_file(tmp_path: Path) -> None:
    check_output(tmp_path / "new" / "deep" / "clip.MP4", num_frames=5)
    assert not list((tmp_path / "new" / "deep").iterdir())


def test_a_folder_that_takes_no_files_is_found_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MediaError, match=r"cannot take new files.*Choose another"):
        check_output(tmp_path / "file" / "clip.gif", num_frames=5)
    (tmp_path / "clip.gif").mkdir()
    with pytest.raises(MediaError, match=r"is a folder.*Choose another name"):
        check_output(tmp_path / "clip.gif", num_frames=5)


@pytest.mark.parametrize("name", ["clip.avi", "clip"])
def test_an_unknown_suffix_names_the_known_ones(tmp_path: Path, name: str) -> None:
    with pytest.raises(RequestError, match=r"Use \.mp4, \.gif or \.webp") as caught:
        open_video_writer(tmp_path / name, 48, 32, 16, {})
    assert caught.value.field == "output_path"


@pytest.mark.parametrize("suffix", FORMATS)
def test_damaged_and_missing_files_are_refused_by_name(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"clip{suffix}"
    for read in (read_frames, read_video_metadata):
        with pytest.raises(MediaError, match=r"no such file"):
            read(path)
    path.write_bytes(b"no video at all")
    for read in (read_frames, read_video_metadata):
        with pytest.raises(MediaError, match=re.escape(path.name)):
            read(path)


@given(
    count=st.integers(1, 200), fps=st.sampled_from([8, 15, 16, 24, 23.976]), clock_ms=st.sampled_from([1, 10])
)
def test_frame_durations_never_drift_from_the_rate(count: int, fps: float, clock_ms: int) -> None:
    durations = frame_durations_ms(count, fps, clock_ms)
    assert len(durations) == count
    assert all(duration > 0 and duration % clock_ms == 0 for duration in durations)
    assert abs(sum(durations) - 1000 * count / fps) <= clock_ms / 2 + 1e-6


def fake_ffmpeg(folder: Path, script: str) -> Path:
    program = folder / "fake-ffmpeg"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return program
