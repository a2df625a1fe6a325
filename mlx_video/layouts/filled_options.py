"""Options of the command line with files filled in, for messages that leave the choice to the user."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mlx_video.layouts.expert_names import propose_pairs

_MOST_LINES = 8


def name_transformers(values: Mapping[str, str]) -> list[str]:
    """Options of which each names the transformers of one model.

    Args:
        values: the name of each transformer's file, with the folders that it lies in → the value of an
            option, quoted for a shell.

    Returns:
        Both experts for each pair that names tell; where there is none, one option for each transformer.
    """
    pairs = propose_pairs(values)
    if pairs:
        return [f"--high-noise {values[high]} --low-noise {values[low]}" for high, low in pairs]
    return [f"--transformer {value}" for value in values.values()]


def list_options(options: Iterable[str], most: int = _MOST_LINES) -> str:
    """Options below each other, each behind a line break; of many the first `most`, and how many follow."""
    texts = list(options)
    more = len(texts) - most
    shown = texts[:most] if more > 1 else texts
    return "".join(f"\n  {text}" for text in shown) + (f"\n  ({more} more)" if more > 1 else "")
