"""How several machines share the work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mlx_video.request.choices import ParallelMode
from mlx_video.request.option import between, option

PARALLEL_GROUP = "several machines"


def lost_after_option(group: str | None = None) -> Any:
    """How long a silent machine is waited for; an option of every command that several may work at."""
    return option(
        60.0,
        help="seconds without a sign of life after which a machine counts as lost",
        group=group,
        metavar="SECONDS",
        check=between(0.1, 86400),
        affects="run",
    )


@dataclass(frozen=True)
class ParallelOptions:
    """Options of commands that `mlx.launch` starts on several machines."""

    parallel: ParallelMode = option(
        "auto",
        help="what the machines share that `mlx.launch` has started: `data`: the videos of a list; "
        "`guidance`: the two passes of a step, on more than two also the tokens; `context`: the tokens; "
        "`tensor`: heads and layers, for weights that do not fit; `sharded`: weights and tokens; `auto`: "
        "what suits their number, link and memory",
        group=PARALLEL_GROUP,
        affects="run",
    )
    lost_after: float = lost_after_option(PARALLEL_GROUP)
