"""The passes of a step on two machines: bit for bit what one machine makes."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from mlx_video import generate_wan
from tests.distributed.ranks import run_ranks, started
from tests.runs.cluster.shared_runs import (
    PROGRAM,
    Models,
    alone,
    assert_equal,
    options,
    stop_alone,
    together,
)

pytestmark = pytest.mark.slow

T2V = "wan2.1-t2v-1.3b"
GUIDANCE = ("--parallel=guidance",)
BLOCK_CACHE = ("--steps=9", "--step-cache=first-block", "--step-cache-threshold=10")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("models"))


def test_two_processes_make_the_video_of_one_bit_for_bit(models: Models, tmp_path: Path):
    expected = alone(models(T2V), tmp_path / "one.mp4")
    assert_equal(together(2, models(T2V), tmp_path / "two.mp4", *GUIDANCE), expected)
    assert (tmp_path / "two.mp4").read_bytes() == (tmp_path / "one.mp4").read_bytes()


CASES = {
    "image": ("wan2.1-i2v-14b", {}, ("--image={picture}",)),
    "experts": ("wan2.2-t2v-a14b", {}, ("--boundary=0.95",)),
    "first frame": ("wan2.2-ti2v-5b", {}, ("--image={wide}", "--width=96", "--height=64")),
    "vace": ("wan2.1-vace-1.3b", {}, ("--vace-reference-image={picture}",)),
    "quantized": (T2V, {"quantize": True, "bits": 4, "group_size": 32}, ()),
    "streamed": (T2V, {}, ("--stream=on",)),
    "cached": (T2V, {}, ("--step-cache=easycache", "--steps=9", "--step-cache-threshold=10")),
    "block cached": (T2V, {}, BLOCK_CACHE),
    "skipped": (T2V, {}, ("--steps=6", "--cfg-start=0.5")),
    "normalized": (T2V, {}, ("--nag=3",)),
    "skipped layers": (T2V, {}, ("--slg=1", "--steps=4", "--slg-start=0", "--slg-end=1")),
    "windows": (T2V, {}, ("--num-frames=33", "--context-frames=17", "--context-overlap=4")),
}


@pytest.mark.nightly
@pytest.mark.parametrize("case", CASES)
def test_every_kind_of_run_is_that_of_one_process(models: Models, tmp_path: Path, case: str):
    name, converted, words = CASES[case]
    places = {"picture": models.picture(), "wide": models.picture(96, 64)}
    words = tuple(word.format_map(places) for word in words)
    model = models(name, **converted)
    expected = alone(model, tmp_path / "one.mp4", *words)
    assert_equal(together(2, model, tmp_path / "two.mp4", *GUIDANCE, *words), expected)


def test_a_killed_machine_is_named_and_one_process_goes_on(models: Models, tmp_path: Path):
    words = ("--steps=60", "--lost-after=5", *BLOCK_CACHE[1:])
    command = [*PROGRAM, *options(models(T2V), tmp_path / "v.mp4", words), *GUIDANCE]
    with started(2, command) as ranks:
        ranks.wait_until_told(0, "step 2 of 60")
        ranks[1].send_signal(signal.SIGKILL)
        first, second = ranks.wait(20)
    assert (first.code, second.code) == (1, -signal.SIGKILL)
    assert "(rank 1 of 2) has ended." in first.err
    assert "the same command with --resume goes on from there" in first.err
    assert not (tmp_path / "v.mp4").exists()
    found = alone(models(T2V), tmp_path / "v.mp4", *words, "--resume")
    assert_equal(found, alone(models(T2V), tmp_path / "whole.mp4", *words))


@pytest.mark.nightly
def test_a_run_of_one_process_goes_on_with_two(models: Models, tmp_path: Path):
    expected = alone(models(T2V), tmp_path / "whole.mp4", *BLOCK_CACHE)
    stop_alone(5, models(T2V), tmp_path / "v.mp4", *BLOCK_CACHE)
    found = together(2, models(T2V), tmp_path / "v.mp4", *BLOCK_CACHE, *GUIDANCE, "--resume")
    assert_equal(found, expected)


@pytest.mark.nightly
def test_a_list_with_two_experts_is_made_one_video_after_another(models: Models, tmp_path: Path):
    model, videos = models("wan2.2-t2v-a14b"), {}
    for count in (1, 2):
        folder = tmp_path / str(count)
        own = options(model, folder / "v.webp", ("--boundary=0.95",))
        words = [word for word in own if not word.startswith(("--seed=", "--save-latents="))]
        shared = GUIDANCE if count > 1 else ()
        ended = run_ranks(count, [*PROGRAM, *words, "--seeds=1,2", *shared])
        assert [one.code for one in ended] == [0] * count, ended[0].err
        videos[count] = [path.read_bytes() for path in sorted(folder.glob("*.webp"))]
    assert len(videos[1]) == 2
    assert videos[1] == videos[2]


def test_machines_with_other_files_are_refused_by_name(models: Models, tmp_path: Path):
    here, there = models(T2V), models(T2V, quantize=True, bits=4, group_size=32)
    words = [[*PROGRAM, *options(model, tmp_path / "v.mp4", GUIDANCE)] for model in (here, there)]
    first, second = run_ranks(2, words)
    assert first.code == 1
    assert "(rank 1 of 2) would compute something else: " in first.err
    assert "Copy the files from one machine to the others" in first.err
    assert (second.code, second.err) == (0, "")
    assert not (tmp_path / "v.mp4").exists()


@pytest.mark.nightly
def test_a_machine_without_the_model_is_named(models: Models, tmp_path: Path):
    words = [
        [*PROGRAM, *options(model, tmp_path / "v.mp4", GUIDANCE)] for model in (models(T2V), tmp_path / "no")
    ]
    first, second = run_ranks(2, words)
    assert first.code == 1
    assert f"(rank 1 of 2) has failed: {tmp_path / 'no'}" in first.err
    assert second.code == 1


def test_a_process_that_is_alone_shares_nothing(models: Models, tmp_path: Path, capsys):
    assert generate_wan.main(options(models(T2V), tmp_path / "v.mp4", GUIDANCE)) == 2
    assert "--parallel guidance: needs other machines" in capsys.readouterr().err
