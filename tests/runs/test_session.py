"""Networks that outlive a run: never read twice where they fit, never used wrongly, and gone when asked."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import CheckpointError, NonFiniteError, WanPipeline, convert_checkpoint
from mlx_video.api import build_request
from mlx_video.events import MemoryPlanned, StageFinished, StepFinished, Work
from mlx_video.formats.tensor_file import TensorFile
from mlx_video.generate_wan import main
from mlx_video.loading.residency import release_memory
from mlx_video.media.clip import Video
from mlx_video.models.block_order import MAIN, BlockName
from mlx_video.models.transformer import WanTransformer
from mlx_video.planning.budget import GB, Machine
from mlx_video.progress.lines import Lines
from mlx_video.runs import memory as run_memory
from mlx_video.runs.generate import generate, prepare_run
from mlx_video.runs.segments import FrameCollector
from tests.fixtures.adapter_files import write_adapter
from tests.fixtures.reader_threads import count_busy_readers
from tests.fixtures.tiny_checkpoint import TinySizes, write_tiny_checkpoint
from tests.fixtures.tiny_variants import write_tiny_variant

pytestmark = pytest.mark.slow

LAYERS = 4  # enough to be streamed
SIZES = TinySizes()
DEEP = replace(SIZES, transformer=replace(SIZES.transformer, num_layers=LAYERS))
SMALL = {"width": 16, "height": 16, "num_frames": 1, "steps": 2, "seed": 1, "prompt_cache": False}
IMAGE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
EVERYTHING = ("transformer", "text encoder", "VAE decoder")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("model")
    checkpoint = write_tiny_checkpoint(root / "original", DEEP).path
    return convert_checkpoint(checkpoint, root / "converted", dtype="float32")


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models of several variants, by name."""
    root = tmp_path_factory.mktemp("variants")
    for name in ("wan2.2-t2v-a14b", "wan2.2-ti2v-5b", "wan2.1-i2v-14b"):
        write_tiny_variant(root / "original" / name, name)
        convert_checkpoint(root / "original" / name, root / name, dtype="float32")
    return root


@pytest.fixture
def pipeline(folder: Path) -> Iterator[WanPipeline]:
    with WanPipeline.from_pretrained(folder) as opened:
        yield opened


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """File and tensor of every weight that is read; some rows, which are looked at before a run, are none."""
    names: list[str] = []

    def note(file: TensorFile, name: str) -> None:
        names.append(f"{Path(file.label).name} {name}")

    read, read_into = TensorFile.read, TensorFile.read_into

    def noted_read(self, name, rows=None):
        if rows is None:
            note(self, name)
        return read(self, name, rows)

    def noted_read_into(self, name, memory):
        note(self, name)
        return read_into(self, name, memory)

    monkeypatch.setattr(TensorFile, "read", noted_read)
    monkeypatch.setattr(TensorFile, "read_into", noted_read_into)
    return names


def files_of(reads: list[str]) -> set[str]:
    return {name.split()[0] for name in reads}


def fresh(folder: Path, prompt: str = "a cat", **options) -> Video:
    """What a pipeline makes that keeps nothing."""
    return WanPipeline.from_pretrained(folder, keep_networks=False)(prompt, **(SMALL | options))


def assert_same(video: Video, expected: Video) -> None:
    assert mx.array_equal(video.latents, expected.latents)
    assert np.array_equal(video.frames, expected.frames)


def planned(events: list) -> MemoryPlanned:
    return next(event for event in events if isinstance(event, MemoryPlanned))


# A second prompt


@pytest.mark.parametrize(
    "change", [{"seed": 2}, {"width": 48, "num_frames": 9}, {"guide_scale": 1.0}], ids=str
)
def test_a_second_prompt_reads_no_weights_and_makes_the_video_of_a_fresh_pipeline(
    folder: Path, pipeline: WanPipeline, reads: list[str], change: dict
):
    pipeline("a cat", **SMALL)
    assert files_of(reads) == {"model.safetensors", "t5_encoder.safetensors", "vae.safetensors"}
    reads.clear()
    video = pipeline("two dogs", **(SMALL | change))
    assert reads == []
    assert_same(video, fresh(folder, "two dogs", **change))


def test_a_streamed_transformer_stays_but_for_the_blocks_that_pass_by(
    folder: Path, pipeline: WanPipeline, reads: list[str]
):
    pipeline("a cat", stream="on", **SMALL)
    reads.clear()
    video = pipeline("two dogs", stream="on", **SMALL)
    assert count_busy_readers() == 0  # nothing is read while no run is under way
    assert files_of(reads) == {"model.safetensors"}
    assert all(name.startswith("model.safetensors blocks.") for name in reads)
    assert reads.count("model.safetensors blocks.3.ffn.fc1.weight") == SMALL["steps"]
    assert_same(video, fresh(folder, "two dogs", stream="on"))


def test_two_experts_stay_together(variants: Path, reads: list[str]):
    folder, options = variants / "wan2.2-t2v-a14b", {"boundary": 0.95}
    with WanPipeline.from_pretrained(folder) as pipeline:
        pipeline("a cat", **SMALL, **options)
        assert {"low_noise_model.safetensors", "high_noise_model.safetensors"} < files_of(reads)
        reads.clear()
        video = pipeline("two dogs", **SMALL, **options)
    assert reads == []
    assert_same(video, fresh(folder, "two dogs", **options))


def test_an_image_model_keeps_its_encoders(variants: Path, reads: list[str]):
    folder, options = variants / "wan2.1-i2v-14b", {"image": IMAGE, "num_frames": 5}
    with WanPipeline.from_pretrained(folder) as pipeline:
        pipeline("a cat", **(SMALL | options))
        reads.clear()
        video = pipeline("two dogs", **(SMALL | options))
    assert reads == []
    assert_same(video, fresh(folder, "two dogs", **options))


def test_what_a_run_does_not_need_stays_where_it_fits(variants: Path, reads: list[str]):
    size = {"width": 32, "height": 32, "num_frames": 5}
    with WanPipeline.from_pretrained(variants / "wan2.2-ti2v-5b") as pipeline:
        pipeline("a cat", image=IMAGE, **(SMALL | size))
        latents = pipeline("a cat", **(SMALL | size)).latents  # needs no encoder of images
        reads.clear()
        pipeline("a cat", image=IMAGE, **(SMALL | size))
        assert reads == []
    assert latents.shape[0] == 48


def test_decoding_between_two_prompts_leaves_the_transformer_in_memory(
    pipeline: WanPipeline, reads: list[str], tmp_path: Path
):
    first = pipeline("a cat", save_latents=tmp_path / "a.safetensors", **SMALL)
    reads.clear()
    assert np.array_equal(pipeline.decode(tmp_path / "a.safetensors").frames, first.frames)
    assert all(name.startswith("a.safetensors") for name in reads)
    reads.clear()
    pipeline("two dogs", **SMALL)
    assert reads == []


def test_a_user_is_told_what_is_kept_and_what_is_used_again(pipeline: WanPipeline, capsys):
    first, second = [], []
    pipeline("a cat", on_event=first.append, **SMALL)
    pipeline("a cat", on_event=second.append, **SMALL)
    assert (planned(first).reused, planned(first).kept) == ((), EVERYTHING)
    assert (planned(second).reused, planned(second).kept) == (EVERYTHING, EVERYTHING)
    Lines().show(planned(second))
    shown = capsys.readouterr().err
    assert "in memory from an earlier run: transformer, text encoder, VAE decoder\n" in shown
    assert "kept in memory for the next run: transformer, text encoder, VAE decoder\n" in shown
    assert "kept for the next run: transformer, text encoder, VAE decoder (0.0" in str(pipeline.plan(**SMALL))


# Memory


def least_limit(folder: Path) -> float:
    """GB that a run of SMALL needs when nothing is kept."""
    plan = WanPipeline.from_pretrained(folder, keep_networks=False).plan("a cat", **SMALL)
    return max(stage.peak.needed for stage in plan.stages) * 1.001 / GB


def test_where_memory_is_short_nothing_is_kept_and_the_video_is_the_same(
    folder: Path, pipeline: WanPipeline, reads: list[str]
):
    limit, events = least_limit(folder), []
    release_memory()
    before = mx.get_active_memory()
    for _ in range(2):
        events.clear()
        reads.clear()
        video = pipeline("a cat", on_event=events.append, memory_limit=limit, **SMALL)
        assert "transformer" not in planned(events).kept
        assert "model.safetensors" in files_of(reads)
    assert_same(video, fresh(folder, memory_limit=limit))
    pipeline.release()
    del video, events
    release_memory()
    assert mx.get_active_memory() - before < 100_000


def test_what_was_kept_goes_when_a_later_run_has_no_room_for_it(folder: Path, pipeline: WanPipeline):
    release_memory()
    before = mx.get_active_memory()
    pipeline("a cat", **SMALL)
    transformer = (folder / "model.safetensors").stat().st_size
    assert mx.get_active_memory() - before > transformer
    seen = []

    def look(event) -> None:
        if isinstance(event, StageFinished):
            seen.append((event.stage, mx.get_active_memory() - before))

    pipeline("a cat", on_event=look, memory_limit=least_limit(folder), **SMALL)
    assert dict(seen)["text"] < transformer
    assert dict(seen)["decode"] < transformer


def test_release_and_close_give_all_memory_back(folder: Path):
    release_memory()
    before = mx.get_active_memory()
    kept = sum((folder / name).stat().st_size for name in ("model.safetensors", "t5_encoder.safetensors"))
    with WanPipeline.from_pretrained(folder) as pipeline:
        for give_back in (pipeline.release, pipeline.close):
            pipeline("a cat", **SMALL)
            assert mx.get_active_memory() - before > kept
            give_back()
            assert mx.get_active_memory() - before < 100_000
        with pytest.raises(ValueError, match="the pipeline is closed"):
            pipeline("a cat", **SMALL)


def test_a_pipeline_that_is_dropped_gives_its_memory_back(folder: Path):
    release_memory()
    before = mx.get_active_memory()
    WanPipeline.from_pretrained(folder)("a cat", stream="on", **SMALL)
    release_memory()
    assert mx.get_active_memory() - before < 100_000
    assert count_busy_readers() == 0


def test_the_command_keeps_nothing(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    release_memory()
    before, output = mx.get_active_memory(), tmp_path / "a.png"
    size = [f"--{name}={SMALL[name]}" for name in ("width", "height", "steps")]
    command = ["--model-dir", str(folder), "--prompt", "a cat", "--num-frames=1", *size]
    assert main([*command, "--output-path", str(output)]) == 0
    assert "kept in memory" not in capsys.readouterr().err
    release_memory()
    assert mx.get_active_memory() - before < 100_000


@pytest.mark.parametrize("stream", ["off", "on"])
def test_peaks_are_predicted_with_what_stays_beside(folder: Path, stream: str):
    release_memory()

    def run(pipeline: WanPipeline) -> tuple[dict[str, int], dict[str, int]]:
        events: list = []
        pipeline("a cat", on_event=events.append, stream=stream, **SMALL)
        measured = {event.stage: event.peak_bytes for event in events if isinstance(event, StageFinished)}
        return dict(planned(events).predicted), measured

    predicted_alone, alone = run(WanPipeline.from_pretrained(folder, keep_networks=False))
    with WanPipeline.from_pretrained(folder) as pipeline:
        for _ in range(2):
            release_memory()
            predicted, measured = run(pipeline)
            for name in measured:
                # What is kept adds to a stage what the plan says that it adds.
                added = measured[name] - alone[name]
                expected = predicted[name] - predicted_alone[name]
                assert abs(added - expected) < 0.15 * max(expected, 0) + 50_000, name


def test_what_the_pipeline_itself_holds_counts_as_free(folder: Path, pipeline: WanPipeline, monkeypatch):
    total = 3_000_000_000
    base = mx.get_active_memory()

    def machine() -> Machine:
        # As a system tells it: what this process holds is not available.
        return Machine(total, total, available_bytes=total - (mx.get_active_memory() - base))

    monkeypatch.setattr(run_memory, "find_machine", machine)
    before = pipeline.plan(**SMALL).host.budget.nbytes
    pipeline("a cat", **SMALL)
    release_memory()
    # Weights alone: a little of what a run leaves is none.
    assert abs(pipeline.plan(**SMALL).host.budget.nbytes - before) < 100_000


# What must not be used again


def test_other_adapters_never_meet_merged_weights(
    folder: Path, pipeline: WanPipeline, reads: list[str], tmp_path: Path
):
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    write_adapter(one, DEEP.transformer, seed=1)
    write_adapter(two, DEEP.transformer, ["blocks.0.ffn.0", "head.head"], seed=2)
    chosen = [[], [one], [(one, 0.5)], [one, two], []]
    options = [{"loras": loras} for loras in chosen] + [{"loras": [one], "lora_mode": "side"}]
    made = []
    for option in options:
        reads.clear()
        made.append(pipeline("a cat", **SMALL, **option))
        assert "model.safetensors head.head.weight" in reads
        assert "t5_encoder.safetensors" not in files_of(reads) or option is options[0]
        reads.clear()
        pipeline("two dogs", **SMALL, **option)
        assert "model.safetensors" not in files_of(reads)
    for option, video in zip(options, made, strict=True):
        assert_same(video, fresh(folder, **option))
    assert not mx.allclose(made[0].latents, made[1].latents, atol=1e-3)


def test_an_adapter_that_is_written_anew_under_its_name_is_read_anew(
    folder: Path, pipeline: WanPipeline, tmp_path: Path
):
    path, other = tmp_path / "style.safetensors", tmp_path / "other.safetensors"
    write_adapter(path, DEEP.transformer, seed=1)
    write_adapter(other, DEEP.transformer, seed=2)
    first = pipeline("a cat", loras=[path], **SMALL)
    with path.open("r+b") as file:  # the same file, size and times
        times = os.stat(path)
        file.write(other.read_bytes())
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    second = pipeline("a cat", loras=[path], **SMALL)
    assert_same(second, fresh(folder, loras=[path]))
    assert not mx.allclose(first.latents, second.latents, atol=1e-3)


def test_each_expert_follows_its_own_adapters(variants: Path, reads: list[str], tmp_path: Path):
    adapter = tmp_path / "high.safetensors"
    write_adapter(adapter, SIZES.transformer, seed=1)
    folder, options = variants / "wan2.2-t2v-a14b", {"boundary": 0.95}
    with WanPipeline.from_pretrained(folder) as pipeline:
        pipeline("a cat", **SMALL, **options)
        reads.clear()
        video = pipeline("a cat", loras_high=[adapter], **SMALL, **options)
    assert "high_noise_model.safetensors" in files_of(reads)
    assert "low_noise_model.safetensors" not in files_of(reads)
    assert_same(video, fresh(folder, loras_high=[adapter], **options))


def test_another_way_of_streaming_opens_the_transformer_anew(
    folder: Path, pipeline: WanPipeline, reads: list[str]
):
    for stream in ("off", "on", "off"):
        reads.clear()
        video = pipeline("a cat", stream=stream, **SMALL)
        assert "model.safetensors head.head.weight" in reads
        assert_same(video, fresh(folder, stream=stream))


def test_a_model_that_is_replaced_is_read_anew(folder: Path, tmp_path: Path):
    own = shutil.copytree(folder, tmp_path / "model")
    with WanPipeline.from_pretrained(own) as pipeline:
        first = pipeline("a cat", **SMALL)
        tensors = mx.load(str(own / "model.safetensors"))
        half = {name: array.astype(mx.bfloat16) for name, array in tensors.items()}
        mx.eval(half)
        mx.save_safetensors(str(tmp_path / "half.safetensors"), half)
        (tmp_path / "half.safetensors").replace(own / "model.safetensors")
        second = pipeline("a cat", **SMALL)
        assert_same(second, fresh(own))
    assert not mx.array_equal(first.latents, second.latents)


# Runs in turns


def begin(pipeline: WanPipeline, prompt: str, **options) -> tuple[Work[mx.array], FrameCollector]:
    sink, request = FrameCollector(), build_request(prompt, SMALL | options)
    run = prepare_run(request, pipeline.folder, pipeline.config, pipeline._session)
    return generate(run, [sink]), sink


def take_turns(*works: Work[mx.array]) -> list[mx.array]:
    """Let runs go on by one event each, until all have ended; returns their latents."""
    ended: dict[int, mx.array] = {}
    while len(ended) < len(works):
        for index, work in enumerate(works):
            if index not in ended:
                try:
                    next(work)
                except StopIteration as end:
                    ended[index] = end.value
    return [ended[index] for index in range(len(works))]


def go_to_first_step(work: Work[mx.array]) -> None:
    while not isinstance(next(work), StepFinished):
        pass


@pytest.mark.parametrize("stream", ["off", "on"])
def test_runs_in_turns_share_what_they_have_in_common(
    folder: Path, pipeline: WanPipeline, reads: list[str], tmp_path: Path, stream: str
):
    adapter = tmp_path / "style.safetensors"
    write_adapter(adapter, DEEP.transformer, seed=1)
    prompts = [("a cat", {}), ("two dogs", {"seed": 3}), ("a cat", {"loras": [adapter]})]
    runs = [begin(pipeline, prompt, stream=stream, **options) for prompt, options in prompts]
    latents = take_turns(*(work for work, _ in runs))
    # One transformer for two runs, and one for that with an adapter.
    assert reads.count("model.safetensors head.head.weight") == 2
    for (prompt, options), (_, sink), own in zip(prompts, runs, latents, strict=True):
        expected = fresh(folder, prompt, stream=stream, **options)
        assert mx.array_equal(own, expected.latents)
        assert np.array_equal(sink.frames(), expected.frames)


@pytest.mark.sample(3)
@pytest.mark.parametrize("first_to_end", [0, 1])
@pytest.mark.parametrize("how", ["close", "release"])
@pytest.mark.parametrize("stream", ["off", "on"])
def test_a_network_is_not_released_under_a_suspended_run(
    folder: Path, first_to_end: int, how: str, stream: str
):
    release_memory()
    before = mx.get_active_memory()
    pipeline = WanPipeline.from_pretrained(folder)
    runs = [begin(pipeline, prompt, stream=stream)[0] for prompt in ("a cat", "two dogs")]
    for work in runs:
        go_to_first_step(work)
    runs[first_to_end].close()
    getattr(pipeline, how)()
    (latents,) = take_turns(runs[1 - first_to_end])
    assert mx.array_equal(latents, fresh(folder, ("two dogs", "a cat")[first_to_end], stream=stream).latents)
    pipeline.release()
    del latents, runs, work
    release_memory()
    assert mx.get_active_memory() - before < 100_000
    assert count_busy_readers() == 0


def test_a_run_that_keeps_nothing_does_not_disturb_one_that_does(folder: Path, pipeline: WanPipeline):
    keeping, _ = begin(pipeline, "a cat")
    short, _ = begin(pipeline, "two dogs", memory_limit=least_limit(folder))
    latents = take_turns(keeping, short)
    assert mx.array_equal(latents[0], fresh(folder).latents)
    assert mx.array_equal(latents[1], fresh(folder, "two dogs", memory_limit=least_limit(folder)).latents)


def test_a_video_may_be_made_while_another_is(folder: Path, pipeline: WanPipeline):
    inner = []

    def make_another(event) -> None:
        if isinstance(event, StepFinished) and event.index == 0:
            inner.append(pipeline("two dogs", **SMALL))

    outer = pipeline("a cat", on_event=make_another, **SMALL)
    assert_same(outer, fresh(folder))
    assert_same(inner[0], fresh(folder, "two dogs"))


# Errors and interruptions


def test_after_an_error_a_network_is_read_anew(
    folder: Path, pipeline: WanPipeline, reads: list[str], monkeypatch: pytest.MonkeyPatch
):
    pipeline("a cat", **SMALL)
    predict = WanTransformer.predict

    def fail(*rest, **options):
        return [velocity * float("nan") for velocity in predict(*rest, **options)]

    with monkeypatch.context() as patch:
        patch.setattr(WanTransformer, "predict", fail)
        with pytest.raises(NonFiniteError):
            pipeline("a cat", **SMALL)
    reads.clear()
    video = pipeline("a cat", **SMALL)
    assert files_of(reads) == {"model.safetensors"}  # what had no part in it stays
    assert_same(video, fresh(folder))


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_after_an_interruption_the_networks_are_still_there(
    folder: Path, pipeline: WanPipeline, reads: list[str], error: type[BaseException]
):
    def stop(event) -> None:
        if isinstance(event, StepFinished):
            raise error

    with pytest.raises(error):
        pipeline("a cat", on_event=stop, **SMALL)
    reads.clear()
    video = pipeline("a cat", **SMALL)
    assert files_of(reads) == {"vae.safetensors"}  # which the first run did not reach
    assert_same(video, fresh(folder))


def test_an_interrupted_step_leaves_a_stream_in_order(
    folder: Path, pipeline: WanPipeline, monkeypatch: pytest.MonkeyPatch
):
    def interrupted(*rest, **options):
        next(options["block_source"].blocks([BlockName(MAIN, 0)]))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(WanTransformer, "predict", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pipeline("a cat", stream="on", **SMALL)
    assert count_busy_readers() == 0
    assert_same(pipeline("a cat", stream="on", **SMALL), fresh(folder, stream="on"))


def test_a_file_that_cannot_be_read_ends_a_run_and_not_the_pipeline(folder: Path, tmp_path: Path):
    own = shutil.copytree(folder, tmp_path / "model")
    whole = (own / "model.safetensors").read_bytes()

    def damage(event) -> None:
        if isinstance(event, StepFinished):
            os.truncate(own / "model.safetensors", 100_000)

    with WanPipeline.from_pretrained(own) as pipeline:
        with pytest.raises(CheckpointError, match="ends at byte"):
            pipeline("a cat", stream="on", on_event=damage, **SMALL)
        (own / "model.safetensors").write_bytes(whole)
        assert_same(pipeline("a cat", stream="on", **SMALL), fresh(folder, stream="on"))
