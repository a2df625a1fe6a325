"""Speed control: a motion controller beside a model, from its file to the video, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_video import RequestError, WanPipeline, convert_checkpoint
from mlx_video.cli import convert, generate
from mlx_video.errors import CheckpointError
from mlx_video.events import Event, StageStarted, StepFinished
from mlx_video.formats.safetensors_header import read_header
from mlx_video.inspect.path import inspect_path
from tests.fixtures.hub_server import Repository, go_online, serve_hub
from tests.fixtures.tiny_checkpoint import write_tiny_checkpoint
from tests.fixtures.tiny_variants import write_motion_controller, write_tiny_variant
from tests.fixtures.weight_files import store, write_safetensors

pytestmark = pytest.mark.slow

SMALL = {"width": 32, "height": 16, "num_frames": 5, "steps": 2, "seed": 1, "guide_scale": 2.0}
FILE = "motion_controller.safetensors"
REPOSITORY = "DiffSynth-Studio/Wan2.1-1.3b-speedcontrol-v1"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("model") / "original").path


@pytest.fixture(scope="module")
def dim(original: Path) -> int:
    return read_header(original / "diffusion_pytorch_model.safetensors").infos["blocks.0.norm3.bias"].shape[0]


@pytest.fixture(scope="module")
def controller(original: Path, dim: int) -> Path:
    """A file as it is published: model.safetensors, alone in its folder."""
    write_motion_controller(original.with_name("speed") / "model.safetensors", dim)
    return original.with_name("speed") / "model.safetensors"


@pytest.fixture(scope="module")
def pipeline(original: Path, controller: Path) -> WanPipeline:
    output = original.with_name("converted")
    return WanPipeline.from_pretrained(
        convert_checkpoint(original, output, dtype="float32", motion_controller=controller)
    )


def latents_of(pipeline: WanPipeline, bucket: float | None, **options) -> mx.array:
    return pipeline("a cat", motion_bucket_id=bucket, **SMALL | options).latents


def test_each_number_makes_another_video_and_none_is_the_models_own(pipeline, original, tmp_path: Path):
    found = {bucket: latents_of(pipeline, bucket) for bucket in (None, 0, 50, 100)}
    plain = WanPipeline.from_pretrained(convert_checkpoint(original, tmp_path / "m", dtype="float32"))
    assert mx.array_equal(latents_of(plain, None), found.pop(None))
    found["none"] = latents_of(plain, None)
    names = [*found]
    for index, name in enumerate(names):
        for other in names[index + 1 :]:
            assert mx.abs(found[name] - found[other]).max() > 1e-3, (name, other)


def test_a_half_precision_model_keeps_the_controllers_numbers(original, controller, tmp_path: Path):
    folder = convert_checkpoint(original, tmp_path / "half", motion_controller=controller.parent)
    infos, published = read_header(folder / FILE).infos, read_header(controller).infos
    assert {name: (info.shape, info.dtype) for name, info in infos.items()} == {
        name: (info.shape, "F32") for name, info in published.items()
    }


def test_it_is_kept_where_a_folder_is_quantized_later(pipeline, tmp_path: Path):
    packed = convert_checkpoint(pipeline.folder.path, tmp_path / "packed", quantize_only=True, bits=8)
    assert (packed / FILE).read_bytes() == (pipeline.folder.path / FILE).read_bytes()
    slow, fast = (latents_of(WanPipeline.from_pretrained(packed), bucket) for bucket in (0, 100))
    assert mx.abs(slow - fast).max() > 1e-3


def test_it_is_taken_by_the_name_of_its_repository(original, controller, tmp_path: Path, monkeypatch):
    with serve_hub() as server:
        go_online(monkeypatch, server, tmp_path / "cache")
        server.repositories = {REPOSITORY: Repository(controller.parent)}
        convert_checkpoint(original, tmp_path / "hub", motion_controller=REPOSITORY)
    assert read_header(tmp_path / "hub" / FILE).infos.keys() == read_header(controller).infos.keys()


def test_it_is_inspected_before_and_after_conversion(pipeline, controller, dim):
    found = inspect_path(controller)
    assert (found.kind, found.problems) == ("component", ())
    (part,) = found.parts
    expected = ("motion_controller", f"motion controller for transformers of width {dim}")
    assert (part.component, part.model) == expected
    assert f"--motion-controller {controller}" in found.command
    parts = inspect_path(pipeline.folder.path).parts
    assert expected in [(part.component, part.model) for part in parts]


def test_streaming_and_resuming_give_the_same(pipeline, tmp_path: Path):
    whole = latents_of(pipeline, 70)
    assert mx.array_equal(latents_of(pipeline, 70, stream="on"), whole)
    options = {"output_path": tmp_path / "a.webp"} | SMALL

    def stop(event: Event) -> None:
        if isinstance(event, StepFinished):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline("a cat", motion_bucket_id=70, on_event=stop, **options)
    with pytest.raises(RequestError, match="--motion-bucket-id is"):
        pipeline("a cat", motion_bucket_id=71, resume=True, **options)
    resumed = pipeline("a cat", motion_bucket_id=70, resume=True, **options)
    assert mx.array_equal(resumed.latents, whole)
    assert resumed.settings["motion_bucket_id"] == "70"


def test_it_counts_in_the_plan_of_a_run_that_asks_for_it(pipeline):
    pipeline = WanPipeline.from_pretrained(pipeline.folder.path, keep_networks=False)
    with_it, without = (pipeline.plan("a cat", motion_bucket_id=bucket, **SMALL) for bucket in (70, None))
    assert "motion controller, then text encoder" in str(with_it)
    assert "motion controller" not in str(without)
    assert with_it.predicted["text"] >= (pipeline.folder.path / FILE).stat().st_size - 4096


def test_a_model_without_a_controller_says_where_one_is(original, tmp_path: Path):
    plain = WanPipeline.from_pretrained(convert_checkpoint(original, tmp_path / "m", dtype="float32"))
    events: list[Event] = []
    with pytest.raises(RequestError, match=rf"motion_bucket_id: .*{FILE}.*--motion-controller.*{REPOSITORY}"):
        plain("a cat", motion_bucket_id=70, on_event=events.append, **SMALL)
    assert not [event for event in events if isinstance(event, StageStarted)]
    with pytest.raises(RequestError, match="motion_bucket_id: 101: must be between 0 and 100"):
        plain("a cat", motion_bucket_id=101, **SMALL)


def test_models_that_take_none_refuse_it_by_name(controller, tmp_path: Path, capsys):
    write_tiny_variant(tmp_path / "i2v", "wan2.2-t2v-a14b")
    words = ["--checkpoint-dir", str(tmp_path / "i2v"), "--output-dir", str(tmp_path / "out")]
    assert convert.main([*words, "--motion-controller", str(controller)]) == 2
    assert "--motion-controller this model takes none" in capsys.readouterr().err
    assert convert.main(words) == 0
    shutil.copy(controller, tmp_path / "out" / FILE)
    words = ["--model-dir", str(tmp_path / "out"), "--prompt", "a cat", "--motion-bucket-id", "50"]
    assert generate.main(words) == 2
    assert "--motion-bucket-id Wan2.2 T2V A14B makes videos from text alone" in capsys.readouterr().err


def test_a_controller_of_another_width_is_refused(original, dim, pipeline, tmp_path: Path):
    write_motion_controller(tmp_path / "wide.safetensors", 2 * dim)
    message = rf"linear.0.weight is {2 * dim} wide, the transformer's blocks.0.modulation takes {dim}"
    with pytest.raises(CheckpointError, match=message):
        convert_checkpoint(original, tmp_path / "m", motion_controller=tmp_path / "wide.safetensors")
    other = shutil.copytree(pipeline.folder.path, tmp_path / "other")
    shutil.copy(tmp_path / "wide.safetensors", other / FILE)
    with pytest.raises(CheckpointError, match=message):
        WanPipeline.from_pretrained(other)("a cat", motion_bucket_id=5, **SMALL)


def test_six_layers_among_others_are_no_controller(dim, tmp_path: Path):
    arrays = write_motion_controller(tmp_path / "whole.safetensors", dim)
    more = arrays | {"other.weight": arrays["linear.0.bias"]}
    write_safetensors(tmp_path / "more.safetensors", [store(name, values) for name, values in more.items()])
    assert inspect_path(tmp_path / "whole.safetensors").kind == "component"
    assert inspect_path(tmp_path / "more.safetensors").kind == "unknown"
