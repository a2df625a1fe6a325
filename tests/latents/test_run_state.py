"""A run's state in a file: exact, whole or absent, and never taken for something else."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_video.errors import MediaError
from mlx_video.latents.array_file import read_arrays, write_arrays
from mlx_video.latents.latents_file import load_latents, save_latents
from mlx_video.latents.run_state import RunState, current_versions, find_state_path, load_state, save_state
from mlx_video.request import GenerateRequest

LATENTS = mx.random.normal((16, 2, 3, 4), key=mx.random.key(0))
START = mx.random.normal((16, 2, 3, 4), key=mx.random.key(1))
# A terminal can hand over half surrogates; they must not make a state differ from its own run.
STATE = RunState(
    LATENTS,
    3,
    7,
    {"prompt": "一只猫 \udc80", "seed": "7"},
    {"--prompt": "一只猫 \udc80"},
    {"solver.start": START},
)


def test_a_state_comes_back_exactly(tmp_path: Path):
    path = tmp_path / "new" / "a.mp4.state.safetensors"
    save_state(path, STATE)
    found = load_state(path)
    assert mx.array_equal(found.latents, LATENTS)
    assert found.sampler.keys() == {"solver.start"}
    assert mx.array_equal(found.sampler["solver.start"], START)
    assert (found.next_step, found.steps, found.progress) == (3, 7, "3 of 7 steps")
    assert (found.settings, found.identity) == (STATE.settings, STATE.identity)
    assert found.versions == current_versions()
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_state_is_a_latents_file_with_readable_settings(tmp_path: Path):
    save_state(tmp_path / "a", STATE)
    latents, settings = load_latents(tmp_path / "a")
    assert mx.array_equal(latents, LATENTS)
    assert settings["seed"] == "7"


@pytest.mark.parametrize(("next_step", "is_finished"), [(0, False), (6, False), (7, True)])
def test_a_state_is_finished_after_the_last_step(next_step: int, is_finished: bool):
    assert RunState(LATENTS, next_step, 7, {}).is_finished is is_finished


@pytest.mark.parametrize(
    ("output", "state"), [("a.mp4", "a.mp4.state.safetensors"), ("b/a.gif", "b/a.gif.state.safetensors")]
)
def test_a_state_lies_beside_the_video(output: str, state: str):
    assert find_state_path(GenerateRequest("a cat", output_path=Path(output))) == Path(state)
    assert find_state_path(GenerateRequest("a cat", save_frames=Path("frames"))) is None


def test_a_truncated_state_is_refused_by_name(tmp_path: Path):
    path = tmp_path / "a.state"
    save_state(path, STATE)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(MediaError, match=r"a\.state: no complete safetensors file"):
        load_state(path)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({}, r"a\.state: is no state of a run \(KeyError\('run_state'\)\)\. Begin anew without"),
        ({"run_state": "{}"}, "is no state of a run"),
        ({"run_state": "no json"}, "is no state of a run"),
        ({"run_state": json.dumps({"format": 2})}, "has format 2, this version reads 1. Update mlx-video"),
    ],
)
def test_other_files_are_no_states(tmp_path: Path, texts: dict[str, str], message: str):
    path = tmp_path / "a.state"
    save_latents(path, LATENTS, texts)
    with pytest.raises(MediaError, match=message):
        load_state(path)


ABSENT = object()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, ABSENT) for name in ("format", "next_step", "steps", "versions", "settings", "identity")),
        *((name, None) for name in ("next_step", "steps", "versions", "settings", "identity")),
        ("next_step", "3"), ("next_step", -1), ("next_step", 8), ("steps", 7.0), ("steps", True),
        ("settings", []), ("settings", {}), ("settings", {"seed": None}), ("settings", {"seed": "one"}),
        ("settings", {"seed": "-1"}), ("settings", {"seed": "1", "prompt": 5}), ("identity", {"--seed": 1}),
    ],
)  # fmt: skip
def test_a_state_whose_record_is_no_record_is_refused_by_name(tmp_path: Path, name: str, value: object):
    path = tmp_path / "a.state"
    save_state(path, STATE)
    arrays, texts = read_arrays(path)
    record = {**json.loads(texts["run_state"]), name: value}
    record = {key: kept for key, kept in record.items() if kept is not ABSENT}
    write_arrays(path, arrays, texts | {"run_state": json.dumps(record)})
    with pytest.raises(MediaError, match=r"a\.state: is no state of a run \(.*\)\. Begin anew without"):
        load_state(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"latents": None},
        {"latents": LATENTS[0]},
        {"latents": LATENTS.astype(mx.float16)},
        {"solver.start": START[:, :1]},
        {"solver.start": START.astype(mx.float16)},
    ],
    ids=["absent", "an axis less", "float16", "another shape", "float16 of the solver"],
)
def test_a_state_of_other_arrays_is_refused_by_name(tmp_path: Path, changes: dict[str, mx.array | None]):
    path = tmp_path / "a.state"
    save_state(path, STATE)
    arrays, texts = read_arrays(path)
    kept = {name: array for name, array in {**arrays, **changes}.items() if array is not None}
    write_arrays(path, kept, texts)
    with pytest.raises(MediaError, match=r"a\.state: is no state of a run"):
        load_state(path)


def test_a_full_disk_leaves_the_state_of_the_step_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.state"
    save_state(path, STATE)

    def break_off(file: str, *_: object) -> None:
        Path(file).write_bytes(b"half")
        raise RuntimeError("[write] Unable to write 8 bytes to file.")

    monkeypatch.setattr(mx, "save_safetensors", break_off)
    with pytest.raises(MediaError, match=r"a\.state: cannot be written .*free space"):
        save_state(path, STATE)
    assert load_state(path).next_step == 3
    assert list(tmp_path.iterdir()) == [path]
