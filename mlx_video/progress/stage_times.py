"""How long steps and decoding take, judged by what of them is done."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from mlx_video.events import FramesDecoded, TilesDecoded
from mlx_video.progress.remembered_rates import Rates

FORWARD, LOADING, PIXEL = "forward", "loading", "pixel"
"""Names of rates: of one forward, of loading a transformer, of decoding a pixel. The others are stages'."""


@dataclass(frozen=True, slots=True)
class StepTime:
    """How long a step took, from the end of the one before, and what it had to do."""

    seconds: float
    weight: float
    loads: bool


class StepTimes:
    """What the steps of a run tell of its speed.

    The first one counts for as long as there is no other: it pays for loading and compiling. Of the others
    the median counts, which one disturbed step does not change; where a step cache decides on the way what is
    left out, their mean.
    """

    def __init__(self, remembered: Rates, *, is_certain: bool) -> None:
        self._remembered = remembered
        self._is_certain = is_certain
        self._taken: list[StepTime] = []

    def add(self, taken: StepTime) -> None:
        """Count one step more."""
        self._taken.append(taken)

    @property
    def measured(self) -> Rates:
        """Rates of this run that a later one may go by; none before a step that loads nothing."""
        usual = self._usual
        if usual is None:
            return {}
        over = [each.seconds - usual * each.weight for each in self._taken if each.loads]
        return {FORWARD: usual, **({LOADING: max(0.0, median(over))} if over else {})}

    @property
    def forward(self) -> float | None:
        """Seconds of a forward; None where nothing is known."""
        known = self.measured.get(FORWARD, self._remembered.get(FORWARD))
        if known is None:
            known = next((each.seconds / each.weight for each in self._taken if each.weight), None)
        return known

    @property
    def loading(self) -> float:
        """Seconds by which a step is longer before which a transformer is loaded."""
        return self.measured.get(LOADING, self._remembered.get(LOADING, 0.0))

    @property
    def _usual(self) -> float | None:
        usual = [each for each in self._taken if each.weight and not each.loads]
        if not usual:
            return None
        if self._is_certain:
            return median(each.seconds / each.weight for each in usual)
        return sum(each.seconds for each in usual) / sum(each.weight for each in usual)


class DecodingTimes:
    """What the frames of a video, or its tiles, tell of the time of its decoding.

    The first of them pays for loading and compiling: it counts for as long as there is no other.
    """

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None
        self._last = (0.0, 0.0)
        self._has_tiles = False

    def add(self, event: FramesDecoded | TilesDecoded, spent: float) -> None:
        """Take note of what is done `spent` seconds after the begin."""
        if isinstance(event, TilesDecoded):
            self._has_tiles = True
        elif self._has_tiles:
            return  # frames that are joined from tiles take next to no time
        self._last = (spent, event.done / event.total)
        self._first = self._first or self._last

    def whole(self, expected: float | None) -> float | None:
        """Seconds of all of it.

        Args:
            expected: from earlier runs; None for nothing.
        """
        if self._first is None:
            return expected
        (began, before), (now, done) = self._first, self._last
        if done > before:
            return now + (1 - done) * (now - began) / (done - before)
        return now / done if expected is None else expected
