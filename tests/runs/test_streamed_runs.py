"""A run whose transformers are streamed makes, bit for bit, the latents of one that has them in memory."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import convert_checkpoint
from mlx_video.api import build_request
from mlx_video.conditioning.types import Conditioning
from mlx_video.errors import CheckpointError
from mlx_video.events import StepFinished
from mlx_video.formats.safetensors import SafetensorsFile
from mlx_video.loading.components import open_model
from mlx_video.loading.residency import release_memory
from mlx_video.loading.stream_plan import SLOTS, plan_stream
from mlx_video.models.block_order import MAIN, BlockName
from mlx_video.runs.generate import prepare_run
from mlx_video.runs.run import Run
from mlx_video.runs.sampling.sample import sample_latents
from tests.fixtures import tiny_variants
from tests.fixtures.adapter_files import write_adapter
from tests.fixtures.reader_threads import count_busy_readers
from tests.fixtures.tiny_variants import TINY_VARIANTS, write_tiny_variant

pytestmark = pytest.mark.slow

LAYERS = 4
ORDER = tuple(BlockName(MAIN, index) for index in range(LAYERS))
SMALL = {"width": 32, "height": 32, "num_frames": 5, "steps": 2, "seed": 1, "guide_scale": 3.0}
FOUR_BITS = {"quantize": True, "bits": 4, "group_size": 32}
IMAGE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
# One of two steps for each expert.
ONE_EACH = {"boundary": 0.95}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def deepen(name: str) -> tiny_variants.TinyVariant:
    """A tiny variant with blocks enough to be streamed, and a short text."""
    variant = TINY_VARIANTS[name]
    transformer = replace(variant.sizes.transformer, num_layers=LAYERS, text_len=16)
    return replace(variant, sizes=replace(variant.sizes, transformer=transformer))


def converted(root: Path, name: str, **options) -> Path:
    """A deep tiny model in float32, or as the options say."""
    original, path = root / "original" / name, root / "_".join((name, *options))
    if not original.exists():
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(TINY_VARIANTS, name, deepen(name))
            write_tiny_variant(original, name)
    if not path.exists():
        convert_checkpoint(original, path, **({"dtype": "float32"} | options))
    return path


def prepare(folder: Path, resident_blocks: int | None, **options) -> Run:
    run = prepare_run(build_request("a cat", SMALL | options), *open_model(folder))
    memory = replace(run.plan.memory, resident_blocks=resident_blocks)
    return replace(run, plan=replace(run.plan, memory=memory))


def imagine(run: Run) -> Conditioning:
    """A made-up prompt, negative prompt and image; nothing is encoded."""
    config, geometry = run.config.transformer, run.plan.geometry
    keys = iter(mx.random.split(mx.random.key(3), 5))

    def draw(*shape: int) -> mx.array:
        return mx.random.normal(shape, key=next(keys))

    given = {}
    if config.image_dim is not None:
        given["image_tokens"] = draw(config.image_positions or 17, config.image_dim)
    if config.in_dim > config.out_dim:
        given["concat_latents"] = draw(config.in_dim - config.out_dim, *geometry.latent_shape[1:])
    elif run.images:
        given["first_frames"] = draw(config.out_dim, 1, *geometry.latent_shape[2:])
    return Conditioning(draw(6, config.text_dim), draw(4, config.text_dim), **given)


def sample(run: Run) -> list[mx.array]:
    """The latents after each step."""
    return [event.latents for event in sample_latents(run, imagine(run)) if isinstance(event, StepFinished)]


def assert_same_latents(folder: Path, resident_blocks: int = 1, **options) -> mx.array:
    """Compare every step of both ways; returns the last latents."""
    expected = sample(prepare(folder, None, **options))
    found = sample(prepare(folder, resident_blocks, **options))
    assert len(found) == SMALL["steps"]
    assert all(mx.array_equal(a, b).item() for a, b in zip(found, expected, strict=True))
    assert mx.isfinite(expected[-1]).all().item()
    return expected[-1]


@pytest.mark.parametrize("guide_scale", [3.0, 1.0])
def test_text_to_video_guided_and_not(root: Path, guide_scale: float):
    assert_same_latents(converted(root, "wan2.1-t2v-14b"), guide_scale=guide_scale)


@pytest.mark.parametrize("options", [FOUR_BITS, {"dtype": "bfloat16"}], ids=["4 bits", "bfloat16"])
def test_weights_of_other_types(root: Path, options: dict):
    assert_same_latents(converted(root, "wan2.1-t2v-14b", **options), 0)


def test_the_image_branch(root: Path):
    assert_same_latents(converted(root, "wan2.1-i2v-14b"), image=IMAGE)


def test_a_first_frame_with_timesteps_of_its_own(root: Path):
    options = {"image": IMAGE, "width": 64, "height": 64}
    folder = converted(root, "wan2.2-ti2v-5b")
    assert imagine(prepare(folder, 1, **options)).first_frames is not None
    assert_same_latents(folder, **options)


@pytest.mark.parametrize("options", [{}, {"experts": "parallel"}, {"guide_scale": (1.0, 3.0)}], ids=str)
def test_two_experts(root: Path, options: dict):
    assert_same_latents(converted(root, "wan2.2-t2v-a14b"), **(ONE_EACH | options))


@pytest.mark.parametrize(
    ("kind", "lora_mode"), [({}, "merge"), ({}, "side"), (FOUR_BITS, "auto"), (FOUR_BITS, "merge")], ids=str
)
def test_adapters_of_blocks_and_of_what_surrounds_them(root: Path, kind: dict, lora_mode: str):
    config = deepen("wan2.1-t2v-14b").sizes.transformer
    write_adapter(root / "blocks.safetensors", config, seed=1)
    write_adapter(root / "around.safetensors", config, ["text_embedding.0", "head.head"], seed=2)
    loras = [(root / "blocks.safetensors", 0.5), root / "around.safetensors"]
    folder = converted(root, "wan2.1-t2v-14b", **kind)
    options = {"guide_scale": 1.0, "num_frames": 1}
    changed = assert_same_latents(folder, loras=loras, lora_mode=lora_mode, **options)
    plain = sample(prepare(folder, 1, **options))[-1]
    assert not mx.allclose(plain, changed, atol=1e-2).item()


def test_one_reading_of_a_step_serves_both_passes(root: Path, monkeypatch: pytest.MonkeyPatch):
    folder, reads, read_into = converted(root, "wan2.1-t2v-14b"), [], SafetensorsFile.read_into

    def counted(self, name, memory):
        reads.append(name)
        read_into(self, name, memory)

    monkeypatch.setattr(SafetensorsFile, "read_into", counted)
    for guide_scale in (1.0, 3.0):
        reads.clear()
        sample(prepare(folder, 0, guide_scale=guide_scale))
        # Once for each of two steps, and at most once more for a third that never comes.
        assert 2 <= reads.count("blocks.0.ffn.fc1.weight") <= 3
        assert reads.count(f"blocks.{LAYERS - 1}.ffn.fc1.weight") == 2
        assert reads.count("head.head.weight") == 1


def test_the_memory_of_a_run_is_back_at_its_end_and_small_on_the_way(root: Path):
    folder = converted(root, "wan2.1-t2v-14b")

    def peak(resident_blocks: int | None) -> int:
        release_memory()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        sample(prepare(folder, resident_blocks, num_frames=1))
        found = mx.get_peak_memory() - before
        release_memory()
        assert mx.get_active_memory() - before < 10_000
        return found

    with SafetensorsFile(folder / "model.safetensors") as source:
        plan = plan_stream(source.infos, ORDER, 0)
    # All blocks against two; a tenth is left for activations.
    spared = (LAYERS - SLOTS) / LAYERS * plan.bytes_per_step
    assert peak(0) <= peak(None) - 0.9 * spared


def test_a_failing_read_ends_the_run_and_its_reading(root: Path, tmp_path: Path):
    folder = converted(root, "wan2.1-t2v-14b")
    copy = tmp_path / "model"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).symlink_to(file)
    (copy / "model.safetensors").unlink()
    (copy / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    run = prepare(copy, 0)
    work = sample_latents(run, imagine(run))
    next(event for event in work if isinstance(event, StepFinished))
    os.truncate(copy / "model.safetensors", 100_000)
    with pytest.raises(
        CheckpointError, match=r"blocks\.\d of the transformer: .*model.safetensors: ends at byte"
    ):
        list(work)
    assert count_busy_readers() == 0


def test_a_run_that_is_left_early_ends_its_reading_and_frees_its_memory(root: Path):
    run = prepare(converted(root, "wan2.1-t2v-14b"), 1)
    conditioning = imagine(run)
    mx.eval(conditioning.context, conditioning.negative_context)
    release_memory()
    before = mx.get_active_memory()
    work = sample_latents(run, conditioning)
    next(event for event in work if isinstance(event, StepFinished))
    work.close()
    assert count_busy_readers() == 0
    del work
    release_memory()
    assert mx.get_active_memory() - before < 10_000
