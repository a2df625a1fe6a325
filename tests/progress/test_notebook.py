"""The area of a notebook: one for each call, changed in place, readable afterwards."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import nbclient
import nbformat
import pytest

from mlx_video.events import (
    FileWritten,
    FramesDecoded,
    Notice,
    ResumeHint,
    StageFinished,
    StageStarted,
    StepFinished,
)
from mlx_video.progress import notebook
from mlx_video.progress.bars import Bars
from mlx_video.progress.json_lines import JsonLines
from mlx_video.progress.lines import Lines
from mlx_video.progress.notebook import NotebookArea, is_in_notebook
from mlx_video.progress.surroundings import choose_display
from tests.progress.clock import FakeClock
from tests.progress.test_displays import Terminal


class Areas:
    """Stands for IPython.display: what each area showed, one after the other."""

    def __init__(self) -> None:
        self.areas: list[list[object]] = []

    def display(self, view: object, *, display_id: bool) -> SimpleNamespace:
        assert display_id
        area = [view]
        self.areas.append(area)
        return SimpleNamespace(update=area.append)


@pytest.fixture
def areas(monkeypatch: pytest.MonkeyPatch) -> Areas:
    found = Areas()
    monkeypatch.setitem(sys.modules, "IPython.display", found)
    return found


def step(index: int) -> StepFinished:
    return StepFinished(index, 4, 500.0, 0.1, mx.zeros(1))


def test_a_call_has_one_area_that_changes_in_place(areas: Areas):
    clock = FakeClock()
    area = NotebookArea(clock=clock)
    assert areas.areas == []
    area.show(Notice("Size adjusted to 832x480."))
    area.show(StageStarted("denoise"))
    for index in range(3):
        clock.wait(10)
        area.show(step(index))
    (views,) = areas.areas
    html = views[-1]._repr_html_()
    assert '<progress value="3" max="4"' in html
    assert "step 3 of 4: 0:30, about 0:10 left, 10.0 s/step" in html
    assert html.count("Size adjusted to 832x480.") == 1
    assert repr(views[-1]).splitlines()[0] == "step 3 of 4: 0:30, about 0:10 left, 10.0 s/step"


def test_what_comes_fast_is_drawn_now_and_then_and_at_its_end(areas: Areas):
    clock = FakeClock()
    area = NotebookArea(clock=clock)
    area.show(StageStarted("decode"))
    clock.wait(1)
    for done in range(1, 101):
        clock.wait(0.01)
        area.show(FramesDecoded(done, 100))
    (views,) = areas.areas
    assert 4 <= len(views) <= 8
    assert "frames 100 of 100" in repr(views[-1])


def test_the_end_is_readable_when_the_notebook_is_opened_again(areas: Areas):
    area = NotebookArea(clock=FakeClock())
    area.show(StageStarted("denoise"))
    area.show(step(0))
    area.show(StageFinished("denoise", 3.0, 2_000_000_000))
    area.show(FileWritten(Path("cat.mp4")))
    area.end(area.ending("success", 0))
    (views,) = areas.areas
    html = views[-1]._repr_html_()
    assert "<progress" not in html
    assert "denoise ..." not in html
    assert "denoise: 3.0 s" in html
    assert "written: cat.mp4" in html
    assert "done in 0:00, peak memory 2.00 GB" in html


def test_an_interruption_says_how_to_go_on_in_the_words_of_python(areas: Areas):
    area = NotebookArea(clock=FakeClock())
    area.show(step(0))
    area.end(area.ending("interrupted", 130, "interrupted", ResumeHint("--resume", "resume=True")))
    (views,) = areas.areas
    assert repr(views[-1]).splitlines()[-2:] == ["interrupted", "resume=True"]
    assert "--resume" not in views[-1]._repr_html_()


def test_texts_are_no_markup(areas: Areas):
    area = NotebookArea(clock=FakeClock())
    area.show(Notice("<script>alert(1)</script> & more"))
    html = areas.areas[0][-1]._repr_html_()
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in html
    assert "<script>" not in html


def test_a_call_that_tells_nothing_has_no_area(areas: Areas):
    area = NotebookArea(clock=FakeClock())
    area.end(area.ending("success", 0))
    area.end(area.ending("error", 1, "broken"))
    assert areas.areas == []


# Which display is chosen


def test_each_place_has_its_display(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert type(choose_display()) is Bars
    monkeypatch.setattr(sys, "stderr", None)
    assert type(choose_display()) is Lines
    monkeypatch.setattr(sys, "stderr", open(Path("/dev/null"), "w"))  # noqa: SIM115
    assert type(choose_display()) is Lines
    sys.stderr.close()
    assert type(choose_display(as_json=True)) is JsonLines
    monkeypatch.setattr("mlx_video.progress.surroundings.is_in_notebook", lambda: True)
    assert type(choose_display()) is NotebookArea
    assert type(choose_display(is_quiet=True)).__name__ == "Display"


def test_only_a_kernel_is_a_notebook(monkeypatch: pytest.MonkeyPatch):
    def pretend(shell: object) -> None:
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))

    pretend(None)
    assert not is_in_notebook()
    pretend(SimpleNamespace())  # IPython on a terminal
    assert not is_in_notebook()
    pretend(SimpleNamespace(kernel=object()))
    assert is_in_notebook()
    monkeypatch.delitem(sys.modules, "IPython")
    assert not is_in_notebook()


def test_ipython_is_not_imported_to_find_out():
    code = (
        "import sys\n"
        "from mlx_video.progress.surroundings import choose_display\n"
        "choose_display()\n"
        "assert 'IPython' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert notebook.__doc__


# In a real kernel

CELLS = (
    "from mlx_video import WanPipeline\npipe = WanPipeline.from_pretrained()",
    "video = pipe('a red circle', steps=2, num_frames=5, seed=1)",
    "video = pipe('a red circle', steps=2, num_frames=5, seed=1, progress=False)",
    "def stop(event):\n"
    "    if type(event).__name__ == 'StepFinished' and event.index == 1:\n"
    "        raise KeyboardInterrupt\n"
    "pipe('a red circle', steps=3, num_frames=5, seed=1, output_path=OUTPUT, progress=True, on_event=stop)",
)


@pytest.mark.slow
def test_a_kernel_shows_an_area_and_keeps_it(tmp_path: Path):
    sources = [cell.replace("OUTPUT", repr(str(tmp_path / "a.mp4"))) for cell in CELLS]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    nbclient.NotebookClient(book, kernel_name="python3", allow_errors=True, timeout=300).execute()
    _, shown, silent, stopped = (cell.outputs for cell in book.cells)
    (area,) = shown
    assert area.output_type == "display_data"
    assert "done in" in area.data["text/html"]
    assert "done in" in area.data["text/plain"]
    assert silent == []
    area, error = stopped
    hint = "2 of 3 steps are kept in"
    assert hint in area.data["text/html"]
    assert error.ename == "KeyboardInterrupt"
    assert (tmp_path / "a.mp4.state.safetensors").exists()
