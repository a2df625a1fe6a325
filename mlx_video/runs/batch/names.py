"""Names of the videos of a list: patterns of `--output-path`, one name for each, none twice."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from mlx_video.errors import RequestError
from mlx_video.request import GenerateRequest
from mlx_video.runs.batch.finished import read_settings
from mlx_video.runs.result_names import result_entries

_FIELD = re.compile(r"\{(seed|i|prompt)(?::0?(\d{1,2}))?\}")
_NOT_A_WORD = re.compile(r"[\W_]+")
_SLUG_BYTES = 60


def is_pattern(path: Path) -> bool:
    """Whether a path holds `{seed}`, `{i}` or `{prompt}`."""
    return _FIELD.search(str(path)) is not None


def with_default_pattern(path: Path) -> Path:
    """The pattern of several videos for which one name is given: `name_{seed}_{i}`."""
    return path if is_pattern(path) else path.with_name(f"{path.stem}_{{seed}}_{{i}}{path.suffix}")


def fill_pattern(path: Path, *, seed: int, number: int, prompt: str) -> Path:
    """A name by its pattern.

    Args:
        path: may hold `{seed}`, `{i}`, `{prompt}`, the first two also with a width: `{i:03}`.
        seed: of the video.
        number: of the video in its list, from 1.
        prompt: of the video, of which a part that any file system takes stands for `{prompt}`.
    """
    values = {"seed": seed, "i": number, "prompt": slug_of(prompt)}

    def fill(found: re.Match[str]) -> str:
        value = str(values[found[1]])
        return value.zfill(int(found[2])) if found[2] and found[1] != "prompt" else value

    return Path(_FIELD.sub(fill, str(path)))


def slug_of(text: str) -> str:
    """Letters and digits of a text with dashes between its words, of at most 60 bytes; "video" for none."""
    words = _NOT_A_WORD.sub("-", unicodedata.normalize("NFKC", text).casefold())
    cut = words.strip("-").encode("utf-8")[:_SLUG_BYTES].decode("utf-8", "ignore")
    return cut.strip("-") or "video"


def find_seed(path: Path, *, number: int, prompt: str) -> int | None:
    """The seed that an earlier run of a list drew for a video, told by its file or its state.

    Args:
        path: the pattern of its name.
        number, prompt: as for :func:`fill_pattern`.

    Returns:
        That of the newest file of the pattern with this prompt; None where there is none.
    """
    # A seed stands in for any other: the rest of the name must fit.
    marker = 10**19 + 7
    filled = fill_pattern(path, seed=marker, number=number, prompt=prompt)
    name = re.compile(re.escape(filled.stem).replace(str(marker), r"\d+") + r"(\..+)?")
    folder = filled.parent
    found = [each for each in folder.iterdir() if name.fullmatch(each.name)] if folder.is_dir() else []
    for each in sorted(found, key=lambda each: each.stat().st_mtime, reverse=True):
        settings = read_settings(each)
        if settings.get("prompt") == prompt and settings.get("seed", "").isdigit():
            return int(settings["seed"])
    return None


def refuse_equal_names(requests: Iterable[GenerateRequest]) -> None:
    """Make sure that no video of a list takes a name of another; previews may share a file in turn.

    Raises:
        RequestError: two have the same name.
    """
    owners: dict[object, tuple[int, str]] = {}
    for number, request in enumerate(requests, start=1):
        for option, path, entry in result_entries(request):
            owner, first = owners.setdefault(entry, (number, option))
            if owner != number and not option == first == "preview":
                raise RequestError(
                    option,
                    f"{path}: videos {owner} and {number} of the list both have this name. Put {{i}} or "
                    "{seed} into it, or give each a name of its own.",
                )
