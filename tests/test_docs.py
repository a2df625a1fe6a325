"""README and chapters: their commands parse and their links lead somewhere."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from pathlib import Path

import pytest

from mlx_video import (
    WanPipeline,
    calibrate,
    check_cluster,
    check_device,
    convert_checkpoint,
    convert_wan,
    generate_wan,
    prepare_control,
    serve,
    train_wan,
)

START = "python -m mlx_video."
ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
COMMANDS = {
    "convert_wan": convert_wan,
    "generate_wan": generate_wan,
    "calibrate": calibrate,
    "check_cluster": check_cluster,
    "check_device": check_device,
    "prepare_control": prepare_control,
    "serve": serve,
    "train_wan": train_wan,
}


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def commands_of(page: Path) -> list[list[str]]:
    """Commands of this package in a page's code blocks, split as a shell does; \\ joins lines."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", read(page), re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line.split(START, 1)[1]) for line in lines if START in line]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_parse(page: Path):
    for name, *arguments in commands_of(page):
        COMMANDS[name].build_parser().parse_args(arguments)


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", read(page), re.MULTILINE | re.DOTALL)


CALLS = {
    "pipe": WanPipeline.__call__,
    "convert_checkpoint": convert_checkpoint,
    **{
        f"pipe.{name}": getattr(WanPipeline, name) for name in ("batch", "decode", "encode", "plan", "stream")
    },
    "WanPipeline.from_pretrained": WanPipeline.from_pretrained,
}


def calls_of(page: Path) -> list[ast.Call]:
    """Calls of this package's interface in a page's Python."""
    trees = map(ast.parse, python_blocks(page))
    nodes = (node for tree in trees for node in ast.walk(tree))
    return [node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) in CALLS]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_calls_of_a_page_take_what_they_are_given(page: Path):
    for call in calls_of(page):
        function = CALLS[ast.unparse(call.func)]
        given = {keyword.arg: None for keyword in call.keywords if keyword.arg}
        own = [None] if "self" in inspect.signature(function).parameters else []
        inspect.signature(function).bind_partial(*own, *call.args, **given)


def test_there_are_calls_to_look_at():
    called = {ast.unparse(call.func) for call in calls_of(ROOT / "docs" / "python.md")}
    assert called >= {"pipe", "pipe.encode", "pipe.stream", "convert_checkpoint"}


def test_there_are_commands_to_parse():
    counts = {page.name: len(commands_of(page)) for page in PAGES}
    # What this suite finds today, so that a change of form cannot empty the test above.
    assert counts["README.md"] >= 3
    assert counts["generating.md"] >= 8
    assert counts["converting.md"] >= 4
    assert counts["adapters.md"] >= 4


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_links_of_a_page_lead_somewhere(page: Path):
    for target, anchor in re.findall(r"\]\((?!http)([^)#]*)(?:#([^)]+))?\)", read(page)):
        place = page.parent / target if target else page
        assert place.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.+)$", read(place), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]


def test_every_chapter_is_linked_from_the_readme():
    linked = re.findall(r"\]\(docs/([^)#]+\.md)\)", read(ROOT / "README.md"))
    assert set(linked) == {page.name for page in PAGES[1:]}
    assert len(linked) >= 7
