"""Declarations of options that a conversion and a run have in common."""

from __future__ import annotations

from typing import Any

from mlx_video.request.option import option


def adapters_option(which: str, flag_name: str, group: str) -> Any:
    """Adapters for one transformer, or for all.

    Args:
        which: transformer they are for, in words.
        flag_name: of the flag, which names one adapter.
        group: heading of --help.
    """
    return option(
        (),
        help=f"adapter for {which}, a file or `owner/name/file` on the Hub, and its strength, 1 if left out",
        group=group,
        flag_name=flag_name,
    )


def strict_option(group: str) -> Any:
    """The switch that makes an error of what an adapter cannot do."""
    return option(
        False,
        help="refuse an adapter that changes nothing, or of which a part does not fit the model, instead of "
        "saying so",
        group=group,
        affects="run",
    )


def component_option(help: str, group: str, *, default_text: str, metavar: str = "FILE") -> Any:
    """A component in place of that of the checkpoint or model."""
    return option(None, help=help, group=group, metavar=metavar, default_text=default_text, affects="run")
