"""A run's settings as the text that is stored inside a media file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

# Half surrogates are no UTF-8, the two non-characters are no XML, and terminals obey the codes behind ASCII,
# which json leaves alone; it can spell all of them in ASCII.
_NOT_PLAIN_TEXT = re.compile("[\x7f-\x9f\ud800-\udfff\ufffe\uffff]")

_RUN_KEYS = frozenset(("prompt", "seed"))
_MARK, _MAKER = "made_by", "mlx-video"


def settings_to_text(settings: Mapping[str, str]) -> str:
    """Write settings as one line of JSON that is valid UTF-8 and free of control characters.

    Settings that do not look like those of a run get a mark, by which :func:`is_own_text` knows the file.
    """
    marked = dict(settings) if _look_like_a_run(settings) else {**settings, _MARK: _MAKER}
    text = json.dumps(marked, ensure_ascii=False)
    return _NOT_PLAIN_TEXT.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def text_to_settings(text: str) -> dict[str, str]:
    """Read what `settings_to_text` wrote; the comment of another program gives an empty dictionary."""
    texts = {key: value for key, value in _read_object(text).items() if isinstance(value, str)}
    if texts.get(_MARK) == _MAKER:
        del texts[_MARK]
    return texts


def is_own_text(text: str) -> bool:
    """Whether `settings_to_text` wrote a text, of this version or an earlier one."""
    return is_own_settings(_read_object(text))


def is_own_settings(settings: Mapping[str, object]) -> bool:
    """Whether settings are what `settings_to_text` wrote: texts alone, with its mark or those of a run."""
    if not all(isinstance(value, str) for value in settings.values()):
        return False
    return settings.get(_MARK) == _MAKER or _look_like_a_run(settings)


def _look_like_a_run(settings: Mapping[str, object]) -> bool:
    return settings.keys() >= _RUN_KEYS


def _read_object(text: str) -> dict[str, object]:
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return settings if isinstance(settings, dict) else {}


def title_of(settings: Mapping[str, str]) -> str:
    """The prompt as a file's title, without what no format holds (zero characters, half surrogates)."""
    prompt = settings.get("prompt", "").replace("\0", " ")
    return prompt.encode("utf-8", "replace").decode("utf-8")
