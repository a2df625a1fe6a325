"""Every event as a line of JSON, as docs/events.md describes it."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import events
from mlx_video.events import BytesDownloaded, Event, Notice, ResumeHint, StateSaved, StepFinished
from mlx_video.progress.display import Ending
from mlx_video.progress.json_lines import COMMON_KEYS, VERSION, JsonLines, to_json
from tests.progress.clock import FakeClock

DOCUMENT = Path(__file__).parents[2] / "docs" / "events.md"
EVENTS = get_args(Event)
OBJECTS = (*EVENTS, Ending)
SAMPLES = {
    int: 3,
    float: 0.5,
    str: "a",
    bool: True,
    Path: Path("a.mp4"),
    mx.array: mx.zeros((2, 3)),
    np.ndarray: np.zeros((2, 3)),
    Exception: ValueError("a"),
    NoneType: None,
}


def sample(type_: Any) -> Any:
    """Some value of a type."""
    if type_ in SAMPLES:
        return SAMPLES[type_]
    if is_dataclass(type_):
        hints = get_type_hints(type_, localns={"mx": mx, "np": np})
        return type_(**{each.name: sample(hints[each.name]) for each in fields(type_)})
    origin, inner = get_origin(type_), get_args(type_)
    if origin is tuple:
        return (sample(inner[0]),)
    if origin is Mapping:
        return {sample(inner[0]): sample(inner[1])}
    return sample(inner[0]) if not isinstance(inner[0], str) else inner[0]


def lines_of(*shown: Any, clock: FakeClock | None = None) -> list[dict[str, Any]]:
    display = JsonLines(io.StringIO(), clock=clock or FakeClock())
    for each in shown:
        display.end(each) if isinstance(each, Ending) else display.show(each)
    return [json.loads(line) for line in display.stream.getvalue().splitlines()]


@pytest.mark.parametrize("kind", OBJECTS, ids=lambda kind: kind.__name__)
def test_every_event_is_one_object_of_its_fields(kind: type):
    (line,) = lines_of(sample(kind))
    assert tuple(line) == (*COMMON_KEYS, *(each.name for each in fields(kind)))
    assert line["version"] == VERSION
    assert line["event"] == kind.__name__


@pytest.mark.parametrize("kind", OBJECTS, ids=lambda kind: kind.__name__)
def test_every_event_and_every_field_is_documented(kind: type):
    sections = dict(
        re.findall(r"^### `(\w+)`\n(.*?)(?=^##|\Z)", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    )
    assert kind.__name__ in sections
    named = re.findall(r"^- `(\w+)`:", sections[kind.__name__], re.MULTILINE)
    assert named == [each.name for each in fields(kind)]


def test_nothing_else_is_documented():
    named = set(re.findall(r"^### `(\w+)`$", DOCUMENT.read_text(), re.MULTILINE))
    assert named == {kind.__name__ for kind in OBJECTS}
    assert f'"version": {VERSION}' in DOCUMENT.read_text()


def test_every_dataclass_of_the_module_is_an_event_or_part_of_one():
    declared = {each for each in vars(events).values() if is_dataclass(each)}
    assert declared - set(EVENTS) == {ResumeHint}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (mx.zeros((16, 5, 8, 8), mx.float16), {"shape": [16, 5, 8, 8], "dtype": "float16"}),
        (np.zeros((4, 2, 3), np.uint8), {"shape": [4, 2, 3], "dtype": "uint8"}),
        (float("nan"), None),
        (float("inf"), None),
        (True, True),
        ((1, Path("a")), [1, "a"]),
        ({"denoise": 1}, {"denoise": 1}),
        (ResumeHint("a", "b"), {"command": "a", "python": "b"}),
    ],
)
def test_values_by_their_kind(value: Any, expected: Any):
    assert to_json(value) == expected


def test_what_has_no_rule_is_an_error_and_not_its_address():
    with pytest.raises(TypeError, match="no JSON for object"):
        to_json(object())


def test_a_line_tells_the_time_so_far_and_the_time_left():
    clock = FakeClock()
    display = JsonLines(io.StringIO(), clock=clock)
    display.show(BytesDownloaded(0, 40))
    clock.wait(10)
    display.show(BytesDownloaded(10, 40))
    first, second = map(json.loads, display.stream.getvalue().splitlines())
    assert (first["elapsed_seconds"], first["left_seconds"]) == (0, None)
    assert (second["elapsed_seconds"], second["left_seconds"]) == (10, 30)


def test_a_line_stays_one_line_whatever_a_text_holds():
    (line,) = lines_of(Notice("two\nlines \u2028 and a name \udcff"))
    assert line["text"] == "two\nlines \u2028 and a name \\udcff"  # written out, as for a terminal


def test_a_program_learns_how_to_go_on(tmp_path: Path):
    saved = StateSaved(tmp_path, 1, 2, ResumeHint("--resume", "resume=True"))
    display = JsonLines(io.StringIO())
    display.show(saved)
    display.show(StepFinished(0, 2, 999.0, 1.0, mx.zeros(1)))
    display.end(display.ending("error", 1, "broken", display.tally.resume_hint))
    last = json.loads(display.stream.getvalue().splitlines()[-1])
    assert (last["event"], last["status"], last["exit_code"], last["message"]) == (
        "Ending",
        "error",
        1,
        "broken",
    )
    assert last["resume_hint"] == {"command": "--resume", "python": "resume=True"}
