"""A video on its way to another machine and back: files come along, and no others are touched."""

from __future__ import annotations

import json
from pathlib import Path

from mlx_video.request import GenerateRequest, make_request
from mlx_video.runs.cluster.travelling_video import (
    pack_request,
    read_results,
    reads_files,
    unpack_request,
    write_results,
)


def test_files_and_folders_come_along_and_results_go_back(tmp_path: Path):
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "frames").mkdir(parents=True)
    (here / "a.png").write_bytes(b"picture")
    for number in range(2):
        (here / "frames" / f"frame_{number:05}.png").write_bytes(bytes([number]))
    given = {"image": here / "a.png", "control_video": here / "frames", "output_path": here / "out.mp4"}
    request = make_request(GenerateRequest, {"prompt": "a cat", **given, "save_frames": here / "made"})
    assert reads_files(request)
    packed, files, blobs = pack_request(request)
    told = json.loads(json.dumps([each.as_json() for each in files]))
    asked, local = unpack_request(json.loads(json.dumps(packed)), told, blobs, there)
    assert asked == request
    assert local.image.read_bytes() == b"picture"
    assert [path.read_bytes() for path in sorted(local.control_video.iterdir())] == [b"\0", b"\1"]
    for path in (local.image, local.control_video, local.output_path, local.save_frames):
        assert there in path.parents

    local.save_frames.mkdir(parents=True)
    local.output_path.parent.mkdir(parents=True)
    local.output_path.write_bytes(b"video")
    (local.save_frames / "frame_00000.png").write_bytes(b"frame")
    (here / "made").mkdir()
    (here / "made" / "frame_00001.png").write_bytes(b"of an earlier, longer video")
    results, blobs = read_results(local)
    written = [*write_results(asked, [each.as_json() for each in results], blobs)]
    assert set(written) == {here / "out.mp4", here / "made"}
    assert (here / "out.mp4").read_bytes() == b"video"
    assert [path.name for path in (here / "made").iterdir()] == ["frame_00000.png"]


def test_a_request_without_files_sends_none():
    request = make_request(GenerateRequest, {"prompt": "a cat"})
    assert not reads_files(request)
    assert pack_request(request)[1:] == ([], [])
