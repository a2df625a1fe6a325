"""A variant brings its own transformer: its file and one entry in VARIANTS are all that it takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import CheckpointError, Video, WanPipeline, convert_checkpoint
from mlx_video.events import StepFinished
from mlx_video.formats.safetensors import SafetensorsFile
from mlx_video.inspect.path import inspect_path
from mlx_video.planning.model_sizes import read_model_sizes
from mlx_video.variants import registry
from tests.fixtures.diffusers_checkpoint import write_diffusers_variant, write_weights
from tests.fixtures.tiny_checkpoint import (
    Arrays,
    TinySizes,
    random_arrays,
    write_tiny_checkpoint,
    write_transformer,
)
from tests.fixtures.weight_files import store, write_safetensors
from tests.variants.tinted_variant import TABLE_BYTES, TINTED, tint_tensors

pytestmark = pytest.mark.slow

TINY = TinySizes()
SIZES = replace(TINY, transformer=replace(TINY.transformer, num_layers=4, text_len=16))
OPTIONS = {"width": 32, "height": 32, "num_frames": 5, "steps": 3, "seed": 1, "guide_scale": 3.0}


@pytest.fixture(autouse=True, scope="module")
def registered() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "VARIANTS", (*registry.VARIANTS, TINTED))
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def plain(root: Path) -> Path:
    return write_tiny_checkpoint(root / "plain", SIZES).path


def add_tint(folder: Path, gain: float) -> Path:
    """Give a checkpoint the extra layer."""
    arrays: Arrays = write_tiny_checkpoint(folder, SIZES).transformer
    tint = random_arrays(tint_tensors(SIZES.transformer), seed=7)
    write_transformer(folder, arrays | {name: gain * values for name, values in tint.items()})
    return folder


@pytest.fixture(scope="module")
def tinted(root: Path) -> Path:
    return add_tint(root / "tinted", gain=1.0)


@pytest.fixture(scope="module")
def folder(root: Path, tinted: Path) -> Path:
    return convert_checkpoint(tinted, root / "converted", dtype="float32")


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> WanPipeline:
    return WanPipeline.from_pretrained(folder)


@pytest.fixture(scope="module")
def whole(pipeline: WanPipeline) -> Video:
    return pipeline("a cat", **OPTIONS, stream="off")


def test_its_checkpoint_is_recognised_and_its_layer_written_under_its_own_name(tinted: Path, folder: Path):
    assert inspect_path(tinted).variant == TINTED.name
    with SafetensorsFile(folder / "model.safetensors") as file:
        assert file.infos["tint_0.weight"].shape == (768, 128)
        stored = np.array(file.read("tint_0.weight"))
    tint = random_arrays(tint_tensors(SIZES.transformer), seed=7)
    assert np.array_equal(stored, tint["tint.0.weight"])


def test_its_folder_and_its_file_are_inspected(folder: Path):
    for path in (folder, folder / "model.safetensors"):
        found = inspect_path(path)
        assert (found.variant, found.problems) == (TINTED.name, ())


def test_a_folder_that_lacks_its_layer_is_refused(folder: Path, plain: Path, root: Path):
    lacking = convert_checkpoint(plain, root / "lacking", dtype="float32")
    (lacking / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(CheckpointError, match=r"2 missing, first tint_0\.weight \[768, 128\]"):
        WanPipeline.from_pretrained(lacking)("a cat", **OPTIONS)


def test_its_weights_and_its_memory_formula_count_in_the_plan(pipeline: WanPipeline, plain: Path, root: Path):
    other = WanPipeline.from_pretrained(convert_checkpoint(plain, root / "without", dtype="float32"))
    mine, theirs = (one.plan("a cat", **OPTIONS).predicted["denoise"] for one in (pipeline, other))
    weights = 4 * (768 * 128 + 768)
    assert mine - theirs == TABLE_BYTES + weights
    assert read_model_sizes(pipeline.folder, pipeline.config).network is TINTED.network


def test_its_weights_change_the_video(root: Path, whole: Video):
    idle = convert_checkpoint(add_tint(root / "idle", gain=0.0001), root / "idle mlx", dtype="float32")
    video = WanPipeline.from_pretrained(idle)("a cat", **OPTIONS, stream="off")
    assert float(mx.abs(video.latents - whole.latents).max()) > 1e-2


def test_streamed_it_makes_the_same_video(pipeline: WanPipeline, whole: Video):
    video = pipeline("a cat", **OPTIONS, stream="on")
    assert mx.array_equal(video.latents, whole.latents)


@pytest.mark.parametrize("stream", ["off", "on"])
def test_resumed_it_makes_the_same_video(pipeline: WanPipeline, whole: Video, tmp_path: Path, stream: str):
    class Interrupted(Exception):
        """Ends the run."""

    def stop(event: object) -> None:
        if isinstance(event, StepFinished) and event.index == 0:
            raise Interrupted

    options = OPTIONS | {"stream": stream, "output_path": tmp_path / "a.webp"}
    with pytest.raises(Interrupted):
        pipeline("a cat", **options, on_event=stop)
    video = pipeline("a cat", **options, resume=True)
    assert mx.array_equal(video.latents, whole.latents)


LAYERS = {"a.safetensors": "tint.0", "b.safetensors": "condition_embedder.tinter"}


def write_tint_adapter(path: Path, layer: str = "tint.0") -> Path:
    """An adapter of the extra layer alone."""
    rng = np.random.default_rng(3)
    pair = {"lora_down": (4, 128), "lora_up": (768, 4)}
    factors = {part: rng.standard_normal(shape, np.float32) for part, shape in pair.items()}
    named = {f"diffusion_model.{layer}.{part}.weight": 0.1 * values for part, values in factors.items()}
    write_safetensors(path, [store(name, values) for name, values in named.items()])
    return path


def test_adapters_reach_its_layer_resident_streamed_and_baked(
    pipeline: WanPipeline, tinted: Path, whole: Video, tmp_path: Path
):
    options = OPTIONS | {"loras": [write_tint_adapter(tmp_path / "a.safetensors")], "strict_lora": True}
    resident, streamed = (pipeline("a cat", **options, stream=mode) for mode in ("off", "on"))
    assert mx.array_equal(streamed.latents, resident.latents)
    assert not mx.allclose(resident.latents, whole.latents, atol=1e-3)
    baked = convert_checkpoint(tinted, tmp_path / "baked", dtype="float32", loras=options["loras"])
    video = WanPipeline.from_pretrained(baked)("a cat", **OPTIONS, stream="off")
    assert mx.array_equal(video.latents, resident.latents)
    assert inspect_path(tmp_path / "a.safetensors").parts[0].adapter.unmatched == 0


def test_it_says_which_of_its_layers_are_quantized_at_once_and_later(
    tinted: Path, folder: Path, tmp_path: Path
):
    packing = {"quantize": True, "bits": 4, "group_size": 64}
    at_once = convert_checkpoint(tinted, tmp_path / "a", dtype="float32", **packing)
    later = convert_checkpoint(folder, tmp_path / "b", quantize_only=True, bits=4, group_size=64)
    first, second = ((path / "model.safetensors").read_bytes() for path in (at_once, later))
    assert first == second
    with SafetensorsFile(at_once / "model.safetensors") as file:
        assert file.infos["tint_0.weight"].dtype == "U32"
    video = WanPipeline.from_pretrained(at_once)("a cat", **OPTIONS, stream="off")
    streamed = WanPipeline.from_pretrained(at_once)("a cat", **OPTIONS, stream="on")
    assert mx.array_equal(streamed.latents, video.latents)


def test_what_it_has_beyond_its_own_parts_is_refused_by_name(tmp_path: Path):
    arrays = write_tiny_checkpoint(tmp_path / "a", SIZES).transformer
    extra = random_arrays(tint_tensors(SIZES.transformer) | {"hue.weight": (4, 4)}, seed=7)
    write_transformer(tmp_path / "a", arrays | extra)
    with pytest.raises(CheckpointError, match=r"Tinted T2V has no hue\.weight \[4, 4\]"):
        convert_checkpoint(tmp_path / "a", tmp_path / "b")


def test_its_diffusers_names_are_read_in_checkpoints_and_adapters(folder: Path, tmp_path: Path):
    diffusers = tmp_path / "diffusers"
    arrays = write_diffusers_variant(diffusers, "wan2.1-t2v-1.3b", SIZES).transformers["transformer"]
    tint = random_arrays(tint_tensors(SIZES.transformer), seed=7)
    named = {name.replace("tint.0", "condition_embedder.tinter"): values for name, values in tint.items()}
    write_weights(diffusers / "transformer", "diffusion_pytorch_model", arrays | named)
    assert inspect_path(diffusers).variant == TINTED.name
    converted = convert_checkpoint(diffusers, tmp_path / "converted", dtype="float32")
    with SafetensorsFile(converted / "model.safetensors") as file:
        assert np.array_equal(np.array(file.read("tint_0.weight")), tint["tint.0.weight"])
    ours, theirs = (write_tint_adapter(tmp_path / name, layer) for name, layer in LAYERS.items())
    options = OPTIONS | {"strict_lora": True, "stream": "off"}
    one, other = (
        WanPipeline.from_pretrained(folder)("a cat", **options, loras=[path]) for path in (ours, theirs)
    )
    assert mx.array_equal(one.latents, other.latents)
