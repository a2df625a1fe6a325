"""Values that go to another process come back equal, and others are refused."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.api import build_request
from mlx_video.distributed.values import pack, unpack
from mlx_video.models.block_context import Step


def travelled(value: object, **options) -> object:
    arrays: list[mx.array] = []
    return unpack(json.loads(json.dumps(pack(value, arrays, **options))), arrays)


def test_values_come_back_equal():
    value = {"a": (1, 2.5, None, "ä", True), ("b", 1): [Path("x/y"), {}], 3: Step(1, 4, 0.5, 500.0, 0.25)}
    assert travelled(value) == value


def test_arrays_stay_beside_the_text():
    array = mx.arange(3)
    arrays: list[mx.array] = []
    text = json.dumps(pack([array], arrays))
    assert len(arrays) == 1
    assert "array" in text
    assert travelled((array,))[0] is array


def test_numbers_of_numpy_keep_every_bit():
    for numbers in (np.array([[1 / 3, -0.0]]), np.zeros((0, 2), np.float32), np.array([True])):
        found = travelled([numbers])[0]
        assert (found.dtype, found.shape) == (numbers.dtype, numbers.shape)
        assert found.tobytes() == numbers.tobytes()


def test_a_request_comes_back_equal():
    request = build_request("a cat", {"seed": 3, "loras": ["a.safetensors"], "output_path": "x.mp4"})
    assert travelled(request) == request


def test_what_does_not_travel_is_refused_or_replaced():
    with pytest.raises(ValueError, match="function does not go to another process"):
        travelled([until])
    assert travelled([until], instead=lambda value: Path("given")) == [Path("given")]


def until() -> None:
    """Something that does not travel."""


def test_only_records_of_the_package_are_made():
    for place in (["os", "system"], ["mlx_video.errors", "ClusterError"]):
        with pytest.raises(ValueError, match="is no record of this package"):
            unpack({"kind": "record", "place": place, "parts": {}}, [])
    with pytest.raises(ValueError, match="'thing' is no kind of value"):
        unpack({"kind": "thing"}, [])
