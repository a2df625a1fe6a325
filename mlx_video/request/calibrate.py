"""What a measurement of a model's step cache asks for."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_video.request.choices import MAX_SEED, MAX_STEPS
from mlx_video.request.generate import GenerateRequest
from mlx_video.request.kinds import GuideScale, ImageSource, ReadPath
from mlx_video.request.option import at_least, between, check_options, option, positive, settle_paths

_THE_MODELS = "the model's"


@dataclass(frozen=True, slots=True)
class CalibrateRequest:
    """Ratios of MagCache to measure; None stands for the model's own default."""

    prompts: ReadPath = option(help="text file with a prompt on each line", metavar="FILE")
    image: ImageSource | None = option(None, help="first frame, for models that take one", metavar="FILE")
    width: int | None = option(None, help="pixels", default_text=_THE_MODELS, check=at_least(1))
    height: int | None = option(None, help="pixels", default_text=_THE_MODELS, check=at_least(1))
    num_frames: int | None = option(None, help="frames, 4n+1", default_text=_THE_MODELS, check=at_least(1))
    steps: int | None = option(
        None, help="sampling steps", default_text=_THE_MODELS, check=between(1, MAX_STEPS)
    )
    guide_scale: GuideScale | None = option(
        None, help="one number, or `low,high` for two experts", default_text=_THE_MODELS
    )
    shift: float | None = option(
        None, help="moves steps towards high noise", default_text=_THE_MODELS, check=positive()
    )
    seed: int = option(0, help="of the first prompt; the others count on", check=between(0, MAX_SEED))

    def __post_init__(self) -> None:
        check_options(self)
        settle_paths(self)

    def request_of(self, prompt: str, number: int) -> GenerateRequest:
        """The run of a prompt.

        Args:
            prompt: a line of the file.
            number: of the line, from 0.
        """
        return GenerateRequest(
            prompt,
            image=self.image,
            width=self.width,
            height=self.height,
            num_frames=self.num_frames,
            steps=self.steps,
            guide_scale=self.guide_scale,
            shift=self.shift,
            seed=(self.seed + number) % (MAX_SEED + 1),
        )
