"""Lines of prompts with options behind them, and JSON: text → options of a request."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mlx_video.errors import RequestError
from mlx_video.request.generate import GenerateRequest
from mlx_video.request.kinds import TEXT
from mlx_video.request.option import Option, options_of

SHORT_NAMES: Mapping[str, str] = {
    "w": "width",
    "h": "height",
    "f": "num_frames",
    "d": "seed",
    "s": "steps",
    "g": "guide_scale",
    "l": "guide_scale",
    "fs": "shift",
    "i": "image",
    "ei": "end_image",
    "cn": "control_video",
    "n": "negative_prompt",
}
"""Inline options of musubi-tuner → ours.

Source: musubi-tuner src/musubi_tuner/wan_generate_video.py, parse_prompt_line.
"""

_ELSEWHERE = {
    "ci": "--vace-reference-image or --reference-image",
    "cim": "--vace-video-mask",
    "of": "--num-frames 1",
}
"""Inline options of musubi-tuner that mean nothing here, and what comes near."""
_SWITCHES = {"true": True, "false": False}
_OPTION = re.compile(r"\s--(?=[A-Za-z])")
_QUOTED = re.compile(r"""(["'])(.*)\1""", re.DOTALL)


@dataclass(frozen=True, slots=True)
class PromptLine:
    """One video of a list, as somebody wrote it.

    Attributes:
        place: file and number of the line, for messages; "" for neither.
        options: names of options → their values, `prompt` among them if it was written.
    """

    place: str
    options: Mapping[str, Any]

    def told(self, error: RequestError) -> RequestError:
        """An error about an option, with the line's place in its message."""
        return RequestError(error.field, f"{error.message} In {self.place}." if self.place else error.message)


def read_lines(text: str, file: str) -> Iterator[PromptLine]:
    """Read a list of prompts, one a line; empty lines and those that begin with # are left out.

    Args:
        text: of the file.
        file: its name, for messages.

    Raises:
        RequestError: an option is unknown or has a wrong value; the message names file and line.
    """
    for number, line in enumerate(text.lstrip("\ufeff").splitlines(), start=1):
        if (stripped := line.strip()) and not stripped.startswith("#"):
            yield read_line(stripped, f"{file}, line {number}")


def read_line(text: str, place: str = "") -> PromptLine:
    """Read one prompt with its options, or one JSON object of options.

    Args:
        text: `prompt --w 832 --seed 7`, short names as musubi-tuner has them or our own flags; or
            `{"prompt": …, "width": 832}`.
        place: as in :class:`PromptLine`.

    Raises:
        RequestError: an option is unknown or has a wrong value.
    """
    try:
        return PromptLine(place, _read_object(text) if text.startswith("{") else _read_options(text))
    except RequestError as error:
        raise PromptLine(place, {}).told(error) from error


def read_values(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options by name, with values as JSON or Python has them; texts also as they stand behind a flag.

    Raises:
        RequestError: an option is unknown or has a wrong value.
    """
    values = {}
    for key, value in given.items():
        declared = _find(key.replace("-", "_"))
        is_text = isinstance(value, str) and declared.kind is not TEXT and not declared.kind.repeats
        values[declared.name] = _read_text(declared, value) if is_text else declared.read(value)
        declared.refuse_wrong(values[declared.name])
    return values


def _read_text(declared: Option, written: str) -> Any:
    """What a text stands for, also for a switch."""
    return _SWITCHES.get(written.lower(), written) if declared.is_switch else _parse(declared, written)


def _read_object(text: str) -> dict[str, Any]:
    try:
        given = json.loads(text)
    except ValueError as error:
        raise RequestError("prompt_file", f"the line begins with {{ but is no JSON: {error}.") from error
    return read_values(given)


def _read_options(text: str) -> dict[str, Any]:
    # A line may begin with an option, and have no prompt.
    prompt, *parts = _OPTION.split(f" {text}")
    values: dict[str, Any] = {"prompt": prompt.strip()} if prompt.strip() else {}
    for part in parts:
        flag, _, written = part.strip().partition(" ")
        flag, equals, behind = flag.partition("=")
        name, is_off = _read_flag(flag)
        value = _read_value(name, behind if equals else written.strip(), is_off=is_off)
        values[name] = (*values.get(name, ()), value) if _find(name).kind.repeats else value
    return values


def _read_flag(flag: str) -> tuple[str, bool]:
    """Name of the option of a flag, and whether the flag turns it off or empties it."""
    if flag in _ELSEWHERE:
        raise RequestError(flag, f"is not taken here. See {_ELSEWHERE[flag]}.")
    for name, declared in options_of(GenerateRequest).items():
        if f"--{flag}" == declared.off_flag and (declared.off_help or declared.is_on_by_default):
            return name, True
        if f"--{flag}" == declared.flag:
            return name, False
    return _find(SHORT_NAMES.get(flag, flag.replace("-", "_"))).name, False


def _read_value(name: str, written: str, *, is_off: bool) -> Any:
    declared = _find(name)
    if is_off or declared.is_switch:
        if written:
            raise RequestError(name, f"takes no value, here it has {written!r}. Leave it out.")
        return (False if declared.is_switch else "") if is_off else True
    if not written:
        raise RequestError(name, "has no value. Write one behind it.")
    if not declared.kind.repeats and (quoted := _QUOTED.fullmatch(written)):
        written = quoted[2]
    return _parse(declared, written)


def _parse(declared: Option, written: str) -> Any:
    """What a text stands for, as behind the option's flag."""
    try:
        value = declared.kind.parse(shlex.split(written) if declared.kind.repeats else written)
    except ValueError as error:
        raise RequestError(declared.name, f"{error}.") from error
    declared.refuse_wrong((value,) if declared.kind.repeats else value)
    return value


def _find(name: str) -> Option:
    known = options_of(GenerateRequest)
    by_flag = {each.flag.lstrip("-").replace("-", "_"): each for each in known.values()}
    found = known.get(name) or by_flag.get(name)
    if found is None:
        short = ", ".join(f"--{each}" for each in SHORT_NAMES)
        raise RequestError(
            name, f"unknown option. A prompt takes those of a video that --help lists, and {short}."
        )
    return found
