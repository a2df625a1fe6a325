"""What is asked of a check of several machines."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_video.request.kinds import Place
from mlx_video.request.option import between, check_options, option
from mlx_video.request.parallel import lost_after_option


@dataclass(frozen=True)
class ClusterCheckRequest:
    """One check."""

    folder: Place | None = option(
        None,
        help="converted model folder that all machines have; its files are compared, and gains are "
        "predicted for it",
        flag_name="model_dir",
        default_text="the published sizes, without files",
    )
    width: int = option(832, help="of the video that gains are predicted for", check=between(16, 8192))
    height: int = option(480, help="of the same", check=between(16, 8192))
    num_frames: int = option(81, help="of the same; 4n+1", check=between(1, 10001))
    lost_after: float = lost_after_option()

    def __post_init__(self) -> None:
        check_options(self)
