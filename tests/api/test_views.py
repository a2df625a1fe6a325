"""What pipelines, plans and videos say of themselves, on a terminal and in a notebook."""

from __future__ import annotations

import inspect
import shutil
from html.parser import HTMLParser
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import Video, WanPipeline, convert_checkpoint
from mlx_video.files.file_bytes import describe_bytes
from mlx_video.tables import html_lines, html_table, text_table
from tests.fixtures.tiny_checkpoint import write_tiny_checkpoint
from tests.fixtures.tiny_variants import write_tiny_variant

SMALL = {"width": 16, "height": 16, "num_frames": 1, "steps": 2, "seed": 1, "prompt_cache": False}
SMALL |= {"progress": False}


class Texts(HTMLParser):
    """Texts of a page, and a check that its elements are closed in turn."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.tags: set[str] = set()
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_a_pipeline_says_what_it_is(pipe: WanPipeline):
    folder = pipe.folder.path
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.name != "config.json")
    assert repr(pipe) == (
        f"WanPipeline(Wan2.1 T2V of another size, float32, {describe_bytes(size)} on disk, 832x480, 81 "
        "frames at 16 fps, 50 steps, guide_scale 5, shift 5, recipe official; in memory: nothing)"
    )
    shown = str(pipe).splitlines()
    assert shown[0] == f"Wan2.1 T2V of another size: {folder} ({describe_bytes(size)})"
    assert [line.split()[-1] for line in shown[4:]] == [
        "model.safetensors",
        "t5_encoder.safetensors",
        "vae.safetensors",
        "tokenizer",
    ]
    html = Texts(pipe._repr_html_())
    assert html.tags == {"div", "table", "tr", "th", "td"}
    cells = [cell.strip() for line in shown[3:] for cell in line.split("  ") if cell.strip()]
    assert html.texts == [*shown[:3], *cells]


def test_it_says_what_is_in_memory_now(tiny_folder: Path):
    with WanPipeline.from_pretrained(tiny_folder, progress=False) as pipe:
        assert "in memory: nothing" in repr(pipe)
        pipe("a cat", **SMALL)
        assert repr(pipe).endswith("; in memory: text encoder, transformer, VAE decoder)")
        (line,) = [line for line in str(pipe).splitlines() if line.startswith("in memory: ")]
        held = sum(pipe._session.idle().values())
        assert held > 0
        assert "transformer (" in line
        pipe.release()
        assert "in memory: nothing" in repr(pipe)
    assert repr(pipe) == f"WanPipeline({tiny_folder}, closed)"


def test_quantized_experts_and_parts_from_elsewhere_are_told(tmp_path: Path):
    write_tiny_variant(tmp_path / "original", "wan2.2-t2v-a14b")
    folder = convert_checkpoint(
        tmp_path / "original", tmp_path / "q", quantize=True, bits=8, group_size=32, progress=False
    )
    elsewhere = shutil.copy(folder / "vae.safetensors", tmp_path / "other.safetensors")
    pipe = WanPipeline.from_pretrained(folder, vae=elsewhere, progress=False)
    rows = {line.split("  ")[0]: line.split() for line in str(pipe).splitlines()[4:]}
    for title in ("low-noise expert", "high-noise expert"):
        assert rows[title][2:7] == ["8", "bits", "in", "groups", "of"]
    assert rows["text encoder"][2] == "bfloat16"
    assert rows["VAE"][-1] == str(elsewhere)
    assert "guide_scale 3,4, shift 12, boundary 0.875" in repr(pipe)
    elsewhere_path = Path(elsewhere)
    elsewhere_path.unlink()
    assert "missing" in str(pipe)


def test_a_distilled_model_tells_its_recipe(tmp_path: Path):
    checkpoint = write_tiny_checkpoint(tmp_path / "Wan2.1-T2V-14B-StepDistill-CfgDistill-Lightx2v").path
    folder = convert_checkpoint(checkpoint, tmp_path / "m", progress=False)
    shown = repr(WanPipeline.from_pretrained(folder, progress=False))
    assert "4 steps, guide_scale 1, shift 5, recipe lightx2v" in shown


def test_a_plan_says_what_it_is(pipe: WanPipeline):
    plan = pipe.plan(width=20, height=16, num_frames=1, memory_limit=1.0)
    assert repr(plan).startswith("MemoryPlan(text 0.0")
    assert repr(plan).endswith("; budget 1.00 GB)")
    assert len(repr(plan).splitlines()) == 1
    html = Texts(plan._repr_html_())
    assert html.tags == {"div", "table", "tr", "th", "td"}
    assert " ".join(html.texts).split() == str(plan).split()
    assert "Size 20x16 becomes" in html.texts[0]


def test_no_text_is_markup(pipe: WanPipeline, tmp_path: Path):
    text = '<script>alert(1)</script> & "more"'
    for html in (html_table([(text,)], (text,)), html_lines([text])):
        assert "<script" not in html
        assert set(Texts(html).texts) == {text}
    copy = shutil.copytree(pipe.folder.path, tmp_path / "<b>bold & more<b>")
    html = WanPipeline.from_pretrained(copy, progress=False)._repr_html_()
    assert "<b>" not in html
    assert "&lt;b&gt;bold &amp; more&lt;b&gt;" in html


def test_columns_of_a_text_table_stand_below_each_other():
    assert text_table([("a", "bcd", ""), ("ef", "g", "h")]) == ["a   bcd", "ef  g    h"]


@pytest.mark.parametrize("count", [0, 2])
def test_a_video_says_what_it_is_with_and_without_frames(count: int):
    frames = np.zeros((count, 16, 16, 3), np.uint8)
    video = Video(frames, 16, mx.zeros((16, 1, 2, 2)), {"prompt": "<i>a cat</i>"})
    assert repr(video).startswith(f"Video({count} frames of 16x16, 16 fps")
    html = video._repr_html_()
    assert "<i>" not in html
    assert ("<video" in html) == bool(count)


def test_a_table_without_titles_has_the_rows_alone():
    assert html_table([("a",), ("b",)]).count("<tr>") == 2
    assert html_table([("a",), ("b",)], ("title",)).count("<tr>") == 3


def test_a_pipeline_made_by_hand_keeps_networks_like_one_that_is_opened():
    for make in (WanPipeline.__init__, WanPipeline.from_pretrained):
        assert inspect.signature(make).parameters["keep_networks"].default is True
