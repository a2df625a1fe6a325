"""Serve videos on a page and behind OpenAI's endpoints: `python -m mlx_video.serve`."""

from __future__ import annotations

import argparse
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_video.cli import arguments
from mlx_video.cli.console import run_command
from mlx_video.errors import ConfigError
from mlx_video.events import Notice, TextResult
from mlx_video.files.whole_file import check_folder
from mlx_video.request.serve import ServeRequest

if TYPE_CHECKING:
    from mlx_video.events import Event
    from mlx_video.server.serve import Binding

OPTIONS = (ServeRequest, arguments.CommonOptions)
_TOKEN_BYTES = 24
_MB = 1e6


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    return arguments.build_parser(
        "python -m mlx_video.serve",
        "Make videos for a page in the browser and for clients of OpenAI's video endpoints, one after "
        "another. The queue and what is unfinished outlive the server. Needs the extra [serve].",
        OPTIONS,
    )


def run_events(args: argparse.Namespace) -> Iterator[Event]:
    """Start the server, say where it is, and serve until Ctrl-C."""
    request = arguments.request_from(ServeRequest, args)
    try:
        from mlx_video.server import serve
    except ImportError as error:
        raise ConfigError(
            f"{error.name} is not installed, which the server needs. "
            "Install it with: pip install 'mlx-video[serve]'"
        ) from error
    from mlx_video.server.shelf import ModelShelf, demo_places, places_in

    models = request.models and request.models.resolve()
    shelf = ModelShelf(places_in(models) if models else demo_places())
    folder = request.output_dir.resolve()
    check_folder(folder)
    binding = _binding(request)
    hidden = [each for each in (models, folder) if each]
    # Names of pictures stand in the videos that are made of them; these are of the folder alone.
    os.chdir(folder)
    with (
        serve.opened_service(Path(), shelf, hidden, request.memory_limit) as service,
        binding.listen() as opened,
    ):
        if binding.token and request.token is None:
            yield Notice(f"Clients need this token as their key: {binding.token}")
        yield Notice("Ctrl-C ends the server; what is unfinished goes on when it starts again.")
        yield TextResult(binding.address(opened.getsockname()[1]))
        try:
            serve.serve(service, binding, opened)
        except KeyboardInterrupt:
            yield Notice("Waiting for the step in hand; Ctrl-C again leaves at once.")


def _binding(request: ServeRequest) -> Binding:
    from mlx_video.server.guard import LOOPBACK
    from mlx_video.server.serve import Binding

    token = request.token
    if token is None:
        token = "" if request.host in LOOPBACK else secrets.token_urlsafe(_TOKEN_BYTES)
    names = [name.strip() for name in (request.allow_host or "").split(",") if name.strip()]
    return Binding(request.host, request.port, token, names, int(request.max_upload * _MB))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 ended by Ctrl-C, 1 a known error, 2 a wrong option, 130 interrupted before or after it served.
    """
    return run_command(run_events, build_parser().parse_args(argv))
