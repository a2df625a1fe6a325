"""Which noise levels training takes, how often, and how much each counts in the loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from mlx_video.request.train import LossWeighting, TimestepSampling

Draw = Callable[["NoiseLevels", np.random.Generator], float]


@dataclass(frozen=True, slots=True)
class NoiseLevels:
    """The distribution of noise levels.

    Attributes:
        sampling: its name.
        shift: moves levels towards high noise: shift · u / (1 + (shift - 1) · u); of "shift" alone.
        mean, deviation: of the normal number that becomes a level by a sigmoid; "sigmoid" and "shift" have
            mean 0.
        lowest, highest: levels between which the distribution is stretched, from 0 to 1.
        weighting: how much a level counts.
    """

    sampling: TimestepSampling = "shift"
    shift: float = 3.0
    mean: float = 0.0
    deviation: float = 1.0
    lowest: float = 0.0
    highest: float = 1.0
    weighting: LossWeighting = "none"

    def draw(self, rng: np.random.Generator) -> float:
        """Draw a level, 0 to 1.

        Source: kohya-ss/musubi-tuner src/musubi_tuner/hv_train_network.py,
        get_noisy_model_input_and_timesteps: the limits stretch the distribution and do not cut it.
        """
        level = _DRAWS[self.sampling](self, rng)
        return self.lowest + level * (self.highest - self.lowest)

    def weight(self, level: float) -> float:
        """How much a level counts in the loss."""
        return _WEIGHTS[self.weighting](level)


def _draw_uniform(levels: NoiseLevels, rng: np.random.Generator) -> float:
    return float(rng.random())


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def _draw_sigmoid(levels: NoiseLevels, rng: np.random.Generator) -> float:
    return _sigmoid(levels.deviation * float(rng.standard_normal()))


def _draw_shift(levels: NoiseLevels, rng: np.random.Generator) -> float:
    level = _draw_sigmoid(levels, rng)
    return levels.shift * level / (1 + (levels.shift - 1) * level)


def _draw_logit_normal(levels: NoiseLevels, rng: np.random.Generator) -> float:
    return _sigmoid(levels.mean + levels.deviation * float(rng.standard_normal()))


_DRAWS: Mapping[TimestepSampling, Draw] = MappingProxyType(
    {
        "uniform": _draw_uniform,
        "sigmoid": _draw_sigmoid,
        "shift": _draw_shift,
        "logit_normal": _draw_logit_normal,
    }
)

_BELL_STEPS = 1000
_BELL_SHIFT = 5.0


def _bell(level: float) -> float:
    return math.exp(-2 * (level - 0.5) ** 2) - math.exp(-0.5)


def _mean_bell() -> float:
    """Mean of the bell over the levels of the schedule that it was made for, shifted by 5."""
    even = (np.arange(_BELL_STEPS) + 1) / _BELL_STEPS
    shifted = _BELL_SHIFT * even / (1 + (_BELL_SHIFT - 1) * even)
    return float(np.mean([_bell(level) for level in shifted]))


def _weigh_by_bell(level: float) -> float:
    """Most for middle levels, nothing for the ends; 1 on average over a schedule shifted by 5.

    Source: modelscope/DiffSynth-Studio diffsynth/diffusion/flow_match.py, set_training_weight.
    """
    return _bell(level) / _mean_bell()


_WEIGHTS: Mapping[LossWeighting, Callable[[float], float]] = MappingProxyType(
    {"none": lambda level: 1.0, "bell": _weigh_by_bell}
)
