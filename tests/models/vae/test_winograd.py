"""When MLX convolves by Winograd's method, and the memory that takes."""

from __future__ import annotations

import mlx.core as mx
import pytest

from mlx_video.device.operations import OPERATIONS
from mlx_video.models.vae import convolutions
from mlx_video.models.vae.winograd import takes_winograd, winograd_bytes

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("pixels", "into", "out", "expected"),
    [
        (64 * 64, 128, 128, True),
        (64 * 64 - 1, 128, 128, False),
        (480 * 832, 96, 96, False),  # the widest stage of Wan2.1: 192 channels together
        (480 * 832, 288, 96, True),
        (240 * 416, 192, 192, True),
        (352 * 640, 256, 256, True),
        (480 * 832, 96, 3, False),
        (480 * 832, 240, 48, False),
    ],
)
def test_many_channels_of_large_frames_are_convolved_so(pixels, into, out, expected):
    assert takes_winograd(pixels, into, out) is expected


def test_one_convolution_of_the_48_channel_vae_at_720p_takes_1_7_gigabytes():
    # 352×640 packed pixels, 59×107 tiles: 4·(64·6313·512 + 356·644·256 + 64·256·256) bytes.
    assert winograd_bytes(352, 640, 256, 256) == 4 * (64 * 6313 * 512 + 356 * 644 * 256 + 64 * 256 * 256)
    assert winograd_bytes(352, 640, 512, 256) == pytest.approx(1.75e9, rel=0.02)


def test_the_check_before_a_run_tries_the_method_and_the_others_do_not():
    sizes = {one.name: one for one in OPERATIONS if one.name.startswith("causal convolution")}
    many, few = sizes["causal convolution of many channels"], sizes["causal convolution"]
    assert many.is_quick
    assert many.medium == (1, 72, 128, 192, 192)
    assert [reaches(many.medium), reaches(many.full)] == [True, True]
    assert [reaches(few.medium), reaches(few.full)] == [False, False]
    assert [fallback.changes for fallback in many.fallbacks] == [
        {"winograd": False},
        {"plane_convolutions": False},
    ]


def reaches(size: tuple[int, ...]) -> bool:
    frames, height, width, into, out = size
    return takes_winograd(frames * height * width, into, out)


@pytest.mark.parametrize(("side", "evaluations"), [(64, 3), (63, 0)])
def test_on_a_gpu_the_scratch_of_a_tap_goes_before_the_next_tap(monkeypatch, side, evaluations):
    taps = [mx.random.normal((1, 1, side, side, 128), key=mx.random.key(tap)) for tap in range(3)]
    weight, bias = mx.random.normal((128, 3, 3, 3, 128)) * 0.02, mx.ones((128,))
    on_cpu = convolutions.convolve_taps(taps, weight, bias)
    mx.eval(on_cpu, taps)
    monkeypatch.setattr(convolutions, "on_gpu", lambda: True)
    evaluate, calls = mx.eval, []
    monkeypatch.setattr(mx, "eval", lambda *arrays: (calls.append(1), evaluate(*arrays)))
    by_planes = convolutions.convolve_taps(taps, weight, bias)
    assert len(calls) == evaluations
    assert (mx.abs(by_planes - on_cpu).max() / mx.abs(on_cpu).max()).item() <= 1e-5
