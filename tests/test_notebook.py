"""The notebook of the examples: every cell runs and shows what it says; it is stored without outputs."""

from __future__ import annotations

import re
from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOK = Path(__file__).parent.parent / "examples" / "notebook.ipynb"
MOST_BYTES = 300_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("notebook")
    (folder / "demo_model").symlink_to(NOTEBOOK.parent / "demo_model")
    return folder


@pytest.fixture(scope="module")
def executed(folder: Path) -> nbformat.NotebookNode:
    book = nbformat.read(NOTEBOOK, 4)
    place = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(book, kernel_name="python3", timeout=300, resources=place).execute()
    return book


def output_of(book: nbformat.NotebookNode, source: str) -> str:
    """What the cell that holds a text shows, in HTML or plain text, one output after the other."""
    (cell,) = (one for one in book.cells if one.cell_type == "code" and source in one.source)
    shown = [one.get("data", {"text/plain": one.get("text", "")}) for one in cell.outputs]
    return "\n".join(data.get("text/html", data["text/plain"]) for data in shown)


def test_it_is_stored_without_outputs():
    book = nbformat.read(NOTEBOOK, 4)
    nbformat.validate(book)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)


@pytest.mark.slow
def test_its_cells_show_what_they_say(executed: nbformat.NotebookNode, folder: Path):
    assert "Demo (coloured shapes): shapes (" in output_of(executed, 'from_pretrained("shapes")')
    assert "<td" in output_of(executed, "pipe.plan(")
    for source in ("video = pipe(", "pipe.encode(", "loras=", "image=video.frames[0], seed", "resume=True"):
        shown = output_of(executed, source)
        assert shown.count("<video ") == 1, source
        assert "done in" in shown, source
    assert "growing.safetensors: 60 of 60 pairs" in output_of(executed, "loras=")
    assert "Going on after 5 of 10 steps" in output_of(executed, "resume=True")
    written = output_of(executed, "video.save(").split()
    assert written == ["circle.mp4", "demo_model", "moving_shapes", "shapes", "shapes.webp"]
    assert sorted(path.name for path in folder.iterdir()) == written


@pytest.mark.slow
def test_its_outputs_are_small_and_name_no_place_outside(executed: nbformat.NotebookNode, folder: Path):
    text = nbformat.writes(executed)
    assert len(text) < MOST_BYTES
    without_videos = re.sub(r"base64,[\w+/=]+", "", text)
    assert str(folder) not in without_videos
    assert "stderr" not in without_videos
