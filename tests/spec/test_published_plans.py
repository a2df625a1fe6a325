"""Published models without their numbers convert to the right plan; every damaged file is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from mlx_video.convert.plan import Plan, plan_conversion
from mlx_video.errors import MLXVideoError
from mlx_video.inspect.path import inspect_path
from mlx_video.request import ConvertRequest
from tests.fixtures.diffusers_checkpoint import pipeline_index, transformer_config, write_json
from tests.fixtures.published_sizes import (
    ALL_TRANSFORMERS,
    PUBLISHED_DIFFUSERS_TRANSFORMERS,
    PUBLISHED_TRANSFORMERS,
)
from tests.fixtures.sparse_files import full_tokenizer, write_sparse
from tests.fixtures.tensor_lists import read_list
from tests.fixtures.tiny_checkpoint import (
    IMAGE_ENCODER_FILE,
    TEXT_ENCODER_FILE,
    TOKENIZER_FOLDER,
    source_config,
    write_tiny_checkpoint,
)

pytestmark = pytest.mark.slow

# Model → tensors and parameters of each transformer. Source: the published files' headers.
PUBLISHED_COUNTS = {
    "wan2.1-t2v-1.3b": (825, 1_418_996_800),
    "wan2.1-t2v-14b": (1095, 14_288_491_584),
    "krea-realtime-14b": (1095, 14_288_491_584),
    "wan2.1-i2v-14b": (1303, 16_394_878_784),
    "wan2.1-flf2v-14b": (1304, 16_395_536_704),
    "wan2.2-t2v-a14b": (1095, 14_288_491_584),
    "wan2.2-i2v-a14b": (1095, 14_288_901_184),
    "wan2.1-vace-1.3b": (1264, 2_153_972_032),
    "wan2.1-vace-14b": (1331, 17_337_592_896),
    "wan2.2-vace-fun-a14b": (1331, 17_337_592_896),
    "wan2.1-fun-1.3b-inp": (983, 1_564_428_608),
    "wan2.1-fun-control": (1303, 16_395_124_544),
    "wan2.1-fun-v1.1-control": (1305, 16_395_457_344),
    "wan2.1-fun-v1.1-control-camera": (1309, 16_898_128_704),
    "wan2.2-fun-a14b-control-camera": (1101, 14_792_233_024),
    "wan2.2-fun-a14b-control": (1097, 14_289_561_664),
    "wan2.2-animate-14b": (1427, 17_274_816_884),  # without the kernels of 14 blurs
    "wan2.2-ti2v-5b": (825, 4_999_787_712),
    "wan2.1-video-as-prompt-14b": (1643, 20_674_265_664),
}
EXPERT_OF = {"wan2.2-t2v-a14b": "wan2.1-t2v-14b", "wan2.2-vace-fun-a14b": "wan2.1-vace-14b"}
SPIECE_BYTES = read_list("umt5-comfy")["spiece_model"].shape[0]
TREES = {
    "wan2.1-t2v-1.3b": {
        "diffusion_models/wan2.1_t2v_1.3B_fp16.safetensors": "comfy-wan2.1-t2v-1.3b",
        "text_encoders/umt5_xxl_fp16.safetensors": "umt5-comfy",
        "vae/wan_2.1_vae.safetensors": "vae-2.1-comfy",
    },
    "wan2.1-i2v-14b": {
        "diffusion_models/wan2.1_i2v_480p_14B_fp8_scaled.safetensors": "comfy-wan2.1-i2v-14b-fp8-scaled",
        "text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors": "umt5-comfy-fp8-scaled",
        "vae/wan_2.1_vae.safetensors": "vae-2.1-comfy",
        "clip_vision/clip_vision_h.safetensors": "clip-comfy",
    },
    "wan2.1-flf2v-14b": {
        "diffusion_models/wan2.1_flf2v_720p_14B.safetensors": "transformer-wan2.1-flf2v-14b",
        "text_encoders/umt5_xxl_bf16.safetensors": "umt5-diffusers",
        "vae/vae.safetensors": "vae-2.1-diffusers",
        "clip_vision/open-clip-xlm-roberta-large-vit-huge-14_fp16.safetensors": "clip-fp16",
    },
    "wan2.1-t2v-14b": {
        "unet/wan2.1-t2v-14b-F16.gguf": "gguf-wan2.1-t2v-14b",
        "text_encoders/umt5-xxl-encoder-F16.gguf": "umt5-gguf",
        "vae/Wan2.1_VAE.pth": "vae-2.1",
    },
    "wan2.2-i2v-a14b": {
        "diffusion_models/wan2.2_i2v_high_noise_14B.safetensors": "transformer-wan2.2-i2v-a14b",
        "diffusion_models/wan2.2_i2v_low_noise_14B.safetensors": "transformer-wan2.2-i2v-a14b",
        "text_encoders/models_t5_umt5-xxl-enc-bf16.pth": "umt5",
        "vae/wan_2.1_vae.safetensors": "vae-2.1-comfy",
    },
    "wan2.1-fun-v1.1-control": {
        "diffusion_models/Wan2_1-Fun-V1_1-Control_14B.safetensors": "transformer-wan2.1-fun-v1.1-control",
        "text_encoders/umt5_xxl_fp16.safetensors": "umt5-comfy",
        "vae/wan_2.1_vae.safetensors": "vae-2.1-comfy",
        "clip_vision/clip_vision_h.safetensors": "clip-comfy",
    },
    "wan2.2-fun-a14b-control": {
        "unet/wan2.2_fun_control_high_noise_14B.safetensors": "transformer-wan2.2-fun-a14b-control",
        "unet/wan2.2_fun_control_low_noise_14B.safetensors": "transformer-wan2.2-fun-a14b-control",
        "text_encoders/umt5_xxl_fp16.safetensors": "umt5-comfy",
        "vae/wan_2.1_vae.safetensors": "vae-2.1-comfy",
    },
    "wan2.1-vace-1.3b": {
        "diffusion_models/wan2.1_vace_1.3B_fp16.safetensors": "comfy-wan2.1-vace-1.3b",
        "text_encoders/umt5_xxl_bf16.safetensors": "umt5-diffusers",
        "vae/wan_2.1_vae.safetensors": "vae-2.1-comfy",
    },
    "wan2.1-vace-1.3b, GGUF": {
        "unet/Wan2.1-VACE-1.3B-F16.gguf": "gguf-wan2.1-vace-1.3b",
        "text_encoders/umt5-xxl-encoder-F16.gguf": "umt5-gguf",
        "vae/wan_2.1_vae.safetensors": "vae-2.1-comfy",
    },
    "wan2.1-vace-14b": {
        "unet/Wan2.1_14B_VACE-F16.gguf": "gguf-wan2.1-vace-14b",
        "text_encoders/umt5-xxl-encoder-F16.gguf": "umt5-gguf",
        "vae/wan_2.1_vae.safetensors": "vae-2.1-comfy",
    },
    "wan2.1-vace-14b, ComfyUI": {
        "diffusion_models/wan2.1_vace_14B_fp16.safetensors": "comfy-wan2.1-vace-14b",
        "text_encoders/umt5_xxl_bf16.safetensors": "umt5-diffusers",
        "vae/wan_2.1_vae.safetensors": "vae-2.1-comfy",
    },
    "wan2.2-vace-fun-a14b, GGUF": {
        "unet/Wan2.2-VACE-Fun-A14B-high-noise-F16.gguf": "gguf-wan2.1-vace-14b",
        "unet/Wan2.2-VACE-Fun-A14B-low-noise-F16.gguf": "gguf-wan2.1-vace-14b",
        "text_encoders/umt5-xxl-encoder-F16.gguf": "umt5-gguf",
        "vae/wan_2.1_vae.safetensors": "vae-2.1-comfy",
    },
    "wan2.2-vace-fun-a14b": {
        "diffusion_models/wan2.2_fun_vace_high_noise_14B_fp16.safetensors": "comfy-wan2.1-vace-14b",
        "diffusion_models/wan2.2_fun_vace_low_noise_14B_fp16.safetensors": "comfy-wan2.1-vace-14b",
        "text_encoders/models_t5_umt5-xxl-enc-bf16.pth": "umt5",
        "vae/wan_2.1_vae.safetensors": "vae-2.1-comfy",
    },
    "krea-realtime-14b, GGUF": {
        "unet/krea-realtime-video-14b-F16.gguf": "gguf-wan2.1-t2v-14b",
        "text_encoders/umt5-xxl-encoder-F16.gguf": "umt5-gguf",
        "vae/wan_2.1_vae.safetensors": "vae-2.1-comfy",
    },
    "krea-realtime-14b, float8": {
        "diffusion_models/krea_realtime_14b_fp8_scaled.safetensors": "comfy-wan2.1-t2v-14b-fp8-scaled",
        "text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors": "umt5-comfy-fp8-scaled",
        "vae/wan_2.1_vae.safetensors": "vae-2.1-comfy",
    },
    "wan2.2-animate-14b": {
        "diffusion_models/Wan2_2-Animate-14B_fp8_e4m3fn_scaled_KJ.safetensors": (
            "comfy-wan2.2-animate-14b-fp8-scaled"
        ),
        "text_encoders/umt5_xxl_fp16.safetensors": "umt5-comfy",
        "vae/wan_2.1_vae.safetensors": "vae-2.1-comfy",
        "clip_vision/clip_vision_h.safetensors": "clip-comfy",
    },
    "wan2.2-animate-14b, GGUF": {
        "unet/Wan2.2-Animate-14B-F16.gguf": "gguf-wan2.2-animate-14b",
        "text_encoders/umt5-xxl-encoder-F16.gguf": "umt5-gguf",
        "vae/wan_2.1_vae.safetensors": "vae-2.1-comfy",
        "clip_vision/clip_vision_h.safetensors": "clip-comfy",
    },
    "wan2.2-ti2v-5b": {
        "diffusion_models/wan2.2_ti2v_5B.safetensors": "transformer-wan2.2-ti2v-5b",
        "text_encoders/umt5-xxl-encoder-F16.gguf": "umt5-gguf",
        "vae/wan2.2_vae.safetensors": "vae-2.2-comfy",
    },
}


def list_of(name: str) -> str:
    """A transformer's list; the experts of Wan2.2 T2V and VACE-Fun have the tensors of Wan2.1."""
    return EXPERT_OF.get(name, name)


def write_full_tokenizer(folder: Path) -> None:
    """The same tokenizer as in ComfyUI's text encoder."""
    folder.mkdir(parents=True)
    (folder / "spiece.model").write_bytes(full_tokenizer(SPIECE_BYTES))


def write_original(path: Path, name: str) -> Path:
    """The folder of a published model, in full size and without numbers."""
    config = ALL_TRANSFORMERS[name]
    tensors = read_list(f"transformer-{list_of(name)}")
    folders = ("low_noise_model", "high_noise_model") if "a14b" in name else (".",)
    for number, folder in enumerate(folders, 1):
        write_sparse(path / folder / "diffusion_pytorch_model.safetensors", tensors, seed=number)
        (path / folder / "config.json").write_text(json.dumps(source_config(config)))
    write_sparse(path / TEXT_ENCODER_FILE, read_list("umt5"))
    generation = "2.2" if name == "wan2.2-ti2v-5b" else "2.1"
    write_sparse(path / f"Wan{generation}_VAE.pth", read_list(f"vae-{generation}"))
    if config.image_dim is not None:
        write_sparse(path / IMAGE_ENCODER_FILE, read_list("clip"))
    if name == "wan2.1-t2v-1.3b":  # reading it takes longer than all else
        write_full_tokenizer(path / TOKENIZER_FOLDER)
    return path


def write_diffusers(path: Path, name: str) -> Path:
    """The same as Diffusers lays it out."""
    config, is_dual = ALL_TRANSFORMERS[name], name.endswith("a14b")
    tensors = read_list(f"diffusers-{list_of(name)}")
    for number, folder in enumerate(("transformer", "transformer_2")[: 1 + is_dual], 1):
        write_sparse(path / folder / "diffusion_pytorch_model.safetensors", tensors, seed=number)
        write_json(path / folder / "config.json", transformer_config(config))
    tables = "-both-tables" if name == "wan2.1-i2v-14b" else ""
    write_sparse(path / "text_encoder" / "model.safetensors", read_list(f"umt5-diffusers{tables}"))
    generation = "2.2" if name == "wan2.2-ti2v-5b" else "2.1"
    vae = read_list(f"vae-{generation}-diffusers")
    write_sparse(path / "vae" / "diffusion_pytorch_model.safetensors", vae)
    if config.image_dim is not None:
        write_sparse(path / "image_encoder" / "model.safetensors", read_list("clip-diffusers"))
    write_json(path / "model_index.json", pipeline_index(name, config.image_dim is not None))
    return path


def write_tree(path: Path, name: str) -> Path:
    """The same as users of ComfyUI have it."""
    for number, (file, recorded) in enumerate(TREES[name].items(), 1):
        write_sparse(path / file, read_list(recorded), seed=number)
    return path


def plan(folder: Path) -> Plan:
    with ExitStack() as opened:
        return plan_conversion(ConvertRequest(folder, folder / "out"), opened)


FORMS = [
    *((write_original, name) for name in ALL_TRANSFORMERS if name not in PUBLISHED_DIFFUSERS_TRANSFORMERS),
    *((write_diffusers, name) for name in PUBLISHED_TRANSFORMERS | PUBLISHED_DIFFUSERS_TRANSFORMERS),
    *((write_tree, name) for name in TREES),
]


@pytest.mark.sample(5)
@pytest.mark.parametrize(("write", "name"), FORMS, ids=lambda form: getattr(form, "__name__", form))
def test_a_published_model_without_its_numbers_gets_its_plan(
    brief_path: Path, write: Callable[[Path, str], Path], name: str
):
    folder = write(brief_path / "Wan", name)
    name = name.partition(",")[0]
    made = plan(folder)
    is_dual, reads_images = "a14b" in name, ALL_TRANSFORMERS[name].image_dim is not None
    transformers = ["low_noise_model", "high_noise_model"] if is_dual else ["model"]
    names = [*transformers, "t5_encoder", *(["clip_vision"] if reads_images else []), "vae"]
    assert [component.file_name for component in made.components] == [f"{n}.safetensors" for n in names]
    tensors, parameters = PUBLISHED_COUNTS[name]
    for component in made.components[: len(transformers)]:
        assert (len(component.jobs), component.nbytes) == (tensors, 2 * parameters)
    others = [(component.stage, len(component.jobs)) for component in made.components[len(transformers) :]]
    expected = {"text_encoder": 242, "image_encoder": 377, "vae": 196 if name == "wan2.2-ti2v-5b" else 194}
    assert others == [(stage, count) for stage, count in expected.items() if stage in dict(others)]
    assert made.config["mlx_video"]["variant"] == name
    assert made.config["vae_z_dim"] == (48 if name == "wan2.2-ti2v-5b" else 16)
    assert made.config["dual_model"] == is_dual
    found = inspect_path(folder)
    assert (found.variant, found.problems) == (name, ())
    assert all("tokenizer" in text for text in found.missing)
    assert {part.component for part in found.parts} == {"transformer", *dict(others)}


REQUIRED = (
    "diffusion_pytorch_model-00001-of-00002.safetensors",
    "diffusion_pytorch_model-00002-of-00002.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "config.json",
    TEXT_ENCODER_FILE,
    "Wan2.1_VAE.pth",
    f"{TOKENIZER_FOLDER}/tokenizer.json",
)
# The index can be told from the shards' names, the tokenizer is the same for all models.
REPLACEABLE = ("diffusion_pytorch_model.safetensors.index.json", f"{TOKENIZER_FOLDER}/tokenizer.json")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "Wan", shards=2).path


@pytest.mark.sample(7)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
@pytest.mark.parametrize("file", REQUIRED)
def test_a_truncated_file_is_named(tiny: Path, tmp_path: Path, file: str, share: float):
    own = shutil.copytree(tiny, tmp_path / "Wan")
    content = (own / file).read_bytes()
    (own / file).write_bytes(content[: int(share * (len(content) - 2))])
    with pytest.raises(MLXVideoError) as caught:
        plan(own)
    assert Path(file).name in str(caught.value)
    assert any(Path(file).name in text for text in (*inspect_path(own).problems, *inspect_path(own).missing))


@pytest.mark.parametrize("file", [file for file in REQUIRED if file not in REPLACEABLE])
def test_an_absent_file_is_named(tiny: Path, tmp_path: Path, file: str):
    own = shutil.copytree(tiny, tmp_path / "Wan")
    (own / file).unlink()
    with pytest.raises(MLXVideoError) as caught:
        plan(own)
    assert Path(file).name in str(caught.value)
