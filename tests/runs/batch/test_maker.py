"""Lists of videos: each is that of a run of its own, made with less work, and whatever fails is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import RequestError, WanPipeline, convert_checkpoint
from mlx_video.api import build_request
from mlx_video.errors import MLXVideoError
from mlx_video.events import BlocksRead, FileWritten, StageStarted, StateSaved, VideoFailed, VideoStarted
from mlx_video.formats.tensor_file import TensorFile
from mlx_video.loading.components import open_model
from mlx_video.loading.session import Session
from mlx_video.runs import memory as run_memory
from mlx_video.runs.batch import expert_phases
from mlx_video.runs.batch import maker as maker_module
from mlx_video.runs.batch import texts as texts_module
from mlx_video.runs.batch.item import BatchItem, BatchResult
from mlx_video.runs.batch.maker import VideoMaker
from tests.fixtures.tiny_checkpoint import write_tiny_checkpoint
from tests.fixtures.tiny_variants import write_tiny_variant

pytestmark = pytest.mark.slow

SMALL = {"width": 16, "height": 16, "num_frames": 1, "steps": 2, "seed": 1, "prompt_cache": False}
IMAGE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("model")
    return convert_checkpoint(write_tiny_checkpoint(root / "original").path, root / "model", dtype="float32")


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models with two experts, by name."""
    root = tmp_path_factory.mktemp("experts")
    for name in ("wan2.2-t2v-a14b", "wan2.2-i2v-a14b"):
        write_tiny_variant(root / "original" / name, name)
        convert_checkpoint(root / "original" / name, root / name, dtype="float32")
    return root


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Files of which tensors are read, one entry a tensor."""
    names: list[str] = []
    read, read_into = TensorFile.read, TensorFile.read_into

    def noted_read(self, name, rows=None):
        if rows is None:
            names.append(Path(self.label).name)
        return read(self, name, rows)

    def noted_read_into(self, name, memory):
        names.append(Path(self.label).name)
        return read_into(self, name, memory)

    monkeypatch.setattr(TensorFile, "read", noted_read)
    monkeypatch.setattr(TensorFile, "read_into", noted_read_into)
    return names


def open_maker(folder: Path, *, collects: bool = True) -> VideoMaker:
    model, config = open_model(folder)
    return VideoMaker(model, config, Session(keeps=True), collects=collects)


def items_of(*options: dict) -> list[BatchItem]:
    requests = [
        build_request(one.get("prompt", "a cat"), SMALL | {k: v for k, v in one.items() if k != "prompt"})
        for one in options
    ]
    return [BatchItem(index, len(requests), request) for index, request in enumerate(requests)]


def make(maker: VideoMaker, items: list[BatchItem]) -> tuple[dict[int, BatchResult], list]:
    told = list(maker.make_all(items))
    results = {one.index: one for one in told if isinstance(one, BatchResult)}
    return results, [one for one in told if not isinstance(one, BatchResult)]


def alone(folder: Path, item: BatchItem):
    options = {
        name: getattr(item.request, name)
        for name in ("seed", "width", "height", "num_frames", "steps", "image", "guide_scale")
    }
    return WanPipeline.from_pretrained(folder, keep_networks=False)(
        item.request.prompt, prompt_cache=False, **options
    )


def assert_alone(folder: Path, items: list[BatchItem], results: dict[int, BatchResult]) -> None:
    for item in items:
        video, expected = results[item.index].video, alone(folder, item)
        assert results[item.index].error is None
        assert mx.array_equal(video.latents, expected.latents)
        assert np.array_equal(video.frames, expected.frames)
        assert video.settings == expected.settings


def test_each_video_of_a_list_is_that_of_a_run_of_its_own(folder: Path):
    items = items_of({}, {"prompt": "two dogs", "seed": 2}, {"width": 48, "num_frames": 5})
    results, _ = make(open_maker(folder), items)
    assert sorted(results) == [0, 1, 2]
    assert_alone(folder, items, results)


def test_texts_are_encoded_together_before_the_first_video_and_equal_ones_once(
    folder: Path, reads: list[str]
):
    items = items_of({}, {"prompt": "two dogs"}, {"seed": 2}, {"prompt": "two dogs", "seed": 3})
    _, events = make(open_maker(folder), items)
    stages = [event.stage for event in events if isinstance(event, StageStarted)]
    assert stages[0] == "text"
    last_block = max(index for index, event in enumerate(events) if isinstance(event, BlocksRead))
    assert last_block < next(index for index, event in enumerate(events) if isinstance(event, VideoStarted))
    alone_reads = count_reads(folder, reads, "t5_encoder.safetensors")
    assert reads.count("t5_encoder.safetensors") == alone_reads


def count_reads(folder: Path, reads: list[str], name: str) -> int:
    before = [*reads]
    reads.clear()
    alone(folder, items_of({})[0])
    count = reads.count(name)
    reads[:] = before
    return count


def test_the_second_video_loads_nothing_that_fits(folder: Path, reads: list[str]):
    items = items_of({}, {"seed": 2}, {"prompt": "two dogs"})
    weights = {"model.safetensors", "t5_encoder.safetensors", "vae.safetensors"}
    seen: list[int] = []
    for told in open_maker(folder).make_all(items):
        if isinstance(told, BatchResult):
            seen.append(sum(file in weights for file in reads))
    assert seen[0] == seen[1] == seen[2]


def test_a_video_that_fails_is_told_and_the_others_are_made(folder: Path, tmp_path: Path):
    items = items_of({}, {"image": tmp_path / "no.png"}, {"seed": 2})
    results, events = make(open_maker(folder), items)
    assert isinstance(results[1].error, RequestError | MLXVideoError)
    assert results[0].error is results[2].error is None
    (failure,) = (event for event in events if isinstance(event, VideoFailed))
    assert (failure.index, failure.total) == (1, 3)
    first = next(index for index, event in enumerate(events) if isinstance(event, VideoStarted))
    assert events.index(failure) < first, "what cannot be made is told before hours of work"


def test_an_error_while_a_video_is_made_ends_that_one_alone(folder: Path, monkeypatch: pytest.MonkeyPatch):
    generate = maker_module.make_anywhere

    def failing(request, prepare, sinks):
        if request.seed == 2:
            raise MemoryError("too much")
        return generate(request, prepare, sinks)

    monkeypatch.setattr(maker_module, "make_anywhere", failing)
    results, _ = make(open_maker(folder), items_of({}, {"seed": 2}, {"seed": 3}))
    assert isinstance(results[1].error, MemoryError)
    assert results[2].video is not None


def test_two_videos_of_one_name_are_refused_before_anything_is_made(folder: Path, tmp_path: Path):
    items = items_of({"output_path": tmp_path / "a.webp"}, {"output_path": tmp_path / "A.webp", "seed": 2})
    with pytest.raises(RequestError, match=r"videos 1 and 2 of the list both have this name"):
        make(open_maker(folder), items)
    assert not list(tmp_path.iterdir())


def test_a_list_goes_on_behind_what_is_made_already(folder: Path, tmp_path: Path):
    def items(*seeds: int, resume: bool) -> list[BatchItem]:
        return items_of(
            *(
                {"seed": seed, "output_path": tmp_path / f"{i}.webp", "resume": resume}
                for i, seed in enumerate(seeds)
            )
        )

    make(open_maker(folder), items(1, 2, resume=False))
    before = (tmp_path / "0.webp").stat().st_mtime_ns
    # The second has another seed now, so what has its name is another video.
    results, events = make(open_maker(folder), items(1, 5, resume=True))
    assert results[0].was_made_before
    assert not results[1].was_made_before
    assert (tmp_path / "0.webp").stat().st_mtime_ns == before
    assert {event.path for event in events if isinstance(event, FileWritten)} == {
        tmp_path / "0.webp",
        tmp_path / "1.webp",
    }


def test_a_video_may_begin_with_what_an_earlier_one_of_the_list_becomes(experts: Path, tmp_path: Path):
    model = experts / "wan2.2-i2v-a14b"
    picture = tmp_path / "first.png"
    first = {"image": IMAGE, "output_path": picture}
    results, _ = make(
        open_maker(model), items_of(first, {"image": picture, "output_path": tmp_path / "b.webp"})
    )
    assert results[0].error is results[1].error is None


# Experts in turn


@pytest.fixture
def tight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory in which one expert stays, and no other network beside it."""
    plan_of = run_memory.plan_of
    monkeypatch.setattr(expert_phases, "WORTH_BYTES", 0)

    def without_kept(run):
        plan = plan_of(run)
        return replace(plan, choices=replace(plan.choices, kept=frozenset()), kept=())

    monkeypatch.setattr(run_memory, "plan_of", without_kept)


def loads_of(reads: list[str], name: str) -> int:
    """How often a file is read as a whole."""
    return reads.count(name)


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", ["wan2.2-t2v-a14b", "wan2.2-i2v-a14b"])
@pytest.mark.parametrize("has_paths", [True, False], ids=["files", "memory"])
@pytest.mark.usefixtures("tight")
def test_experts_that_do_not_fit_together_are_loaded_once_for_a_list(
    experts: Path, tmp_path: Path, reads: list[str], name: str, has_paths: bool
):
    image = {"image": IMAGE} if "i2v" in name else {}
    each = [image | {"seed": seed, "steps": 3, "guide_scale": 1.0} for seed in (1, 2, 3)]
    if has_paths:
        each = [one | {"output_path": tmp_path / f"{one['seed']}.webp"} for one in each]
    items = items_of(*each)
    results, events = make(open_maker(experts / name), items)
    listed = [*reads]
    reads.clear()
    assert_alone(experts / name, items, results)
    files = {file for file in listed if "noise" in file}
    assert len(files) == 2
    for file in files:
        assert 3 * listed.count(file) == reads.count(file)
    parts = [event.part for event in events if isinstance(event, VideoStarted)]
    assert parts == ["inputs"] * 3 + ["high noise"] * 3 + ["low noise"] * 3 + ["decode"] * 3
    assert not list(tmp_path.glob("*.state.safetensors"))
    assert len(list(tmp_path.iterdir())) == (3 if has_paths else 0)


@pytest.mark.usefixtures("tight")
def test_experts_take_no_turns_where_little_would_be_saved(
    experts: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(expert_phases, "WORTH_BYTES", 2e9)
    items = items_of(*({"seed": seed, "steps": 3} for seed in (1, 2)))
    results, events = make(open_maker(experts / "wan2.2-t2v-a14b"), items)
    assert [event.part for event in events if isinstance(event, VideoStarted)] == ["", ""]
    assert all(result.video is not None for result in results.values())


@pytest.mark.usefixtures("tight")
def test_an_interrupted_list_goes_on_with_its_phases(experts: Path, tmp_path: Path):
    model = experts / "wan2.2-t2v-a14b"

    def items(resume: bool) -> list[BatchItem]:
        return items_of(
            *(
                {"seed": seed, "steps": 3, "resume": resume, "output_path": tmp_path / f"{seed}.webp"}
                for seed in (1, 2)
            )
        )

    making = open_maker(model, collects=False).make_all(items(resume=False))
    for told in making:
        if isinstance(told, VideoStarted) and told.part == "low noise" and told.index == 1:
            break
    making.close()
    assert list(tmp_path.glob("*.state.safetensors"))
    results, events = make(open_maker(model), items(resume=True))
    assert_alone(model, items(resume=False), results)
    assert not [event for event in events if isinstance(event, VideoFailed)]


def test_texts_that_do_not_fit_together_are_encoded_in_groups(folder: Path, monkeypatch: pytest.MonkeyPatch):
    class Stage:
        def __init__(self, task, host) -> None:
            self.count = len(task.text_lengths)

        def fits(self, budget) -> bool:
            return self.count <= 2

    monkeypatch.setattr(texts_module, "plan_text", Stage)
    encode, groups = texts_module.run_text_encoder, []

    def noted(run, texts):
        groups.append(len(texts))
        return encode(run, texts)

    monkeypatch.setattr(texts_module, "run_text_encoder", noted)
    items = items_of({}, {"prompt": "two dogs"}, {"prompt": "a cow"})
    results, _ = make(open_maker(folder), items)
    assert groups == [2, 2], "three prompts and the negative one"
    assert_alone(folder, items, results)


def test_nothing_of_the_texts_stays_on_disk_after_a_list(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    make(open_maker(folder), items_of({}, {"prompt": "two dogs"}))
    assert not list(tmp_path.iterdir())


def test_segments_of_a_list_go_on_where_it_was_broken_off(experts: Path, tmp_path: Path):
    def items(resume: bool) -> list[BatchItem]:
        shared = {"width": 64, "height": 64, "image": IMAGE, "num_frames": 5, "segments": 2}
        shared |= {"output_type": "images", "resume": resume}
        return items_of(*({**shared, "output_path": tmp_path / f"{name}.mp4"} for name in "ab"))

    model = experts / "wan2.2-i2v-a14b"
    making = open_maker(model, collects=False).make_all(items(resume=False))
    for told in making:
        is_state = isinstance(told, StateSaved) and told.path.name == "a.mp4.state.safetensors"
        if is_state and list(tmp_path.glob("*.segment-1.*")):
            break
    making.close()
    results, _ = make(open_maker(model, collects=False), items(resume=True))
    assert [one.error for one in results.values()] == [None, None]
    again, _ = make(open_maker(model, collects=False), items(resume=True))
    assert [one.was_made_before for one in again.values()] == [True, True]
