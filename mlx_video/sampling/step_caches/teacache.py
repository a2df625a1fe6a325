"""TeaCache: the change of the timestep's features tells when the blocks must run again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import mlx.core as mx
import numpy as np

from mlx_video.errors import RequestError
from mlx_video.models.block_context import BlockContext, TimeFeatures
from mlx_video.sampling.step_caches.residual import BYTES_UNDER_WAY, KEPT_BYTES, ResidualCache, read_number
from mlx_video.sampling.step_caches.step_cache import (
    CacheFacts,
    CachePlan,
    is_cached,
    num_cached_passes,
    refuse_few_steps,
    refuse_two_velocities,
)
from mlx_video.sampling.step_caches.tables import model_key

TeaMode = Literal["ret", "non-ret"]
Coefficients = tuple[float, ...]
"""Of a polynomial, the highest degree first: change of the features → change of the result."""

RETAINED_STEPS = 5


@dataclass(frozen=True, slots=True)
class TeaNumbers:
    """What is published for one model.

    Attributes:
        coefficients: of each mode that is published.
        mode: that its authors rate higher.
        threshold: of this mode, for about half of the time.
    """

    coefficients: Mapping[TeaMode, Coefficients]
    mode: TeaMode
    threshold: float


# Source: ali-vilab/TeaCache TeaCache4Wan2.1/teacache_generate.py; of the 5B, ModelTC/LightX2V
# configs/caching/teacache/wan_ti2v_tea.json.
NUMBERS: Mapping[str, TeaNumbers] = MappingProxyType(
    {
        "t2v-1.3b": TeaNumbers(
            {
                "ret": (-5.21862437e04, 9.23041404e03, -5.28275948e02, 1.36987616e01, -4.99875664e-02),
                "non-ret": (2.39676752e03, -1.31110545e03, 2.01331979e02, -8.29855975e00, 1.37887774e-01),
            },
            mode="non-ret",
            threshold=0.08,
        ),
        "t2v-14b": TeaNumbers(
            {
                "ret": (-3.03318725e05, 4.90537029e04, -2.65530556e03, 5.87365115e01, -3.15583525e-01),
                "non-ret": (-5784.54975374, 5449.50911966, -1811.16591783, 256.27178429, -13.02252404),
            },
            mode="ret",
            threshold=0.1,
        ),
        "i2v-14b-480p": TeaNumbers(
            {
                "ret": (2.57151496e05, -3.54229917e04, 1.40286849e03, -1.35890334e01, 1.32517977e-01),
                "non-ret": (-3.02331670e02, 2.23948934e02, -5.25463970e01, 5.87348440e00, -2.01973289e-01),
            },
            mode="ret",
            threshold=0.2,
        ),
        "i2v-14b-720p": TeaNumbers(
            {
                "ret": (8.10705460e03, 2.13393892e03, -3.72934672e02, 1.66203073e01, -4.17769401e-02),
                "non-ret": (-114.36346466, 65.26524496, -18.82220707, 4.91518089, -0.23412683),
            },
            mode="ret",
            threshold=0.2,
        ),
        "ti2v-5b": TeaNumbers(
            {
                "non-ret": (
                    1.57472669e05,
                    -1.15702395e05,
                    3.10761669e04,
                    -3.83116651e03,
                    2.21608777e02,
                    -4.81179567e00,
                )
            },
            mode="non-ret",
            threshold=0.26,
        ),
    }
)


@dataclass(frozen=True, slots=True)
class TeaCache:
    """The cache as the user asks for it.

    Attributes:
        threshold: change that may add up before the blocks run again; None for the model's.
        mode: "ret" runs the first five steps and watches the modulation, "non-ret" the first and the last and
            watches the embedding; None for the one that the authors rate higher.
        coefficients: in place of the published ones.

    Source: ali-vilab/TeaCache TeaCache4Wan2.1/teacache_generate.py; arXiv:2411.19108.
    """

    threshold: float | None = None
    mode: TeaMode | None = None
    coefficients: Coefficients | None = None

    def settle(self, facts: CacheFacts) -> CachePlan:
        """See `step_cache.CacheMethod`."""
        refuse_few_steps(facts)
        refuse_two_velocities(facts, "teacache")
        mode, coefficients, threshold = self._find_numbers(facts)
        return CachePlan(
            setting=f"teacache, threshold {threshold:g}, {mode}, {','.join(map(str, coefficients))}",
            new_cache=lambda _, branch: (
                ResidualCache(TeaDecision(mode, coefficients, threshold)) if is_cached(branch) else None
            ),
            stream_bytes=KEPT_BYTES * num_cached_passes(facts) + BYTES_UNDER_WAY,
        )

    def _find_numbers(self, facts: CacheFacts) -> tuple[TeaMode, Coefficients, float]:
        known = NUMBERS.get(model_key(facts).removesuffix("-image"))
        mode = self.mode or (known.mode if known else "non-ret")
        coefficients = self.coefficients or (known.coefficients.get(mode) if known else None)
        if coefficients is None:
            raise RequestError("step_cache", _describe_lack(facts, known))
        if self.threshold is not None:
            return mode, coefficients, self.threshold
        if known is None or self.coefficients:
            raise RequestError(
                "step_cache_threshold", "missing: teacache needs one beside coefficients of your own."
            )
        return mode, coefficients, known.threshold


def _describe_lack(facts: CacheFacts, known: TeaNumbers | None) -> str:
    if known:
        return f"teacache: for this model only mode {known.mode} is published. Choose it."
    if facts.expert_split:
        return (
            "teacache: nobody has published coefficients for two experts, and those of other models make "
            "unstable videos. Choose --step-cache magcache, or give --teacache-coefficients."
        )
    return (
        "teacache: nobody has published coefficients for this model. Choose --step-cache easycache, or give "
        "--teacache-coefficients."
    )


class TeaDecision:
    """Adds up the estimated change of the result since the blocks ran last."""

    def __init__(self, mode: TeaMode, coefficients: Coefficients, threshold: float) -> None:
        self._mode = mode
        self._coefficients = coefficients
        self._threshold = threshold
        self._driver: mx.array | None = None
        self._change = np.float32(0)

    def skips(self, entering: mx.array, tokens: mx.array, context: BlockContext, *, is_forced: bool) -> bool:
        """See `residual.Decision`."""
        step, before = context.step, self._driver
        driver = context.time.modulation if self._mode == "ret" else context.time.embedding
        self._driver = driver
        first, last = (RETAINED_STEPS, step.count) if self._mode == "ret" else (1, step.count - 1)
        is_comparable = before is not None and before.shape == driver.shape
        if is_forced or before is None or not is_comparable or not first <= step.index < last:
            self._change = np.float32(0)
            return False
        change = np.polyval(self._coefficients, driver_change(driver, before, context.time))
        self._change = np.float32(self._change + change)
        if self._change < self._threshold:
            return True
        self._change = np.float32(0)
        return False

    def state(self) -> dict[str, mx.array]:
        """See `residual.Decision`."""
        if self._driver is None:
            return {}
        return {"driver": self._driver, "change": mx.array(np.array([self._change]))}

    def restore(self, state: dict[str, mx.array]) -> None:
        """See `residual.Decision`."""
        if sorted(state) != ["change", "driver"]:
            raise ValueError(f"a state with {sorted(state)} cannot be one of teacache")
        self._driver = state["driver"]
        self._change = np.float32(read_number(state["change"]))


def driver_change(now: mx.array, before: mx.array, time: TimeFeatures) -> float:
    """Mean change of the features over all tokens, by their mean size.

    Args:
        now, before: [U, ...], features of the distinct timesteps.
        time: tells how many tokens each is of.
    """
    counts = np.zeros(len(now), np.float32)
    for span in time.spans:
        counts[span.row] += span.stop - span.start
    axes = tuple(range(1, now.ndim))
    weights = mx.array(counts)
    changed = mx.sum(weights * mx.mean(mx.abs(now - before), axis=axes))
    size = mx.sum(weights * mx.mean(mx.abs(before), axis=axes))
    return read_number(changed / size)
