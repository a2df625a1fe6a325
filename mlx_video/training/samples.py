"""Videos of a list of prompts, made on the way with what is trained so far."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

from mlx_video.errors import MediaError
from mlx_video.events import Work
from mlx_video.loading.components import open_model
from mlx_video.loading.session import Session
from mlx_video.request import GenerateRequest, LoraChoice, options_of
from mlx_video.request.prompt_lines import PromptLine, read_lines
from mlx_video.runs.batch.item import BatchItem, BatchResult
from mlx_video.runs.batch.lists import list_videos
from mlx_video.runs.batch.maker import VideoMaker
from mlx_video.training.plan import TrainingPlan

FOLDER = "samples"


def read_sample_prompts(path: Path) -> list[PromptLine]:
    """Lines of a file of prompts; raises MediaError and RequestError as a list of videos does."""
    try:
        lines = list(read_lines(path.read_text(encoding="utf-8"), str(path)))
    except (OSError, UnicodeDecodeError) as error:
        raise MediaError(f"{path}: cannot be read as text ({error}). Give a file with prompts.") from error
    if not lines:
        raise MediaError(f"{path}: holds no prompt. Write one a line.")
    return lines


def make_samples(plan: TrainingPlan, result: Path, step: int) -> Work[None]:
    """Make the videos; one that fails is told of and ends nothing.

    Args:
        plan: of the training.
        result: what is trained so far.
        step: number of the steps that are taken.
    """
    model, config = (plan.model, plan.config) if plan.adapter else open_model(result)
    maker = VideoMaker(model, config, Session(keeps=True))
    try:
        with closing(maker.make_all(list_samples(plan, result, step))) as making:
            for told in making:
                if not isinstance(told, BatchResult):
                    yield told
    finally:
        maker.session.close()


def list_samples(plan: TrainingPlan, result: Path, step: int) -> list[BatchItem]:
    """The videos of a step; without a seed of their own they have the training's, and so are alike."""
    assert plan.request.sample_prompts is not None
    lines = read_sample_prompts(plan.request.sample_prompts)
    shared: dict[str, Any] = {
        name: option.command_value for name, option in options_of(GenerateRequest).items() if name != "prompt"
    }
    shared |= {
        "seed": plan.request.seed,
        "output_path": plan.request.output_dir / FOLDER / f"step{step:06}_{{i}}.mp4",
    }
    if plan.adapter:
        field = {"model": "loras", "high_noise": "loras_high", "low_noise": "loras_low"}[plan.transformer]
        shared[field] = (LoraChoice(result, 1.0),)
    return list_videos(shared, lines)
