"""The tables of options in the documentation are those that the declarations make."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mlx_video.request.option import options_of
from tests.record.option_tables import OPTIONS, TABLE, documents, fill_tables, table_of

DOCUMENTS = [*documents()]
TABLES = [found for path in DOCUMENTS for found in TABLE.finditer(path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_a_documents_tables_of_options_are_as_declared(path: Path):
    text = path.read_text(encoding="utf-8")
    assert fill_tables(text) == text, "run `python -m tests.record.option_tables`"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_no_table_of_options_is_written_by_hand(path: Path):
    rest = TABLE.sub("", path.read_text(encoding="utf-8"))
    assert not re.findall(r"^\| `--.*", rest, re.MULTILINE)
    assert "options of" not in re.findall("<!--.*-->", rest), "a line that begins a table has no end"


@pytest.mark.parametrize("command", OPTIONS)
def test_every_option_of_a_command_stands_in_a_table(command: str):
    shown = "".join(table_of(found) for found in TABLES if found["command"] == command)
    for declared in (each for one in OPTIONS[command] for each in options_of(one).values()):
        flag = declared.flag_with_value.replace("|", r"\|")
        assert f"| `{flag}` |" in shown
        assert not declared.off_help or f"| `{declared.off_flag}` |" in shown


def test_a_wrong_table_is_made_anew_and_the_rest_stays():
    begin, end = "<!-- options of check_device -->\n", "<!-- end of options -->\n"
    filled = fill_tables(f"before\n{begin}| old |\n{end}after\n")
    assert filled.startswith(f"before\n{begin}| option |")
    assert filled.endswith(f"{end}after\n")
    assert "old" not in filled
    assert fill_tables(filled) == filled
    one_group = fill_tables(begin.replace("check_device", "generate_wan: memory") + end)
    assert "`--memory-limit GB`" in one_group
    assert "--steps" not in one_group
