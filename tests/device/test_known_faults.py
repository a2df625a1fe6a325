"""Known faults are told to those whom they concern."""

from __future__ import annotations

import pytest

from mlx_video.device.known_faults import KNOWN_FAULTS, find_faults

QUANTIZED = "Quantized products of more than 32,768 rows give garbage."
ABORTS = "Work that the GPU gives up on ends the whole process."
LONG_ROWS = "Products of long rows (10,240 and more) with few outputs give garbage in bfloat16."
ZEROS = "Work that the GPU gives up on, or has no memory for, leaves zeros and mostly no error: grey videos."


@pytest.mark.parametrize(
    ("version", "architecture", "concerned", "not_concerned"),
    [
        ("0.31.2", "applegpu_g17s", {QUANTIZED, ABORTS}, {ZEROS}),
        ("0.32.0", "applegpu_g13g", {ZEROS}, {ABORTS}),
        ("0.32.0", "applegpu_g17s", {LONG_ROWS}, set()),
        ("0.32.0", "applegpu_g16s", set(), {LONG_ROWS}),
        ("0.31.2", "applegpu_g17s", set(), {LONG_ROWS}),
        ("0.32.1", "applegpu_g17s", set(), {QUANTIZED, ABORTS, ZEROS}),
        ("0.31.2", "applegpu_g16s", {ABORTS}, {QUANTIZED, ZEROS}),
        ("0.32.4.dev20261001", "applegpu_g13g", set(), {QUANTIZED, ABORTS, ZEROS}),
        ("0.31.2", "x86_64", set(), {fault.text for fault in KNOWN_FAULTS}),
    ],
)
def test_a_fault_concerns_the_versions_before_its_repair_and_the_chips_that_have_it(
    version, architecture, concerned, not_concerned
):
    found = {fault.text for fault in find_faults(version, architecture)}
    assert concerned <= found
    assert not not_concerned & found


def test_open_faults_concern_every_later_version():
    open_ones = {fault.text for fault in KNOWN_FAULTS if fault.fixed_in is None}
    assert open_ones
    assert open_ones <= {fault.text for fault in find_faults("9.0.0", "applegpu_g17g")}


def test_every_fault_has_a_source_and_advice():
    for fault in KNOWN_FAULTS:
        assert fault.source.startswith("ml-explore/mlx ")
        assert fault.advice
