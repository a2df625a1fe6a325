"""The two passes before a training: what they encode, when they encode anew, and that nothing is lost."""

from __future__ import annotations

import gc
import os
import shutil
from collections import Counter
from itertools import islice
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import DatasetError, MediaError, MemoryBudgetError, WanPipeline
from mlx_video.events import (
    CaptionsEncoded,
    Event,
    ExamplesEncoded,
    Notice,
    StageFinished,
    TextResult,
    finish,
)
from mlx_video.latents.encode import encode_video
from mlx_video.loading.components import open_model
from mlx_video.loading.vae_halves import load_vae_encoder
from mlx_video.media.resize import to_unit_range
from mlx_video.media.sources.source_video import open_video
from mlx_video.models.encoders.text_encoder import UMT5Encoder
from mlx_video.models.vae.autoencoder import WanVAE
from mlx_video.request.dataset import DatasetOptions
from mlx_video.training.data import prepare_dataset
from mlx_video.training.data.fit_pixels import fit_pixels
from mlx_video.training.data.musubi_file import CACHE_FOLDER
from tests.training.data.clip_files import draw_frames, write_picture, write_video
from tests.training.data.tiny_learners import cache, convert_tiny

SMALL = {"width": 32, "height": 32, "num_frames": 5}


@pytest.fixture(scope="module")
def t2v(tmp_path_factory: pytest.TempPathFactory):
    return convert_tiny(tmp_path_factory.mktemp("models"), "wan2.1-t2v-1.3b")


@pytest.fixture(scope="module")
def encoded(t2v, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with its cache."""
    folder = tmp_path_factory.mktemp("encoded") / "clips"
    write_video(folder / "a.mp4", draw_frames(9), "a cat")
    write_video(folder / "b.mp4", draw_frames(6, seed=1), "a dog")
    write_picture(folder / "c.png", draw_frames(1)[0], "a still")
    events: list[Event] = []
    cache(t2v, events, dataset=folder, **SMALL)
    assert counts(events) == (4, 3)  # three captions, and the empty one
    return folder


@pytest.fixture
def clips(encoded: Path, tmp_path: Path) -> Path:
    """A copy of the dataset, whose cache holds for it too: nothing of it depends on where the files lie."""
    return shutil.copytree(encoded, tmp_path / "clips")


def counts(events: list[Event]) -> tuple[int, int]:
    """Captions and examples that were encoded."""
    captions = [event.done for event in events if isinstance(event, CaptionsEncoded)]
    return max(captions, default=0), sum(isinstance(event, ExamplesEncoded) for event in events)


def notices(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Notice)]


def recount(model, **options: object) -> tuple[int, int]:
    """Captions and examples that a further pass encodes."""
    events: list[Event] = []
    cache(model, events, **options)
    return counts(events)


def examples_of(dataset) -> dict[str, mx.array]:
    return {Path(each.name.split()[0]).name: each.load().latents for each in dataset.examples}


def test_cached_latents_equal_a_direct_encode(t2v, clips: Path):
    found = examples_of(cache(t2v, dataset=clips, **SMALL))
    vae = load_vae_encoder(*t2v)
    assert found.keys() == {"a.mp4", "b.mp4", "c.png"}
    for name, pixels in {"a.mp4": read(clips / "a.mp4", 5), "c.png": draw_frames(1)}.items():
        frames = np.stack([to_unit_range(fit_pixels(each, 32, 32, "musubi")) for each in pixels])
        expected = encode_video(vae, mx.array(frames))
        assert found[name].dtype == mx.float32
        assert mx.array_equal(found[name], expected), name


def read(path: Path, count: int) -> list[np.ndarray]:
    return [frame for frame, _ in islice(open_video(path).read(), count)]


def test_captions_are_encoded_as_a_run_encodes_prompts(t2v, clips: Path):
    dataset = cache(t2v, dataset=clips, **SMALL)
    pipeline = WanPipeline.from_pretrained(t2v[0].path)
    encoded = pipeline.encode("a dog", negative_prompt="")
    features = {len(key): value for key, value in encoded.features.items()}
    found = next(each for each in dataset.examples if each.name.split()[0].endswith("b.mp4")).load()
    assert any(mx.array_equal(found.conditioning.context, each) for each in features.values())
    assert any(mx.array_equal(dataset.empty_context, each) for each in features.values())
    assert found.conditioning.negative_context is None


def test_what_is_cached_is_not_encoded_again(t2v, clips: Path):
    os.utime(clips / "a.mp4", (1, 1))
    for suffix in (".mp4", ".txt"):
        shutil.copy(clips / f"a{suffix}", clips / f"copy{suffix}")
    events: list[Event] = []
    dataset = cache(t2v, events, dataset=clips, **SMALL)
    assert counts(events) == (0, 0)
    assert [event.stage for event in events if isinstance(event, StageFinished)] == ["dataset"]
    assert len(dataset.examples) == 4


CHANGES = {
    "a clip": (lambda folder: write_video(folder / "a.mp4", draw_frames(9, seed=5)), {}, (0, 1)),
    "a caption": (lambda folder: (folder / "a.txt").write_text("a cow"), {}, (1, 0)),
    "a clip more": (lambda folder: write_video(folder / "d.mp4", draw_frames(9, seed=6), "new"), {}, (1, 1)),
    "the size": (lambda folder: None, {"width": 48, "height": 48}, (0, 3)),
    "the frames": (lambda folder: None, {"num_frames": 1}, (0, 2)),  # the picture stays
    "nothing": (lambda folder: None, {"batch_size": 2, "dataset_repeat": 3}, (0, 0)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_encodes_what_it_concerns_and_nothing_else(t2v, clips: Path, change: str):
    make, options, expected = CHANGES[change]
    make(clips)
    assert recount(t2v, dataset=clips, **SMALL | options) == expected


def test_another_vae_encodes_clips_anew_and_another_text_encoder_captions(tmp_path: Path, t2v, clips: Path):
    for part, expected in {"vae": (0, 3), "text_encoder": (4, 0)}.items():
        folder = shutil.copytree(t2v[0].path, tmp_path / part)
        path = folder / f"{'t5_encoder' if part == 'text_encoder' else part}.safetensors"
        arrays, metadata = mx.load(str(path), return_metadata=True)
        name = sorted(arrays)[0]
        mx.save_safetensors(str(path), arrays | {name: arrays[name] + 1}, metadata)
        assert recount(open_model(folder), dataset=clips, **SMALL) == expected, part


def test_an_interrupted_pass_goes_on_where_it_was(t2v, clips: Path, tmp_path: Path):
    whole = examples_of(cache(t2v, dataset=clips, **SMALL))
    options = DatasetOptions(dataset=clips, cache_directory=tmp_path / "kept", **SMALL)
    work = prepare_dataset(options, *t2v)
    for event in work:
        if isinstance(event, ExamplesEncoded):
            break
    work.close()
    assert not [*alive(WanVAE)]
    events: list[Event] = []
    found = examples_of(cache(t2v, events, dataset=clips, cache_directory=tmp_path / "kept", **SMALL))
    assert counts(events) == (0, 2)
    assert all(mx.array_equal(found[name], whole[name]) for name in whole)


def test_what_a_killed_pass_left_is_removed(t2v, clips: Path):
    left = clips / CACHE_FOLDER / "examples" / ".partial-0123456789ab.safetensors"
    left.write_bytes(b"half")
    os.utime(left, (1, 1))
    assert recount(t2v, dataset=clips, **SMALL) == (0, 0)
    assert not left.exists()


@pytest.mark.parametrize("folder", ["examples", "captions"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_damaged_files_of_the_cache_are_made_again(t2v, clips: Path, folder: str, damage: str):
    before = examples_of(cache(t2v, dataset=clips, **SMALL))
    path = sorted((clips / CACHE_FOLDER / folder).iterdir())[0]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1 << 6
    path.write_bytes({"cut": content[:-9], "flipped": content, "empty": b""}[damage])
    events: list[Event] = []
    after = examples_of(cache(t2v, events, dataset=clips, **SMALL))
    assert counts(events) == ((1, 0) if folder == "captions" else (0, 1))
    assert [event.text for event in events if isinstance(event, Notice)] == [
        f"{path} is damaged, and made again."
    ]
    assert all(mx.array_equal(before[name], after[name]) for name in before)


def test_a_file_that_is_damaged_while_it_is_read_is_told(t2v, clips: Path):
    dataset = cache(t2v, dataset=clips, **SMALL)
    path = dataset.examples[0].path
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(MediaError, match=f"{path.name}.*cut short"):
        dataset.examples[0].load()
    path.unlink()
    with pytest.raises(MediaError, match=f"{path.name}: not found. The same command makes it anew"):
        dataset.examples[0].load()
    dataset.examples[1].texts.path_of(dataset.examples[1].caption).unlink()
    with pytest.raises(MediaError, match="damaged or removed. The same command makes it anew"):
        dataset.examples[1].load()


def alive(kind: type) -> list[object]:
    gc.collect()
    return [each for each in gc.get_objects() if type(each) is kind]


def test_each_encoder_is_in_memory_for_its_pass_alone(t2v, clips: Path):
    shutil.rmtree(clips / CACHE_FOLDER)
    seen: dict[type, tuple[int, int]] = {}
    work = prepare_dataset(DatasetOptions(dataset=clips, **SMALL), *t2v)
    for event in work:
        if isinstance(event, CaptionsEncoded | ExamplesEncoded):
            seen[type(event)] = len(alive(UMT5Encoder)), len(alive(WanVAE))
    assert seen == {CaptionsEncoded: (0, 0), ExamplesEncoded: (0, 1)}
    assert (len(alive(UMT5Encoder)), len(alive(WanVAE))) == (0, 0)


def test_a_vae_that_needs_more_than_there_is_refused_before_it_works(t2v, clips: Path):
    shutil.rmtree(clips / CACHE_FOLDER / "examples")
    work = prepare_dataset(DatasetOptions(dataset=clips, **SMALL), *t2v, memory_limit=2e-3)
    with pytest.raises(MemoryBudgetError, match="c.png: encoding 32x32 pixels needs .* Allow more"):
        finish(work, lambda event: None)


def test_a_cache_alone_ends_with_what_there_is(t2v, clips: Path):
    events: list[Event] = []
    options = DatasetOptions(dataset=clips, cache_only=True, batch_size=2, dataset_repeat=3, **SMALL)
    assert finish(prepare_dataset(options, *t2v), events.append) is None
    assert events[-1] == TextResult(f"{clips}: 3 examples, 9 shown in 5 batches an epoch, 2 buckets.")


def test_clips_that_are_too_short_are_named_and_left_out(t2v, clips: Path, tmp_path: Path):
    toml = tmp_path / "d.toml"
    toml.write_text(
        f'[[datasets]]\nvideo_directory = "{clips}"\ncaption_extension = ".txt"\nresolution = 32\n'
        "target_frames = [9]\n"
    )
    events: list[Event] = []
    dataset = cache(t2v, events, dataset_config=toml)
    assert [Path(each.name).name for each in dataset.examples] == ["a.mp4 frames 0-8"]
    (notice,) = notices(events)
    assert notice == f"1 clips are too short for target_frames: {clips / 'b.mp4'} (6 frames)."
    toml.write_text(toml.read_text().replace("[9]", "[13]"))
    with pytest.raises(DatasetError, match="no clip is long enough"):
        cache(t2v, dataset_config=toml)


def test_damaged_and_missing_clips_are_told(t2v, clips: Path, tmp_path: Path):
    (clips / "b.mp4").write_bytes(b"nothing")
    with pytest.raises(MediaError, match="b.mp4: no video that ffmpeg can read"):
        cache(t2v, dataset=clips, **SMALL)
    (clips / "c.png").write_bytes(b"nothing")
    with pytest.raises(MediaError, match="c.png"):
        cache(t2v, dataset=clips, **SMALL)
    (tmp_path / "m.csv").write_text("video,prompt\nabsent.mp4,x\n")
    with pytest.raises(
        DatasetError, match="absent.mp4: not found; .*m.csv line 2 names it. Correct it there"
    ):
        cache(t2v, dataset_config=tmp_path / "m.csv", **SMALL)


def test_a_cache_that_cannot_be_written_is_told_before_anything_is_encoded(t2v, clips: Path, tmp_path: Path):
    (tmp_path / "taken").write_text("a file")
    events: list[Event] = []
    with pytest.raises(MediaError, match="taken"):
        cache(t2v, events, dataset=clips, cache_directory=tmp_path / "taken", **SMALL)
    assert counts(events) == (0, 0)


def test_long_captions_are_said_to_be_cut(t2v, clips: Path):
    (clips / "a.txt").write_text("a cat and " * 20)
    events: list[Event] = []
    cache(t2v, events, dataset=clips, **SMALL)
    most = t2v[1].transformer.text_len
    assert f"1 captions have more than {most} tokens" in " ".join(notices(events))


def test_batches_follow_seed_and_position_alone(t2v, clips: Path):
    first = cache(t2v, dataset=clips, batch_size=2, dataset_repeat=2, **SMALL)
    assert (first.batches_per_epoch, first.examples_per_epoch) == (3, 6)
    names = [tuple(example.name for example in first.batch(number)) for number in range(6)]
    second = cache(t2v, dataset=clips, batch_size=2, dataset_repeat=2, **SMALL)
    assert [tuple(e.name for e in second.batch(number)) for number in (4, 1)] == [names[4], names[1]]
    for epoch in (names[:3], names[3:]):
        assert Counter(name for batch in epoch for name in batch) == dict.fromkeys(
            [example.name for example in first.examples], 2
        )
    for number in range(3):
        assert len({example.latents.shape for example in first.batch(number)}) == 1
    assert first.identity == second.identity
    assert first.identity != cache(t2v, dataset=clips, batch_size=1, dataset_repeat=2, **SMALL).identity
    (clips / "a.txt").write_text("a cow")
    changed = cache(t2v, dataset=clips, batch_size=2, dataset_repeat=2, **SMALL)
    assert changed.identity != first.identity


def test_two_tables_share_no_batch_and_each_keeps_its_own_cache(t2v, clips: Path, tmp_path: Path):
    toml = tmp_path / "d.toml"
    section = f'[[datasets]]\nvideo_directory = "{clips}"\ntarget_frames = [5]\nbatch_size = 4\n'
    toml.write_text(
        f'[general]\ncaption_extension = ".txt"\nresolution = 32\n'
        f'{section}cache_directory = "{tmp_path}/one"\n'
        f'{section}cache_directory = "{tmp_path}/two"\nnum_repeats = 3\n'
    )
    dataset = cache(t2v, dataset_config=toml)
    assert sorted(map(len, (dataset.numbers(number) for number in range(3)))) == [2, 2, 4]
    assert all(len([*(tmp_path / name / "examples").iterdir()]) == 2 for name in ("one", "two"))
