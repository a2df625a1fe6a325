"""Both commands, for every published model in small: from the original folder to a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlx_video import convert_wan, generate_wan
from mlx_video.latents.latents_file import load_latents
from mlx_video.media.video import read_frames, read_video_metadata
from tests.fixtures.tiny_variants import TINY_VARIANTS, write_tiny_variant

pytestmark = pytest.mark.slow

FLOAT = ("--dtype", "float32")
QUANTIZED = ("--quantize", "--bits", "4", "--group-size", "32")


@dataclass(frozen=True)
class Case:
    """What a model is called, and asked for.

    Attributes:
        title: the converter's name for it; the small text-to-video models have the size of none published.
        name: the same in the settings of a finished file.
        images: flags of the images it is given.
    """

    title: str
    name: str
    images: tuple[str, ...] = ()
    size: tuple[int, int] = (48, 32)
    num_frames: int = 5
    suffix: str = ".mp4"


CASES = {
    "wan2.1-t2v-1.3b": Case("Wan2.1 T2V of another size", "wan2.1-t2v"),
    "wan2.1-t2v-14b": Case("Wan2.1 T2V of another size", "wan2.1-t2v", num_frames=1, suffix=".png"),
    "wan2.1-i2v-14b": Case("Wan2.1 I2V 14B", "wan2.1-i2v-14b", ("image",)),
    "wan2.1-flf2v-14b": Case("Wan2.1 FLF2V 14B", "wan2.1-flf2v-14b", ("image", "end-image")),
    "wan2.2-t2v-a14b": Case("Wan2.2 T2V A14B", "wan2.2-t2v-a14b"),
    "wan2.2-i2v-a14b": Case("Wan2.2 I2V A14B", "wan2.2-i2v-a14b", ("image",)),
    "wan2.1-i2v-14b end": Case("Wan2.1 I2V 14B", "wan2.1-i2v-14b", ("image", "end-image")),
    "wan2.2-i2v-a14b end": Case("Wan2.2 I2V A14B", "wan2.2-i2v-a14b", ("image", "end-image")),
    "wan2.2-ti2v-5b": Case("Wan2.2 TI2V 5B", "wan2.2-ti2v-5b", size=(96, 64)),
    "wan2.1-vace-1.3b": Case("Wan2.1 VACE of another size", "wan2.1-vace"),
    "wan2.1-vace-14b": Case("Wan2.1 VACE of another size", "wan2.1-vace", ("image", "end-image")),
    "wan2.2-vace-fun-a14b": Case("Wan2.2 VACE-Fun A14B", "wan2.2-vace-fun-a14b"),
    "wan2.2-ti2v-5b image": Case("Wan2.2 TI2V 5B", "wan2.2-ti2v-5b", ("image",), size=(96, 64)),
}


@dataclass(frozen=True)
class Folders:
    """Models and pictures, each made once."""

    root: Path

    def original(self, name: str) -> Path:
        path = self.root / "original" / name
        if not path.exists():
            write_tiny_variant(path, name)
        return path

    def converted(self, name: str, options: tuple[str, ...] = FLOAT) -> Path:
        path = self.root / "_".join(("converted", *options)) / name
        if not path.exists():
            assert convert(self.original(name), path, *options) == 0
        return path

    def picture(self, name: str, mode: str = "RGB") -> Path:
        path = self.root / f"{name}.png"
        pixels = np.random.default_rng(len(name)).integers(0, 256, (31, 50, len(mode)), np.uint8)
        Image.fromarray(pixels).save(path)
        return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return Folders(tmp_path_factory.mktemp("models"))


def convert(original: Path, output: Path, *options: str) -> int:
    return convert_wan.main(["--checkpoint-dir", str(original), "--output-dir", str(output), *options])


def generate(
    model: Path, output: Path, *options: str, size: tuple[int, int] = (48, 32), num_frames: int = 5
) -> int:
    return generate_wan.main(
        [
            "--model-dir", str(model), "--prompt", "a cat", "--steps", "2", "--seed", "3",
            "--width", str(size[0]), "--height", str(size[1]), "--num-frames", str(num_frames),
            "--output-path", str(output), *options,
        ]
    )  # fmt: skip


def image_options(folders: Folders, case: Case) -> list[str]:
    return [text for flag in case.images for text in (f"--{flag}", str(folders.picture(flag)))]


@pytest.mark.parametrize("name", TINY_VARIANTS)
def test_the_converter_says_which_model_it_found(name: str, folders: Folders, tmp_path: Path, capsys):
    assert convert(folders.original(name), tmp_path / "converted", *FLOAT) == 0
    title = "Wan2.2 Animate 14B" if name == "wan2.2-animate-14b" else CASES[name].title
    assert f"Found {title}:" in capsys.readouterr().err


@pytest.mark.sample(4)
@pytest.mark.parametrize("options", [FLOAT, QUANTIZED], ids=["float32", "4 bits"])
@pytest.mark.parametrize("name", CASES)
def test_a_converted_model_makes_a_file(
    name: str, options: tuple[str, ...], folders: Folders, tmp_path: Path, capsys
):
    case, output = CASES[name], tmp_path / "result"
    output = output.with_suffix(case.suffix)
    model = folders.converted(name.split()[0], options)
    images = image_options(folders, case)
    assert generate(model, output, *images, size=case.size, num_frames=case.num_frames) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(output)
    frames = read_frames(output)
    assert frames.shape == (case.num_frames, case.size[1], case.size[0], 3)
    assert frames.std() > 1, "a picture of one colour shows nothing"
    settings = read_video_metadata(output)
    assert settings["model"] == case.name
    for flag in case.images:
        assert settings[flag.replace("-", "_")] == str(folders.picture(flag))


@pytest.mark.parametrize("name", ["wan2.1-i2v-14b", "wan2.2-i2v-a14b", "wan2.2-ti2v-5b"])
def test_quantizing_later_gives_the_files_of_quantizing_at_once(name: str, folders: Folders, tmp_path: Path):
    later = tmp_path / "later"
    assert convert(folders.converted(name), later, "--quantize-only", *QUANTIZED) == 0
    at_once = folders.converted(name, (*FLOAT, *QUANTIZED))
    names = sorted(path.name for path in at_once.iterdir())
    assert sorted(path.name for path in later.iterdir()) == names
    for path in at_once.glob("*.safetensors"):
        assert (later / path.name).read_bytes() == path.read_bytes(), path.name


def test_both_experts_serve_and_the_user_is_told(folders: Folders, tmp_path: Path, capsys):
    model = folders.converted("wan2.2-t2v-a14b")
    assert generate(model, tmp_path / "a.mp4", "--shift", "5", "--boundary", "0.9") == 0
    text = "Of 2 steps the high-noise expert serves 1, then the low-noise expert 1 (boundary 0.9)."
    assert text in capsys.readouterr().err
    assert read_video_metadata(tmp_path / "a.mp4")["boundary"] == "0.9"


def test_experts_in_parallel_give_what_experts_in_turn_give(folders: Folders, tmp_path: Path):
    model, latents = folders.converted("wan2.2-i2v-a14b"), []
    for mode in ("relay", "parallel"):
        saved = tmp_path / f"{mode}.safetensors"
        options = ["--image", str(folders.picture("image")), "--experts", mode, "--save-latents", str(saved)]
        assert generate(model, tmp_path / f"{mode}.gif", *options) == 0
        latents.append(np.array(load_latents(saved)[0]))
    assert np.array_equal(*latents)


def test_the_image_changes_the_video(folders: Folders, tmp_path: Path):
    for name in ("wan2.1-i2v-14b", "wan2.2-i2v-a14b", "wan2.2-ti2v-5b"):
        frames = []
        for picture in ("image", "another image"):
            output = tmp_path / f"{name} {picture}.gif"
            image = ["--image", str(folders.picture(picture))]
            assert generate(folders.converted(name), output, *image, size=(64, 32)) == 0
            frames.append(read_frames(output))
        assert not np.array_equal(*frames), name


def test_what_is_done_to_the_image_is_told(folders: Folders, tmp_path: Path, capsys):
    picture = folders.picture("see-through", mode="RGBA")
    model = folders.converted("wan2.2-ti2v-5b")
    assert generate(model, tmp_path / "a.mp4", "--image", str(picture), size=(64, 64)) == 0
    printed = capsys.readouterr().err
    assert f"{picture} is transparent in places; they become white." in printed
    assert "The image (50x31) is resized and cut at the centre to 64x64." in printed


@pytest.mark.parametrize(
    ("name", "flags", "text"),
    [
        ("wan2.1-i2v-14b", [], "--image missing: Wan2.1 I2V 14B needs it."),
        ("wan2.2-i2v-a14b", [], "--image missing: Wan2.2 I2V A14B needs it."),
        ("wan2.1-flf2v-14b", ["image"], "--end-image missing: Wan2.1 FLF2V 14B needs it."),
        (
            "wan2.1-t2v-1.3b",
            ["image"],
            "--image Wan2.1 T2V of another size makes videos from text alone. Leave the option out.",
        ),
        (
            "wan2.2-t2v-a14b",
            ["image"],
            "--image Wan2.2 T2V A14B makes videos from text alone. Leave the option out.",
        ),
        (
            "wan2.2-ti2v-5b",
            ["image", "end-image"],
            "--end-image Wan2.2 TI2V 5B takes a first image alone. Leave the option out.",
        ),
        ("wan2.1-flf2v-14b", ["end-image"], "--end-image needs --image, the first frame, beside it."),
    ],
)
def test_images_that_do_not_suit_the_model_are_refused(
    name: str, flags: list[str], text: str, folders: Folders, tmp_path: Path, capsys
):
    options = image_options(folders, Case("", "", tuple(flags)))
    model = folders.converted(name)
    capsys.readouterr()
    assert generate(model, tmp_path / "a.mp4", *options) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: {text}")
    assert printed.out == ""


def test_a_boundary_is_refused_where_one_transformer_serves_all_steps(
    folders: Folders, tmp_path: Path, capsys
):
    model = folders.converted("wan2.2-ti2v-5b")
    assert generate(model, tmp_path / "a.mp4", "--boundary", "0.9") == 2
    assert "--boundary 0.9: this model has one transformer. Leave the option out." in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"no picture", b"\x89PNG\r\n\x1a\n" + bytes(40)], ids=["text", "cut"])
def test_a_broken_image_is_refused_before_any_work(content: bytes, folders: Folders, tmp_path: Path, capsys):
    model, picture = folders.converted("wan2.1-i2v-14b"), tmp_path / "broken.png"
    picture.write_bytes(content)
    capsys.readouterr()
    assert generate(model, tmp_path / "a.mp4", "--image", str(picture)) == 1
    (line,) = capsys.readouterr().err.splitlines()  # so no stage began
    assert line.startswith(f"error: {picture}: ")
    assert not (tmp_path / "a.mp4").exists()


def test_a_vae_without_encoder_is_noticed_before_any_work(folders: Folders, tmp_path: Path, capsys):
    import mlx.core as mx

    model = tmp_path / "model"
    assert convert(folders.original("wan2.2-ti2v-5b"), model, *FLOAT) == 0
    tensors = mx.load(str(model / "vae.safetensors"))
    half = {name: array for name, array in tensors.items() if not name.startswith(("encoder.", "conv1."))}
    mx.save_safetensors(str(model / "vae.safetensors"), half)
    capsys.readouterr()
    assert generate(model, tmp_path / "a.mp4", "--image", str(folders.picture("image")), size=(64, 64)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "vae.safetensors" in line
    assert "no VAE encoder to read images" in line
    assert generate(model, tmp_path / "a.mp4", size=(64, 64)) == 0, "text needs no encoder"


@pytest.mark.parametrize(
    ("name", "version", "text"),
    [
        ("wan2.2-t2v-a14b", "2.1", "--model-version 2.1: the checkpoint is Wan2.2 T2V A14B (version 2.2)"),
        ("wan2.1-i2v-14b", "2.2", "--model-version 2.2: the checkpoint is Wan2.1 I2V 14B (version 2.1)"),
    ],
)
def test_a_model_version_that_the_checkpoint_contradicts_is_refused(
    name: str, version: str, text: str, folders: Folders, tmp_path: Path, capsys
):
    output = tmp_path / "converted"
    assert convert(folders.original(name), output, "--model-version", version) == 2
    assert text in capsys.readouterr().err
    assert not output.exists()
    assert convert(folders.original(name), output, "--model-version", name[3:6]) == 0
