"""Published colours of latents: a number that moves is noticed."""

from __future__ import annotations

import hashlib

import pytest

from mlx_video.latents.colour_tables import WAN21_COLOURS, WAN22_COLOURS, Row


@pytest.mark.parametrize(
    ("table", "digest"), [(WAN21_COLOURS, "75c819db68812c1d"), (WAN22_COLOURS, "975a2f85d37ff64b")]
)
def test_a_table_is_the_published_one(table: tuple[Row, ...], digest: str):
    assert hashlib.sha256(repr(table).encode()).hexdigest()[:16] == digest
