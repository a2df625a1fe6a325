"""What the width of a transformer tells of the model."""

from __future__ import annotations

from types import MappingProxyType

# Source: the config.json of the Wan-AI repositories.
WIDTHS = MappingProxyType(
    {
        1536: "a Wan2.1 1.3B model",
        3072: "Wan2.2 TI2V 5B",
        5120: "a 14B model (Wan2.1 14B or Wan2.2 A14B)",
        192: "the demo model",
    }
)


def describe_width(width: int) -> str:
    """The models that have transformers of a width."""
    return WIDTHS.get(width, f"a Wan model of width {width}")
