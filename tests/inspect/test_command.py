"""Every command that --inspect suggests can be pasted: the real parsers take it, and so does the work."""

import shlex
import shutil

import mlx.core as mx
import pytest
from PIL import Image

from mlx_video import convert_wan, generate_wan
from mlx_video.convert.convert import convert
from mlx_video.inspect.path import inspect_path
from mlx_video.latents.latents_file import save_latents
from mlx_video.latents.run_state import RunState, save_state
from mlx_video.request import ConvertRequest
from tests.fixtures.adapter_files import write_adapter
from tests.fixtures.comfy_files import comfy_text_encoder, embedded_tokenizer, write_plain, write_words
from tests.fixtures.diffusers_checkpoint import image_encoder_arrays
from tests.fixtures.hub_server import go_online
from tests.fixtures.tiny_checkpoint import TinySizes, write_tiny_checkpoint
from tests.fixtures.weight_files import store, write_safetensors

KINDS = {
    "t2v": TinySizes(),
    "i2v": TinySizes().reading_images(),
    "flf2v": TinySizes().reading_images("flf2v"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Checkpoints, their single components under the names of placeholders, and their conversions."""
    path = tmp_path_factory.mktemp("some place")
    for name, sizes in KINDS.items():
        tiny = write_tiny_checkpoint(path / name, sizes)
        list(convert(ConvertRequest(tiny.path, path / f"{name} mlx")))
        write_plain(path / f"{name}.safetensors", tiny.transformer, "model.diffusion_model.")
        if tiny.image_encoder:
            write_plain(path / "CLIP", image_encoder_arrays(tiny.image_encoder))
        else:
            write_components(path, tiny)
    (path / "MODEL").symlink_to(path / "t2v mlx")
    for image in ("IMAGE", "END_IMAGE"):
        Image.new("RGB", (32, 32), "red").save(path / image, "PNG")
    return path


@pytest.fixture(autouse=True)
def cached_tokenizer(place, tmp_path, monkeypatch):
    """The tokenizer of all Wan models where an earlier download left it."""
    commit, folder = "0" * 40, tmp_path / "cache" / "models--google--umt5-xxl"
    shutil.copytree(place / "t2v" / "google" / "umt5-xxl", folder / "snapshots" / commit)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    go_online(monkeypatch, None, tmp_path / "cache")


def write_components(path, tiny):
    parts = {"model.diffusion_model.": tiny.transformer, "vae.": tiny.vae}
    whole = [store(prefix + name, values) for prefix, part in parts.items() for name, values in part.items()]
    write_safetensors(path / "transformer and vae.safetensors", whole)
    write_plain(path / "TRANSFORMER", tiny.transformer)
    write_plain(path / "wan_high_noise.safetensors", tiny.transformer)
    changed = {name: values + 1 for name, values in tiny.transformer.items()}
    for name in ("LOW_NOISE", "HIGH_NOISE", "wan_low_noise.safetensors"):
        write_plain(path / name, tiny.transformer if name == "HIGH_NOISE" else changed)
    write_plain(path / "VAE", tiny.vae)
    text_encoder = comfy_text_encoder(tiny.text_encoder, "BF16")
    write_words(path / "umt5.safetensors", text_encoder)
    write_words(path / "TEXT_ENCODER", text_encoder | embedded_tokenizer())
    for folder in ("loras", "latents", "states"):
        (path / folder).mkdir()
    for name in ("one.safetensors", "loras/a.safetensors", "loras/b.safetensors"):
        write_adapter(path / name, tiny.sizes.transformer)
    metadata = {"prompt": "a cat", "width": "32", "height": "32", "num_frames": "5", "fps": "16"}
    latents = mx.zeros((16, 2, 4, 4))
    save_latents(path / "latents" / "a.safetensors", latents, metadata)
    save_state(path / "states" / "b.mp4.state.safetensors", RunState(latents, 1, 3, metadata))


def fill(command, place, out):
    """The arguments of a suggested command, its words in capitals replaced by files of their names."""
    words = shlex.split(command)
    assert words[:2] == ["python", "-m"]
    filled = [str(out) if word == "OUT" else str(place / word) if word.isupper() else word for word in words]
    return filled[2].removeprefix("mlx_video."), filled[3:]


CONVERTED = {
    "t2v": "--checkpoint-dir",
    "t2v.safetensors": "--transformer",
    "i2v.safetensors": "--transformer",
    "wan_high_noise.safetensors": "--high-noise",
    "wan_low_noise.safetensors": "--low-noise",
    "umt5.safetensors": "--text-encoder",
    "TEXT_ENCODER": "--text-encoder",
    "VAE": "--vae",
    "transformer and vae.safetensors": "--checkpoint-dir",
}


@pytest.mark.sample(4)
@pytest.mark.parametrize(("name", "option"), CONVERTED.items(), ids=CONVERTED)
def test_a_suggested_conversion_converts(place, tmp_path, monkeypatch, name, option):
    monkeypatch.chdir(tmp_path)
    found = inspect_path(place / name)
    assert found.problems == ()
    command, argv = fill(found.command, place, tmp_path / "wan_mlx_model")
    assert (command, argv[0]) == ("convert_wan", option)
    assert convert_wan.main([*argv, "--quiet"]) == 0
    assert inspect_path(tmp_path / "wan_mlx_model").problems == ()


def test_a_suggestion_for_clip_names_a_transformer_that_reads_it(place, tmp_path):
    command, argv = fill(inspect_path(place / "CLIP").command, place, tmp_path / "out")
    argv[argv.index("--transformer") + 1] = str(place / "i2v.safetensors")
    assert (command, argv[0]) == ("convert_wan", "--clip")
    assert convert_wan.main([*argv, "--quiet"]) == 0


GENERATED = {
    "t2v mlx": ["--model-dir", "--prompt"],
    "i2v mlx": ["--model-dir", "--prompt", "--image"],
    "flf2v mlx": ["--model-dir", "--prompt", "--image", "--end-image"],
    "i2v mlx/vae.safetensors": ["--model-dir", "--prompt", "--image"],
    "one.safetensors": ["--model-dir", "--prompt", "--lora"],
    "loras": ["--model-dir", "--prompt", "--lora", "--lora"],
    "latents": ["--model-dir", "--decode-only", "--output-path"],
    "latents/a.safetensors": ["--model-dir", "--decode-only", "--output-path"],
    "states": ["--model-dir", "--prompt", "--output-path", "--resume"],
    "states/b.mp4.state.safetensors": ["--model-dir", "--prompt", "--output-path", "--resume"],
}


@pytest.mark.sample(4)
@pytest.mark.parametrize(("name", "options"), GENERATED.items(), ids=GENERATED)
def test_a_suggested_run_is_planned(place, tmp_path, capsys, name, options):
    command, argv = fill(inspect_path(place / name).command, place, tmp_path)
    assert (command, [word for word in argv if word.startswith("--")]) == ("generate_wan", options)
    assert generate_wan.main([*argv, "--plan"]) == 0
    assert "GB" in capsys.readouterr().out


def test_adapters_of_two_experts_get_their_options(place, tmp_path):
    for expert in ("high", "low"):
        write_adapter(tmp_path / f"style_{expert}_noise.safetensors", TinySizes().transformer)
    _, argv = fill(inspect_path(tmp_path).command, place, tmp_path)
    args = generate_wan.build_parser().parse_args(argv)
    assert [choice.path.name for choice in args.loras_high] == ["style_high_noise.safetensors"]
    assert [choice.path.name for choice in args.loras_low] == ["style_low_noise.safetensors"]


def test_the_state_of_a_run_says_that_its_options_are_needed(place):
    assert "add the others to the command" in inspect_path(place / "states").notices[0]


def test_a_lone_file_of_no_whole_converted_folder_gets_no_command(place, tmp_path):
    (tmp_path / "vae.safetensors").write_bytes((place / "t2v mlx" / "vae.safetensors").read_bytes())
    found = inspect_path(tmp_path / "vae.safetensors")
    assert (found.problems, found.command) == ((), "")


@pytest.mark.parametrize("name", ["vae.safetensors", "t5_encoder.safetensors", "clip_vision.safetensors"])
def test_a_broken_converted_folder_gets_no_command(place, tmp_path, name):
    folder = tmp_path / "mlx"
    folder.mkdir()
    for file in (place / "i2v mlx").iterdir():
        (folder / file.name).symlink_to(file)
    (folder / name).unlink()
    tensors = mx.load(str(place / "i2v mlx" / name))
    lost = next(tensor for tensor in tensors if tensor.endswith(".bias") or ".fc2." in tensor)
    mx.save_safetensors(str(folder / name), {key: tensors[key] for key in tensors if key != lost})
    found = inspect_path(folder)
    assert found.command == ""
    assert any(name in text and lost in text for text in found.problems)
