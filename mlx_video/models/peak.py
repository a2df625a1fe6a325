"""The most memory that a network takes, and what one weight takes while it is multiplied."""

from __future__ import annotations

from dataclasses import dataclass

WIDE = 4
"""Bytes of a float32."""


@dataclass(frozen=True, slots=True)
class Peak:
    """Bytes of one network at work, or of one stage.

    Attributes:
        needed: if MLX schedules nothing ahead, as it does when memory is short.
        usual: with what it schedules ahead.
        held: of these, what stays for the whole stage: weights, and what is computed once.
    """

    needed: int
    usual: int
    held: int = 0

    def beside(self, held: int) -> Peak:
        """This peak while `held` bytes more stay in memory."""
        return Peak(self.needed + held, self.usual + held, self.held + held)

    def or_before(self, other: Peak) -> Peak:
        """The larger one, of this and what is released before it begins; MLX schedules nothing across."""
        return Peak(max(self.needed, other.needed), max(self.usual, other.needed), self.held)

    def within(self, budget_bytes: int) -> int:
        """What is expected to be reached when MLX's memory limit is `budget_bytes`."""
        return max(self.needed, min(self.usual, budget_bytes))


@dataclass(frozen=True, slots=True)
class WeightCopies:
    """Float32 arrays as large as a weight that exist beside it while it is multiplied.

    Attributes:
        needed: at least.
        alone: usually, where each product is evaluated before the next.
        in_a_row: usually, where the next layer's weight is prepared before this one's copies are released.
    """

    needed: float = 0
    alone: float = 0
    in_a_row: float = 0


def cpu_weight_copies(number_bytes: int, bits: int | None) -> WeightCopies:
    """Copies of a weight on a CPU, where all products are of float32.

    Args:
        number_bytes: of one number of a dense layer, or of the scales of a quantized one.
        bits: of a quantized layer; None for a dense one.
    """
    if bits is None:
        return WeightCopies() if number_bytes == WIDE else WeightCopies(1, 1, 2)
    # The numbers of each word are taken out, joined and scaled in the type of the scales, at last widened.
    return WeightCopies(2, 3, 3.5) if number_bytes == WIDE else WeightCopies(2, 4.5, 5)
