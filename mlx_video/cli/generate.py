"""Make a video from a prompt: `python -m mlx_video.generate_wan`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlx_video.cli import arguments
from mlx_video.cli.console import run_command
from mlx_video.cli.named_model import demo_of, open_model_of, parts_of
from mlx_video.errors import RequestError
from mlx_video.events import TextResult
from mlx_video.request import GenerateRequest, ModelRequest, option

if TYPE_CHECKING:
    from mlx_video.events import Event


@dataclass
class PlanOptions:
    """Options that ask for the plan of a run, in place of the run."""

    plan: bool = option(
        False,
        help="print what a run would keep in memory and adjust; downloads and makes nothing, needs no prompt",
        group="memory",
    )


OPTIONS = (ModelRequest, GenerateRequest, PlanOptions, arguments.CommonOptions)


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    return arguments.build_parser("python -m mlx_video.generate_wan", __doc__, OPTIONS)


def build_request(args: argparse.Namespace) -> GenerateRequest:
    """The request that the parsed options describe.

    Raises:
        RequestError: a value is out of range, or the prompt is missing.
    """
    prompt = args.prompt
    if prompt is None and args.folder is None:
        from mlx_video.convert.demo_model import DEMO_PROMPT

        prompt = DEMO_PROMPT
    if prompt is None and args.plan:
        from mlx_video.runs.memory import ANY_PROMPT

        prompt = ANY_PROMPT
    if prompt is None and args.decode_only is None:
        raise RequestError("prompt", 'missing: say what the video should show, or give "" for no prompt.')
    return arguments.request_from(GenerateRequest, args, prompt=prompt or "")


def run_events(args: argparse.Namespace) -> Iterator[Event]:
    """Open the model, then make the video."""
    request = build_request(args)
    if args.plan:
        yield from plan_events(args, request)
        return
    from mlx_video.convert.local_files import with_local_adapters
    from mlx_video.runs.generate import prepare_run
    from mlx_video.runs.segments import generate_segments

    model, config = yield from open_model_of(args, request)
    request = yield from with_local_adapters(request)
    yield from generate_segments(request, lambda one: prepare_run(one, model, config))


def plan_events(args: argparse.Namespace, request: GenerateRequest) -> Iterator[Event]:
    """Open the model and say what a run would keep in memory; nothing is downloaded or left on disk."""
    from mlx_video.convert.demo_model import passing_demo_model
    from mlx_video.convert.local_files import with_local_adapters
    from mlx_video.events import finish
    from mlx_video.files.hub_cache import nothing_downloaded
    from mlx_video.loading.components import open_named_model
    from mlx_video.runs.generate import plan_generation

    events: list[Event] = []
    with ExitStack() as stack:
        stack.enter_context(nothing_downloaded())
        place = args.folder
        if place is None:
            demo = demo_of(request)
            events.append(demo.report())
            place = stack.enter_context(passing_demo_model(demo))
        model, config = finish(open_named_model(place, args.revision, parts_of(args)), events.append)
        request = finish(with_local_adapters(request), events.append)
        plan = plan_generation(request, model, config)
    yield from events
    yield TextResult(str(plan))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 done, 1 a known error, 2 a wrong option, 130 interrupted.
    """
    return run_command(run_events, build_parser().parse_args(argv))
