"""How videos are served."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mlx_video.request.kinds import ReadPath, WrittenPath
from mlx_video.request.option import at_least, between, check_options, option, positive, settle_paths

_NETWORK = "network"


@dataclass(frozen=True, slots=True)
class ServeRequest:
    """A server to start."""

    models: ReadPath | None = option(
        None,
        help="folder of converted models, of which clients choose by the folders' names; or one model's",
        metavar="DIR",
        default_text="the demo models",
    )
    output_dir: WrittenPath = option(
        Path("served_videos"), help="folder for the queue and the videos", metavar="DIR"
    )
    memory_limit: float | None = option(
        None,
        help="the most that a run may hold, in GB of 10^9 bytes",
        metavar="GB",
        default_text="what the machine has",
        check=positive(" of GB"),
    )
    host: str = option(
        "127.0.0.1",
        help="address at which to listen; `0.0.0.0` for all that the machine has",
        group=_NETWORK,
        metavar="HOST",
    )
    port: int = option(
        8188, help="port; 0 for any that is free", group=_NETWORK, metavar="N", check=between(0, 65535)
    )
    token: str | None = option(
        None,
        help="what clients have to bring as their key",
        group=_NETWORK,
        metavar="TEXT",
        default_text="none on this machine alone, else drawn and printed",
    )
    allow_host: str | None = option(
        None,
        help="further names by which clients may call the server, with commas between them",
        group=_NETWORK,
        metavar="NAMES",
    )
    max_upload: float = option(
        100.0,
        help="the most that a request may send, in MB",
        group=_NETWORK,
        metavar="MB",
        check=at_least(0.01),
    )

    def __post_init__(self) -> None:
        check_options(self)
        settle_paths(self)
