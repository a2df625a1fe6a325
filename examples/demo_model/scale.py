"""A share of a training, for seeing that every stage runs without waiting for what it would learn."""

from __future__ import annotations

import argparse


def add_scale(parser: argparse.ArgumentParser) -> None:
    """Declare `--scale`."""
    parser.add_argument(
        "--scale",
        type=float,
        default=1.0,
        help="share of the steps to take and of the clips to draw; what is trained with less than 1 draws "
        "worse, and with little of it nothing to be recognised (default: 1)",
    )


def scaled(count: int, scale: float) -> int:
    """A share of a number of steps or clips: one at least."""
    return max(1, round(count * scale))
