"""Commands that `mlx.launch` has started on several machines."""

from __future__ import annotations

import argparse
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from mlx_video.cli.console import (
    EXIT_DONE,
    EXIT_ERROR,
    EXIT_INTERRUPTED,
    describe_error,
    print_error,
    run_command,
)
from mlx_video.cli.named_model import open_model_of
from mlx_video.errors import RequestError
from mlx_video.events import Event, finish

if TYPE_CHECKING:
    from mlx_video.distributed.cluster import Cluster
    from mlx_video.planning.division import Division
    from mlx_video.request.choices import ParallelMode

BuildEvents = Callable[[argparse.Namespace, "Cluster | None"], Iterator[Event]]
Serve = Callable[[argparse.Namespace, "Cluster"], None]


def serve_runs(args: argparse.Namespace, cluster: Cluster) -> None:
    """Open the model, and take part in what rank 0 makes of it."""
    from mlx_video.runs.cluster.follower import Follower

    refuse_on_several(args)
    model, config = finish(open_model_of(args, ()), lambda event: None)
    Follower(cluster, model, config).serve()


def run_with_others(args: argparse.Namespace, build_events: BuildEvents, serve: Serve = serve_runs) -> int:
    """Run a command as one of several processes; only that of rank 0 shows and writes anything.

    Args:
        args: parsed.
        build_events: makes the pipeline of rank 0.
        serve: what the others do, until rank 0 has no more to do.
    """
    from mlx_video.distributed.cluster import join_cluster

    try:
        cluster = join_cluster(args.lost_after)
    except Exception as error:
        return run_command(partial(_fail, error), args)
    if cluster.channel is None:
        return run_command(lambda args: build_events(args, None), args)
    try:
        if cluster.leads:
            return run_command(lambda args: build_events(args, cluster), args)
        return follow(args, cluster, serve)
    finally:
        cluster.channel.end()


def _fail(error: Exception, args: argparse.Namespace) -> Iterator[Event]:
    yield from ()
    raise error


def follow(args: argparse.Namespace, cluster: Cluster, serve: Serve = serve_runs) -> int:
    """Serve rank 0 until it has no more to do.

    What goes wrong is told by rank 0; by this process only if that is lost.
    """
    assert cluster.channel is not None
    try:
        serve(args, cluster)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as error:
        if cluster.channel.is_over:
            return EXIT_DONE  # rank 0 has told whatever there was
        if 0 in cluster.channel.present:
            cluster.channel.fail(describe_error(error))
        else:
            print_error(error)
        if args.debug:
            traceback.print_exc()
        return EXIT_ERROR
    return EXIT_DONE


def refuse_on_several(args: argparse.Namespace) -> None:
    """Refuse what only a machine by itself does.

    Raises:
        RequestError: the demo model is asked for, or prompts at the keyboard.
    """
    if args.interactive:
        raise RequestError(
            "interactive",
            "works on one machine. Give a --prompt-file, or start the command without mlx.launch.",
        )
    refuse_unnamed_model(args)


def refuse_unnamed_model(args: argparse.Namespace) -> None:
    """Refuse the demo model, which each machine would make for itself.

    Raises:
        RequestError: no other is named.
    """
    if args.folder is None:
        raise RequestError(
            "model_dir", "is missing: machines that work together need the model's name. Add it."
        )


def planned_division(cluster: Cluster | None, mode: ParallelMode) -> Division:
    """What one of several machines would have in memory of a transformer's work in a mode."""
    from mlx_video.planning.division import UNDIVIDED
    from mlx_video.runs.cluster.modes import divide

    return UNDIVIDED if cluster is None else divide(mode, cluster.size)
