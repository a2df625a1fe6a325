"""Videos of every kind come in frame by frame, at the rate asked for, or are refused with a reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlx_video.errors import MediaError, RequestError
from mlx_video.media.clip import Video
from mlx_video.media.ffmpeg import run_ffmpeg
from mlx_video.media.sources import source_video
from mlx_video.media.sources.pick_frames import Picking, check_length, pick_frames
from mlx_video.media.sources.picture_folder import list_pictures
from mlx_video.media.sources.source_video import SourceVideo, open_video
from mlx_video.media.video import open_video_writer

HEIGHT, WIDTH = 16, 24


def counting(count: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Frames whose grey level, 4 apart, is their number: [F, H, W, 3], uint8."""
    levels = 10 + 4 * np.arange(count, dtype=np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, height, width, 3)).copy()


def numbers(frames) -> list[int]:
    """Which frames of :func:`counting` these are."""
    return [round((float(frame.mean()) - 10) / 4) for frame in frames]


def write(path: Path, count: int, fps: float = 16) -> Path:
    with open_video_writer(path, WIDTH, HEIGHT, fps, {}) as writer:
        writer.write(counting(count))
    return path


def write_folder(folder: Path, count: int, pattern: str = "{}.png") -> Path:
    folder.mkdir()
    for number, frame in enumerate(counting(count)):
        Image.fromarray(frame).save(folder / pattern.format(number))
    return folder


def read(video: SourceVideo) -> list[np.ndarray]:
    return [frame for frame, _ in video.read()]


def pick(video: SourceVideo, num_frames: int, fps: float, video_fps: float | None = None) -> list[int]:
    return numbers(pick_frames(video, Picking("control_video", num_frames, fps, video_fps)))


def sources(tmp_path: Path) -> dict[str, tuple[object, float | None]]:
    """Twelve frames in every form, and the rate that the form tells."""
    frames = counting(12)
    Image.fromarray(frames[0]).save(
        tmp_path / "a.png", save_all=True, append_images=[*map(Image.fromarray, frames[1:])], duration=50
    )
    return {
        "mp4": (write(tmp_path / "a.mp4", 12, 24), 24),
        "gif": (write(tmp_path / "a.gif", 12, 20), 20),
        "webp": (str(write(tmp_path / "a.webp", 12, 25)), 25),
        "png": (tmp_path / "a.png", 20),
        "folder": (write_folder(tmp_path / "frames", 12), None),
        "array": (frames, None),
        "floats": (frames / np.float32(255), None),
        "pictures": ([Image.fromarray(frame) for frame in frames], None),
        "files": ([tmp_path / "frames" / f"{n}.png" for n in range(12)], None),
        "video": (Video(frames, 12.5), 12.5),
    }


def test_every_form_gives_its_frames_again_and_again(tmp_path: Path):
    for form, (source, fps) in sources(tmp_path).items():
        video = open_video(source)
        assert (video.fps and round(video.fps, 3)) == fps, form
        for _ in range(2):
            frames = read(video)
            assert numbers(frames) == list(range(12)), form
            assert all(frame.shape == (HEIGHT, WIDTH, 3) and frame.dtype == np.uint8 for frame in frames)


@pytest.mark.parametrize("suffix", [".mov", ".mkv", ".avi", ".webm"])
def test_other_containers_are_read(tmp_path: Path, suffix: str):
    path = write(tmp_path / "a.mp4", 12)
    codec = ["-c", "copy"] if suffix in (".mov", ".mkv") else ["-q:v", "1"]
    run_ffmpeg("-v", "error", "-i", str(path), *codec, str(tmp_path / f"b{suffix}"))
    assert numbers(read(open_video(tmp_path / f"b{suffix}"))) == list(range(12))


def test_a_file_called_otherwise_is_known_by_its_content(tmp_path: Path):
    path = write(tmp_path / "a.mp4", 3)
    assert len(read(open_video(path.rename(tmp_path / "--clip 1:2.bin")))) == 3


def test_a_camera_held_upright_gives_upright_frames(tmp_path: Path):
    path = write(tmp_path / "a.mp4", 3)
    turned = tmp_path / "b.mp4"
    run_ffmpeg("-v", "error", "-display_rotation", "90", "-i", str(path), "-c", "copy", str(turned))
    assert read(open_video(turned))[0].shape == (WIDTH, HEIGHT, 3)


def test_a_playlist_opens_no_other_file(tmp_path: Path):
    write(tmp_path / "a.mp4", 3)
    run_ffmpeg("-v", "error", "-i", str(tmp_path / "a.mp4"), str(tmp_path / "a.ts"))
    playlist = tmp_path / "list.mp4"
    playlist.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\na.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(MediaError, match="list.mp4: no video that ffmpeg can read"):
        open_video(playlist)


def test_pictures_of_a_folder_are_sorted_by_the_value_of_their_numbers(tmp_path: Path):
    folder = write_folder(tmp_path / "frames", 12, "shot1_{}.png")
    (folder / "notes.txt").write_text("no picture")
    (folder / "._shot1_0.png").write_bytes(bytes.fromhex("00051607"))
    (folder / ".hidden.png").write_bytes(b"")
    assert [path.name for path in list_pictures(folder)] == [f"shot1_{n}.png" for n in range(12)]
    assert numbers(read(open_video(folder))) == list(range(12))


# Frame rates


@pytest.mark.parametrize(
    ("fps", "expected"),
    [
        (24, [0, 1, 2, 3, 4]),
        (12, [0, 2, 4, 6, 8]),
        (16, [0, 1, 3, 4, 6]),
        (48, [0, 0, 1, 1, 2]),
        (23.976, [0, 1, 2, 3, 4]),
    ],
)
def test_frames_are_picked_at_the_moments_of_the_new_rate(fps: float, expected: list[int]):
    assert pick(open_video(Video(counting(12), 24)), 5, fps) == expected


def test_a_stated_rate_outranks_the_files(tmp_path: Path):
    video = open_video(write(tmp_path / "a.mp4", 12, 24))
    assert pick(video, 5, 12) == [0, 2, 4, 6, 8]
    assert pick(video, 5, 12, video_fps=12) == [0, 1, 2, 3, 4]


def test_loose_pictures_are_taken_one_by_one_unless_a_rate_is_stated():
    video = open_video(counting(12))
    assert pick(video, 5, 16) == [0, 1, 2, 3, 4]
    assert pick(video, 5, 16, video_fps=32) == [0, 2, 4, 6, 8]


def test_frames_of_an_animation_count_by_how_long_they_are_shown(tmp_path: Path):
    frames = [Image.fromarray(frame) for frame in counting(3)]
    frames[0].save(
        tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=[300, 100, 200], disposal=2
    )
    video = open_video(tmp_path / "a.gif")
    assert video.fps == pytest.approx(5)
    assert pick(video, 6, 10) == [0, 0, 0, 1, 2, 2]
    with pytest.raises(RequestError, match=r"a.gif has 3 frames at 5 per second, 4 are needed for 7 at 10"):
        pick(video, 7, 10)


def test_a_file_of_unequal_frames_is_read_by_time(tmp_path: Path):
    path = write(tmp_path / "a.mp4", 12, 12)
    # Frames 4 to 7 are left out, the others keep their moments.
    run_ffmpeg(
        "-v", "error", "-i", str(path), "-vf", "select='not(between(n,4,7))'", "-fps_mode", "vfr",
        str(tmp_path / "b.mkv"),
    )  # fmt: skip
    video = open_video(tmp_path / "b.mkv")
    assert pick(video, 12, 12, video_fps=None)[-4:] == [8, 9, 10, 11]


# Lengths


def lengths(video, num_frames: int, fps: float, video_fps: float | None = None) -> list[str]:
    picking = Picking("control_video", num_frames, fps, video_fps)
    return [notice.text for notice in check_length(video, picking)]


def test_a_video_that_is_too_short_is_refused_with_both_lengths(tmp_path: Path):
    video = open_video(write(tmp_path / "a.mp4", 12, 24))
    for check in (lengths, pick):
        with pytest.raises(RequestError) as caught:
            check(video, 9, 16)
        assert caught.value.field == "control_video"
        assert caught.value.message == (
            f"{tmp_path}/a.mp4 has 12 frames at 24 per second, 13 are needed for 9 at 16 per second. "
            "Give a longer video, or --num-frames 5."
        )
    assert lengths(video, 8, 16)


def test_what_is_done_about_rate_and_length_is_said(tmp_path: Path):
    video, name = open_video(Video(counting(12), 24)), "video of 12 frames"
    assert lengths(video, 5, 16) == [f"{name} has 24 frames per second: 5 of its first 7 are picked for 16."]
    assert lengths(video, 5, 16, 32) == [
        f"{name} has 32 frames per second (--video-fps): 5 of its first 9 are picked for 16."
    ]
    assert lengths(video, 9, 24) == [f"{name} is longer than needed: its first 9 frames are used."]
    assert lengths(video, 12, 24) == []


def test_no_more_than_needed_is_read():
    taken = []

    def read():
        for number, frame in enumerate(counting(60)):
            taken.append(number)
            yield frame, 1.0

    video = SourceVideo("endless", 16, read)
    assert pick(video, 5, 16) == [0, 1, 2, 3, 4]
    assert len(taken) == 5
    taken.clear()
    lengths(video, 5, 16)
    assert len(taken) == 6


def test_frames_are_not_kept(monkeypatch):
    alive = []
    opened = source_video.open_image

    def track(picture):
        image = opened(picture)
        copy = image.pixels.copy()
        alive.append(_weak(copy))
        return type(image)(copy)

    monkeypatch.setattr(source_video, "open_image", track)
    most = 0
    for _ in open_video(counting(12)).read():
        most = max(most, sum(one() is not None for one in alive))
    assert most <= 3  # the first, for its size; the one in use; the next


def _weak(array: np.ndarray):
    import weakref

    return weakref.ref(array)


# Refusals


def test_what_is_no_video_is_refused(tmp_path: Path):
    (tmp_path / "a.txt").write_text("no video")
    (tmp_path / "empty").mkdir()
    cases = {
        tmp_path / "a.txt": "a.txt: no video that ffmpeg can read",
        tmp_path / "empty": "empty: no picture in this folder",
        tmp_path / "none.mp4": "none.mp4: no such file or folder",
        "https://example.com/a.mp4": "Download it first",
    }
    for source, message in cases.items():
        with pytest.raises(MediaError, match=message):
            open_video(source)
    with pytest.raises(MediaError, match=r"no video. Give \[F, H, W, 3\]"):
        open_video(counting(1)[0])
    with pytest.raises(MediaError, match="a video has at least one frame"):
        open_video([])


def test_frames_of_several_sizes_are_refused(tmp_path: Path):
    folder = write_folder(tmp_path / "frames", 2)
    Image.new("RGB", (WIDTH, HEIGHT + 2)).save(folder / "2.png")
    with pytest.raises(MediaError, match=r"frames: picture 2 \(.*2.png\) is 24x18, the first is 24x16"):
        read(open_video(folder))


def test_a_still_picture_is_a_video_of_one_frame(tmp_path: Path):
    Image.fromarray(counting(1)[0]).save(tmp_path / "a.png")
    video = open_video(tmp_path / "a.png")
    assert video.is_still
    assert len(read(video)) == 1
