"""A component comes into every stage of the work by its row and its network."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import CheckpointError, WanPipeline, convert_checkpoint
from mlx_video.hub.files import choose_files
from mlx_video.inspect.path import inspect_path
from mlx_video.layouts import components
from mlx_video.layouts.open_checkpoint import open_checkpoint
from mlx_video.layouts.original_folder import VAE_FILES
from mlx_video.loading.components import check_weights, load_part, open_model
from mlx_video.weights import component_networks
from tests.fixtures.diffusers_checkpoint import write_diffusers_variant
from tests.fixtures.tiny_checkpoint import Arrays, random_arrays, write_tiny_checkpoint
from tests.fixtures.weight_files import store, write_safetensors
from tests.loading.preview_decoder import NETWORK, ROW, PreviewSizes, preview_tensors

SIZES = PreviewSizes(z_dim=16, width=48)
ARRAYS: Arrays = random_arrays(preview_tensors(SIZES), seed=5)
WEIGHT_BYTES = 4 * sum(array.size for array in ARRAYS.values())
OPTIONS = {"width": 32, "height": 32, "num_frames": 5, "steps": 1, "guide_scale": 1.0}


@pytest.fixture(autouse=True, scope="module")
def registered() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(components, "COMPONENTS", (*components.COMPONENTS, ROW))
        networks = {**component_networks.NETWORKS, ROW.name: NETWORK}
        patch.setattr(component_networks, "NETWORKS", networks)
        yield


def write_preview(path: Path, arrays: Arrays = ARRAYS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(path, [store(name, values) for name, values in arrays.items()])
    return path


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tiny_checkpoint(tmp_path_factory.mktemp("model") / "original").path
    write_preview(folder / "preview.safetensors")
    return folder


@pytest.fixture(scope="module")
def converted(original: Path) -> Path:
    return convert_checkpoint(original, original.with_name("converted"), dtype="float32")


def test_it_is_found_by_its_name_in_an_original_and_in_a_diffusers_folder(original: Path, tmp_path: Path):
    assert open_checkpoint(original).parts[ROW.name] == (original / "preview.safetensors",)
    diffusers = tmp_path / "diffusers"
    write_diffusers_variant(diffusers, "wan2.1-t2v-1.3b")
    file = write_preview(diffusers / "preview_decoder" / "diffusion_pytorch_model.safetensors")
    assert open_checkpoint(diffusers).parts[ROW.name] == (file,)


def test_it_is_found_by_its_tensors_among_loose_files(original: Path, tmp_path: Path):
    loose = shutil.copytree(original, tmp_path / "loose")
    (loose / "config.json").unlink()
    (loose / "diffusion_pytorch_model.safetensors").rename(loose / "a.safetensors")
    (loose / "preview.safetensors").rename(loose / "b.safetensors")
    folder = convert_checkpoint(loose, tmp_path / "converted", dtype="float32")
    assert (folder / ROW.file_name).is_file()


def test_it_is_fetched_with_its_repository():
    files = ["config.json", "diffusion_pytorch_model.safetensors", "preview.safetensors"]
    files += ["models_t5_umt5-xxl-enc-bf16.pth", VAE_FILES["2.1"], "video.mp4"]
    chosen = choose_files("a/b", files, lambda name: {"model_type": "t2v"}, use="convert")
    assert chosen == sorted(set(files) - {"video.mp4"})


def test_it_is_inspected_before_and_after_conversion(original: Path, converted: Path):
    for folder, spelling in ((original, "Wan's names"), (converted, "converted for MLX")):
        found = inspect_path(folder)
        (part,) = (part for part in found.parts if part.component == ROW.name)
        assert (part.model, part.spelling) == ("preview decoder of width 48", spelling)
        assert part.parameters == WEIGHT_BYTES // 4
        assert found.problems == ()


def test_it_is_loaded_with_the_weights_of_its_source(converted: Path):
    network = load_part(*open_model(converted), ROW)
    latents = mx.random.normal((16, 2, 4, 4), key=mx.random.key(0))
    hidden = (
        np.array(latents).transpose(1, 2, 3, 0) @ ARRAYS["preview.in.weight"].T + ARRAYS["preview.in.bias"]
    )
    hidden = hidden / (1 + np.exp(-hidden))
    expected = hidden @ ARRAYS["preview.out.weight"].T + ARRAYS["preview.out.bias"]
    assert np.allclose(np.array(network(latents)), expected, atol=1e-5)


def test_its_weights_and_its_work_count_in_the_plan(original: Path, converted: Path, tmp_path: Path):
    lacking = shutil.copytree(converted, tmp_path / "lacking")
    (lacking / ROW.file_name).unlink()
    with_it, without = (
        WanPipeline.from_pretrained(path, keep_networks=False).plan("a cat", **OPTIONS)
        for path in (converted, lacking)
    )
    cells = 2 * 4 * 4
    more = with_it.predicted["decode"] - without.predicted["decode"]
    assert more == WEIGHT_BYTES + 2 * 4 * cells * SIZES.width
    assert {name: with_it.predicted[name] for name in ("text", "denoise")} == {
        name: without.predicted[name] for name in ("text", "denoise")
    }
    assert "preview decoder" in str(with_it)
    assert WanPipeline.from_pretrained(lacking)("a cat", **OPTIONS).frames.shape == (5, 32, 32, 3)


def test_it_is_kept_where_a_folder_is_quantized_later_and_replaced(converted: Path, tmp_path: Path):
    output = tmp_path / "packed"
    for _ in range(2):
        convert_checkpoint(converted, output, quantize_only=True, bits=4, group_size=64)
    assert (output / ROW.file_name).read_bytes() == (converted / ROW.file_name).read_bytes()


@pytest.mark.parametrize("name", sorted(ARRAYS))
def test_a_file_of_it_that_lacks_a_tensor_is_refused_before_and_after_conversion(
    original: Path, converted: Path, tmp_path: Path, name: str
):
    rest = {other: values for other, values in ARRAYS.items() if other != name}
    folder = shutil.copytree(original, tmp_path / "original")
    write_preview(folder / "preview.safetensors", rest)
    with pytest.raises(CheckpointError, match=rf"preview.safetensors: .*{name}"):
        convert_checkpoint(folder, tmp_path / "out")
    own = shutil.copytree(converted, tmp_path / "converted")
    renamed = {other.replace("preview.", "preview_"): values for other, values in rest.items()}
    write_preview(own / ROW.file_name, renamed)
    with pytest.raises(CheckpointError, match=rf"{ROW.file_name}: .*preview.{name.removeprefix('preview.')}"):
        check_weights(*open_model(own))
