"""A result never takes the place of a file that the run reads, nor of one that no run has made."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from mlx_video import RequestError, Video, WanPipeline, convert_checkpoint, generate_wan
from mlx_video.errors import MediaError
from mlx_video.latents.latents_file import load_latents, save_latents
from mlx_video.layouts.model_folder import open_model_folder
from mlx_video.media.image import save_frames
from mlx_video.media.video import read_frames, read_video_metadata
from mlx_video.request import GenerateRequest, LoraChoice
from mlx_video.runs.files_read import files_read
from tests.fixtures.adapter_files import write_adapter
from tests.fixtures.tiny_checkpoint import TinySizes, write_tiny_checkpoint
from tests.fixtures.tiny_variants import write_tiny_variant

pytestmark = pytest.mark.slow

SMALL = {"width": 16, "height": 16, "num_frames": 5, "steps": 1, "guide_scale": 1.0, "seed": 1}
PICTURE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
Link = Callable[[Path, Path], object]
LINKS: dict[str, Link] = {
    "link": lambda new, old: new.symlink_to(old),
    "hard link": lambda new, old: os.link(old, new),
    "link to a link": lambda new, old: (
        new.with_name("between").symlink_to(old),
        new.symlink_to(new.with_name("between")),
    ),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("t2v")
    return convert_checkpoint(write_tiny_checkpoint(root / "original").path, root / "m", dtype="float32")


@pytest.fixture(scope="module")
def image_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("flf2v")
    write_tiny_variant(root / "original", "wan2.1-flf2v-14b")
    return convert_checkpoint(root / "original", root / "m", dtype="float32")


@pytest.fixture
def folder(model: Path, tmp_path: Path) -> Path:
    """A copy of the model, so that a failing test spoils no other."""
    return Path(shutil.copytree(model, tmp_path / "model"))


def snapshot(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refuse(folder: Path, text: str, field: str, **options) -> None:
    """Make sure that a run is refused before its first event, and that nothing has changed."""
    before, events = snapshot(folder.parent), []
    with pytest.raises(RequestError, match=text) as caught:
        WanPipeline.from_pretrained(folder)("a cat", on_event=events.append, **(SMALL | options))
    assert caught.value.field == field
    assert events == []
    assert snapshot(folder.parent) == before


MODEL_FILES = (
    "config.json", "model.safetensors", "t5_encoder.safetensors", "vae.safetensors",
    "tokenizer/tokenizer.json",
)  # fmt: skip


@pytest.mark.parametrize("name", MODEL_FILES)
def test_latents_are_not_saved_over_the_model(folder: Path, name: str):
    text = rf"the run reads this file \(--model-dir .*{name}\)\. Choose another name"
    refuse(folder, text, "save_latents", save_latents=folder / name)


@pytest.mark.parametrize("link", LINKS)
def test_latents_are_not_saved_over_a_link_to_the_model(folder: Path, tmp_path: Path, link: str):
    LINKS[link](tmp_path / "latents", folder / "vae.safetensors")
    refuse(folder, "the run reads this file", "save_latents", save_latents=tmp_path / "latents")


def test_latents_are_not_saved_over_an_adapter(folder: Path, tmp_path: Path):
    adapter, other = tmp_path / "style.safetensors", tmp_path / "LATENTS"
    write_adapter(adapter, TinySizes().transformer, seed=0)
    os.link(adapter, other)
    for path in (adapter, other):
        refuse(
            folder,
            "the run reads this file .--lora .*style",
            "save_latents",
            save_latents=path,
            loras=[adapter],
        )


def test_adapters_of_experts_and_all_files_of_a_model_are_among_what_is_read(image_model: Path):
    named = {flag: LoraChoice(Path(flag)) for flag in ("all", "high", "low")}
    request = GenerateRequest(
        "a cat", loras=(named["all"],), loras_high=(named["high"],), loras_low=(named["low"],)
    )
    found = list(files_read(request, open_model_folder(image_model)))
    assert found[:3] == [("--lora", Path("all")), ("--lora-high", Path("high")), ("--lora-low", Path("low"))]
    paths = {path for _, path in found}
    assert {path for path in image_model.rglob("*") if path.is_file()} <= paths


def test_an_adapter_in_a_folder_is_not_written_over(folder: Path, tmp_path: Path):
    adapter = tmp_path / "peft" / "adapter_model.safetensors"
    adapter.parent.mkdir()
    write_adapter(adapter, TinySizes().transformer, seed=0)
    options = {"save_latents": adapter, "loras": [adapter.parent]}
    refuse(folder, r"the run reads this file \(--lora .*adapter_model", "save_latents", **options)


@pytest.mark.parametrize("given", ["path", "opened"])
@pytest.mark.parametrize("role", ["image", "end_image"])
@pytest.mark.parametrize("target", ["output_path", "save_latents", "save_frames"])
def test_an_image_is_not_written_over(image_model: Path, tmp_path: Path, given: str, role: str, target: str):
    paths = {name: tmp_path / name / "frame_00000.png" for name in ("image", "end_image")}
    for path in paths.values():
        # As an earlier run leaves them, so that nothing but their use speaks against replacing them.
        save_frames(path.parent, PICTURE[None], {})
    pictures = {name: path if given == "path" else Image.open(path) for name, path in paths.items()}
    place = paths[role].parent if target == "save_frames" else paths[role]
    options = {**pictures, target: place}
    if target == "output_path":
        os.link(paths[role], tmp_path / "a.webp")
        options["output_path"] = tmp_path / "a.webp"
    before = snapshot(tmp_path)
    text = rf"the run reads this file \(--{role.replace('_', '-')} .*{role}/frame_00000\.png\)"
    with pytest.raises(RequestError, match=text) as caught:
        WanPipeline.from_pretrained(image_model)("a cat", **(SMALL | options))
    assert caught.value.field == target
    assert snapshot(tmp_path) == before


def test_a_frame_that_would_be_cleared_away_is_not_if_it_is_read(image_model: Path, tmp_path: Path):
    save_frames(tmp_path, np.stack([PICTURE] * 9), {})
    last = tmp_path / "frame_00008.png"
    options = {"image": last, "end_image": last, "save_frames": tmp_path}
    with pytest.raises(RequestError, match=r"frame_00008\.png: the run reads this file \(--"):
        WanPipeline.from_pretrained(image_model)("a cat", **(SMALL | options))
    assert len(list(tmp_path.iterdir())) == 9


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("target", ["output_path", "save_frames"])
def test_the_latents_that_are_decoded_are_not_written_over(
    folder: Path, tmp_path: Path, link: str, target: str
):
    latents = tmp_path / "latents"
    save_latents(latents, mx.zeros((16, 2, 2, 2)), {})
    place = tmp_path / "frames" / "frame_00003.png" if target == "save_frames" else tmp_path / "a.webp"
    place.parent.mkdir(exist_ok=True)
    LINKS[link](place, latents)
    options = {"decode_only": latents, target: place.parent if target == "save_frames" else place}
    message = r"--decode-only has the same name|the run reads this file \(--decode-only"
    refuse(folder, message, target, **options)


def test_names_that_differ_in_capitals_alone_are_one_name(folder: Path, tmp_path: Path):
    options = {"output_path": tmp_path / "Cat.webp", "save_latents": tmp_path / "cat.WEBP"}
    refuse(folder, "--output-path has the same name", "save_latents", **options)
    options = {"output_path": tmp_path / "a.webp", "save_latents": tmp_path / "A.webp.State.safetensors"}
    refuse(folder, "the run keeps its state under this name", "save_latents", **options)
    options = {
        "num_frames": 1,
        "output_path": tmp_path / "f" / "Frame_00000.PNG",
        "save_frames": tmp_path / "f",
    }
    refuse(folder, "--save-frames writes pictures of such names", "output_path", **options)


# Files that no run has made.

FOREIGN = "is there already, and was not made by mlx-video. Move it away, or choose another name"


def write_foreign(path: Path) -> Path:
    """A file as another program makes it, of the kind that its ending says."""
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".mp4":
        from mlx_video.media.ffmpeg import run_ffmpeg

        source = ["-f", "lavfi", "-i", "color=red:size=16x16:rate=8:duration=1"]
        run_ffmpeg("-v", "error", *source, "-metadata", 'comment={"prompt": "a dog"}', str(path))
    elif path.suffix in (".webp", ".gif", ".png", ".jpg"):
        Image.fromarray(PICTURE).save(path)
    else:
        path.write_bytes(b"my own text")
    return path


@pytest.mark.parametrize("name", ["a.mp4", "a.webp", "a.gif", "a.png", "a.jpg"])
@pytest.mark.parametrize("content", ["of its kind", "text"])
def test_a_video_or_picture_of_another_is_not_replaced(folder: Path, tmp_path: Path, name: str, content: str):
    path = write_foreign(tmp_path / name)
    if content == "text":
        path.write_bytes(b"my own text")
    options = {"num_frames": 1} if path.suffix in (".png", ".jpg") else {}
    refuse(folder, rf"{name}: {FOREIGN}", "output_path", output_path=path, **options)


@pytest.mark.parametrize("name", ["a.mp4", "a.webp", "a.gif", "a.png", "a.jpg"])
def test_an_earlier_video_or_picture_is_replaced_as_before(model: Path, tmp_path: Path, name: str):
    options = SMALL | {"num_frames": 1, "output_path": tmp_path / name}
    pipeline = WanPipeline.from_pretrained(model)
    for prompt in ("a cat", ""):
        pipeline(prompt, **options)
        assert read_video_metadata(tmp_path / name)["prompt"] == prompt


@pytest.mark.parametrize("option", ["output_path", "save_latents"])
def test_a_folder_under_the_name_is_called_one(folder: Path, tmp_path: Path, option: str):
    (tmp_path / "a.webp").mkdir()
    with pytest.raises(MediaError, match="is a folder, and a file needs this name"):
        WanPipeline.from_pretrained(folder)("a cat", **(SMALL | {option: tmp_path / "a.webp"}))


@pytest.mark.parametrize("name", ["frames/frame_00002.png", "a.webp.state.safetensors"])
def test_a_folder_in_the_way_of_a_frame_or_a_state_is_found_before_the_run(
    folder: Path, tmp_path: Path, name: str
):
    (tmp_path / name).mkdir(parents=True)
    options = {"output_path": tmp_path / "a.webp", "save_frames": tmp_path / "frames"}
    field = "save_frames" if "frame_" in name else "output_path"
    refuse(folder, rf"{name}: .*{FOREIGN}", field, **options)


@pytest.mark.parametrize("name", ["a.webp", "latents", "a.webp.state.safetensors"])
def test_an_empty_file_reserves_a_name(model: Path, tmp_path: Path, name: str):
    (tmp_path / name).touch()
    options = {"output_path": tmp_path / "a.webp", "save_latents": tmp_path / "latents"}
    WanPipeline.from_pretrained(model)("a cat", **(SMALL | options))
    assert read_frames(tmp_path / "a.webp").shape == (5, 16, 16, 3)


def test_a_link_that_leads_nowhere_is_not_replaced(folder: Path, tmp_path: Path):
    (tmp_path / "a.webp").symlink_to(tmp_path / "disk that is not there" / "a.webp")
    refuse(folder, FOREIGN, "output_path", output_path=tmp_path / "a.webp")
    assert (tmp_path / "a.webp").is_symlink()


def test_latents_replace_latents_alone(folder: Path, tmp_path: Path):
    text, weights, half = tmp_path / "notes.txt", tmp_path / "w.safetensors", tmp_path / "half.safetensors"
    text.write_text("mine")
    mx.save_safetensors(str(weights), {"latents": mx.zeros((1, 1, 1, 1)), "more": mx.zeros(1)})
    mx.save_safetensors(str(half), {"latents": mx.zeros((1, 1, 1, 1), mx.float16)})
    for path in (text, weights, half):
        refuse(folder, rf"{path.name}: {FOREIGN}", "save_latents", save_latents=path)
    pipeline, own = WanPipeline.from_pretrained(folder), tmp_path / "own"
    for seed in (1, 2):
        pipeline("a cat", save_latents=own, **(SMALL | {"seed": seed}))
        assert load_latents(own)[1]["seed"] == str(seed)


def test_a_state_replaces_a_state_alone(folder: Path, tmp_path: Path):
    output = tmp_path / "a.webp"
    state = tmp_path / "a.webp.state.safetensors"
    state.write_bytes(b"mine")
    text = rf"state\.safetensors: the run keeps its state here, but this file {FOREIGN}"
    refuse(folder, text, "output_path", output_path=output)
    state.unlink()
    WanPipeline.from_pretrained(folder)("a cat", output_path=output, keep_state=True, **SMALL)
    refuse(folder, rf"state\.safetensors: {FOREIGN}", "save_latents", save_latents=state)
    WanPipeline.from_pretrained(folder)("a dog", output_path=output, **SMALL)
    assert not state.exists()


@pytest.mark.parametrize("name", ["frame_00000.png", "frame_00004.png"])
def test_a_picture_with_the_name_of_a_frame_is_not_replaced(folder: Path, tmp_path: Path, name: str):
    write_foreign(tmp_path / "frames" / name)
    refuse(folder, rf"{name}: {FOREIGN}", "save_frames", save_frames=tmp_path / "frames")


def test_frames_of_the_user_beyond_the_last_are_kept_and_earlier_ones_cleared_away(
    model: Path, tmp_path: Path
):
    mine = write_foreign(tmp_path / "frame_99999.png").read_bytes()
    pipeline = WanPipeline.from_pretrained(model)
    pipeline("a cat", save_frames=tmp_path, **(SMALL | {"num_frames": 9}))
    pipeline("a cat", save_frames=tmp_path, **(SMALL | {"num_frames": 5}))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [*(f"frame_{index:05d}.png" for index in range(5)), "frame_99999.png"]
    assert (tmp_path / "frame_99999.png").read_bytes() == mine


def test_a_video_saves_itself_over_its_own_files_alone(tmp_path: Path):
    frames = np.stack([PICTURE] * 2)
    for settings in ({}, {"prompt": "a cat", "seed": "1"}, {"title": "mine"}):
        video = Video(frames, 8.0, settings=settings)
        for name in ("a.mp4", "a.webp", "a.gif", "frames"):
            video.save(tmp_path / name)
            video.save(tmp_path / name)
        assert read_video_metadata(tmp_path / "a.mp4") == settings
    for name in ("b.mp4", "b.webp", "b.gif", "own/frame_00001.png"):
        before = write_foreign(tmp_path / name).read_bytes()
        with pytest.raises(MediaError, match=FOREIGN):
            video.save(tmp_path / ("own" if name.startswith("own") else name))
        assert (tmp_path / name).read_bytes() == before


def test_a_picture_whose_settings_are_too_long_is_known_again(model: Path, tmp_path: Path):
    options = SMALL | {"num_frames": 1, "output_path": tmp_path / "a.jpg"}
    for _ in range(2):
        WanPipeline.from_pretrained(model)("cat " * 20_000, **options)


def test_the_command_names_the_option_and_the_way_out(model: Path, tmp_path: Path, capsys):
    path = write_foreign(tmp_path / "a.webp")
    before = path.read_bytes()
    flags = ["--model-dir", str(model), "--prompt", "a cat", "--steps", "1", "--output-path", str(path)]
    assert generate_wan.main(flags) == 2
    assert capsys.readouterr().err == f"error: --output-path {path}: {FOREIGN}.\n"
    assert path.read_bytes() == before
