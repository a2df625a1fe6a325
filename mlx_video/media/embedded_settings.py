"""A run's settings as the text that is stored inside a media file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

# Half surrogates are no UTF-8 and the two non-characters are no XML; JSON can spell all of them in ASCII.
_NOT_PLAIN_TEXT = re.compile("[\ud800-\udfff\ufffe\uffff]")


def settings_to_text(settings: Mapping[str, str]) -> str:
    """Write settings as one line of JSON that is valid UTF-8 and free of control characters."""
    text = json.dumps(dict(settings), ensure_ascii=False)
    return _NOT_PLAIN_TEXT.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def text_to_settings(text: str) -> dict[str, str]:
    """Read what `settings_to_text` wrote; the comment of another program gives an empty dictionary."""
    try:
        settings = json.loads(text)
    except ValueError:
        return {}
    if not isinstance(settings, dict):
        return {}
    return {key: value for key, value in settings.items() if isinstance(value, str)}


def title_of(settings: Mapping[str, str]) -> str:
    """The prompt as a file's title, without what no format holds (zero characters, half surrogates)."""
    prompt = settings.get("prompt", "").replace("\0", " ")
    return prompt.encode("utf-8", "replace").decode("utf-8")
