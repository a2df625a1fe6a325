"""What would spoil the results is found before a run starts."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from mlx_video.errors import MediaError, RequestError
from mlx_video.geometry import measure
from mlx_video.request import GenerateRequest
from mlx_video.runs import outputs
from mlx_video.runs.outputs import check_outputs, check_scratch_space

GEOMETRY = measure(832, 480, 81, z_dim=16, stride=(4, 8, 8), patch_size=(1, 2, 2))
LATENTS = 4 * 16 * 21 * 60 * 104


def check(free: int = 10**12, num_frames: int | None = None, **options) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outputs.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
        check_outputs(GenerateRequest("a cat", **options), GEOMETRY, num_frames=num_frames)


def test_results_that_fit_are_accepted_and_their_folders_made(tmp_path: Path):
    folder = tmp_path / "new"
    check(output_path=folder / "a.mp4", save_frames=folder / "frames", save_latents=folder / "b" / "latents")
    assert sorted(path.name for path in folder.iterdir()) == ["b", "frames"]


@pytest.mark.parametrize(
    ("options", "needed"),
    [
        # 81 frames of 832×480 at half a byte a pixel, and eight times the latents: two states of four arrays.
        ({"output_path": "a.mp4"}, 81 * 832 * 480 // 2 + 8 * LATENTS),
        ({"output_path": "a.gif"}, 81 * 832 * 480 + 8 * LATENTS),
        ({"save_latents": "latents"}, LATENTS),
        ({"save_frames": "frames"}, 81 * 832 * 480 * 5 // 2),
        ({"save_frames": "frames", "trim_first_frames": 80}, 832 * 480 * 5 // 2),
        ({"save_frames": "frames", "save_latents": "latents"}, 81 * 832 * 480 * 5 // 2 + LATENTS),
        # A clip that goes on: the joined video, without the frame that both share.
        ({"output_path": "a.mp4", "num_frames": 180}, 180 * 832 * 480 // 2 + 8 * LATENTS),
        # Five segments: the joined video beside that of four, and four that wait at three bytes a pixel.
        (
            {"output_path": "a.mp4", "segments": 5, "num_frames": 401},
            (401 + 321) * 832 * 480 // 2 + 8 * LATENTS + 3 * 4 * 81 * 832 * 480,
        ),
        (
            {"save_frames": "frames", "segments": 2, "num_frames": 161},
            161 * 832 * 480 * 5 // 2 + 3 * 81 * 832 * 480,
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_a_disk_without_room_for_the_results_is_refused(tmp_path: Path, options: dict, needed: int):
    options = {name: tmp_path / value if isinstance(value, str) else value for name, value in options.items()}
    check(free=needed, **options)
    with pytest.raises(MediaError, match=r"the results of this run can take .* are free\. Free some space"):
        check(free=needed - 1, **options)


def test_a_full_disk_is_described(tmp_path: Path):
    with pytest.raises(MediaError) as caught:
        check(free=20_000_000, output_path=tmp_path / "a.mp4")
    assert str(caught.value) == (
        f"{tmp_path}: the results of this run can take 83.3 MB, 20.0 MB are free. "
        "Free some space, or choose a folder on another disk."
    )


def test_a_broken_ffmpeg_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "nowhere"))
    with pytest.raises(MediaError, match=r"nowhere: cannot be started.*IMAGEIO_FFMPEG_EXE"):
        check(output_path=tmp_path / "a.mp4")
    check(output_path=tmp_path / "a.webp")


def test_a_missing_ffmpeg_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import imageio_ffmpeg

    def none_found() -> str:
        raise RuntimeError("No ffmpeg exe could be found.")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", none_found)
    with pytest.raises(MediaError, match="need the ffmpeg program and none was found .*pip install imageio"):
        check(output_path=tmp_path / "a.mp4")


@pytest.mark.parametrize("name", ["output_path", "save_frames", "save_latents"])
def test_a_folder_that_takes_no_files_is_found(tmp_path: Path, name: str):
    (tmp_path / "file").write_text("")
    with pytest.raises(MediaError, match="this folder cannot take new files"):
        check(**{name: tmp_path / "file" / "a.webp"})


def test_two_results_of_one_name_are_refused(tmp_path: Path):
    with pytest.raises(RequestError, match=r"save_latents: .*--output-path has the same name"):
        check(output_path=tmp_path / "a.mp4", save_latents=tmp_path / "b" / ".." / "a.mp4")


@pytest.mark.parametrize("name", ["save_latents", "save_frames"])
def test_a_result_of_the_states_name_is_refused(tmp_path: Path, name: str):
    state = tmp_path / "b" / ".." / "v.mp4.state.safetensors"
    with pytest.raises(RequestError, match=r"state\.safetensors: the run keeps its state .* Choose another"):
        check(output_path=tmp_path / "v.mp4", **{name: state})


def test_a_state_may_be_decoded_into_the_video_beside_it(tmp_path: Path):
    state = tmp_path / "v.webp.state.safetensors"
    check(output_path=tmp_path / "v.webp", decode_only=state)


def test_the_latents_that_are_read_are_not_written_over(tmp_path: Path):
    latents = tmp_path / "latents.webp"
    with pytest.raises(RequestError, match=r"output_path: .*latents\.webp: --decode-only has the same name"):
        check(output_path=latents, decode_only=latents)


def test_temporary_files_of_killed_runs_are_cleared_away(tmp_path: Path):
    places = [tmp_path / name for name in ("videos", "frames", "latents")]
    for place in places:
        place.mkdir()
        (place / ".partial-0123456789ab.mp4").write_bytes(b"half")
    check(output_path=places[0] / "a.mp4", save_frames=places[1], save_latents=places[2] / "a")
    assert [list(place.iterdir()) for place in places] == [[], [], []]


def test_the_real_disk_is_asked(tmp_path: Path):
    free = shutil.disk_usage(tmp_path).free
    huge = measure(2**20, 2**20, 4 * (free // 2**37) + 401, z_dim=16, stride=(4, 8, 8), patch_size=(1, 2, 2))
    with pytest.raises(MediaError, match="are free"):
        check_outputs(GenerateRequest("a cat", output_path=tmp_path / "a.webp"), huge)


def test_a_full_disk_of_temporary_files_is_found_where_tiles_need_one(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(outputs.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(outputs.shutil, "disk_usage", lambda _: SimpleNamespace(free=900_000_000))
    check_scratch_space(900_000_000, needs_tiles=False)
    with pytest.raises(MediaError) as caught:
        check_scratch_space(1_400_000_000, needs_tiles=False)
    assert str(caught.value) == (
        f"{tmp_path}: the VAE's tiles take 1.40 GB, 900.0 MB are free. Free some space, or set TMPDIR to a "
        "folder on another disk, or decode whole frames with --tiling none."
    )


def test_whole_frames_are_no_way_out_where_they_do_not_fit(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(outputs.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(outputs.shutil, "disk_usage", lambda _: SimpleNamespace(free=900_000_000))
    with pytest.raises(MediaError, match=r"or set TMPDIR to a folder on another disk\.$"):
        check_scratch_space(1_400_000_000, needs_tiles=True)
