"""What goes wrong with checkpoints and adapters in the wild: one test for each, through the real commands.

Every message says what happened, where, with both values, and what to do. The tests of the rooms go deeper.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import struct
import zipfile
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import numpy as np
import pytest

from mlx_video import WanPipeline
from mlx_video.cli.console import describe_error
from mlx_video.convert import convert as convert_module
from mlx_video.convert.convert import convert
from mlx_video.errors import MLXVideoError
from mlx_video.events import Notice, StageStarted
from mlx_video.formats.safetensors import read_header
from mlx_video.layouts import staging
from mlx_video.request import ConvertRequest, LoraChoice
from tests.fixtures.adapter_files import write_adapter
from tests.fixtures.tiny_checkpoint import (
    TOKENIZER_FOLDER,
    TinyCheckpoint,
    TinySizes,
    write_tiny_checkpoint,
    write_transformer,
)
from tests.fixtures.tiny_variants import write_tiny_variant
from tests.fixtures.weight_files import store, write_safetensors, write_torch_archive
from tests.formats.gguf_writer import write_gguf
from tests.formats.stored_arrays import raw_safetensors

SMALL = {"width": 32, "height": 32, "num_frames": 1, "steps": 1, "seed": 1, "device_check": False}
SHARD = "diffusion_pytorch_model-0000{}-of-00003.safetensors"
CONFIG = TinySizes().transformer


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> TinyCheckpoint:
    """A checkpoint in three shards that no test may change."""
    return write_tiny_checkpoint(tmp_path_factory.mktemp("kept") / "Wan2.1-T2V", shards=3)


@pytest.fixture(scope="module")
def kept_dual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dual") / "Wan2.2-T2V-A14B"
    write_tiny_variant(path, "wan2.2-t2v-a14b")
    return path


@pytest.fixture(scope="module")
def kept_model(kept: TinyCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The converted checkpoint, quantized."""
    path = tmp_path_factory.mktemp("model") / "model"
    list(convert(ConvertRequest(kept.path, path, quantize=True, bits=8, group_size=32)))
    return path


@pytest.fixture
def own(kept: TinyCheckpoint, tmp_path: Path) -> TinyCheckpoint:
    """A checkpoint to damage."""
    return dataclasses.replace(kept, path=shutil.copytree(kept.path, tmp_path / "own"))


@pytest.fixture
def dual(kept_dual: Path, tmp_path: Path) -> Path:
    return shutil.copytree(kept_dual, tmp_path / "Wan2.2-T2V-A14B")


@pytest.fixture
def model(kept_model: Path, tmp_path: Path) -> Path:
    return shutil.copytree(kept_model, tmp_path / "model")


def refusal(source: Path, **options: object) -> str:
    """What the user reads when a conversion is refused; nothing may be left behind."""
    output = source.parent / "out"
    with pytest.raises(MLXVideoError) as caught:
        list(convert(ConvertRequest(source, output, **options)))
    assert not list(output.parent.glob("*out*")), "something was left behind"
    return describe_error(caught.value)


def notices(source: Path, **options: object) -> str:
    """What the user reads before a conversion begins to write; it is ended there."""
    events = convert(ConvertRequest(source, source.parent / "out", **options))
    before = takewhile(lambda event: not isinstance(event, StageStarted), events)
    text = "\n".join(event.text for event in before if isinstance(event, Notice))
    events.close()
    return text


def generation_refusal(model: Path, **options: object) -> str:
    with pytest.raises(MLXVideoError) as caught:
        WanPipeline.from_pretrained(model)("a cat", **(SMALL | options))
    return describe_error(caught.value)


def one_file(own: TinyCheckpoint, arrays: dict[str, np.ndarray], dtype: str = "F32") -> Path:
    """Put these tensors in the place of the transformer's shards."""
    for path in own.path.glob("diffusion_pytorch_model*"):
        path.unlink()
    write_transformer(own.path, arrays, dtype=dtype)
    return own.path


def adapter(path: Path, tensors: dict[str, np.ndarray]) -> tuple[LoraChoice, ...]:
    write_safetensors(path, [store(f"diffusion_model.{name}", values) for name, values in tensors.items()])
    return (LoraChoice(path),)


def pair(layer: str, rank: int = 2, rows: int = 128, columns: int = 128) -> dict[str, np.ndarray]:
    return {
        f"{layer}.lora_down.weight": np.ones((rank, columns), np.float32),
        f"{layer}.lora_up.weight": np.ones((rows, rank), np.float32),
    }


def assert_says(message: str, *parts: str) -> None:
    assert [part for part in parts if part not in message] == [], message


def test_f01_a_download_that_ended_early(own: TinyCheckpoint):
    shard = own.path / SHARD.format(3)
    whole = shard.stat().st_size
    shard.write_bytes(shard.read_bytes()[:-1000])
    sizes = f"{whole - 1000:,} bytes on disk, header promises {whole:,} bytes"
    assert_says(refusal(own.path), shard.name, sizes, "Download it again")


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid",
            ("Git LFS pointer", "not weights", "git lfs pull"),
        ),
        (b"<!DOCTYPE html><html>", ("HTML page", "login or an accepted licence")),
        (b"PK\x03\x04" + bytes(80), ("zip archive", "Give it a .pth name")),
        (b"\xff" * 80, ("is neither safetensors", "ff ff", "Download it again")),
        ((2**40).to_bytes(8, "little") + b"{", ("is neither safetensors", "Download it again")),
    ],
    ids=["lfs", "html", "zip", "noise", "huge header"],
)
def test_f02_something_else_under_the_name_of_a_weight_file(
    own: TinyCheckpoint, content: bytes, parts: tuple[str, ...]
):
    (own.path / SHARD.format(1)).write_bytes(content)
    assert_says(refusal(own.path), SHARD.format(1), *parts)


def test_f03_a_pth_file_that_ended_early(own: TinyCheckpoint):
    file = own.text_encoder_file
    file.write_bytes(file.read_bytes()[:-400])
    assert_says(refusal(own.path), file.name, "zip directory missing", "download is incomplete", "again")


def test_f04_a_pickle_with_other_objects_than_tensors(own: TinyCheckpoint):
    with zipfile.ZipFile(own.vae_file, "w") as archive:
        archive.writestr("vae/data.pkl", b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R.")
    assert_says(refusal(own.path), "Wan2.1_VAE.pth", "Python objects (os.system)", "refused", "safetensors")


def test_f05_an_absent_shard(own: TinyCheckpoint):
    (own.path / SHARD.format(2)).unlink()
    assert_says(refusal(own.path), "tensors missing, first ", "Shard 2 of 3", "is absent; fetch it again")


def test_f05_an_absent_shard_without_an_index(own: TinyCheckpoint):
    (own.path / SHARD.format(2)).unlink()
    (own.path / "diffusion_pytorch_model.safetensors.index.json").unlink()
    assert_says(refusal(own.path), "shard 2 of 3 is absent (2 of 3 found)", "Fetch it again")


def test_f05_a_shard_of_another_revision(own: TinyCheckpoint):
    name = next(iter(own.transformer))
    index = own.path / "diffusion_pytorch_model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"][name] = SHARD.format(3)
    index.write_text(json.dumps(content))
    assert_says(refusal(own.path), "another revision", name, "fetch the shards and the index again")


@pytest.mark.parametrize("lost", ["blocks.0.norm3.bias", "blocks.1.ffn.2.weight", "head.modulation"])
def test_f05_a_tensor_that_is_in_no_file(own: TinyCheckpoint, lost: str):
    arrays = {name: values for name, values in own.transformer.items() if name != lost}
    assert_says(refusal(one_file(own, arrays)), f"1 tensor missing, first {lost} [", "fetch it again")


def test_f05_a_hole_in_the_blocks(own: TinyCheckpoint):
    arrays = {name: values for name, values in own.transformer.items() if not name.startswith("blocks.0.")}
    assert_says(refusal(one_file(own, arrays)), "blocks.0.", "missing", "etch")


def test_f06_another_model_of_the_family(own: TinyCheckpoint):
    extra = {"audio_proj.audio_proj_glob_1.layer.bias": np.ones(8, np.float32)}
    text = refusal(one_file(own, own.transformer | extra))
    assert_says(text, "HuMo", *extra, "which this version cannot convert", "Known: ")


def test_f06_an_adapter_among_the_weights(own: TinyCheckpoint):
    extra = {"blocks.0.self_attn.q.lora_down.weight": np.ones((2, 128), np.float32)}
    text = refusal(one_file(own, own.transformer | extra))
    assert_says(text, "1 tensor unknown, first blocks.0.self_attn.q.lora_down.weight [2, 128]", "LoRA; use")


def test_f07_one_expert_without_the_other(dual: Path):
    shutil.rmtree(dual / "low_noise_model")
    text = refusal(dual)
    assert_says(text, "low_noise_model/ not found beside high_noise_model/", "needs both; fetch it")


def test_f07_one_expert_given_twice(dual: Path):
    shutil.rmtree(dual / "low_noise_model")
    shutil.copytree(dual / "high_noise_model", dual / "low_noise_model")
    assert_says(refusal(dual), "both experts are identical: the same file was given twice", "Fetch")


def test_f07_which_file_became_which_expert_is_said(dual: Path):
    assert_says(notices(dual), "low_noise from low_noise_model/", "high_noise from high_noise_model/")


def test_f08_the_vae_of_the_other_generation(own: TinyCheckpoint, tmp_path: Path):
    write_tiny_variant(tmp_path / "ti2v", "wan2.2-ti2v-5b")
    own.vae_file.unlink()
    shutil.copy(tmp_path / "ti2v" / "Wan2.2_VAE.pth", own.path)
    text = refusal(own.path)
    assert_says(text, "Wan2.2_VAE.pth has 48 latent channels, the transformer makes 16", "use Wan2.1_VAE.pth")


def test_f08_an_image_for_a_vae_without_an_encoder(tmp_path: Path):
    write_tiny_variant(tmp_path / "ti2v", "wan2.2-ti2v-5b")
    list(convert(ConvertRequest(tmp_path / "ti2v", tmp_path / "model")))
    keep_only(tmp_path / "model" / "vae.safetensors", "decoder.", "conv2.")
    text = generation_refusal(tmp_path / "model", image=np.zeros((32, 32, 3), np.uint8))
    assert_says(text, "vae.safetensors", "encoder", "onvert")


def keep_only(path: Path, *starts: str) -> None:
    """Take all other tensors out of a safetensors file."""
    header, content = read_header(path), path.read_bytes()
    kept, data = {}, b""
    for name, (begin, end) in header.offsets.items():
        if name.startswith(starts):
            info, at = header.infos[name], len(data)
            data += content[header.data_start + begin : header.data_start + end]
            kept[name] = {"dtype": info.dtype, "shape": list(info.shape), "data_offsets": [at, len(data)]}
    path.write_bytes(raw_safetensors(kept, data))


def test_f09_a_config_of_another_task(own: TinyCheckpoint, tmp_path: Path):
    checkpoint = write_tiny_checkpoint(tmp_path / "i2v", TinySizes().reading_images())
    shutil.copy(own.path / "config.json", checkpoint.path)
    text = notices(checkpoint.path)
    assert_says(text, "config.json says t2v (in_dim 16)", "takes 36 channels", "i2v weights. Using i2v")
    list(convert(ConvertRequest(checkpoint.path, tmp_path / "model")))
    assert_says(generation_refusal(tmp_path / "model"), "--image missing", "Wan2.1 I2V 14B needs it")


def test_f09_a_config_of_another_size(own: TinyCheckpoint):
    file = own.path / "config.json"
    file.write_text(file.read_text().replace('"ffn_dim": 256', '"ffn_dim": 512'))
    text = refusal(own.path)
    assert_says(text, "config.json says ffn_dim 512", "blocks.0.ffn.0.weight [256, 128]", "fetch both")


def test_f10_bits_in_the_config_that_the_file_has_not(model: Path):
    file = model / "config.json"
    file.write_text(file.read_text().replace('"bits": 8', '"bits": 4'))
    text = generation_refusal(model)
    assert_says(
        text, "config.json says 4 bits", "is 8 bits, group 32", "blocks.0.", "convert the model again"
    )


def test_f10_quantizing_twice(model: Path):
    assert_says(refusal(model, quantize_only=True), "already quantized (8 bits", "bfloat16")


def float8_file(own: TinyCheckpoint, *, lost_scale: str = "", plain: str = "", scaled: bool = True) -> Path:
    """The transformer with its attention in float8, in the place of the shards."""
    header: dict[str, object] = {}
    data = b""

    def add(name: str, values: np.ndarray, dtype: str) -> None:
        nonlocal data
        begin, data = len(data), data + values.tobytes()
        shape, offsets = list(values.shape), [begin, len(data)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}

    for name, values in own.transformer.items():
        layer = name.removesuffix(".weight")
        if not layer.endswith(("self_attn.q", "self_attn.k")):
            add(name, values, "F32")
            continue
        # 1, -1, 8 and -8 in turn, as scaled codes spread; without scales like plain weights.
        is_scaled = scaled and layer != plain
        codes = [0x38, 0xB8, 0x50, 0xD0] if is_scaled else [0x08, 0x88, 0x10, 0x90]
        add(name, np.resize(np.array(codes, np.uint8), values.shape), "F8_E4M3")
        if is_scaled and layer != lost_scale:
            add(f"{layer}.scale_weight", np.array(0.01, np.float32), "F32")
    one_file(own, {})
    own.transformer_file.write_bytes(raw_safetensors(header, data))
    return own.path


def test_f11_a_scale_that_was_lost(own: TinyCheckpoint):
    text = refusal(float8_file(own, lost_scale="blocks.1.self_attn.k"))
    assert_says(text, "blocks.1.self_attn.k.weight", "scale", "damaged")


def test_f11_a_weight_that_never_had_a_scale(own: TinyCheckpoint):
    text = notices(float8_file(own, plain="blocks.1.self_attn.k"))
    assert_says(text, "1 tensors are F8_E4M3 without scales", "scale 1")


def test_f11_a_format_that_is_not_read(own: TinyCheckpoint):
    extra = {"blocks.0.ffn.0.weight_scale_2": np.ones((), np.float32)}
    text = refusal(one_file(own, own.transformer | extra))
    assert_says(text, "blocks.0.ffn.0", "nvfp4", "not supported", "Use the bf16, fp16 or fp8_scaled file")


def test_f11_a_plain_cast_to_float8(own: TinyCheckpoint):
    text = notices(float8_file(own, scaled=False))
    assert_says(text, "4 tensors are F8_E4M3 without scales", "precision is lost compared with the bf16 file")


def test_f12_numbers_beyond_float16(own: TinyCheckpoint):
    own.transformer["blocks.1.ffn.2.weight"].flat[:3] = 1e6
    try:
        text = refusal(one_file(own, own.transformer), dtype="float16")
    finally:
        own.transformer["blocks.1.ffn.2.weight"].flat[:3] = 0
    assert_says(text, "--dtype float16: 3 values exceed", "blocks.1.ffn.2.weight", "Use bfloat16")


def test_f12_a_source_that_holds_nan(own: TinyCheckpoint):
    arrays = own.transformer | {"head.head.bias": np.full_like(own.transformer["head.head.bias"], np.nan)}
    text = refusal(one_file(own, arrays))
    assert_says(text, "head.head.bias contains 64 numbers that are NaN", "damaged", "Download it again")


def test_f13_an_adapter_of_which_nothing_fits(own: TinyCheckpoint, model: Path):
    loras = adapter(own.path / "flux.safetensors", pair("double_blocks.0.img_attn.proj"))
    for text in (refusal(own.path, loras=loras), generation_refusal(model, loras=[loras[0]])):
        assert_says(
            text, "flux.safetensors: none of 2 keys matched", "double_blocks.0", "Flux", "Use an adapter"
        )


def test_f14_an_adapter_of_another_size(own: TinyCheckpoint):
    loras = adapter(own.path / "style.safetensors", pair("blocks.0.self_attn.q", columns=5120, rows=5120))
    text = refusal(own.path, loras=loras)
    assert_says(text, "style.safetensors", "blocks.0.self_attn.q", "5120", "128", "adapter")


def test_f15_layers_that_this_model_lacks(own: TinyCheckpoint):
    fitting, image = pair("blocks.0.self_attn.q"), pair("blocks.0.cross_attn.k_img")
    loras = adapter(own.path / "i2v.safetensors", fitting | image)
    assert_says(refusal(own.path, loras=loras, strict_lora=True), "2 of 4 keys fit nothing", "--strict-lora")
    text = notices(own.path, loras=loras)
    assert_says(text, "2 of 4 keys fit nothing", "2 of image cross-attention, which this model lacks")


def test_f15_an_adapter_that_enlarges_the_input(own: TinyCheckpoint):
    delta = {"patch_embedding.diff": np.ones((128, 36, 1, 2, 2), np.float32)}
    text = refusal(own.path, loras=adapter(own.path / "image.safetensors", delta))
    assert_says(text, "image.safetensors", "patch_embedding", "enlarges it from 16 to 36 channels")


def test_f15_a_control_adapter(own: TinyCheckpoint):
    delta = {"patch_embedding.diff": np.ones((128, 32, 1, 2, 2), np.float32)}
    text = notices(own.path, loras=adapter(own.path / "control.safetensors", delta))
    assert_says(text, "control.safetensors", "from 16 to 32 channels", "--control-video")


def test_f16_a_scale_that_nothing_states(own: TinyCheckpoint):
    loras = adapter(own.path / "Wan2.2-Lightning-V1.safetensors", pair("blocks.0.self_attn.q"))
    assert_says(notices(own.path, loras=loras), "alpha absent", "0.125")


def test_f16_a_scale_far_from_the_usual(own: TinyCheckpoint):
    (choice,) = adapter(own.path / "style.safetensors", pair("blocks.0.self_attn.q"))
    text = notices(own.path, loras=(dataclasses.replace(choice, strength=20.0),))
    assert_says(text, "20", "far from the usual 1", "choose another strength")


def test_f17_the_adapter_of_the_other_expert(dual: Path, own: TinyCheckpoint, tmp_path: Path):
    write_adapter(tmp_path / "style_low_noise.safetensors", CONFIG)
    choice = (LoraChoice(tmp_path / "style_low_noise.safetensors"),)
    assert_says(refusal(own.path, loras_high=choice), "--lora-high", "one transformer", "Use --lora")
    text = notices(dual, loras_high=choice)
    assert_says(
        text, "style_low_noise.safetensors", "low-noise expert, and is applied to the high-noise expert"
    )


def test_f18_an_adapter_of_rank_zero_or_with_a_broken_alpha(own: TinyCheckpoint):
    path, layer = own.path / "broken.safetensors", "blocks.1.ffn.2"
    text = refusal(own.path, loras=adapter(path, pair(layer, rank=0, columns=256)))
    assert_says(text, "broken.safetensors: blocks.1.ffn.fc2", "rank 0", "damaged")
    alphas = {"2 numbers": np.ones(2, np.float32), "nan": np.array(np.nan, np.float32)}
    for found, alpha in alphas.items():
        tensors = pair(layer, columns=256) | {f"{layer}.alpha": alpha}
        text = refusal(own.path, loras=adapter(path, tensors))
        assert_says(text, f"{layer}.alpha", found, "one finite number", "damaged")


def test_f19_a_gguf_type_that_is_not_decoded(own: TinyCheckpoint):
    name = "blocks.0.self_attn.q.weight"
    header = b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + struct.pack("<Q", len(name)) + name.encode()
    header += struct.pack("<I2QIQ", 2, 256, 128, 34, 0)
    one_file(own, own.transformer)
    own.transformer_file.write_bytes(header + bytes(-len(header) % 32) + bytes(17408))
    text = refusal(own.path)
    assert_says(text, own.transformer_file.name, name, "TQ1_0", "not supported", "Use the Q8_0, Q6_K, Q5_K_M")


def test_f19_the_types_that_are_decoded_convert(own: TinyCheckpoint):
    tensors = {name: ("F32", values.view(np.uint8)) for name, values in own.transformer.items()}
    one_file(own, {}).joinpath("diffusion_pytorch_model.safetensors").unlink()
    write_gguf(own.transformer_file, tensors)
    assert_says(notices(own.path), "Found Wan2.1 T2V")


@pytest.mark.parametrize(
    ("lost", "parts"),
    [
        (
            "models_t5_umt5-xxl-enc-bf16.pth",
            ("in every Wan-AI repository (11.4 GB)", "serves all Wan models"),
        ),
        ("Wan2.1_VAE.pth", ("Wan2.1_VAE.pth (0.5 GB)", "Copy it")),
    ],
)
def test_f20_a_component_that_is_not_there(own: TinyCheckpoint, lost: str, parts: tuple[str, ...]):
    (own.path / lost).unlink()
    assert_says(refusal(own.path), "found in", str(own.path), *parts)


def test_f20_a_tokenizer_that_is_nowhere(own: TinyCheckpoint):
    shutil.rmtree(own.path / TOKENIZER_FOLDER)
    assert_says(refusal(own.path), "has no tokenizer", TOKENIZER_FOLDER, "--tokenizer", "HF_HUB_OFFLINE")


def test_f20_a_component_of_a_converted_model_that_is_not_there(model: Path):
    (model / "t5_encoder.safetensors").unlink()
    assert_says(generation_refusal(model), str(model), "t5_encoder.safetensors not found", "Copy it whole")


def test_f21_an_interrupted_conversion(own: TinyCheckpoint, monkeypatch: pytest.MonkeyPatch):
    output = own.path.parent / "out"

    def killed(*_: object) -> Iterator[int]:
        yield 0
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(convert_module, "write_tensors", killed)
        patch.setattr(staging.shutil, "rmtree", lambda *_, **__: None)  # a power cut cleans nothing up
        with pytest.raises(SystemExit):
            list(convert(ConvertRequest(own.path, output)))
    assert not output.exists(), "nothing looks like a model before it is one"
    with pytest.raises(MLXVideoError, match="was interrupted; run it again"):
        WanPipeline.from_pretrained(output)
    assert_says(notices(own.path), "Found an unfinished conversion", "removed it")


def test_f22_a_disk_that_is_too_full(own: TinyCheckpoint, monkeypatch: pytest.MonkeyPatch):
    usage = shutil.disk_usage(own.path)._replace(free=1000)
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda _: usage)
    text = refusal(own.path)
    assert_says(text, "1,000 bytes", "free", "--quantize --bits 4 needs", "MB")


def test_f24_a_converted_folder_as_source(model: Path):
    assert_says(refusal(model), f"{model}: is already an MLX folder", "--quantize-only")


def test_f24_a_vae_that_is_permuted_already(own: TinyCheckpoint):
    permuted = {name: np.moveaxis(v, 1, -1) if v.ndim == 5 else v for name, v in own.vae.items()}
    write_torch_archive(own.vae_file, [store(name, np.ascontiguousarray(v)) for name, v in permuted.items()])
    text = refusal(own.path)
    assert_says(text, "Wan2.1_VAE.pth", ".weight is [", "expected [", "fetch it again")


def test_f25_another_text_encoder(own: TinyCheckpoint):
    arrays = own.text_encoder | {"token_embedding.weight": np.zeros((32128, 32), np.float32)}
    write_torch_archive(own.text_encoder_file, [store(name, v, "BF16") for name, v in arrays.items()])
    assert_says(refusal(own.path), "32128 vocabulary rows (T5 v1.1)", "UMT5-XXL (256384)", "Fetch")


def test_f26_the_tokenizer_of_another_model(own: TinyCheckpoint):
    file = own.path / TOKENIZER_FOLDER / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["vocab"] += [[f"word{index}", -9.0] for index in range(400)]
    file.write_text(json.dumps(content))
    assert_says(refusal(own.path), "umt5-xxl", "160", "oken")


def test_f27_a_distilled_model(kept: TinyCheckpoint, tmp_path: Path):
    source = shutil.copytree(kept.path, tmp_path / "wan2.1_t2v_lightx2v_4step")
    text = notices(source)
    assert_says(text, "lightx2v_4step", "name suggests a distilled model", "4 steps, guide scale 1")
