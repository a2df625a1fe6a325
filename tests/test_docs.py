"""README and chapters: their commands parse, their links lead somewhere, every option stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from mlx_video import check_device, convert_wan, generate_wan

START = "python -m mlx_video."
ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
COMMANDS = {"convert_wan": convert_wan, "generate_wan": generate_wan, "check_device": check_device}
# The page with the table of a command's options.
OPTION_PAGES = {
    "convert_wan": "converting.md",
    "generate_wan": "generating.md",
    "check_device": "checking.md",
}


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def commands_of(page: Path) -> list[list[str]]:
    """Commands of this package in a page's code blocks, split as a shell does; \\ joins lines."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", read(page), re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line.split(START, 1)[1]) for line in lines if START in line]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_help_with_a_default_and_stands_in_its_table(command: str):
    table = read(ROOT / "docs" / OPTION_PAGES[command])
    for action in COMMANDS[command].build_parser()._actions:
        flag = action.option_strings[-1]
        if flag in ("--help", "--version"):
            continue
        assert action.help, flag
        assert "default" in action.help or action.required, f"{flag}: help states no default"
        assert re.search(rf"^\| .*`{flag}\b", table, re.MULTILINE), f"{flag} is in no table"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_table_names_no_option_that_is_gone(command: str):
    known = {flag for action in COMMANDS[command].build_parser()._actions for flag in action.option_strings}
    rows = re.findall(r"^\| (`--[^|]+)\|", read(ROOT / "docs" / OPTION_PAGES[command]), re.MULTILINE)
    flags = [flag for row in rows for flag in re.findall(r"--[a-z-]+", row)]
    assert len(flags) > 4
    assert set(flags) <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_parse(page: Path):
    for name, *arguments in commands_of(page):
        COMMANDS[name].build_parser().parse_args(arguments)


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
    linked = re.findall(r"\]\(docs/([^)#]+)\)", read(ROOT / "README.md"))
    assert set(linked) == {page.name for page in PAGES[1:]}
    assert len(linked) >= 7
