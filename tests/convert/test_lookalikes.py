"""Models with the tensors of others are named for what they are, whatever their files are called."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlx_video.config import TransformerConfig
from mlx_video.convert.convert import convert
from mlx_video.convert.plan import Plan, plan_conversion
from mlx_video.errors import CheckpointError, RequestError
from mlx_video.inspect.path import inspect_path
from mlx_video.loading.components import open_model
from mlx_video.request import ConvertRequest
from mlx_video.variants.bernini import BERNINI_A14B
from mlx_video.variants.other_models import PUBLISHED, digest_shapes
from mlx_video.weights.names.transformer_names import transformer_tensors
from tests.fixtures.comfy_files import SIZES, write_comfy_tree
from tests.fixtures.diffusers_checkpoint import write_diffusers_variant
from tests.fixtures.sparse_files import write_sparse
from tests.fixtures.tensor_lists import Recorded, TensorList, read_list
from tests.fixtures.tiny_checkpoint import TinySizes, source_config, write_tiny_checkpoint
from tests.parity.diffusers_transformer import diffusers_name

pytestmark = pytest.mark.slow

FUN_1_3B = TransformerConfig(1536, 8960, 12, 30, in_dim=36, image_dim=1280)
FUN_CONTROL = replace(FUN_1_3B, in_dim=48)
KREA = "krea-realtime-video-14b.safetensors"


def listed(config: TransformerConfig, spell: Callable[[str], str] = str) -> TensorList:
    """A transformer's tensors as one of the recorded lists has them."""
    return {spell(name): Recorded("F16", shape) for name, shape in transformer_tensors(config).items()}


def as_gguf(config: TransformerConfig) -> TensorList:
    return {
        name: Recorded("F16" if len(tensor.shape) > 1 else "F32", tensor.shape)
        for name, tensor in listed(config).items()
    }


# What the file is called → its tensors, of a transformer of any size.
SPELLINGS: dict[str, Callable[[TransformerConfig], TensorList]] = {
    "model.safetensors": listed,
    "comfy.safetensors": lambda config: listed(config, "model.diffusion_model.{}".format),
    "diffusers.safetensors": lambda config: listed(config, diffusers_name),
    "packed.gguf": as_gguf,
}


def plan(source: Path | None, out: Path, **options: Any) -> Plan:
    with ExitStack() as opened:
        return plan_conversion(ConvertRequest(source, out, **options), opened)


def refused(source: Path | None, out: Path, **options: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        plan(source, out, **options)
    return str(caught.value)


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Text encoder and VAE for any of the full-size files."""
    folder = tmp_path_factory.mktemp("others")
    encoder = write_sparse(folder / "umt5.pth", read_list("umt5"))
    return {"text_encoder": encoder, "vae": write_sparse(folder / "vae.pth", read_list("vae-2.1"))}


@pytest.mark.parametrize("file", SPELLINGS)
def test_fun_1_3b_inp_is_told_by_its_size_in_every_spelling(
    brief_path: Path, others: dict[str, Path], file: str
):
    clip = write_sparse(brief_path / "clip.pth", read_list("clip"))
    path = write_sparse(brief_path / file, SPELLINGS[file](FUN_1_3B))
    found = plan(None, brief_path / "out", transformer=path, clip=clip, **others)
    assert found.config["mlx_video"]["variant"] == "wan2.1-fun-1.3b-inp"
    assert inspect_path(path).problems == ()


def test_fun_1_3b_inp_has_its_published_digest():
    assert PUBLISHED[digest_shapes(transformer_tensors(FUN_1_3B))] == "Wan2.1 Fun-1.3B-InP"


@pytest.mark.parametrize("file", SPELLINGS)
def test_a_fun_control_model_is_converted_from_every_spelling(
    brief_path: Path, others: dict[str, Path], file: str
):
    clip = write_sparse(brief_path / "clip.pth", read_list("clip"))
    path = write_sparse(brief_path / file, SPELLINGS[file](FUN_CONTROL))
    found = plan(None, brief_path / "out", transformer=path, clip=clip, **others)
    assert found.config["mlx_video"]["variant"] == "wan2.1-fun-control"
    assert inspect_path(path).problems == ()


@pytest.mark.parametrize(
    "name", ["Wan2.1-Fun-14B-InP", "Wan2.1-Fun-V1.1-14B-InP", "wan2.1_fun_inpaint_14B", "Wan2_1-Fun_14B_InP"]
)
def test_a_fun_model_with_the_tensors_of_another_is_told_by_its_folder(tmp_path: Path, name: str):
    tiny = write_tiny_checkpoint(tmp_path / name, TinySizes().reading_images())
    assert plan(tiny.path, tmp_path / "out").config["mlx_video"]["variant"] == "wan2.1-fun-inp"
    assert inspect_path(tiny.path).model == "Wan2.1 Fun-InP"
    usual = write_tiny_checkpoint(tmp_path / "Wan2.1-I2V-14B", TinySizes().reading_images())
    assert plan(usual.path, tmp_path / "out").config["mlx_video"]["variant"] == "wan2.1-i2v-14b"


def found_by(source: Path | None, out: Path, **options: Any) -> str:
    """The variant that a conversion would write."""
    return plan(source, out, **options).config["mlx_video"]["variant"]


def test_krea_realtime_is_told_by_the_names_of_its_tensors(brief_path: Path, others: dict[str, Path]):
    tensors = {f"model.{name}": tensor for name, tensor in read_list("transformer-wan2.1-t2v-14b").items()}
    assert PUBLISHED[digest_shapes({n: t.shape for n, t in tensors.items()})] == "krea-realtime 14B"
    path = write_sparse(brief_path / "wan.safetensors", tensors)
    found = plan(None, brief_path / "out", transformer=path, **others)
    assert found.config["mlx_video"]["variant"] == "krea-realtime-14b"
    assert found.config["num_heads"] == 40
    assert (inspect_path(path).model, inspect_path(path).problems) == ("krea-realtime 14B", ())


@pytest.mark.parametrize("prefix", ["", "model.", "model.diffusion_model."])
def test_krea_realtime_is_told_by_the_name_of_its_file_whatever_its_tensors_are_called(
    tmp_path: Path, prefix: str
):
    tiny = write_tiny_checkpoint(tmp_path / "Wan2.1-T2V", prefix=prefix)
    file = tiny.transformer_file.rename(tmp_path / KREA)
    assert found_by(tiny.path, tmp_path / "out", transformer=file) == "krea-realtime-14b"
    assert inspect_path(file).model == "krea-realtime 14B"


def test_krea_realtime_is_told_in_a_comfyui_tree(tmp_path: Path):
    tiny = write_tiny_checkpoint(tmp_path / "Wan2.1-T2V", SIZES)
    renamed = "diffusion_models/Wan2_1-T2V-14B_krea_realtime_fp16.safetensors"
    tree = write_comfy_tree(
        tmp_path / "models", tiny, lambda name: renamed if name.startswith("diffusion_models") else name
    )
    assert found_by(tree, tmp_path / "out") == "krea-realtime-14b"


@pytest.mark.parametrize("layout", ["original", "diffusers", "hub cache", "folder of its transformer"])
def test_krea_realtime_is_told_by_its_folder(tmp_path: Path, layout: str):
    tiny = write_tiny_checkpoint(tmp_path / "krea-realtime-video")
    path, options = tiny.path, {}
    if layout == "diffusers":
        path = tmp_path / "Krea_RealTime-Diffusers"
        write_diffusers_variant(path, "wan2.1-t2v-14b")
    if layout == "hub cache":
        path = tmp_path / "models--krea--krea-realtime-video" / "snapshots" / ("0" * 40)
        path.parent.mkdir(parents=True)
        tiny.path.rename(path)
    if layout == "folder of its transformer":
        path = write_tiny_checkpoint(tmp_path / "Wan2.1-T2V").path
        (tiny.path / "transformer").mkdir()
        for file in (tiny.transformer_file, tiny.path / "config.json"):
            file.rename(tiny.path / "transformer" / file.name)
        options = {"transformer": tiny.path / "transformer"}
    assert found_by(path, tmp_path / "out", **options) == "krea-realtime-14b"


@pytest.mark.parametrize("prefix", ["", "model."])
def test_of_the_repository_of_krea_realtime_is_said_what_it_lacks(tmp_path: Path, prefix: str):
    tiny = write_tiny_checkpoint(tmp_path / "Wan2.1-T2V", prefix=prefix)
    folder = tmp_path / "krea"
    folder.mkdir()
    file = tiny.transformer_file.rename(folder / KREA)
    for source in (folder, file):
        message = refused(source, tmp_path / "out")
        assert "--text-encoder FILE" in message
        assert "--vae FILE" in message


def test_a_causal_transformer_is_told_by_the_class_in_its_config(tmp_path: Path):
    tiny = write_tiny_checkpoint(tmp_path / "Wan2.1-T2V")
    config = source_config(tiny.sizes.transformer) | {"_class_name": "CausalWanModel"}
    (tiny.path / "config.json").write_text(json.dumps(config))
    assert found_by(tiny.path, tmp_path / "out") == "krea-realtime-14b"


def test_a_causal_transformer_of_the_small_size_is_of_other_authors(
    brief_path: Path, others: dict[str, Path]
):
    folder = brief_path / "transformer"
    folder.mkdir()
    sizes = TransformerConfig(1536, 8960, 12, 30)
    write_sparse(folder / "diffusion_pytorch_model.safetensors", listed(sizes, "model.{}".format))
    config = source_config(sizes)
    (folder / "config.json").write_text(json.dumps(config))
    assert found_by(None, brief_path / "out", transformer=folder, **others) == "wan2.1-t2v-1.3b"
    (folder / "config.json").write_text(json.dumps(config | {"_class_name": "CausalWanModel"}))
    message = refused(None, brief_path / "out", transformer=folder, **others)
    assert "this is a 1.3B model that makes videos block by block (Self-Forcing)" in message
    assert "config.json says CausalWanModel" in message
    assert "Use Wan2.1 T2V" in message


def test_the_user_says_what_a_renamed_file_is(tmp_path: Path):
    tiny = write_tiny_checkpoint(tmp_path / "krea-realtime-video")
    assert found_by(tiny.path, tmp_path / "out", called="Wan2.1-Krea-Realtime") == "krea-realtime-14b"
    image = write_tiny_checkpoint(tmp_path / "Wan2.1-I2V", TinySizes().reading_images())
    assert found_by(image.path, tmp_path / "out", called="Wan2.1-Fun-14B-InP") == "wan2.1-fun-inp"
    with pytest.raises(
        RequestError, match=r"called: Krea: names no model .* krea-realtime 14B, Bernini-R 1.3B"
    ):
        plan(tiny.path, tmp_path / "out", called="Krea")


def test_a_folder_that_another_tool_converted_is_told_by_its_name(tmp_path: Path):
    tiny = write_tiny_checkpoint(tmp_path / "Wan2.1-T2V")
    list(convert(ConvertRequest(tiny.path, tmp_path / "out")))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    del config["mlx_video"]
    (tmp_path / "out" / "config.json").write_text(json.dumps(config))
    assert open_model(tmp_path / "out")[1].sampling.steps == 50
    _, found = open_model((tmp_path / "out").rename(tmp_path / "krea-realtime-mlx"))
    assert found.variant == "krea-realtime-14b"
    assert (found.sampling.recipe, found.sampling.steps, found.sampling.shift) == ("krea", 6, 20.0)


def test_other_models_with_parts_of_such_names_are_left_alone(tmp_path: Path):
    for name in ("krea-style-T2V", "realtime-wan", "function-inpaint"):
        tiny = write_tiny_checkpoint(tmp_path / name)
        assert plan(tiny.path, tmp_path / "out").config["mlx_video"]["variant"] == "wan2.1-t2v"


@pytest.mark.parametrize("folder", ["Bernini-R-Diffusers", "models--ByteDance--Bernini-R-Diffusers"])
def test_bernini_r_is_told_by_its_folder_and_keeps_the_defaults_of_its_authors(tmp_path: Path, folder: str):
    path = tmp_path / folder
    if folder.startswith("models--"):
        path = path / "snapshots" / ("0" * 40)
    write_diffusers_variant(path, "bernini-r-a14b")
    # The scheduler of its base model, whose shift the authors' command line does not take.
    settings = {"_class_name": "UniPCMultistepScheduler", "flow_shift": 12.0}
    (path / "scheduler" / "scheduler_config.json").write_text(json.dumps(settings))
    list(convert(ConvertRequest(path, tmp_path / "out")))
    _, found = open_model(tmp_path / "out")
    assert (found.variant, found.sampling) == ("bernini-r-a14b", BERNINI_A14B.sampling)


@pytest.mark.parametrize(
    "name", ["Bernini-Diffusers", "Bernini-Diffusers-v2", "Bernini-Rome-style", "bernini"]
)
def test_bernini_with_its_planner_is_not_taken_for_it(name: str):
    assert not BERNINI_A14B.answers_to([name])
