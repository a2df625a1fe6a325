"""What a client asks for → settings of a video; no text of a client ever becomes a path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlx_video.errors import RequestError
from mlx_video.request import RANDOM_SEED, GenerateRequest, draw_seed, options_of
from mlx_video.request.kinds import (
    IMAGE,
    LAYER_SCALES,
    NUMBER,
    NUMBERS,
    SCALES,
    SWITCH,
    TERMINAL,
    TEXT,
    VIDEO,
    WHOLE,
    WHOLE_NUMBERS,
)
from mlx_video.request.prompt_lines import read_values
from mlx_video.server.shelf import ModelCard, ModelShelf
from mlx_video.server.store import StoredVideo

_PLAIN = (TEXT, WHOLE, NUMBER, NUMBERS, SCALES, LAYER_SCALES, WHOLE_NUMBERS, SWITCH)

SETTINGS = tuple(
    name
    for name, declared in options_of(GenerateRequest).items()
    if declared.kind in _PLAIN and declared.affects != "run"
)
"""Options that a client may give as texts and numbers: what decides the video, and no place."""

UPLOADS = tuple(
    name for name, declared in options_of(GenerateRequest).items() if declared.kind in (IMAGE, VIDEO)
)
"""Options that a client gives as files."""

RESULT = "video.mp4"

# Kinds of files by how they begin. Others are not opened: some name further files, which would be read too.
_STARTS = (
    (0, b"\x89PNG\r\n\x1a\n", ".png", (IMAGE, VIDEO)),
    (0, b"\xff\xd8\xff", ".jpg", (IMAGE, VIDEO)),
    (0, b"GIF8", ".gif", (IMAGE, VIDEO)),
    (8, b"WEBP", ".webp", (IMAGE, VIDEO)),
    (4, b"ftyp", ".mp4", (VIDEO,)),
    (0, b"\x1a\x45\xdf\xa3", ".webm", (VIDEO,)),
)


@dataclass(frozen=True, slots=True)
class Asked:
    """A video that a client asks for, checked as far as that needs no weights and no pictures.

    Attributes:
        model: its card.
        settings: options, as JSON has them.
        size, seconds: as OpenAI's interface tells them.
    """

    model: ModelCard
    settings: Mapping[str, Any]
    size: str
    seconds: str


@dataclass(slots=True)
class Form:
    """What came with a request.

    Attributes:
        fields: texts, or what JSON has.
        files: option → content.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)


def read_form(form: Form, shelf: ModelShelf) -> Asked:
    """Check what a client asks for.

    Raises:
        RequestError: something is unknown, or has a wrong value.
    """
    fields = {name: value for name, value in form.fields.items() if value is not None}
    for name in fields.keys() - {"model", "size", "seconds", *SETTINGS}:
        raise RequestError(name, _refusal(name))
    for name, content in form.files.items():
        suffix_of(name, content)
    card = _find_card(shelf, fields.pop("model", None) or None, frozenset(form.files))
    size, seconds = fields.pop("size", None), fields.pop("seconds", None)
    settings = read_values(fields)
    if not str(settings.get("prompt", "")).strip():
        raise RequestError("prompt", "missing: say what the video should show.")
    settings |= _read_size(size, settings) | _read_seconds(seconds, settings, card)
    if settings.get("seed", RANDOM_SEED) == RANDOM_SEED:
        settings["seed"] = draw_seed()
    stand_ins: dict[str, Any] = {name: Path(name) for name in form.files}
    GenerateRequest(**settings, **stand_ins)  # refuses what contradicts itself
    width, height = settings.get("width") or card.width, settings.get("height") or card.height
    length = (settings.get("num_frames") or card.num_frames) / card.fps
    return Asked(card, settings, f"{width}x{height}", f"{length:g}")


def _refusal(name: str) -> str:
    if name in UPLOADS:
        return "is taken as an uploaded file alone. Send it as a part of a form, or input_reference as data."
    if name in options_of(GenerateRequest):
        return "is not for clients: it concerns the server's own files or memory."
    return "unknown. Known are model, size, seconds and the options of a video."


def _find_card(shelf: ModelShelf, name: str | None, given: frozenset[str]) -> ModelCard:
    """The model that is asked for; else the first that makes a video of what is given."""
    cards = shelf.cards()
    listed = ", ".join(card.name for card in cards)
    if name is None:
        suitable = next((card for card in cards if card.suits(given)), None)
        if suitable is None:
            what = ", ".join(sorted(given)) or "a prompt alone"
            raise RequestError("model", f"none here takes {what}. There are: {listed}.")
        return suitable
    for card in cards:
        if card.name == name:
            return card
    raise RequestError("model", f"{name}: no such model here. There are: {listed}.")


def _read_size(size: Any, settings: Mapping[str, Any]) -> dict[str, int]:
    if size is None:
        return {}
    if {"width", "height"} & settings.keys():
        raise RequestError("size", f"{size}: beside width or height. Give one.")
    width, _, height = str(size).partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise RequestError("size", f"{size!r}: must be width and height, such as 832x480.")
    return read_values({"width": int(width), "height": int(height)})


def _read_seconds(seconds: Any, settings: Mapping[str, Any], card: ModelCard) -> dict[str, int]:
    """The number of frames that comes nearest to a length."""
    if seconds is None:
        return {}
    if "num_frames" in settings:
        raise RequestError("seconds", f"{seconds}: beside num_frames. Give one.")
    try:
        frames = float(seconds) * card.fps
        steps = max(0, round((frames - 1) / card.frame_step))
    except (ValueError, OverflowError, TypeError) as error:
        raise RequestError("seconds", f"{seconds!r}: must be a number.") from error
    if frames <= 0:
        raise RequestError("seconds", f"{seconds}: must be more than 0.")
    return {"num_frames": 1 + card.frame_step * steps}


def suffix_of(name: str, content: bytes) -> str:
    """The ending for an uploaded file, by what it holds.

    Raises:
        RequestError: it is of a kind that is not taken for this option.
    """
    kind = options_of(GenerateRequest)[name].kind
    for offset, start, suffix, kinds in _STARTS:
        if content[offset : offset + len(start)] == start and kind in kinds:
            return suffix
    wanted = "PNG, JPEG, WebP or GIF" if kind is IMAGE else "MP4, MOV, WebM, GIF or WebP"
    raise RequestError(name, f"is of a kind that is not taken. Send a {wanted}.")


def save_files(files: Mapping[str, bytes], folder: Path) -> dict[str, str]:
    """Write uploaded files under names of our own: option → name in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {name: f"{name}{suffix_of(name, content)}" for name, content in files.items()}
    for name, file_name in names.items():
        (folder / file_name).write_bytes(files[name])
    return names


def build_request(
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
    folder: Path,
    memory_limit: float | None,
    *,
    is_plan: bool = False,
) -> GenerateRequest:
    """The request of a video, which goes on from what an earlier server has kept of it.

    Args:
        settings: as they are stored.
        inputs: option → name of its file in the folder.
        folder: of the video.
        memory_limit: in GB; None for what the machine has.
        is_plan: whether nothing is to be made.
    """
    files: dict[str, Any] = {name: folder / file_name for name, file_name in inputs.items()}
    made: dict[str, Any] = {"output_path": folder / RESULT, "resume": True, "preview": TERMINAL}
    return GenerateRequest(
        **read_values(settings), **files, memory_limit=memory_limit, **({} if is_plan else made)
    )


def request_of(video: StoredVideo, folder: Path, memory_limit: float | None) -> GenerateRequest:
    """The request of a stored video, whose files lie in a folder."""
    return build_request(video.settings, video.inputs, folder, memory_limit)
