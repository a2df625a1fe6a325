"""Inputs by kind; each module has a function `cases` that yields them."""

from __future__ import annotations

from collections.abc import Iterator

from tests.hostile.campaign import Case
from tests.hostile.cases import folders, gguf_files, hub_answers, runs, safetensors_files, torch_files
from tests.hostile.world import World

MODULES = (safetensors_files, gguf_files, torch_files, folders, runs, hub_answers)


def all_cases(world: World) -> Iterator[Case]:
    """Every case, in an order that never changes."""
    for module in MODULES:
        yield from module.cases(world)
