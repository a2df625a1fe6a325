"""Runs that are suspended in one process and gone on with by any thread: each as if it were alone."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import Video, WanPipeline, convert_checkpoint
from mlx_video.events import FramesDecoded, StepFinished
from mlx_video.loading.residency import release_memory
from mlx_video.models import dispatch, elementwise
from mlx_video.planning.mlx_limits import MLXLimits
from mlx_video.variants.registry import VARIANTS
from tests.fixtures.reader_threads import count_busy_readers
from tests.fixtures.tiny_checkpoint import write_tiny_checkpoint
from tests.spec.test_every_variant_walk import ROWS, Walk

pytestmark = pytest.mark.slow

SECONDS = 120
PROMPTS = ("a cat", "two dogs in the rain")
SMALL = {"width": 16, "height": 16, "num_frames": 5, "steps": 3, "seed": 1, "prompt_cache": False}
# Texts alone; a picture for every expert; first frames; references before the frames; a video and its branch.
OFTEN = ("wan2.1-t2v-1.3b", "wan2.2-i2v-a14b", "wan2.2-ti2v-5b", "wan2.1-vace-1.3b", "wan2.1-flf2v-14b")


@pytest.fixture
def threads() -> Iterator[list[ThreadPoolExecutor]]:
    pools = [ThreadPoolExecutor(1) for _ in range(3)]
    yield pools
    for pool in pools:
        pool.shutdown()


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> Iterator[None]:
    before = settings_of_process()
    yield
    assert settings_of_process() == before
    assert count_busy_readers() == 0


def settings_of_process() -> dict[str, object]:
    found = {}
    for kind in ("memory", "cache"):
        set_limit = getattr(mx, f"set_{kind}_limit")
        found[kind] = set_limit(1 << 40)
        set_limit(found[kind])
    return found | {
        "limits": dispatch._chosen,
        "in force": MLXLimits._in_force,
        "compile": elementwise._compile_choice,
        "environment": {name: value for name, value in os.environ.items() if name.startswith("MLX_")},
        "device": mx.default_device(),
        "streams": [mx.default_stream(mx.default_device()), mx.default_stream(mx.cpu)],
    }


def assert_same(video: Video, expected: Video) -> None:
    assert mx.array_equal(video.latents, expected.latents)
    assert np.array_equal(video.frames, expected.frames)


def steps_of(stream) -> Callable[[], object]:
    """The next event of a stream, or its end as a value: no thread pool passes on StopIteration."""
    return lambda: next(stream, None)


def run_hopping(streams: dict[str, object], threads: list[ThreadPoolExecutor]) -> dict[str, Video]:
    """Let streams go on in turns, every event on another thread than the one before."""
    last, turn = {}, 0
    waiting = dict(streams)
    while waiting:
        for name, stream in [*waiting.items()]:
            turn += 1
            event = threads[turn % len(threads)].submit(steps_of(stream)).result(SECONDS)
            if event is None:
                del waiting[name]
            else:
                last[name] = event
    return {name: event.video for name, event in last.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("threads")
    return convert_checkpoint(write_tiny_checkpoint(root / "original").path, root / "tiny", dtype="float32")


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, Video]:
    """What each prompt becomes in a pipeline of its own."""
    return {
        prompt: WanPipeline.from_pretrained(folder, keep_networks=False)(prompt, progress=False, **SMALL)
        for prompt in PROMPTS
    }


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in OFTEN else pytest.mark.nightly)
        for name in sorted({variant.name for variant in VARIANTS} & set(ROWS))
    ],
)
def test_every_variant_goes_on_with_any_thread(name: str, tmp_path: Path, threads: list[ThreadPoolExecutor]):
    walk = Walk(next(variant for variant in VARIANTS if variant.name == name), tmp_path)
    assert walk.conversion
    expected = walk.pipeline(progress=False, **walk.options)
    stream = walk.pipeline.stream(prompt_cache=False, stream="on", **walk.options)
    assert_same(run_hopping({name: stream}, threads)[name], expected)


@pytest.mark.parametrize("stream", ["off", "on"])
def test_two_runs_hop_between_threads(
    folder: Path, alone: dict[str, Video], threads: list[ThreadPoolExecutor], stream: str
):
    with WanPipeline.from_pretrained(folder) as pipe:
        streams = {prompt: pipe.stream(prompt, stream=stream, **SMALL) for prompt in PROMPTS}
        for prompt, video in run_hopping(streams, threads).items():
            assert_same(video, alone[prompt])


@pytest.mark.parametrize("pipelines", [1, 2])
@pytest.mark.parametrize("stream", ["off", "on"])
def test_two_runs_on_two_threads_at_once(folder: Path, alone: dict[str, Video], pipelines: int, stream: str):
    pipes = [WanPipeline.from_pretrained(folder) for _ in range(pipelines)]
    with ThreadPoolExecutor(2) as pool:
        calls = [
            pool.submit(pipes[number % pipelines], prompt, progress=False, stream=stream, **SMALL)
            for number, prompt in enumerate(PROMPTS)
        ]
        videos = [call.result(SECONDS) for call in calls]
    for prompt, video in zip(PROMPTS, videos, strict=True):
        assert_same(video, alone[prompt])
    for pipe in pipes:
        pipe.close()


@pytest.mark.sample(3)
@pytest.mark.parametrize("until", [StepFinished, FramesDecoded])
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("closer", ["caller", "thread"])
def test_runs_are_closed_in_any_order_from_any_thread(
    folder: Path,
    alone: dict[str, Video],
    threads: list[ThreadPoolExecutor],
    until: type,
    first: int,
    closer: str,
):
    release_memory()
    before = mx.get_active_memory()
    pipe = WanPipeline.from_pretrained(folder)
    streams = [pipe.stream(prompt, memory_limit=1 + number, **SMALL) for number, prompt in enumerate(PROMPTS)]
    for number, stream in enumerate(streams):
        while not isinstance(threads[number].submit(steps_of(stream)).result(SECONDS), until):
            pass
    for stream in (streams[first], streams[1 - first]):
        if closer == "caller":
            stream.close()
        else:
            threads[2].submit(stream.close).result(SECONDS)
    assert_same(pipe(PROMPTS[0], progress=False, **SMALL), alone[PROMPTS[0]])
    pipe.close()
    release_memory()
    assert mx.get_active_memory() - before < 100_000


def test_a_run_that_is_forgotten_ends_while_another_thread_works(folder: Path, alone: dict[str, Video]):
    with WanPipeline.from_pretrained(folder) as pipe:
        forgotten = pipe.stream(PROMPTS[1], memory_limit=1, **SMALL)
        while not isinstance(next(forgotten), StepFinished):
            pass
        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(pipe, PROMPTS[0], progress=False, **SMALL)
            del forgotten
            assert_same(call.result(SECONDS), alone[PROMPTS[0]])


def test_conversions_and_runs_share_a_process(folder: Path, alone: dict[str, Video], tmp_path: Path):
    source = write_tiny_checkpoint(tmp_path / "original").path
    with WanPipeline.from_pretrained(folder) as pipe, ThreadPoolExecutor(2) as pool:
        made = pool.submit(pipe, PROMPTS[0], progress=False, **SMALL)
        written = pool.submit(convert_checkpoint, source, tmp_path / "m", dtype="float32", progress=False)
        assert_same(made.result(SECONDS), alone[PROMPTS[0]])
        converted = written.result(SECONDS)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*.safetensors")}
    assert names
    for name in names:
        assert (converted / name).read_bytes() == (folder / name).read_bytes()


def test_one_run_is_not_gone_on_with_twice_at_once(folder: Path, threads: list[ThreadPoolExecutor]):
    """Python itself refuses the second; the first goes on undisturbed."""
    with WanPipeline.from_pretrained(folder) as pipe:
        stream = pipe.stream(PROMPTS[0], **SMALL)
        inside, leave = threading.Event(), threading.Event()
        step = StepFinished.__init__

        def wait_inside(self, *values, **named) -> None:
            step(self, *values, **named)
            inside.set()
            leave.wait(SECONDS)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(StepFinished, "__init__", wait_inside)
            going = threads[0].submit(lambda: [*stream][-1].video)
            assert inside.wait(SECONDS)
            with pytest.raises(ValueError, match="already executing"):
                next(stream)
            leave.set()
            video = going.result(SECONDS)
        assert_same(video, pipe(PROMPTS[0], progress=False, **SMALL))
