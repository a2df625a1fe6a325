"""Functions that other programs call, with the arguments that they give."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_video.addresses import local_path, remote_address
from mlx_video.errors import RequestError
from mlx_video.request import RANDOM_SEED, SchedulerName, TilingMode
from mlx_video.request.kinds import parse_guide_scale

if TYPE_CHECKING:
    from mlx_video.request import ImageSource


def generate_video(
    model_dir: str | Path,
    prompt: str,
    *,
    negative_prompt: str | None = None,
    image: ImageSource | str | None = None,
    width: int | None = None,
    height: int | None = None,
    num_frames: int | None = None,
    steps: int | None = None,
    guide_scale: float | tuple[float, float] | str | None = None,
    shift: float | None = None,
    seed: int | None = RANDOM_SEED,
    output_path: str | Path = "output.mp4",
    scheduler: SchedulerName = "unipc",
    loras: Sequence[tuple[str | Path, float]] | None = None,
    loras_high: Sequence[tuple[str | Path, float]] | None = None,
    loras_low: Sequence[tuple[str | Path, float]] | None = None,
    tiling: TilingMode = "auto",
    no_compile: bool = False,
    trim_first_frames: int = 0,
    debug_latents: bool = False,
) -> Path:
    """Make a video and write it to a file, with progress as a pipeline shows it.

    Takes the keyword arguments of the function of this name in mlx-video, for programs that call it; new code
    reads better with `mlx_video.WanPipeline`.

    Returns:
        The file written.

    Raises:
        RequestError: an option does not fit the model.
        CheckpointError: the model folder is missing or damaged.
        AdapterError: a LoRA file is damaged or does not fit the model.
    """
    from mlx_video.api import WanPipeline

    pipeline = WanPipeline.from_pretrained(model_dir, keep_networks=False)
    pipeline(
        prompt,
        negative_prompt=negative_prompt,
        image=image,
        width=width,
        height=height,
        num_frames=num_frames,
        steps=steps,
        guide_scale=_read_guide_scale(guide_scale),
        shift=shift,
        seed=seed,
        output_path=output_path,
        scheduler=scheduler,
        loras=loras,
        loras_high=loras_high,
        loras_low=loras_low,
        tiling=tiling,
        compile=not no_compile,
        trim_first_frames=trim_first_frames,
        debug_latents=debug_latents,
    )
    return Path(output_path) if remote_address(Path(output_path)) else local_path(output_path)


def _read_guide_scale(value: float | tuple[float, float] | str | None) -> float | tuple[float, float] | None:
    """A guide scale as programs pass it: also as text, "3" or "3,4"."""
    if not isinstance(value, str):
        return value
    try:
        return parse_guide_scale(value)
    except ValueError as error:
        raise RequestError("guide_scale", f"{error}.") from error
