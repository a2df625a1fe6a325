"""--inspect says what a path is, what it lacks or what is wrong with it; every layout, from headers alone."""

import json
import math
import shutil

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.config import TextEncoderConfig
from mlx_video.convert.convert import convert
from mlx_video.convert_wan import main
from mlx_video.inspect.opened_model import describe_opened
from mlx_video.inspect.path import inspect_path
from mlx_video.latents.latents_file import save_latents
from mlx_video.latents.run_state import RunState, save_state
from mlx_video.layouts.loose_files import WEIGHT_ENDINGS
from mlx_video.loading.components import open_model
from mlx_video.loading.found_files import scan_folder
from mlx_video.request import ConvertRequest
from mlx_video.variants.other_models import PUBLISHED, digest_shapes
from mlx_video.weights.names.text_encoder_names import text_encoder_tensors
from mlx_video.weights.names.transformer_names import transformer_tensors
from tests.fixtures.adapter_files import write_adapter
from tests.fixtures.diffusers_checkpoint import rename, text_encoder_name, write_diffusers_variant
from tests.fixtures.published_sizes import PUBLISHED_TRANSFORMERS
from tests.fixtures.tiny_checkpoint import (
    TinySizes,
    write_tiny_checkpoint,
    write_tokenizer,
    write_transformer,
)
from tests.fixtures.tiny_variants import write_tiny_variant
from tests.fixtures.weight_files import store, write_safetensors
from tests.formats.gguf_writer import pack, write_gguf
from tests.formats.stored_arrays import entry, write_raw
from tests.lora.adapter_files import LAYERS, write
from tests.lora.test_dialects import DIALECTS, dialect_arrays
from tests.lora.test_halves import FORMS, halves
from tests.lora.test_zeros import EMPTY

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "Wan2.1-T2V", shards=2)


@pytest.fixture
def own(tmp_path):
    return write_tiny_checkpoint(tmp_path / "Wan2.1-T2V")


def part_of(found, component):
    return next(part for part in found.parts if part.component == component)


def test_an_original_folder_names_model_components_sizes_and_the_command(tiny):
    found = inspect_path(tiny.path)
    assert (found.kind, found.layout, found.task) == ("checkpoint", "original Wan folder", "t2v")
    assert (found.model, found.model_version) == ("Wan2.1 T2V of another size", "2.1")
    assert (found.missing, found.problems, found.tokenizer) == ((), (), "google/umt5-xxl/")
    assert found.command.startswith(f"python -m mlx_video.convert_wan --checkpoint-dir {tiny.path}")
    transformer = part_of(found, "transformer")
    assert len(transformer.files) == 2
    assert transformer.parameters == sum(values.size for values in tiny.transformer.values())
    assert transformer.precision == {"F32": transformer.parameters}
    text_encoder = part_of(found, "text_encoder")
    assert text_encoder.nbytes == 2 * sum(values.size for values in tiny.text_encoder.values())
    assert {part.component for part in found.parts} == {"transformer", "text_encoder", "vae"}


@pytest.mark.parametrize("name", ["wan2.1-i2v-14b", "wan2.2-t2v-a14b", "wan2.2-ti2v-5b"])
def test_original_and_diffusers_folders_are_the_same_model(tmp_path, name):
    write_tiny_variant(tmp_path / "original", name)
    write_diffusers_variant(tmp_path / "diffusers", name)
    first, second = (inspect_path(tmp_path / layout) for layout in ("original", "diffusers"))
    assert first.variant == second.variant == name
    assert (first.problems, second.problems) == ((), ())
    assert (first.layout.split()[0], second.layout.split()[0]) == ("original", "Diffusers")
    assert part_of(second, "transformer").spelling == "Diffusers' names"
    for found in (first, second):
        experts = {part.expert for part in found.parts if part.component == "transformer"}
        assert experts == ({"high_noise", "low_noise"} if "a14b" in name else {""})
    assert ("i2v-14b" in name) == any(part.component == "image_encoder" for part in first.parts)


def test_a_converted_folder_tells_bits_group_and_the_dense_number_of_parameters(tiny, tmp_path):
    list(convert(ConvertRequest(tiny.path, tmp_path / "mlx", quantize=True, bits=8, group_size=32)))
    found = inspect_path(tmp_path / "mlx")
    assert (found.kind, found.layout) == ("converted model", "MLX folder made by mlx-video")
    assert found.command.startswith(f"python -m mlx_video.generate_wan --model-dir {tmp_path / 'mlx'}")
    transformer = part_of(found, "transformer")
    assert set(transformer.precision) == {"8 bits, group 32", "BF16"}
    assert transformer.parameters == part_of(inspect_path(tiny.path), "transformer").parameters
    assert [part.spelling for part in found.parts] == ["converted for MLX"] * 3


def test_an_opened_model_tells_the_bytes_of_its_files_and_folders(tiny, tmp_path):
    list(convert(ConvertRequest(tiny.path, tmp_path / "out", dtype="float32")))
    opened = describe_opened(*open_model(tmp_path / "out"), {})
    assert "tokenizer" in {facts.title for facts in opened.components}
    for facts in opened.components:
        files = [facts.place] if facts.place.is_file() else facts.place.rglob("*")
        assert facts.nbytes == sum(file.stat().st_size for file in files), facts.title


def test_a_converted_folder_of_another_tool_is_called_one(tiny, tmp_path):
    list(convert(ConvertRequest(tiny.path, tmp_path / "mlx")))
    config = json.loads((tmp_path / "mlx" / "config.json").read_text())
    del config["mlx_video"]
    (tmp_path / "mlx" / "config.json").write_text(json.dumps(config))
    shutil.rmtree(tmp_path / "mlx" / "tokenizer")
    found = inspect_path(tmp_path / "mlx")
    assert found.layout == "MLX folder made by another tool"
    assert found.missing[0].startswith("tokenizer")
    assert found.problems == ()


def test_what_is_missing_is_said_without_being_an_error(own, capsys):
    own.text_encoder_file.unlink()
    assert main(["--inspect", str(own.path)]) == 0
    shown = capsys.readouterr().out
    assert "missing: models_t5_umt5-xxl-enc-bf16.pth not found" in shown
    assert "use:" not in shown


def test_a_cut_file_ends_with_one_and_names_both_sizes(own, capsys):
    content = own.transformer_file.read_bytes()
    own.transformer_file.write_bytes(content[:-100])
    assert main(["--inspect", str(own.path)]) == 1
    shown = capsys.readouterr()
    assert f"{len(content) - 100:,} bytes on disk, header promises {len(content):,}" in shown.out
    assert "1 problem" in shown.err
    assert "text_encoder: UMT5 of 2 blocks" in shown.out, "the rest is described all the same"


def test_an_absent_shard_is_named(own, tmp_path):
    folder = shutil.copytree(own.path, tmp_path / "shards")
    own.transformer_file.rename(own.transformer_file)
    (folder / own.transformer_file.name).unlink()
    write_transformer(folder, own.transformer, shards=3)
    lost = folder / "diffusion_pytorch_model-00002-of-00003.safetensors"
    lost.unlink()
    assert any("Shard 2 of 3" in text for text in inspect_path(folder).problems)
    alone = inspect_path(folder / "diffusion_pytorch_model-00003-of-00003.safetensors")
    assert "shard 3 of 3 alone" in alone.problems[0]


def test_another_model_of_the_family_is_refused_by_name(own):
    write_transformer(own.path, own.transformer | {"audio_proj.weight": np.zeros(4, np.float32)})
    found = inspect_path(own.path)
    assert "this is HuMo (it has audio_proj.weight)" in found.problems[0]
    assert found.command == ""


def test_single_components_of_any_format_tell_their_option(own, tmp_path):
    vae = inspect_path(own.vae_file)
    assert (vae.kind, vae.layout, vae.parts[0].model) == (
        "component",
        "torch archive",
        "VAE of 16 latent channels",
    )
    assert f"--vae {own.vae_file}" in vae.command
    tensors = {name: ("F32", values.view(np.uint8)) for name, values in own.transformer.items()}
    packed = {
        name: ("Q8_0", pack(own.transformer[name], "Q8_0"))
        for name in tensors
        if name.startswith("blocks.") and name.endswith(("q.weight", "k.weight"))
    }
    gguf = inspect_path(write_gguf(tmp_path / "wan2.2_high_noise.gguf", tensors | packed))
    assert set(gguf.parts[0].precision) == {"Q8_0", "F32"}
    assert gguf.parts[0].parameters == sum(values.size for values in own.transformer.values())
    assert gguf.layout == "GGUF file"
    assert f"--high-noise {gguf.path}" in gguf.command


def test_prefixed_scaled_float8_names_prefix_and_convention(own, tmp_path):
    header, at, data = {}, 0, b""
    for name, values in own.transformer.items():
        name = f"model.diffusion_model.{name}"
        if name.endswith("self_attn.q.weight"):
            header[name] = entry(at, *values.shape, dtype="F8_E4M3")
            data += bytes(values.size)
            at = len(data)
            header[name.replace(".weight", ".scale_weight")] = entry(at)
            data += np.float32(1).tobytes()
        else:
            header[name] = entry(at, *values.shape)
            data += values.tobytes()
        at = len(data)
    part = inspect_path(write_raw(tmp_path / "fp8_scaled.safetensors", header, data)).parts[0]
    assert part.problem == ""
    assert part.spelling == "Wan's names behind model.diffusion_model."
    assert set(part.precision) == {"F32", "F8_E4M3"}
    assert "scale_weight" in part.storage
    assert part.parameters == sum(values.size for values in own.transformer.values())


def test_a_file_of_several_components_is_taken_apart(own, tmp_path):
    parts = {"model.diffusion_model.": own.transformer, "vae.": own.vae}
    tensors = [store(prefix + name, v, "F16") for prefix, part in parts.items() for name, v in part.items()]
    write_safetensors(tmp_path / "all.safetensors", tensors)
    found = inspect_path(tmp_path / "all.safetensors")
    assert (found.kind, found.problems) == ("component", ())
    sizes = {part.component: part.parameters for part in found.parts}
    expected = {"transformer": own.transformer, "vae": own.vae}
    assert sizes == {name: sum(v.size for v in arrays.values()) for name, arrays in expected.items()}
    assert f"--checkpoint-dir {found.path}" in found.command


def test_a_tensor_in_two_spellings_is_a_problem_of_its_component_alone(own, tmp_path):
    """The text encoder, whose two token tables are read to compare them, is described after it."""
    transformer = rename(own.transformer)
    transformer["blocks.0.ffn.fc_in.weight"] = transformer["blocks.0.ffn.net.0.proj.weight"]
    text_encoder = {text_encoder_name(name): values for name, values in own.text_encoder.items()}
    text_encoder["encoder.embed_tokens.weight"] = text_encoder["shared.weight"]
    parts = {"model.diffusion_model.": transformer, "text_encoders.t5.transformer.": text_encoder}
    tensors = [store(prefix + name, v) for prefix, part in parts.items() for name, v in part.items()]
    write_safetensors(tmp_path / "all.safetensors", tensors)
    found = inspect_path(tmp_path / "all.safetensors")
    assert "are two spellings of the same tensor" in part_of(found, "transformer").problem
    assert part_of(found, "text_encoder").model.startswith("UMT5 of 2 blocks")


@pytest.mark.parametrize("ending", WEIGHT_ENDINGS)
def test_files_of_every_ending_that_is_converted_are_listed(own, tmp_path, ending):
    folder = tmp_path / "models" / "diffusion_models"
    folder.mkdir(parents=True)
    path = folder / f"wan{ending.upper() if ending == '.sft' else ending}"
    write_safetensors(path, [store(name, values, "F16") for name, values in own.transformer.items()])
    found = inspect_path(tmp_path / "models")
    assert [part.files for part in found.parts] == [(f"diffusion_models/{path.name}",)]
    assert [kinds for files in scan_folder(tmp_path / "models").found for kinds in files.kinds] == [
        "transformer"
    ]


def test_linked_folders_are_listed_once(own, tmp_path):
    disk, models = tmp_path / "disk", tmp_path / "models"
    disk.mkdir()
    models.mkdir()
    tensors = [store(name, values, "F16") for name, values in own.transformer.items()]
    write_safetensors(disk / "wan.safetensors", tensors)
    (models / "diffusion_models").symlink_to(disk)
    (models / "unet").symlink_to(disk)
    (disk / "back").symlink_to(models)
    parts = inspect_path(models).parts
    assert [part.files for part in parts] == [("diffusion_models/wan.safetensors",)]


MALFORMED = {
    "scales without a weight": {"a.scales": (4, 2), "a.other": (4, 2)},
    "packed scalars": {"blocks.0.ffn.fc1.weight": (), "blocks.0.ffn.fc1.scales": ()},
    "packed with no width": {
        "blocks.0.ffn.fc1.weight": (4, 2), "blocks.0.ffn.fc1.scales": (4, 2),
        "blocks.0.ffn.fc1.biases": (4, 2), "blocks.0.self_attn.norm_q.weight": (0,),
    },
    "a scalar factor": {
        "blocks.0.self_attn.q.lora_A.weight": (), "blocks.0.self_attn.q.lora_B.weight": (8, 4),
    },
    "scalar token tables": {
        "shared.weight": (), "encoder.embed_tokens.weight": (),
        "encoder.block.0.layer.0.SelfAttention.q.weight": (8, 8),
    },
    "a converted transformer behind a prefix": {
        "model.head.modulation": (1, 2, 8), "model.patch_embedding_proj.weight": (8, 64),
    },
    "a scalar patch embedding": {"head.modulation": (), "patch_embedding.weight": (), "head.head.weight": ()},
}  # fmt: skip


@pytest.mark.parametrize("shapes", MALFORMED.values(), ids=MALFORMED)
def test_misshapen_tensors_are_described_or_refused(tmp_path, shapes):
    path = tmp_path / "x.safetensors"
    write_sparse(path, shapes, dtype="U32" if any(name.endswith(".scales") for name in shapes) else "F32")
    (part,) = inspect_path(path).parts
    assert part.tensors == len(shapes)


def test_a_comfyui_folder_lists_everything_and_the_other_models_in_it(own, tmp_path):
    files = {
        "diffusion_models/wan_fp16": own.transformer,
        "vae/wan": own.vae,
        "text_encoders/t5": own.text_encoder,
    }
    for name, arrays in files.items():
        path = tmp_path / "models" / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_safetensors(path, [store(tensor, values, "F16") for tensor, values in arrays.items()])
    write_tokenizer(tmp_path / "models" / "tokenizer")
    write_adapter(tmp_path / "models" / "vae" / "style.safetensors", TinySizes().transformer)
    write_safetensors(tmp_path / "models" / "vae" / "sd.safetensors", [store("a", np.ones(2, np.float32))])
    found = inspect_path(tmp_path / "models")
    assert (found.kind, found.layout, found.problems) == ("checkpoint", "ComfyUI folder", ())
    kinds = ["adapter", "text_encoder", "transformer", "unknown", "vae"]
    assert sorted(part.component for part in found.parts) == kinds
    assert "--checkpoint-dir" in found.command


@pytest.mark.parametrize(("name", "flag"), [("style", "--lora"), ("wan_low_noise", "--lora-low")])
def test_an_adapter_tells_dialect_rank_alpha_and_what_it_is_made_for(tmp_path, name, flag):
    path = tmp_path / f"{name}.safetensors"
    write_adapter(path, TinySizes().transformer)
    found = inspect_path(path)
    adapter = found.parts[0].adapter
    assert (found.kind, adapter.pairs, adapter.ranks, adapter.alpha) == ("adapter", 20, (4, 4), "in tensors")
    assert adapter.dialect == "Kohya pairs (lora_down, lora_up), Wan's layer names, behind diffusion_model."
    assert "width 128" in adapter.made_for
    assert adapter.unmatched == 0
    assert f"{flag} {path} 1" in found.command


@pytest.mark.sample(4)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_adapters_of_every_dialect_are_called_adapters(tmp_path, dialect):
    path = write(tmp_path / "style.safetensors", dialect_arrays(dialect))
    found = inspect_path(path)
    assert (found.kind, found.problems) == ("adapter", ())
    assert found.parts[0].adapter.pairs == len(LAYERS)


@pytest.mark.sample(2)
@pytest.mark.parametrize("form", FORMS)
def test_an_adapter_for_two_experts_is_said_to_hold_both_halves(tmp_path, form, capsys):
    path = write(tmp_path / "style_high_noise.safetensors", halves(form))
    found = inspect_path(path)
    adapter = found.parts[0].adapter
    assert (found.kind, found.problems, found.parts[0].expert) == ("adapter", (), "")
    assert (adapter.halves, adapter.layers, adapter.unmatched) == (
        ("high_noise", "low_noise"), 2 * len(LAYERS), 0,
    )  # fmt: skip
    assert f"--lora {path} 1" in found.command
    assert main(["--inspect", str(path)]) == 0
    count, printed = len(LAYERS), capsys.readouterr().out
    assert "note: holds one adapter for each expert of a Wan2.2 A14B model: " in printed
    assert f"{count} layers of the high-noise one, {count} of the low-noise one." in printed
    assert main(["--inspect", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parts"][0]["adapter"]["halves"] == ["high_noise", "low_noise"]


@pytest.mark.sample(4)
@pytest.mark.parametrize("kind", EMPTY)
def test_an_adapter_of_zeros_is_said_to_change_nothing(tmp_path, kind, capsys):
    path = write(tmp_path / "style.safetensors", EMPTY[kind])
    adapter = inspect_path(path).parts[0].adapter
    assert (adapter.layers, adapter.zero_layers) == (1, 1)
    assert main(["--inspect", str(path)]) == 0
    assert "changes nothing: what it holds for 1 layer is zero (first: " in capsys.readouterr().out


def test_zeros_among_other_layers_are_counted(tmp_path):
    other = {name.replace("self_attn.q", "self_attn.v"): array for name, array in EMPTY["PEFT's B"].items()}
    path = write(tmp_path / "style.safetensors", other | dialect_arrays("lightx2v"))
    (notice,) = inspect_path(path).parts[0].notices
    assert f"changes nothing in 1 of {len(LAYERS) + 1} layers: zeros (first: diffusion_model." in notice


def test_the_half_of_zeros_is_named(tmp_path):
    arrays = halves("AI-Toolkit")
    zero = {name: np.zeros_like(array) for name, array in arrays.items() if "transformer_1" in name}
    part = inspect_path(write(tmp_path / "style.safetensors", arrays | zero)).parts[0]
    assert part.adapter.zero_layers == len(LAYERS)
    assert part.notices[1].startswith(
        "style.safetensors, high-noise half: changes nothing: what it holds for"
    )


@pytest.mark.parametrize("role", ["set_weight", "dora_scale"])
def test_values_and_magnitudes_of_zeros_may_change_something(tmp_path, role):
    arrays = EMPTY["PEFT's B"] | {"diffusion_model.blocks.0.self_attn.q." + role: np.zeros(64, np.float32)}
    adapter = inspect_path(write(tmp_path / "style.safetensors", arrays)).parts[0].adapter
    assert (adapter.layers, adapter.zero_layers) == (1, 0)


def test_an_adapter_of_an_image_branch_is_said_to_be_one(tmp_path):
    name = "diffusion_model.blocks.0.cross_attn.k_img.lora_{}.weight"
    arrays = {name.format("A"): np.ones((4, 64), np.float32), name.format("B"): np.ones((64, 4), np.float32)}
    found = inspect_path(write(tmp_path / "style.safetensors", dialect_arrays("lightx2v") | arrays))
    assert found.parts[0].adapter.made_for.endswith("with an image branch, as Wan2.1 I2V")


def test_an_adapter_for_another_model_is_called_one(tmp_path):
    names = ("double_blocks.0.img_attn.proj.lora_A.weight", "double_blocks.0.img_attn.proj.lora_B.weight")
    write_safetensors(
        tmp_path / "flux.safetensors", [store(name, np.ones((4, 4), np.float32)) for name in names]
    )
    adapter = inspect_path(tmp_path / "flux.safetensors").parts[0].adapter
    assert (adapter.made_for, adapter.unmatched) == ("Flux or HunyuanVideo", 2)


def test_latents_and_run_states_tell_their_settings(tmp_path):
    latents = mx.zeros((16, 2, 4, 6))
    save_latents(tmp_path / "a.safetensors", latents, {"prompt": "a cat", "seed": "7"})
    save_state(tmp_path / "b.mp4.state.safetensors", RunState(latents, 1, 3, {"prompt": "a dog"}))
    first, second = (inspect_path(path) for path in sorted(tmp_path.iterdir()))
    assert (first.kind, second.kind) == ("latents", "run state")
    assert first.parts[0].notices == ("C 16, T 2, H 4, W 6", "seed 7", "prompt 'a cat'")
    assert "--decode-only" in first.command
    assert f"--output-path {tmp_path / 'b.mp4'} --resume" in second.command


def test_latents_beside_what_no_run_writes_are_none(tmp_path):
    arrays = {"latents": np.zeros((16, 2, 4, 6), np.float32), "other.weight": np.ones((4, 4), np.float32)}
    write_safetensors(tmp_path / "a.safetensors", [store(*each) for each in arrays.items()])
    assert inspect_path(tmp_path / "a.safetensors").kind == "unknown"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html>", "is an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"", "is empty"),
        (bytes(64), "is neither safetensors, GGUF nor a torch archive"),
    ],
)
def test_what_is_no_weight_file_ends_with_one(tmp_path, capsys, content, message):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert main(["--inspect", str(path)]) == 1
    assert message in capsys.readouterr().out


def test_another_models_file_and_an_empty_folder_are_unknown(tmp_path):
    path = tmp_path / "other.safetensors"
    write_safetensors(path, [store("unet.conv_in.weight", np.ones((2, 2), np.float32))])
    assert inspect_path(path).kind == "unknown"
    assert "first: unet.conv_in.weight" in inspect_path(path).problems[0]
    (tmp_path / "empty").mkdir()
    assert "no transformer found" in inspect_path(tmp_path / "empty").problems[0]


def test_an_absent_path_ends_with_one(tmp_path, capsys):
    assert main(["--inspect", str(tmp_path / "none")]) == 1
    assert "no such file or folder" in capsys.readouterr().err


def test_json_is_all_of_it_and_nothing_else(tiny, capsys):
    assert main(["--inspect", str(tiny.path), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["format"], data["kind"], data["variant"]) == (1, "checkpoint", "wan2.1-t2v")
    assert data["parameters"] == sum(part["parameters"] for part in data["parts"])
    assert {part["component"] for part in data["parts"]} == {"transformer", "text_encoder", "vae"}


def test_json_without_inspect_is_a_wrong_option(tiny, capsys):
    assert main(["--checkpoint-dir", str(tiny.path), "--json"]) == 2
    assert "--json counts only with --inspect" in capsys.readouterr().err


def test_nothing_is_written(tiny):
    before = sorted((path, path.stat().st_mtime_ns) for path in tiny.path.rglob("*"))
    inspect_path(tiny.path)
    assert sorted((path, path.stat().st_mtime_ns) for path in tiny.path.rglob("*")) == before


def write_sparse(path, shapes, dtype="F32"):
    """A file of zeros that takes no room."""
    header, at = {}, 0
    for name, shape in shapes.items():
        header[name] = entry(at, *shape, dtype=dtype)
        at = header[name]["data_offsets"][1]
    write_raw(path, header)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + at)


def test_published_files_are_known_by_their_tensor_lists(tmp_path):
    for name, config in PUBLISHED_TRANSFORMERS.items():
        title = PUBLISHED[digest_shapes(transformer_tensors(config))]
        generation = "Wan2.1" if config.image_dim else name.split("-")[0].replace("wan", "Wan")
        assert generation in title
    assert PUBLISHED[digest_shapes(text_encoder_tensors(TextEncoderConfig()))] == "UMT5-XXL"


def test_files_of_full_size_are_described_without_reading_them(tmp_path):
    shapes = transformer_tensors(PUBLISHED_TRANSFORMERS["wan2.1-flf2v-14b"])
    write_sparse(tmp_path / "diffusion_pytorch_model.safetensors", shapes)
    write_tokenizer(tmp_path / "google" / "umt5-xxl")
    part = inspect_path(tmp_path).parts[0]
    assert (part.model, part.parameters) == ("Wan2.1 FLF2V 14B", 16_395_536_704)
    assert part.nbytes == 4 * sum(math.prod(shape) for shape in shapes.values())
