"""The noise levels of a run, and the timesteps that the transformer sees at them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlx_video.errors import RequestError
from mlx_video.models.block_context import Step

NUM_TRAIN_TIMESTEPS = 1000
# The highest of the 1000 training levels, kept in float32 by the official scheduler; the others start at 1.
UNIPC_FIRST_SIGMA = float(np.float32(0.999))


@dataclass(frozen=True, eq=False, slots=True)
class Schedule:
    """What each step starts from.

    Attributes:
        sigmas: [steps + 1], float32; noise levels that fall and end at 0. One is repeated where a solver
            asks for the velocity there twice.
        timesteps: [steps]; whole for "unipc" and "dpm++" as the official code has it; 0 to 1000.
    """

    sigmas: npt.NDArray[np.float32]
    timesteps: npt.NDArray[np.int64] | npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        self.sigmas.setflags(write=False)
        self.timesteps.setflags(write=False)

    @property
    def steps(self) -> int:
        """Number of velocity predictions."""
        return len(self.timesteps)

    def step(self, index: int) -> Step:
        """Step `index`, counted from 0, with its noise levels."""
        sigma, next_sigma = self.sigmas[index : index + 2].tolist()
        return Step(index, self.steps, float(self.timesteps[index]), sigma, next_sigma)


def build_schedule(solver: str, steps: int, shift: float, strength: float = 1.0) -> Schedule:
    """Space the noise levels evenly, then shift them.

    Args:
        solver: "unipc" starts just below pure noise, the others at it; the timesteps of "unipc" and "dpm++"
            are whole numbers.
        steps: number of velocity predictions, at least 1.
        shift: above 1 spends more steps at high noise.
        strength: below 1, level before the shift at which a video is begun with: its steps are as many, but
            closer together.

    Returns:
        The schedule, computed in float64.

    Raises:
        RequestError: an argument is out of range, or neighbouring levels are equal in float32.

    Source: Wan2.1 wan/utils/fm_solvers_unipc.py, FlowUniPCMultistepScheduler.set_timesteps;
    wan/utils/fm_solvers.py, get_sampling_sigmas; modelscope/DiffSynth-Studio
    diffsynth/diffusion/flow_match.py, FlowMatchScheduler.set_timesteps_wan (strength).
    """
    check_settings(steps, shift, strength)
    first = UNIPC_FIRST_SIGMA if solver == "unipc" and strength == 1 else strength
    levels = shift_sigmas(np.linspace(first, 0.0, steps + 1)[:steps], shift)
    timesteps = levels * NUM_TRAIN_TIMESTEPS
    # The official schedulers cut the timesteps off, from float64: rounding would change what the model sees.
    is_whole = solver in ("unipc", "dpm++")
    return schedule_of(levels, timesteps.astype(np.int64) if is_whole else timesteps, shift=shift)


def schedule_of(
    levels: npt.NDArray[np.float64],
    timesteps: npt.NDArray[np.int64] | npt.NDArray[np.float64] | None = None,
    *,
    shift: float = 1.0,
) -> Schedule:
    """The schedule of some noise levels, which go on to 0.

    Args:
        levels: [steps], at most 1.
        timesteps: [steps]; None for 1000 · level.
        shift: that made the levels, for the message.

    Raises:
        RequestError: neighbouring levels are equal in float32.
    """
    sigmas = np.append(levels, 0.0).astype(np.float32)
    if not np.all(np.diff(sigmas) < 0):
        raise RequestError(
            "shift",
            f"with shift {shift:g} and {len(levels)} steps, neighbouring noise levels are equal in float32. "
            "Lower the shift; the models use 3 to 16.",
        )
    return Schedule(sigmas, levels * NUM_TRAIN_TIMESTEPS if timesteps is None else timesteps)


def shift_sigmas(sigmas: npt.NDArray[np.float64], shift: float) -> npt.NDArray[np.float64]:
    """Move noise levels between 0 and 1 towards 1; the ends stay."""
    # Level 1 can come out one rounding above itself.
    return np.minimum(shift * sigmas / (1 + (shift - 1) * sigmas), 1.0)


def check_settings(steps: int, shift: float, strength: float = 1.0) -> None:
    """Refuse what no schedule can be made of.

    Raises:
        RequestError: an argument is out of range.
    """
    if steps < 1:
        raise RequestError("steps", f"{steps}: must be at least 1.")
    if not 0 < shift < float("inf"):
        raise RequestError("shift", f"{shift}: must be a positive number; the models use 3 to 16.")
    if not 0 < strength <= 1:
        raise RequestError(
            "denoising_strength",
            f"{strength:g}: must be above 0 and at most 1. Near 0 the input stays, at 1 nothing of it does.",
        )
