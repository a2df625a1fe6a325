"""A test marked as a sample leaves most of its cases to the nightly run, and no test loses all."""

from __future__ import annotations

import pytest

from tests.conftest import leave_to_the_night


@pytest.mark.sample(3)
@pytest.mark.parametrize("number", [pytest.param(0, marks=pytest.mark.nightly), *range(1, 8)])
def test_first_middle_and_last_of_seven_are_left(request: pytest.FixtureRequest, number: int):
    assert (request.node.get_closest_marker("nightly") is None) == (number in (1, 4, 7))


@pytest.mark.sample(2)
@pytest.mark.parametrize("number", [1])
def test_fewer_cases_than_the_sample_all_belong_to_every_run(request: pytest.FixtureRequest, number: int):
    assert request.node.get_closest_marker("nightly") is None


def test_other_tests_are_left_alone(request: pytest.FixtureRequest):
    leave_to_the_night([request.node])
    assert request.node.get_closest_marker("nightly") is None
