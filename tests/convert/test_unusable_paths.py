"""Links whose disk is away, and the AppleDouble files of macOS, are called so wherever a path is given."""

import shutil

import pytest
from PIL import Image

from mlx_video import WanPipeline, convert_checkpoint, convert_wan, generate_wan
from mlx_video.errors import MediaError, MLXVideoError
from mlx_video.inspect.path import inspect_path
from mlx_video.media.open_image import open_image
from mlx_video.media.video import read_frames
from tests.fixtures.adapter_files import write_adapter
from tests.fixtures.comfy_files import SIZES, write_comfy_tree
from tests.fixtures.diffusers_checkpoint import write_diffusers_variant
from tests.fixtures.hub_server import go_online
from tests.fixtures.tiny_checkpoint import write_tiny_checkpoint
from tests.fixtures.tiny_variants import write_tiny_variant

AWAY = "/Volumes/disk that is away/wan"
DANGLING = f"is a link to {AWAY}, which is not there. Mount the disk that it lies on, or download"
APPLE_DOUBLE = bytes.fromhex("0005160700020000") + b"Mac OS X        " + bytes(400)
LABELS = "is an AppleDouble file of macOS, which holds labels and no content of its own. Give {} beside it."


@pytest.fixture(scope="module")
def wan(tmp_path_factory):
    """A checkpoint in several layouts, converted, and an adapter; no test changes them."""
    root = tmp_path_factory.mktemp("wan")
    tiny = write_tiny_checkpoint(root / "original", SIZES.reading_images(), shards=2)
    write_comfy_tree(root / "comfy", tiny)
    write_diffusers_variant(root / "diffusers", "wan2.2-t2v-a14b", shards=2)
    write_tiny_variant(root / "dual", "wan2.2-t2v-a14b")
    convert_checkpoint(tiny.path, root / "mlx", dtype="float32")
    write_adapter(root / "style.safetensors", tiny.sizes.transformer)
    Image.new("RGB", (32, 32), "red").save(root / "photo.jpg")
    return root


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    go_online(monkeypatch, None, tmp_path / "cache")


def dangle(path):
    """A link to a disk that is not mounted, in place of what is there."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(AWAY)
    return path


def write_apple_double(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(APPLE_DOUBLE)
    return path


def convert_refusal(capsys, *options):
    code = convert_wan.main([*map(str, options), "--output-dir", "out"])
    assert code in (1, 2)
    return capsys.readouterr().err


def generate_refusal(capsys, model, *options):
    shown = ["--model-dir", model, "--prompt", "a cat", *options, "--output-path", "out.mp4"]
    assert generate_wan.main(list(map(str, shown))) in (1, 2)
    return capsys.readouterr().err


CONVERT_OPTIONS = [
    "--transformer", "--high-noise", "--low-noise", "--text-encoder", "--vae", "--clip", "--tokenizer",
    "--lora",
]  # fmt: skip


@pytest.mark.parametrize("option", CONVERT_OPTIONS)
@pytest.mark.parametrize("place", ["part.safetensors", "models/part.safetensors", "models"])
def test_a_dangling_link_given_to_a_conversion_is_called_one(wan, tmp_path, capsys, option, place):
    """A relative path of two parts looks like a repository's name; a link is none."""
    link = dangle(tmp_path / place).relative_to(tmp_path)
    shown = convert_refusal(capsys, "--checkpoint-dir", wan / "original", option, link)
    assert f"{link}: {DANGLING}" in shown
    if place == "models":
        shown = convert_refusal(capsys, "--checkpoint-dir", wan / "original", option, "models/a/b.pth")
        assert f"models/a/b.pth: lies behind models, a link to {AWAY}, which is not there." in shown


@pytest.mark.parametrize("place", ["wan", "Wan-AI/Wan2.1"])
def test_a_dangling_checkpoint_or_model_is_called_one(tmp_path, capsys, place):
    link = dangle(tmp_path / place).relative_to(tmp_path)
    told = f"{link}: {DANGLING}"
    assert told in convert_refusal(capsys, "--checkpoint-dir", link)
    assert told in convert_refusal(capsys, "--checkpoint-dir", link, "--quantize-only", "--quantize")
    assert told in generate_refusal(capsys, link)
    assert convert_wan.main(["--inspect", str(link)]) == 1
    assert told in capsys.readouterr().err
    with pytest.raises(MLXVideoError, match="is a link to /Volumes/disk"):
        convert_checkpoint(str(link), "out")
    with pytest.raises(MLXVideoError, match="is a link to /Volumes/disk"):
        WanPipeline.from_pretrained(str(link))


FILES = {
    "original": [
        "diffusion_pytorch_model-00002-of-00002.safetensors",
        "diffusion_pytorch_model.safetensors.index.json",
        "config.json",
        "models_t5_umt5-xxl-enc-bf16.pth",
        "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth",
        "Wan2.1_VAE.pth",
        "google/umt5-xxl/tokenizer.json",
    ],
    "dual": [
        "high_noise_model",
        "low_noise_model/config.json",
        "low_noise_model/diffusion_pytorch_model-00001-of-00002.safetensors",
    ],
    "diffusers": [
        "model_index.json",
        "transformer",
        "transformer_2",
        "transformer/config.json",
        "transformer/diffusion_pytorch_model-00001-of-00002.safetensors",
        "transformer/diffusion_pytorch_model.safetensors.index.json",
        "text_encoder",
        "text_encoder/model-00002-of-00002.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "tokenizer/tokenizer.json",
    ],
    "comfy": [
        "diffusion_models",
        "text_encoders/umt5_xxl_fp16.safetensors",
        "vae",
        "vae/wan_2.1_vae.safetensors",
        "clip_vision/clip_vision_h.safetensors",
    ],
}


@pytest.mark.parametrize(
    ("layout", "place"), [(name, file) for name, files in FILES.items() for file in files]
)
def test_a_dangling_link_inside_a_checkpoint_is_called_one(wan, tmp_path, capsys, layout, place):
    folder = shutil.copytree(wan / layout, tmp_path / layout)
    link = dangle(folder / place)
    assert f"{link}: {DANGLING}" in convert_refusal(capsys, "--checkpoint-dir", folder)
    found = inspect_path(folder)
    assert any(DANGLING in text for text in (*found.problems, *found.missing))


@pytest.mark.parametrize(
    "place",
    [
        "model.safetensors",
        "t5_encoder.safetensors",
        "vae.safetensors",
        "clip_vision.safetensors",
        "config.json",
    ],
)
def test_a_dangling_link_inside_a_converted_folder_is_called_one(wan, tmp_path, capsys, place):
    folder = shutil.copytree(wan / "mlx", tmp_path / "mlx")
    link = dangle(folder / place)
    assert f"{link}: {DANGLING}" in generate_refusal(capsys, folder, "--image", wan / "photo.jpg")


@pytest.mark.parametrize("option", ["--image", "--lora", "--decode-only", "--resume"])
def test_a_dangling_link_given_to_a_run_is_called_one(wan, tmp_path, capsys, option):
    link = dangle(tmp_path / "models" / "link.png").relative_to(tmp_path)
    options = {
        "--image": ["--image", link],
        "--lora": ["--image", wan / "photo.jpg", "--lora", link],
        "--decode-only": ["--decode-only", link],
        "--resume": ["--image", link, "--resume"],
    }
    assert f"{link}: {DANGLING}" in generate_refusal(capsys, wan / "mlx", *options[option])


def test_a_dangling_link_in_the_folder_of_an_adapter_is_called_one(wan, tmp_path, capsys):
    for name in ("adapter_model.safetensors", "style.safetensors"):
        link = dangle(tmp_path / name.partition(".")[0] / name)
        shown = generate_refusal(capsys, wan / "mlx", "--image", wan / "photo.jpg", "--lora", link.parent)
        assert f"{link}: {DANGLING}" in shown


def test_a_cache_on_a_disk_that_is_away_is_called_one(tmp_path, capsys):
    dangle(tmp_path / "cache")
    shown = convert_refusal(capsys, "--checkpoint-dir", "Wan-AI/Wan2.1-T2V-1.3B")
    assert f"lies behind {tmp_path / 'cache'}, a link to {AWAY}, which is not there." in shown


@pytest.fixture
def circle(tmp_path):
    """A link to a link that leads back to it."""
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    return tmp_path / "a"


CIRCLE = "is a link to b, which leads back to it."


@pytest.mark.parametrize("option", [*CONVERT_OPTIONS, "--checkpoint-dir"])
@pytest.mark.parametrize("rest", ["", "wan.safetensors"])
def test_links_in_a_circle_given_to_a_conversion_are_called_that(wan, circle, capsys, option, rest):
    base = [] if option == "--checkpoint-dir" else ["--checkpoint-dir", wan / "original"]
    told = f"lies behind {circle}, {CIRCLE.removeprefix('is ')}" if rest else CIRCLE
    assert f"{circle / rest}: {told}" in convert_refusal(capsys, *base, option, circle / rest)
    if option == "--checkpoint-dir":
        assert f"{circle / rest}: {told}" in convert_refusal(
            capsys, option, circle / rest, "--quantize-only", "--quantize"
        )
        assert convert_wan.main(["--inspect", str(circle / rest)]) == 1
        assert f"{circle / rest}: {told}" in capsys.readouterr().err


def test_a_conversion_into_links_in_a_circle_writes_nothing(wan, circle, tmp_path):
    with pytest.raises(MLXVideoError, match=f"{circle}: {CIRCLE} Choose another name"):
        convert_checkpoint(wan / "original", circle)
    with pytest.raises(MLXVideoError, match=f"{circle / 'out'}: cannot be made"):
        convert_checkpoint(wan / "original", circle / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}


@pytest.mark.parametrize(
    "option", ["--model-dir", "--vae", "--tokenizer", "--image", "--lora", "--decode-only"]
)
def test_links_in_a_circle_given_to_a_run_are_called_that(wan, circle, capsys, option):
    image = [] if option in ("--image", "--decode-only") else ["--image", wan / "photo.jpg"]
    assert f"{circle}: {CIRCLE}" in generate_refusal(capsys, wan / "mlx", *image, option, circle)


@pytest.mark.parametrize(
    ("option", "name"),
    [("--output-path", "a/x.mp4"), ("--save-frames", "a"), ("--save-latents", "a/x.safetensors")],
)
def test_no_result_is_written_through_links_in_a_circle(wan, circle, tmp_path, option, name, capsys):
    options = ["--model-dir", wan / "mlx", "--prompt", "a cat", "--image", wan / "photo.jpg"]
    output = [] if option == "--output-path" else ["--output-path", "out.mp4"]
    assert generate_wan.main(list(map(str, [*options, *output, option, tmp_path / name]))) in (1, 2)
    assert "this folder cannot take new files" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}


@pytest.mark.parametrize("option", [*(o for o in CONVERT_OPTIONS if o != "--tokenizer"), "--checkpoint-dir"])
@pytest.mark.parametrize("name", ["wan.safetensors", "wan.gguf", "wan.pth", "wan-00001-of-00003.safetensors"])
def test_an_apple_double_file_given_to_a_conversion_is_called_one(wan, tmp_path, capsys, option, name):
    file = write_apple_double(tmp_path / f"._{name}")
    base = [] if option == "--checkpoint-dir" else ["--checkpoint-dir", wan / "original"]
    assert f"{file}: {LABELS.format(name)}" in convert_refusal(capsys, *base, option, file)
    assert convert_wan.main(["--inspect", str(file)]) == 1
    assert f"{file}: {LABELS.format(name)}" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"x" * 100])
def test_an_apple_double_file_is_known_by_its_name_where_its_content_says_nothing(tmp_path, capsys, content):
    file = tmp_path / "._wan.safetensors"
    file.write_bytes(content)
    assert f"{file}: {LABELS.format('wan.safetensors')}" in convert_refusal(capsys, "--checkpoint-dir", file)


def test_an_apple_double_file_of_another_name_is_known_by_its_content(tmp_path, capsys):
    file = write_apple_double(tmp_path / "wan.safetensors")
    shown = convert_refusal(capsys, "--checkpoint-dir", file)
    assert "is an AppleDouble file of macOS" in shown
    assert "Give the file that it belongs to." in shown


@pytest.mark.parametrize("option", ["--image", "--lora", "--decode-only"])
def test_an_apple_double_file_given_to_a_run_is_called_one(wan, tmp_path, capsys, option):
    file = write_apple_double(tmp_path / "._one.jpg")
    options = {
        "--image": ["--image", file],
        "--lora": ["--image", wan / "photo.jpg", "--lora", file],
        "--decode-only": ["--decode-only", file],
    }
    assert f"{file}: {LABELS.format('one.jpg')}" in generate_refusal(capsys, wan / "mlx", *options[option])


def test_apple_double_files_and_dangling_links_given_as_media_in_python_are_called_so(tmp_path):
    side, link = write_apple_double(tmp_path / "._a.mp4"), dangle(tmp_path / "b.mp4")
    for read in (open_image, read_frames):
        with pytest.raises(MediaError, match=r"is an AppleDouble file of macOS.* Give a\.mp4 beside it"):
            read(side)
        with pytest.raises(MediaError, match="is a link to /Volumes/disk"):
            read(link)


@pytest.mark.parametrize("layout", ["original", "dual", "diffusers", "comfy", "mlx"])
def test_apple_double_files_inside_folders_do_no_harm(wan, tmp_path, layout):
    folder = shutil.copytree(wan / layout, tmp_path / layout)
    before = inspect_path(folder)
    for file in [path for path in folder.rglob("*") if path.is_file()]:
        write_apple_double(file.with_name(f"._{file.name}"))
    found = inspect_path(folder)
    assert (found.problems, found.missing) == ((), ())
    assert (found.parts, found.command) == (before.parts, before.command)
