"""Between what and what the sizes of networks lie."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from mlx_video.errors import ConfigError
from mlx_video.limits import MOST_BLOCKS, WIDEST

_RANGES = {
    "num_layers": (1, MOST_BLOCKS),
    "vocab_size": (1, 2**24),
    "text_len": (1, 2**16),
    "image_size": (1, 2**14),
    "patch_size": (1, 64),
    "image_positions": (0, 2**16),
    "vace_in_dim": (0, WIDEST),
    "pose_dim": (0, WIDEST),
    "eps": (1e-20, 0.1),
}
"""Least and most of sizes; every other one is between 1 and WIDEST."""


def check_sizes(owner: str, sizes: Any) -> None:
    """Refuse sizes that no network has, before one is built of them.

    Raises:
        ConfigError: a size is out of its range.
    """
    for field_of in fields(sizes):
        name, value = field_of.name, getattr(sizes, field_of.name)
        least, most = _RANGES.get(name, (1, WIDEST))
        for number in value if name == "patch_size" and isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and not least <= number <= most:
                raise ConfigError(
                    f"{owner}: {name} is {number:g}, networks have {least:g} to {most:,}. "
                    "Check config.json against the model's page."
                )
