"""Tables that were copied from the places that their modules name: a number that moves is noticed."""

from __future__ import annotations

import hashlib

import pytest

from mlx_video.conditioning.control.camera_path import PRESETS
from mlx_video.models.dispatch import CHIPS
from mlx_video.sampling.step_caches import tables
from mlx_video.sampling.step_caches.teacache import NUMBERS

TABLES = {
    "camera paths": dict(PRESETS),
    "chips": dict(CHIPS),
    "TeaCache": {name: (dict(one.coefficients), one.mode, one.threshold) for name, one in NUMBERS.items()},
    "MagCache": {name: value for name, value in vars(tables).items() if name.isupper()},
}
DIGESTS = {
    "camera paths": "1520663600468194",
    "chips": "2252446f1ac40d5f",
    "TeaCache": "5d9d90a3a153a82d",
    "MagCache": "b5f4e3f420b45ebe",
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_the_published_one(name: str):
    assert hashlib.sha256(repr(TABLES[name]).encode()).hexdigest()[:16] == DIGESTS[name]
