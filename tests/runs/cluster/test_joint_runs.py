"""Tokens, heads or weights of a video on several machines: what one machine makes, but for rounding."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlx_video.errors import RequestError
from mlx_video.loading.components import open_model
from mlx_video.media.video import read_frames
from mlx_video.request import make_request
from mlx_video.request.generate import GenerateRequest
from mlx_video.runs.cluster.modes import check_mode, describe_mode
from tests.fixtures.adapter_files import write_adapter
from tests.runs.cluster.shared_runs import (
    Models,
    alone,
    assert_close,
    assert_equal,
    stop_alone,
    together,
    together_in_turn,
)

pytestmark = pytest.mark.slow

T2V = "wan2.1-t2v-1.3b"
FOUR_BITS = {"quantize": True, "bits": 4, "group_size": 32}
CACHED = ("--steps=12", "--step-cache=first-block", "--step-cache-threshold=0.3")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("models"))


def test_two_processes_make_the_video_of_one_in_every_mode(models: Models, tmp_path: Path):
    expected = alone(models(T2V), tmp_path / "one.mp4")
    modes = ("guidance", "context", "tensor", "sharded")
    found = together_in_turn(2, models(T2V), tmp_path, {mode: (f"--parallel={mode}",) for mode in modes})
    assert_equal(found.pop("guidance"), expected)
    assert (tmp_path / "guidance.mp4").read_bytes() == (tmp_path / "one.mp4").read_bytes()
    frames = read_frames(tmp_path / "one.mp4").astype(int)
    for mode, latents in found.items():
        assert_close(latents, expected)
        # Tiles are decoded by both; a number beside a half may be rounded the other way.
        assert abs(read_frames(tmp_path / f"{mode}.mp4") - frames).max() <= 2


@pytest.mark.nightly
def test_four_processes_share_passes_and_tokens(models: Models, tmp_path: Path):
    expected = alone(models(T2V), tmp_path / "one.mp4")
    cases = {mode: (f"--parallel={mode}",) for mode in ("guidance", "context", "sharded")}
    found = together_in_turn(4, models(T2V), tmp_path, cases)
    for latents in found.values():
        assert_close(latents, expected)


CASES = {
    "image": ("wan2.1-i2v-14b", {}, ("--image={picture}",)),
    "experts": ("wan2.2-t2v-a14b", {}, ("--boundary=0.95",)),
    "first frame": ("wan2.2-ti2v-5b", {}, ("--image={wide}", "--width=96", "--height=64")),
    "vace": ("wan2.1-vace-1.3b", {}, ("--vace-reference-image={picture}",)),
    "quantized": (T2V, FOUR_BITS, ()),
    "streamed": (T2V, {}, ("--stream=on",)),
    "cached": (T2V, {}, CACHED),
    "normalized": (T2V, {}, ("--nag=3",)),
    "windows": (T2V, {}, ("--num-frames=33", "--context-frames=17", "--context-overlap=4")),
    "adapted": (T2V, {}, ("--lora={adapter}",)),
}
REFUSED = {"streamed": ("tensor", "sharded")}


@pytest.mark.nightly
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("case", CASES)
def test_every_kind_of_run_is_that_of_one_process(models: Models, tmp_path: Path, case: str, count: int):
    name, converted, words = CASES[case]
    model = models(name, **converted)
    places = {
        "picture": models.picture(),
        "wide": models.picture(96, 64),
        "adapter": tmp_path / "a.safetensors",
    }
    if case == "adapted":
        write_adapter(places["adapter"], open_model(model)[1].transformer)
    words = tuple(word.format_map(places) for word in words)
    expected = alone(model, tmp_path / "one.mp4", *words)
    # The small models have two heads.
    refused = {*REFUSED.get(case, ()), *(("tensor",) if count > 2 else ())}
    modes = [mode for mode in ("context", "tensor", "sharded") if mode not in refused]
    cases = {mode: (*words, f"--parallel={mode}") for mode in modes}
    for latents in together_in_turn(count, model, tmp_path, cases).values():
        assert_close(latents, expected)


@pytest.mark.nightly
def test_a_run_goes_on_with_another_number_of_machines(models: Models, tmp_path: Path):
    expected = alone(models(T2V), tmp_path / "whole.mp4", *CACHED)
    stop_alone(7, models(T2V), tmp_path / "v.mp4", *CACHED)
    assert_close(
        together(3, models(T2V), tmp_path / "v.mp4", *CACHED, "--parallel=context", "--resume"), expected
    )


def test_what_cannot_be_shared_is_refused_by_name(models: Models):
    config = open_model(models(T2V))[1]
    heads = config.transformer.num_heads
    for mode, size, options, words in (
        ("guidance", 3, {}, "guidance: shares two passes out evenly, and 3 machines were started"),
        (
            "tensor",
            heads + 1,
            {},
            f"tensor: {heads} heads and .* cannot be shared out over {heads + 1} processes",
        ),
        ("sharded", 2, {"stream": "on"}, "sharded: no block is read from a disk"),
    ):
        request = make_request(GenerateRequest, {"prompt": "a cat", **options})
        with pytest.raises(RequestError, match=words):
            check_mode(mode, size, config, [request])


def test_modes_are_described_in_words():
    assert describe_mode("data", 3) == "the videos of a list"
    assert describe_mode("guidance", 2) == "the passes of a step"
    assert describe_mode("guidance", 4) == "the passes of a step, and the tokens of each pass among 2"
