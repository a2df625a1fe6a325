"""Answers of the Hub, a server like any other: none is read, or waited for, without end."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mlx_video.limits import LARGEST_TEXT_BYTES, LONGEST_WAIT_SECONDS

_BAD_REQUEST = 400
_TOO_EARLY = (408, 429)
# Read time-outs that a whole text may take: single bytes keep each read alive.
_TIMEOUTS_OF_TEXT = 2
_TOLD_HEADERS = ("x-error-code", "x-error-message", "x-request-id", "retry-after", "ratelimit")
_RESET = re.compile(r"\bt=(\d+)")


class UnusableAnswer(Exception):
    """What the Hub sends is no answer to what it was asked."""


@contextmanager
def ask(url: str, headers: Mapping[str, str] | None = None) -> Iterator[Any]:
    """Ask for something, with the user's token; its body has not come yet.

    Args:
        url: of it.
        headers: besides the usual ones.

    Raises:
        Exception: whatever huggingface_hub raises for an answer that refuses, and its library for none.
    """
    from huggingface_hub.constants import HF_HUB_DOWNLOAD_TIMEOUT
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    asked = {**build_hf_headers(), "Accept-Encoding": "identity", **(headers or {})}
    with get_session().stream("GET", url, headers=asked, timeout=HF_HUB_DOWNLOAD_TIMEOUT) as response:
        if response.status_code >= _BAD_REQUEST:
            hf_raise_for_status(_in_short(response))  # it would read the body, however long
        yield response


def ask_for_json(url: str) -> dict[str, Any]:
    """Ask for a JSON object.

    Raises:
        UnusableAnswer: what comes is none, or has no end.
        Exception: as :func:`ask`.
    """
    with ask(url) as response:
        text = b"".join(_pieces(response))
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnusableAnswer(f"an answer that is no JSON ({error})") from error
    if not isinstance(content, dict):
        raise UnusableAnswer(f"a JSON {type(content).__name__} where an object is expected")
    return content


def seconds_to_wait(error: Exception, usual: float) -> float | None:
    """How long to wait before the same is asked again; None where that would not help, or not for long.

    Args:
        error: that was raised for the answer, or for none.
        usual: where the Hub does not say how long.
    """
    if any(kind.__name__ == "TransportError" for kind in type(error).__mro__):  # it has had several homes
        return usual
    response = getattr(error, "response", None)
    if response is None or response.status_code not in _TOO_EARLY:
        return None
    asked = stated_wait(response.headers)
    return usual if asked is None else asked if asked <= LONGEST_WAIT_SECONDS else None


def stated_wait(headers: Mapping[str, str]) -> int | None:
    """The seconds that an answer says to wait."""
    stated = headers.get("Retry-After", "").strip()
    reset = _RESET.search(headers.get("RateLimit", ""))
    text = stated if stated.isdecimal() else reset[1] if reset else ""
    return int(text[:10]) if text else None


def _pieces(response: Any) -> Iterator[bytes]:
    """The body of a text as it comes."""
    from huggingface_hub.constants import HF_HUB_DOWNLOAD_TIMEOUT

    end, nbytes = time.monotonic() + _TIMEOUTS_OF_TEXT * HF_HUB_DOWNLOAD_TIMEOUT, 0
    for piece in response.iter_bytes():
        nbytes += len(piece)
        if nbytes > LARGEST_TEXT_BYTES:
            raise UnusableAnswer(f"a text of more than {LARGEST_TEXT_BYTES:,} bytes")
        if time.monotonic() > end:
            raise UnusableAnswer(
                f"{nbytes:,} bytes of a text in {_TIMEOUTS_OF_TEXT} times HF_HUB_DOWNLOAD_TIMEOUT "
                f"({HF_HUB_DOWNLOAD_TIMEOUT} s), and no end"
            )
        yield piece


def _in_short(response: Any) -> Any:
    """The same answer with what comes of its body at once, if that is an object of JSON; else without."""
    body = next(response.iter_bytes(), b"")
    try:
        is_told = isinstance(json.loads(body), dict)
    except (ValueError, RecursionError):
        is_told = False
    headers = [(name, value) for name, value in response.headers.items() if name in _TOLD_HEADERS]
    return type(response)(
        response.status_code,
        headers=headers,
        content=body if is_told else b"",
        request=response.request,
    )
