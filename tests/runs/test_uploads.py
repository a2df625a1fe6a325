"""Results for an address: made here whole, uploaded, and kept here where that fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from mlx_video import MediaError, RequestError, WanPipeline, convert_checkpoint, generate_wan
from mlx_video.events import FileUploaded, FileWritten
from mlx_video.files.cache_folder import cache_folder
from mlx_video.media.video import read_video_metadata
from mlx_video.request import GenerateRequest
from mlx_video.runs.uploads import staged
from tests.fixtures.tiny_checkpoint import write_tiny_checkpoint

pytestmark = pytest.mark.slow

SMALL = {"width": 16, "height": 16, "num_frames": 1, "steps": 2, "seed": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("model")
    return convert_checkpoint(write_tiny_checkpoint(root / "original").path, root / "model", dtype="float32")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MemoryFileSystem]:
    """An empty store behind memory:// addresses, and an empty cache folder."""
    monkeypatch.setenv("MLX_VIDEO_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    yield system
    system.store.clear()


def kept_here() -> list[str]:
    uploads = cache_folder() / "uploads"
    return sorted(path.name for path in uploads.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("video", ["/bucket/out/a.png"]),
        ("latent", ["/bucket/out/a.safetensors"]),
        ("both", ["/bucket/out/a.png", "/bucket/out/a.safetensors"]),
        ("images", ["/bucket/out/a/frame_00000.png"]),
    ],
)
def test_results_lie_at_the_address_and_nothing_stays_here(
    folder: Path, store, capsys, kind: str, names: list[str]
):
    options = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    address = ["--output-path", "memory://bucket/out/a.png", "--output-type", kind]
    assert generate_wan.main(["--model-dir", str(folder), "--prompt", "a cat", *options, *address]) == 0
    assert sorted(store.store) == names
    assert kept_here() == []
    printed = capsys.readouterr().out.split()
    assert all(line.startswith("memory://bucket/out/a") for line in printed)
    assert not Path("memory:").exists()


def test_an_uploaded_video_holds_its_settings(folder: Path, store, tmp_path: Path):
    events: list = []
    pipe = WanPipeline.from_pretrained(folder)
    pipe("a cat", output_path="memory://bucket/a.png", on_event=events.append, **SMALL)
    assert [event.address for event in events if isinstance(event, FileUploaded)] == ["memory://bucket/a.png"]
    assert not [event for event in events if isinstance(event, FileWritten)]
    (tmp_path / "back.png").write_bytes(store.cat("/bucket/a.png"))
    assert read_video_metadata(tmp_path / "back.png")["prompt"] == "a cat"


def test_a_result_whose_upload_fails_is_kept_here_and_the_message_says_where(
    folder: Path, store, monkeypatch: pytest.MonkeyPatch
):
    def refuse(self, *given, **options):
        raise PermissionError("access denied")

    monkeypatch.setattr(MemoryFileSystem, "put", refuse)
    pipe = WanPipeline.from_pretrained(folder)
    with pytest.raises(
        MediaError, match=r"memory://bucket/a.png: the upload failed \(access denied\)"
    ) as caught:
        pipe("a cat", output_path="memory://bucket/a.png", **SMALL)
    (name,) = kept_here()
    (path,) = (cache_folder() / "uploads").rglob(name)
    assert f"kept in {path}" in str(caught.value)
    assert read_video_metadata(path)["prompt"] == "a cat"


def test_an_interrupted_run_finds_its_state_again(folder: Path, store):
    pipe = WanPipeline.from_pretrained(folder)
    address = {"output_path": "memory://bucket/a.png"}

    def interrupt(event):
        if type(event).__name__ == "StepFinished":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipe("a cat", on_event=interrupt, **address, **SMALL)
    assert kept_here() == ["a.png.state.safetensors"]
    told: list = []
    pipe("a cat", on_event=told.append, resume=True, **address, **SMALL)
    assert any("Going on after 1 of 2 steps" in getattr(event, "text", "") for event in told)
    assert list(store.store) == ["/bucket/a.png"]
    assert kept_here() == []


def test_a_list_uploads_each_video(folder: Path, store):
    pipe = WanPipeline.from_pretrained(folder)
    results = list(pipe.batch(["a cat", "a dog"], output_path="memory://bucket/{prompt}.png", **SMALL))
    assert [result.error for result in results] == [None, None]
    assert sorted(store.store) == ["/bucket/a-cat.png", "/bucket/a-dog.png"]


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("memory://bucket/", "names no file"),
        ("oss://bucket/a.mp4", "a package is missing for such addresses"),
        ("https://example.com/a.mp4", "nothing is written to an address"),
    ],
)
def test_an_address_to_which_nothing_can_be_written_is_refused_before_the_work(address: str, text: str):
    with pytest.raises(RequestError, match=text):
        staged(GenerateRequest("a", output_path=Path(address)))


def test_a_path_here_stays_as_it_is():
    request = GenerateRequest("a", output_path=Path("a.mp4"))
    assert staged(request) == (request, None)
