"""Options of the generate command for several videos, and for the settings of an earlier one."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_video.request.choices import MAX_SEED, MIN_SEED
from mlx_video.request.describe import documented
from mlx_video.request.kinds import ReadPath, WholeNumbers
from mlx_video.request.option import Bounds, at_least, check_options, option

GROUP = "many videos"


def _are_seeds(values: tuple[int, ...]) -> bool:
    return all(MIN_SEED <= value <= MAX_SEED for value in values) and len(set(values)) == len(values)


@documented
@dataclass(frozen=True)
class ManyOptions:
    """Options that say how many videos are made, and where their settings come from."""

    prompt_file: ReadPath | None = option(
        None,
        help="file with a prompt a line, options behind it (`--w 832 --seed 7`), or JSON; `-` reads stdin",
        group=GROUP,
        metavar="FILE",
        affects="run",
    )
    count: int | None = option(
        None,
        help="videos of each prompt, with seeds that follow on each other",
        group=GROUP,
        metavar="N",
        default_text="1",
        check=at_least(1),
        affects="run",
    )
    seeds: WholeNumbers | None = option(
        None,
        help="a video of each prompt for each of these seeds, with commas between them",
        group=GROUP,
        metavar="LIST",
        check=Bounds(_are_seeds, "different seeds between -2**63 and 2**64-1"),
        affects="run",
    )
    interactive: bool = option(
        False,
        help="read prompts one after another from the keyboard, with the model in memory",
        group=GROUP,
        affects="run",
    )
    from_video: ReadPath | None = option(
        None,
        help="take all settings from a video or picture made here, by ComfyUI or by Wan2GP, or from a JSON "
        "file beside one; other options win",
        group=GROUP,
        metavar="FILE",
        affects="run",
    )
    print_settings: bool = option(
        False, help="print the settings as JSON, and make nothing", group=GROUP, affects="run"
    )

    def __post_init__(self) -> None:
        check_options(self)
