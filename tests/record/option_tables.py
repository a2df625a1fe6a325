"""Makes the tables of options in README.md and docs/, between lines that name a command.

Run `python -m tests.record.option_tables` after a change of an option. A table stands between the lines
`<!-- options of generate_wan -->` and `<!-- end of options -->`; `<!-- options of generate_wan: sampling -->`
asks for one heading of --help alone, `<!-- options of generate_wan by heading -->` for a table below each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from mlx_video.cli import calibrate, check_cluster, check_device, convert, generate, serve, train
from mlx_video.request.table import grouped_option_tables, option_table

ROOT = Path(__file__).parents[2]
OPTIONS = {
    "convert_wan": convert.OPTIONS,
    "generate_wan": generate.OPTIONS,
    "calibrate": calibrate.OPTIONS,
    "check_cluster": check_cluster.OPTIONS,
    "check_device": check_device.OPTIONS,
    "serve": serve.OPTIONS,
    "train_wan": train.OPTIONS,
}
TABLE = re.compile(
    r"(?P<begin><!-- options of (?P<command>\w+)(: (?P<group>[^>]+)|(?P<all> by heading))? -->\n)"
    r"(?P<table>.*?)(?P<end><!-- end of options -->\n)",
    re.DOTALL,
)


def documents() -> Iterator[Path]:
    """Files of the documentation that may hold tables of options."""
    yield ROOT / "README.md"
    yield from sorted((ROOT / "docs").rglob("*.md"))


def fill_tables(text: str) -> str:
    """A document with its tables of options as they are declared."""
    return TABLE.sub(lambda found: f"{found['begin']}{table_of(found)}{found['end']}", text)


def table_of(found: re.Match[str]) -> str:
    """The table, as declared, that lines of a document ask for."""
    declared = OPTIONS[found["command"]]
    return grouped_option_tables(*declared) if found["all"] else option_table(*declared, group=found["group"])


if __name__ == "__main__":
    for path in documents():
        path.write_text(fill_tables(path.read_text(encoding="utf-8")), encoding="utf-8")
