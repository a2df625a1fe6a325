"""What MLX reports when a GPU fails at its work: what happened, and what to do."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_video.errors import DeviceError, MemoryBudgetError, MLXVideoError


@dataclass(frozen=True, slots=True)
class Failure:
    """One way in which a GPU fails.

    Attributes:
        signs: what messages contain, any of them.
        text: what happened.
        advice: what to do.
        error: what the user gets.
        took_too_long: whether shorter work would have passed.
    """

    signs: tuple[str, ...]
    text: str
    advice: str
    error: type[MLXVideoError] = DeviceError
    took_too_long: bool = False

    def describe(self, message: str) -> str:
        """The error's text, with the message that tells of the failure."""
        return f"{self.text} ({message}). {self.advice}"


_GO_ON = "run the same command again, with --resume to go on from the last step"

FAILURES: tuple[Failure, ...] = (
    Failure(
        ("ErrorTimeout", "ErrorImpactingInteractivity", "ErrorHang"),
        "the GPU gave up on work that took too long",
        f"From now on chunks of work have half the length: {_GO_ON}. Other programs on the GPU make it "
        "likelier, and so does the display: let it sleep, or set AGX_RELAX_CDM_CTXSTORE_TIMEOUT=1, so that "
        "macOS waits longer and the screen may stutter.",
        took_too_long=True,
    ),
    Failure(
        ("ErrorOutOfMemory", "[metal::malloc]", "[malloc] Unable to allocate"),
        "the GPU had no memory left",
        f"Close other programs, or plan with less than there was: {_GO_ON} and a smaller --memory-limit: it "
        "makes the VAE's tiles smaller and streams blocks; --tiling aggressive has the smallest tiles.",
        MemoryBudgetError,
    ),
    Failure(
        ("ErrorInnocentVictim",),
        "the GPU was restarted because of other work, of this program or another one, and this work was lost",
        f"Nothing is wrong with it: {_GO_ON}.",
    ),
    Failure(
        ("ErrorSubmissionsIgnored",),
        "the system takes no more GPU work from this process after earlier failures",
        f"Begin a new process: {_GO_ON}. Should it fail at once, restart the Mac.",
    ),
)
"""Signs are names of Metal's driver (ml-explore/mlx issue 3267 and pull 479 show them) and words of MLX."""


def find_failure(message: str) -> Failure | None:
    """The failure that a message tells of; None where it tells of something else."""
    return next((one for one in FAILURES if any(sign in message for sign in one.signs)), None)
