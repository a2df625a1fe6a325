"""What a GPU's messages mean."""

from __future__ import annotations

import pytest

from mlx_video.device.failures import FAILURES, find_failure
from mlx_video.errors import DeviceError, MemoryBudgetError

METAL = "[METAL] Command buffer execution failed: {}."


@pytest.mark.parametrize(
    ("message", "error", "words"),
    [
        (
            METAL.format("Caused GPU Timeout Error (00000002:kIOGPUCommandBufferCallbackErrorTimeout)"),
            DeviceError,
            "took too long",
        ),
        (
            METAL.format(
                "Impacting Interactivity (0000000e:kIOGPUCommandBufferCallbackErrorImpactingInteractivity)"
            ),
            DeviceError,
            "AGX_RELAX_CDM_CTXSTORE_TIMEOUT=1",
        ),
        (
            METAL.format("Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)"),
            MemoryBudgetError,
            "--memory-limit",
        ),
        (
            "[metal::malloc] Attempting to allocate 30000000000 bytes which is greater than the maximum "
            "allowed buffer size of 28991029248 bytes.",
            MemoryBudgetError,
            "--tiling aggressive",
        ),
        ("[malloc] Unable to allocate 5000000000 bytes.", MemoryBudgetError, "--memory-limit"),
        (
            METAL.format(
                "Innocent Victim of GPU Error/Recovery "
                "(00000005:kIOGPUCommandBufferCallbackErrorInnocentVictim)"
            ),
            DeviceError,
            "run the same command again, with --resume",
        ),
        (
            METAL.format(
                "Ignored (for causing prior/excessive GPU errors) "
                "(00000004:kIOGPUCommandBufferCallbackErrorSubmissionsIgnored)"
            ),
            DeviceError,
            "new process",
        ),
    ],
)
def test_a_message_leads_to_what_happened_and_what_to_do(message, error, words):
    failure = find_failure(message)
    assert failure is not None
    assert failure.error is error
    assert words in failure.describe(message)
    assert message in failure.describe(message)
    assert "--resume" in failure.advice


def test_only_work_that_took_too_long_is_cut_shorter():
    assert [failure.took_too_long for failure in FAILURES] == [True, False, False, False]


@pytest.mark.parametrize("message", ["something else", "[conv] the kernel is too large", ""])
def test_other_messages_are_no_failures_of_a_gpu(message):
    assert find_failure(message) is None
