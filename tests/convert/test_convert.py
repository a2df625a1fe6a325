import json
import shutil
import tracemalloc
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.api import convert_checkpoint
from mlx_video.config import QuantizationConfig, TextEncoderConfig, TransformerConfig, config_from_json
from mlx_video.convert.convert import convert
from mlx_video.convert_wan import main
from mlx_video.errors import CheckpointError, ConfigError, RequestError
from mlx_video.events import BytesWritten, FileWritten, Notice, StageFinished, StageStarted
from mlx_video.layouts import staging
from mlx_video.layouts.model_folder import open_model_folder
from mlx_video.request import ConvertRequest, LoraChoice
from mlx_video.weights.quantize import is_quantized_layer
from tests.fixtures.tiny_checkpoint import (
    TOKENIZER_FOLDER,
    TinySizes,
    write_tiny_checkpoint,
    write_transformer,
)
from tests.fixtures.weight_files import round_to, store, write_torch_archive

SPELLINGS = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
RENAMED = {
    "patch_embedding.": "patch_embedding_proj.",
    "text_embedding.0.": "text_embedding_0.",
    "text_embedding.2.": "text_embedding_1.",
    "time_embedding.0.": "time_embedding_0.",
    "time_embedding.2.": "time_embedding_1.",
    "time_projection.1.": "time_projection.",
    ".ffn.0.": ".ffn.fc1.",
    ".ffn.2.": ".ffn.fc2.",
    ".ffn.gate.0.": ".ffn.gate_proj.",
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A checkpoint that no test may change."""
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "Wan2.1-T2V")


@pytest.fixture
def own(tiny, tmp_path):
    """A copy of it that a test may damage."""
    return shutil.copytree(tiny.path, tmp_path / "own")


def run(source, output, **options):
    return list(convert(ConvertRequest(source, output, **options)))


def converted_name(name):
    for old, new in RENAMED.items():
        name = name.replace(old, new)
    return name


def load_numbers(path):
    return {name: np.array(array.astype(mx.float32)) for name, array in mx.load(str(path)).items()}


def snapshot(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("command", [True, False])
def test_a_path_through_an_absent_folder_deletes_no_photos(tiny, tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"cat")
    typed = "absent/../photos"
    if command:
        assert main(["--checkpoint-dir", str(tiny.path), "--output-dir", typed]) == 1
        assert "photos: is not empty and no converted model (first: cat.png)" in capsys.readouterr().err
    else:
        with pytest.raises(CheckpointError, match="photos: is not empty and no converted model"):
            convert_checkpoint(tiny.path, typed)
    assert snapshot(tmp_path) == {Path("photos/cat.png"): b"cat"}


def test_a_path_through_an_absent_folder_names_the_place_where_the_model_is(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert convert_checkpoint(tiny.path, "absent/../out") == tmp_path / "out"
    assert convert_checkpoint(tiny.path, "out") == Path("out")
    open_model_folder(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_conversion_inside_the_checkpoints_folder_leaves_the_checkpoint(own, tmp_path):
    before = snapshot(own)
    run(own, own / "mlx")
    assert {path: data for path, data in snapshot(own).items() if path.parts[0] != "mlx"} == before
    run(own, own / "mlx")
    for taken in ("google", "google/umt5-xxl", "."):
        with pytest.raises((CheckpointError, RequestError)):
            run(own, own / taken)
    assert {path: data for path, data in snapshot(own).items() if path.parts[0] != "mlx"} == before


@pytest.mark.parametrize(
    ("option", "place"),
    [("vae", "vae.safetensors"), ("text_encoder", "t5_encoder.safetensors"), ("tokenizer", "tokenizer")],
)
@pytest.mark.parametrize("linked", [False, True])
def test_a_folder_that_is_read_is_not_replaced(tiny, tmp_path, option, place, linked):
    run(tiny.path, tmp_path / "out")
    before, path = snapshot(tmp_path / "out"), tmp_path / "out" / place
    if linked:
        (tmp_path / "link").symlink_to(path)
        path = tmp_path / "link"
    with pytest.raises(
        RequestError, match=rf"would be replaced, but --{option.replace('_', '-')} .* lies in it"
    ):
        run(tiny.path, tmp_path / "out", **{option: path})
    assert snapshot(tmp_path / "out") == before


def test_a_model_is_not_quantized_into_itself_by_another_name(tiny, tmp_path):
    run(tiny.path, tmp_path / "out")
    before = snapshot(tmp_path / "out")
    (tmp_path / "link").symlink_to(tmp_path / "out")
    for source, output in ((tmp_path / "link", tmp_path / "out"), (tmp_path / "out", tmp_path / "link")):
        with pytest.raises(RequestError, match="is the checkpoint folder itself"):
            run(source, output, quantize_only=True)
    assert snapshot(tmp_path / "out") == before


def test_a_checkpoint_in_the_folder_to_be_made_is_kept(tiny, tmp_path):
    shutil.copytree(tiny.path, tmp_path / "out" / "original")
    before = snapshot(tmp_path)
    with pytest.raises(CheckpointError, match="out: is not empty and no converted model .first: original"):
        run(tmp_path / "out" / "original", tmp_path / "out")
    run(tiny.path, tmp_path / "model")
    shutil.copytree(tiny.path, tmp_path / "model" / "original")
    with pytest.raises(CheckpointError, match="would be replaced, but holds original"):
        run(tmp_path / "model" / "original", tmp_path / "model")
    assert before.items() <= snapshot(tmp_path).items()


def test_adapters_in_the_folder_to_be_replaced_are_not_lost(tiny, tmp_path):
    run(tiny.path, tmp_path / "out")
    (tmp_path / "out" / "vae_encoder.safetensors").write_bytes(b"an adapter by another name")
    adapter = LoraChoice(tmp_path / "out" / "vae_encoder.safetensors")
    with pytest.raises(RequestError, match="would be replaced, but --lora-high .* lies in it"):
        run(tiny.path, tmp_path / "out", loras_high=(adapter,))


@pytest.mark.parametrize("dtype", SPELLINGS)
def test_every_tensor_arrives_under_its_new_name_rounded_to_the_dtype(tiny, tmp_path, dtype):
    run(tiny.path, tmp_path / "out", dtype=dtype)
    for file, given in (("model", tiny.transformer), ("t5_encoder", tiny.text_encoder)):
        made = load_numbers(tmp_path / "out" / f"{file}.safetensors")
        assert made.keys() == {converted_name(name) for name in given}
        for name, values in given.items():
            expected = round_to(values, SPELLINGS[dtype])
            found = made[converted_name(name)]
            assert np.array_equal(found, expected.reshape(found.shape)), name
    kinds = {array.dtype for array in mx.load(str(tmp_path / "out" / "model.safetensors")).values()}
    assert kinds == {getattr(mx, dtype)}


def test_linear_shapes_stay_and_the_patch_kernel_is_flattened(tiny, tmp_path):
    run(tiny.path, tmp_path / "out")
    made = mx.load(str(tmp_path / "out" / "model.safetensors"))
    assert made["patch_embedding_proj.weight"].shape == (128, 64)
    assert made["blocks.1.ffn.fc1.weight"].shape == (256, 128)
    assert made["blocks.1.modulation"].shape == (1, 6, 128)
    assert made["head.head.weight"].shape == (64, 128)


@pytest.mark.parametrize("options", [{"dtype": "float16"}, {"quantize": True}])
def test_the_vae_is_float32_and_channels_last_whatever_the_options(tiny, tmp_path, options):
    run(tiny.path, tmp_path / "out", **options)
    made = mx.load(str(tmp_path / "out" / "vae.safetensors"))
    assert made.keys() == tiny.vae.keys()
    for name, values in tiny.vae.items():
        expected = np.moveaxis(values, 1, -1) if name.endswith("weight") else values
        assert made[name].dtype == mx.float32
        assert np.array_equal(np.array(made[name]), expected), name


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_block_layers_are_packed_from_the_numbers_already_rounded(tiny, tmp_path, bits, group_size):
    run(tiny.path, tmp_path / "out", quantize=True, bits=bits, group_size=group_size)
    made = mx.load(str(tmp_path / "out" / "model.safetensors"))
    assert len(made) == len(tiny.transformer) + 2 * 20
    for name, values in tiny.transformer.items():
        path = converted_name(name).removesuffix(".weight")
        dense = mx.array(values).astype(mx.bfloat16)
        if name.endswith(".weight") and is_quantized_layer(path):
            packed = mx.quantize(dense, group_size=group_size, bits=bits)
            for part, want in zip(("weight", "scales", "biases"), packed, strict=True):
                assert mx.array_equal(made[f"{path}.{part}"], want), name
        else:
            found = made[converted_name(name)]
            assert mx.array_equal(found, dense.reshape(found.shape)), name


def test_quantizing_later_gives_the_files_of_quantizing_at_once(tiny, tmp_path):
    run(tiny.path, tmp_path / "dense")
    run(tmp_path / "dense", tmp_path / "later", quantize=True, quantize_only=True, bits=8, group_size=32)
    run(tiny.path, tmp_path / "at_once", quantize=True, bits=8, group_size=32)
    assert snapshot(tmp_path / "later") == snapshot(tmp_path / "at_once")


def test_quantizing_later_keeps_the_dtype_of_the_folder_and_says_so(tiny, tmp_path):
    run(tiny.path, tmp_path / "dense", dtype="float32")
    events = run(tmp_path / "dense", tmp_path / "later", quantize_only=True)
    assert any(
        "keep the dtype" in event.text and "F32" in event.text
        for event in events
        if isinstance(event, Notice)
    )
    assert (
        mx.load(str(tmp_path / "later" / "model.safetensors"))["blocks.0.ffn.fc1.scales"].dtype == mx.float32
    )


def test_quantizing_later_drops_the_stray_rotary_table_and_keeps_foreign_config_keys(tiny, tmp_path):
    run(tiny.path, tmp_path / "dense")
    weights, config = tmp_path / "dense" / "model.safetensors", tmp_path / "dense" / "config.json"
    mx.save_safetensors(str(weights), mx.load(str(weights)) | {"freqs": mx.zeros((4, 2))})
    config.write_text(json.dumps(json.loads(config.read_text()) | {"fastwan_dmd": True}))
    run(tmp_path / "dense", tmp_path / "later", quantize_only=True)
    assert "freqs" not in mx.load(str(tmp_path / "later" / "model.safetensors"))
    assert json.loads((tmp_path / "later" / "config.json").read_text())["fastwan_dmd"] is True


@pytest.mark.parametrize("options", [{"shards": 3}, {"prefix": "model.diffusion_model."}])
def test_shards_and_prefixed_names_convert_to_the_same_files(tiny, tmp_path, options):
    other = write_tiny_checkpoint(tmp_path / "other", **options)
    run(tiny.path, tmp_path / "a")
    run(other.path, tmp_path / "b")
    assert snapshot(tmp_path / "a") == snapshot(tmp_path / "b")


def test_a_bfloat16_source_keeps_its_bits(tmp_path):
    source = write_tiny_checkpoint(tmp_path / "source", transformer_dtype="BF16")
    run(source.path, tmp_path / "out")
    made = load_numbers(tmp_path / "out" / "model.safetensors")
    assert np.array_equal(made["head.head.weight"], source.transformer["head.head.weight"])


def test_the_config_tells_all_sizes_and_the_quantization(tiny, tmp_path):
    run(tiny.path, tmp_path / "out", quantize=True, bits=8, group_size=32)
    data = json.loads((tmp_path / "out" / "config.json").read_text())
    config = config_from_json(data)
    assert config.transformer == tiny.sizes.transformer
    assert config.text_encoder == tiny.sizes.text_encoder
    assert config.quantization == QuantizationConfig(8, 32)
    assert list(data)[-1] == "quantization"
    assert (tmp_path / "out" / "config.json").read_bytes().isascii()


def test_the_folder_is_complete_with_its_tokenizer(tiny, tmp_path):
    run(tiny.path, tmp_path / "out")
    folder = open_model_folder(tmp_path / "out")
    assert snapshot(folder.tokenizer) == snapshot(tiny.path / TOKENIZER_FOLDER)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json", "model.safetensors", "t5_encoder.safetensors", "tokenizer", "vae.safetensors",
    ]  # fmt: skip


def test_events_tell_stages_bytes_and_the_finished_folder(tiny, tmp_path):
    events = run(tiny.path, tmp_path / "out")
    stages = [event.stage for event in events if isinstance(event, StageStarted)]
    assert stages == ["transformer", "text_encoder", "vae"]
    assert [event.stage for event in events if isinstance(event, StageFinished)] == stages
    for stage in stages:
        written = [event for event in events if isinstance(event, BytesWritten) and event.component == stage]
        assert written[-1].done == written[-1].total
        assert [event.done for event in written] == sorted(event.done for event in written)
    assert events[-1] == FileWritten(tmp_path / "out")


def test_of_two_vaes_the_one_with_the_transformers_channels_is_taken(tiny, own, tmp_path):
    other = own / "Wan2.2_VAE.pth"
    write_torch_archive(other, [store("conv2.weight", np.zeros((48, 48, 1, 1, 1), np.float32))])
    run(own, tmp_path / "out")
    assert len(mx.load(str(tmp_path / "out" / "vae.safetensors"))) == len(tiny.vae)
    (own / "Wan2.1_VAE.pth").unlink()
    message = "Wan2.2_VAE.pth has 48 latent channels, the transformer makes 16. .* use Wan2.1_VAE.pth"
    with pytest.raises(CheckpointError, match=message):
        run(own, tmp_path / "out")


@pytest.mark.parametrize("moment", [StageStarted, BytesWritten, StageFinished])
def test_an_interrupted_conversion_leaves_no_folder(tiny, tmp_path, moment):
    events = convert(ConvertRequest(tiny.path, tmp_path / "out"))
    next(event for event in events if isinstance(event, moment))
    assert not (tmp_path / "out").exists()
    with pytest.raises(KeyboardInterrupt):
        events.throw(KeyboardInterrupt)
    assert list(tmp_path.iterdir()) == []
    assert isinstance(run(tiny.path, tmp_path / "out")[-1], FileWritten)


def test_a_conversion_that_is_not_carried_on_leaves_no_folder(tiny, tmp_path):
    events = convert(ConvertRequest(tiny.path, tmp_path / "out"))
    next(event for event in events if isinstance(event, BytesWritten))
    events.close()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_removed_and_reported(tiny, tmp_path):
    events = convert(ConvertRequest(tiny.path, tmp_path / "out"))
    next(event for event in events if isinstance(event, BytesWritten))
    left = next(tmp_path.iterdir())
    shutil.copytree(left, tmp_path / "kept")
    events.close()
    (tmp_path / "kept").rename(left)
    texts = [event.text for event in run(tiny.path, tmp_path / "out") if isinstance(event, Notice)]
    assert any("unfinished conversion" in text and "removed" in text for text in texts)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.slow
def test_the_memory_of_a_large_tensor_is_that_of_its_chunks(tmp_path):
    rows = 1 << 19
    sizes = TinySizes(text_encoder=TextEncoderConfig(rows, 32, 32, 48, 4, 1))
    source = write_tiny_checkpoint(tmp_path / "source", sizes).path
    table_bytes = rows * 32 * 2
    tracemalloc.start()
    events = run(source, tmp_path / "out", dtype="float32")
    _, numpy_peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    mlx_peak = max(event.peak_bytes for event in events if isinstance(event, StageFinished))
    # The table takes twice its bytes in float32; chunks of 8 MB pass through a few buffers.
    assert numpy_peak + mlx_peak < table_bytes
    assert table_bytes > 32e6


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"model_version": "2.2"}, RequestError, r"model_version: 2\.2: .* 2\.1"),
        ({"quantize_only": True}, CheckpointError, "is an original checkpoint"),
    ],
)
def test_options_that_do_not_fit_the_source_are_refused(tiny, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        run(tiny.path, tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_group_size_that_does_not_divide_a_width_is_refused(tmp_path):
    sizes = TinySizes(transformer=TransformerConfig(96, 192, 2, 1, text_dim=32, freq_dim=64))
    narrow = write_tiny_checkpoint(tmp_path / "narrow", sizes).path
    with pytest.raises(RequestError, match=r"128: blocks.0.self_attn.q.weight has 96 inputs.* Use 32\."):
        run(narrow, tmp_path / "out", quantize=True, group_size=128)
    run(narrow, tmp_path / "dense")
    with pytest.raises(RequestError, match=r"64: blocks.0.self_attn.q.weight has 96 inputs"):
        run(tmp_path / "dense", tmp_path / "out", quantize_only=True)


def test_what_is_converted_or_quantized_already_is_refused(tiny, tmp_path):
    run(tiny.path, tmp_path / "packed", quantize=True)
    with pytest.raises(
        CheckpointError, match=r"packed: already quantized \(4 bits\); start from a bfloat16 folder"
    ):
        run(tmp_path / "packed", tmp_path / "out", quantize_only=True)
    with pytest.raises(CheckpointError, match=r"already an MLX folder.*--quantize-only"):
        run(tmp_path / "packed", tmp_path / "out")


def test_quantized_tensors_behind_a_config_that_hides_them_are_refused(tiny, tmp_path):
    run(tiny.path, tmp_path / "packed", quantize=True)
    config = json.loads((tmp_path / "packed" / "config.json").read_text())
    del config["quantization"]
    (tmp_path / "packed" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="already quantized"):
        run(tmp_path / "packed", tmp_path / "out", quantize_only=True)


def test_a_disk_too_full_is_noticed_before_writing_with_both_sizes_and_a_way_out(tiny, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1_000_000})
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(
        CheckpointError, match=r"out: needs \d\.\d MB, 1.0 MB free on .*--quantize --bits 4 needs"
    ):
        run(tiny.path, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["diffusion_pytorch_model.safetensors", "models_t5_umt5-xxl-enc-bf16.pth", "Wan2.1_VAE.pth"]
)
def test_truncated_files_and_stand_ins_are_refused_by_name(own, tmp_path, name):
    whole = (own / name).read_bytes()
    (own / name).write_bytes(whole[:-1000])
    with pytest.raises(CheckpointError, match=rf"{name}: .*[Dd]ownload"):
        run(own, tmp_path / "out")
    (own / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    with pytest.raises(CheckpointError, match=rf"{name}: this is a Git LFS pointer .* git lfs pull"):
        run(own, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_folders_without_transformer_or_text_encoder_are_refused(own, tmp_path):
    (own / "models_t5_umt5-xxl-enc-bf16.pth").unlink()
    with pytest.raises(CheckpointError, match=r"models_t5_umt5-xxl-enc-bf16.pth not found in .*own"):
        run(own, tmp_path / "out")
    with pytest.raises(CheckpointError, match="no transformer found"):
        run(own / "google", tmp_path / "out")


def test_a_text_encoder_of_another_width_is_refused(own, tmp_path):
    sizes = TinySizes(text_encoder=TextEncoderConfig(160, 48, 32, 48, 4, 1))
    other = write_tiny_checkpoint(tmp_path / "other", sizes)
    shutil.copy(other.text_encoder_file, own)
    message = r"token_embedding.weight is 48 wide, the transformer's text_embedding.0.weight takes 32"
    with pytest.raises(CheckpointError, match=message):
        run(own, tmp_path / "out")


def test_a_config_that_contradicts_the_tensors_is_refused_with_both_numbers(own, tmp_path):
    config = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(json.dumps(config | {"ffn_dim": 512}))
    with pytest.raises(ConfigError, match=r"ffn_dim.*512.*256"):
        run(own, tmp_path / "out")


def test_damaged_numbers_stop_the_conversion_and_leave_nothing(own, tiny, tmp_path):
    values = tiny.transformer["blocks.1.norm3.weight"].copy()
    values[5] = np.nan
    write_transformer(own, tiny.transformer | {"blocks.1.norm3.weight": values})
    with pytest.raises(
        CheckpointError, match=r"diffusion_pytorch_model.safetensors: blocks.1.norm3.weight contains 1"
    ):
        run(own, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_numbers_too_large_for_float16_are_refused_with_the_cure(own, tiny, tmp_path):
    values = tiny.transformer["blocks.1.norm3.weight"].copy()
    values[5:8] = 1e5
    write_transformer(own, tiny.transformer | {"blocks.1.norm3.weight": values})
    with pytest.raises(
        CheckpointError, match=r"--dtype float16: 3 values .*blocks.1.norm3.weight.*Use bfloat16"
    ):
        run(own, tmp_path / "out", dtype="float16")
    run(own, tmp_path / "out", dtype="bfloat16")


def test_a_failed_conversion_keeps_the_older_model_of_that_name(tiny, own, tmp_path):
    run(tiny.path, tmp_path / "out")
    before = snapshot(tmp_path / "out")
    (own / "Wan2.1_VAE.pth").unlink()
    with pytest.raises(CheckpointError):
        run(own, tmp_path / "out", dtype="float16")
    assert snapshot(tmp_path / "out") == before
