"""Conditioning units fill their own fields, and a unit of one's own works through the whole pipeline."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.conditioning.units import ConditioningUnit, UnitInputs, fill_conditioning
from mlx_video.config import ModelConfig
from mlx_video.geometry import measure
from tests.fixtures.generators import finish
from tests.models.networks import TRANSFORMER

INPUTS = UnitInputs(
    ("a cat",),
    measure(32, 32, 5, z_dim=16, stride=(4, 8, 8), patch_size=(1, 2, 2)),
    ModelConfig("tiny", "2.1", TRANSFORMER),
    {"image": np.zeros((4, 4, 3), np.uint8)},
)


def unit(name: str, owns: tuple[str, ...], fields: dict, is_needed=lambda inputs: True) -> ConditioningUnit:
    def make(inputs, encoders):
        yield from ()
        return fields

    return ConditioningUnit(name, "image", owns, make, is_needed)


def fill(*units: ConditioningUnit, inputs: UnitInputs = INPUTS) -> dict:
    return finish(fill_conditioning(units, inputs, None))


def test_units_fill_the_fields_that_they_own():
    one, two = mx.zeros(2), mx.ones(3)
    found = fill(
        unit("a", ("image_tokens",), {"image_tokens": one}),
        unit("b", ("concat_latents", "first_frames"), {"first_frames": two}),
    )
    assert found == {"image_tokens": one, "first_frames": two}


def test_a_unit_that_is_not_needed_does_nothing():
    def is_needed(inputs):
        return "end_image" in inputs.images

    one = unit("a", ("image_tokens",), {"image_tokens": mx.zeros(2)}, is_needed)
    assert fill(one) == {}
    both = replace(INPUTS, images=INPUTS.images | {"end_image": np.ones((4, 4, 3), np.uint8)})
    assert [*fill(one, inputs=both)] == ["image_tokens"]


@pytest.mark.parametrize("owns", [(), ("image_tokens",)])
def test_a_field_of_another_unit_is_refused(owns: tuple[str, ...]):
    first = unit("first", ("image_tokens",), {"image_tokens": mx.zeros(2)})
    with pytest.raises(ValueError, match=r"unit second fills \['image_tokens'\], which are not its own"):
        fill(first, unit("second", owns, {"image_tokens": mx.zeros(2)}))
