"""What modules remember for the length of a process, and why no run finds there what another has left."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import mlx_video

ROOT = Path(mlx_video.__file__).parent
CHANGING = (ast.List, ast.Dict, ast.Set)

REMEMBERED = {
    "files/read_ahead.py _idle": "threads that wait for work; whoever takes one gives it back idle",
    "formats/sentencepiece_model.py _tag": "a function of its arguments alone",
    "formats/sentencepiece_model.py _varint": "a function of its argument alone",
    "hub/download.py _silent_bar": "a class, built where tqdm is first needed",
    "lora/dialects.py _spell_layers": "a function of its arguments alone",
    "models/dispatch.py _chosen": "in force while one run works, and put back before its caller goes on",
    "models/dispatch.py device_limits": "facts of the device",
    "models/elementwise.py _compile_choice": "a switch of the user's; a run sets its own limits instead",
    "models/kernels/metal_kernel.py _built": "a function of its argument alone, as MLX compiles it",
    "planning/mlx_limits.py _in_force": "whose limits MLX has; a run that goes on sets its own",
    "planning/mlx_limits.py _of_process": "MLX's limits before any run, given back by the last",
    "planning/step_plans.py _weigh": "a function of its argument alone",
    "planning/turns.py _stream_of": "a stream of each device, which one thread at a time uses",
    "progress/bars.py bar_class": "a class, built where tqdm is first needed",
    "request/option.py _options_of": "a function of its argument alone",
    "weights/rules.py _pattern": "a function of its argument alone",
}
"""File and name of everything that a module, or a class, remembers → why that disturbs nobody."""


def remembered(tree: ast.Module) -> Iterator[str]:
    """Names of functions with a cache, of globals that functions set, and of what classes or modules change.

    A name in capitals is a constant, whatever its type.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Global):
            yield from node.names
        elif isinstance(node, ast.FunctionDef) and any(map(is_cache, node.decorator_list)):
            yield node.name
        elif isinstance(node, ast.AnnAssign) and "ClassVar" in ast.unparse(node.annotation):
            yield ast.unparse(node.target)
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(
            node.value, ast.List | ast.Dict | ast.Set
        ):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (name for name in map(ast.unparse, targets) if not name.isupper())


def is_cache(decorator: ast.expr) -> bool:
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    return ast.unparse(called).split(".")[-1] in ("cache", "lru_cache")


def test_modules_remember_nothing_that_a_run_could_leave_to_another():
    found = {
        f"{path.relative_to(ROOT).as_posix()} {name}"
        for path in ROOT.rglob("*.py")
        for name in remembered(ast.parse(path.read_text()))
        if not name.startswith("__")
    }
    assert found == set(REMEMBERED)
