"""Make a video from a prompt: `python -m mlx_video.generate_wan`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlx_video.cli import arguments
from mlx_video.cli.checks import check_terminal
from mlx_video.cli.clustered import planned_division, refuse_on_several, run_with_others
from mlx_video.cli.console import run_command
from mlx_video.cli.interactive import run_interactive
from mlx_video.cli.many import (
    list_items,
    make_list,
    open_maker,
    print_settings,
    read_many,
    shared_options,
    with_team,
)
from mlx_video.cli.named_model import inputs_of, open_model_of, parts_of
from mlx_video.distributed.launch import is_launched
from mlx_video.events import TextResult
from mlx_video.request import GenerateRequest, ModelRequest, option
from mlx_video.request.many import ManyOptions

if TYPE_CHECKING:
    from mlx_video.distributed.cluster import Cluster
    from mlx_video.events import Event


@dataclass
class PlanOptions:
    """Options that ask for the plan of a run, in place of the run."""

    plan: bool = option(
        False,
        help="print what a run would keep in memory and adjust; downloads and makes nothing, needs no prompt",
        group="memory",
    )


OPTIONS = (ModelRequest, GenerateRequest, ManyOptions, PlanOptions, arguments.CommonOptions)


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    return arguments.build_parser("python -m mlx_video.generate_wan", __doc__, OPTIONS)


def build_request(args: argparse.Namespace) -> GenerateRequest:
    """The request that the parsed options describe; the first of several.

    Raises:
        RequestError: a value is out of range, or the prompt is missing.
    """
    shared, _ = shared_options(args)
    return list_items(args, read_many(args), with_usual_prompt(args, shared))[0].request


def with_usual_prompt(args: argparse.Namespace, shared: Mapping[str, Any]) -> dict[str, Any]:
    """Options with a prompt for where none is needed: of the demo model, and of a plan."""
    usual = {}
    if args.folder is None:
        from mlx_video.convert.demo_model import DEMO_PROMPT

        usual["prompt"] = DEMO_PROMPT
    elif args.plan:
        from mlx_video.runs.memory import ANY_PROMPT

        usual["prompt"] = ANY_PROMPT
    return {**usual, **shared}


def run_events(args: argparse.Namespace, cluster: Cluster | None = None) -> Iterator[Event]:
    """Open the model, then make the videos; or show what would be made.

    Args:
        args: parsed.
        cluster: whose rank 0 this process is; None for a process that works alone.
    """
    many = read_many(args)
    if many.print_settings:
        yield from print_settings(args)
        return
    shared, notices = shared_options(args)
    yield from notices
    items = list_items(args, many, with_usual_prompt(args, shared))
    for item in items:
        check_terminal(item.request, is_shown=not args.quiet and not args.plan)
    if cluster is not None:
        refuse_on_several(args)
    if args.plan:
        yield from plan_events(args, [item.request for item in items], cluster)
        return
    if len(items) > 1:
        inputs = inputs_of([item.request for item in items])
        maker = yield from open_maker(args, inputs)
        if cluster is not None:
            maker, items = yield from with_team(maker, cluster, items)
        yield from make_list(maker, items)
    else:
        yield from make_one(args, items[0].request, cluster)


def make_one(
    args: argparse.Namespace, request: GenerateRequest, cluster: Cluster | None = None
) -> Iterator[Event]:
    """Open the model and make one video, of which no network outlives its stage."""
    from mlx_video.convert.local_files import with_local_adapters
    from mlx_video.runs.generate import prepare_run
    from mlx_video.runs.uploads import make_anywhere

    model, config = yield from open_model_of(args, inputs_of([request]))
    request = yield from with_local_adapters(request)
    sharing = None
    if cluster is not None:
        from mlx_video.runs.cluster.team import form_team

        sharing = (yield from form_team(cluster, model, config, [request])).sharing
    yield from make_anywhere(request, lambda one: prepare_run(one, model, config, sharing=sharing))


def plan_events(
    args: argparse.Namespace, requests: Sequence[GenerateRequest], cluster: Cluster | None = None
) -> Iterator[Event]:
    """Open the model and say what runs would keep in memory; nothing is downloaded or left on disk."""
    from mlx_video.convert.demo_model import demo_for, passing_demo_model
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
            demo = demo_for(inputs_of(requests))
            events.append(demo.report())
            place = stack.enter_context(passing_demo_model(demo))
        model, config = finish(open_named_model(place, args.revision, parts_of(args)), events.append)
        local = [finish(with_local_adapters(request), events.append) for request in requests]
        plans = [
            plan_generation(request, model, config, division=planned_division(cluster, request.parallel))
            for request in local
        ]
    yield from events
    different: dict[object, str] = {}
    for plan in plans:  # what is free on the machine may change between equal ones
        different.setdefault((plan.notices, plan.stages), str(plan))
    yield from map(TextResult, different.values())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 done, 1 a known error, 2 a wrong option, 130 interrupted.
    """
    args = build_parser().parse_args(argv)
    if args.interactive and not is_launched():
        return run_interactive(args)
    if is_launched():
        return run_with_others(args, run_events)
    return run_command(run_events, args)
