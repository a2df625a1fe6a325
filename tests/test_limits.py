"""Limits are decisions: one that moves is written here, too."""

from __future__ import annotations

from mlx_video import limits

DECIDED = {
    "LARGEST_HEADER_BYTES": 100_000_000,
    "MOST_TENSORS": 100_000,
    "MOST_AXES": 16,
    "MOST_SHARDS": 10_000,
    "LARGEST_TEXT_BYTES": 64_000_000,
    "MOST_BLOCKS": 1000,
    "WIDEST": 1_048_576,
    "MOST_STEPS": 10_000,
    "MOST_FRAMES": 1_000_000,
    "MOST_PIXELS": 100_000_000,
    "LONGEST_WAIT_SECONDS": 300,
    "LONGEST_WORD": 400,
    "LONGEST_LINE": 1900,
    "LONGEST_MESSAGE": 20_000,
    "LARGEST_CAPTION_BYTES": 1_000_000,
    "MOST_CLIPS": 1_000_000,
}


def test_limits_are_those_that_were_decided():
    assert {name: value for name, value in vars(limits).items() if name.isupper()} == DECIDED
