"""The mistakes are what somebody could have written, and a test that looks notices them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.mutate.__main__ import read_reasons
from tests.mutate.campaign import KILLED, SURVIVED, Mutant, Workplace, choose_mutants, find_mutants
from tests.mutate.mistakes import find_mistakes
from tests.mutate.reach import ROOT, Reach


def changes(source: str) -> set[str]:
    return {mistake.apply(source) for mistake in find_mistakes(source)}


@pytest.mark.parametrize(
    ("source", "mistaken"),
    [
        ("a < b", "(a <= b)"),
        ("a is None", "(a is not None)"),
        ("a and b", "((a) or (b))"),
        ("a and b", "(a)"),
        ("not a", "(a)"),
        ("a - 'b'", None),
        ("a - b", "((a) + (b))"),
        ("root / name", None),
        ("1", "2"),
        ("4096", "8192"),
        ("2.5", "5.0"),
        ("x = True", "x = False"),
        ("a if b else c", "(a)"),
        ("mx.eval(a)", "pass"),
        ("f(a, b)", "f(b, a)"),
        ("f(a, b=c)", "f(a)"),
        ("zip(a, b, strict=True)", "zip(b, a, strict=True)"),
        ("a.astype(b)", "(a)"),
        ("max(a)", "min(a)"),
        ("size.width", "size.height"),
        ("request.shift", "type(request)('').shift"),
        ("a[0]", "a[-1]"),
        ("(a, b)", "(a,)"),
        ("if a:\n    raise b", "if False:\n    raise b"),
        ("x: list[int] = a", None),
        ("raise RequestError('f', 1 + 2)", None),
    ],
)
def test_a_mistake_is_one_that_somebody_could_make(source: str, mistaken: str | None):
    if mistaken is None:
        assert changes(source) == set()
    else:
        assert mistaken in changes(source)


def test_every_mutant_can_be_read_by_python():
    for mutant in choose_mutants(150, seed=3):
        ast.parse(mutant.mistake.apply((ROOT / mutant.file).read_text(encoding="utf-8")))


def test_mutants_come_from_all_rooms_and_follow_from_the_seed():
    chosen = choose_mutants(200, seed=1)
    assert [mutant.key for mutant in chosen] == [mutant.key for mutant in choose_mutants(200, seed=1)]
    assert [mutant.key for mutant in chosen] != [mutant.key for mutant in choose_mutants(200, seed=2)]
    rooms = {path.name for path in (ROOT / "mlx_video").iterdir() if (path / "__init__.py").is_file()}
    assert {mutant.room for mutant in chosen} >= rooms
    assert len(chosen) >= 200


def test_the_quickest_tests_of_the_room_come_first_until_the_time_is_up():
    lines = {
        "mlx_video/media/a.py": {3: ["tests/runs/b.py::b", "tests/media/a.py::a", "tests/media/a.py::c"]}
    }
    reach = Reach(lines, {"tests/media/a.py::a": 3.0, "tests/media/a.py::c": 1.0, "tests/runs/b.py::b": 0.5})
    chosen = reach.tests_of("mlx_video/media/a.py", 2, 4, budget=10)
    assert chosen == ["tests/media/a.py::c", "tests/media/a.py::a", "tests/runs/b.py::b"]
    assert reach.tests_of("mlx_video/media/a.py", 2, 4, budget=2) == ["tests/media/a.py::c"]
    imported = reach.tests_of("mlx_video/media/a.py", 7, 7, budget=10)
    assert imported == ["tests/media/a.py::c", "tests/media/a.py::a"]


def test_tests_that_are_measured_later_come_to_the_others():
    reach = Reach({"a.py": {1: ["old"]}}, {"old": 1.0}).with_more(Reach({"a.py": {1: ["new"]}}, {"new": 2.0}))
    assert reach == Reach({"a.py": {1: ["new", "old"]}}, {"old": 1.0, "new": 2.0})


def test_every_reason_names_a_line_that_is_there():
    reasons = read_reasons()
    files = {key.partition(" ")[0] for key in reasons}
    keys = {
        mutant.key
        for file in files
        for mutant in find_mutants(file, (ROOT / file).read_text(encoding="utf-8"))
    }
    assert reasons.keys() <= keys


@pytest.mark.slow
def test_a_mutant_is_killed_where_a_test_looks_and_survives_where_none_does(tmp_path: Path):
    (mutant,) = (
        each
        for each in find_mutants("mlx_video/geometry.py", (ROOT / "mlx_video/geometry.py").read_text())
        if each.owner == "latent_frames"
        and each.mistake.kind == "arithmetic"
        and "1" in each.before
        and each.mistake.text.count("+") > each.before.count("+")
    )
    workplace = Workplace(tmp_path / "copy")
    assert outcome_of(workplace, mutant, "tests/test_geometry.py") == KILLED
    assert outcome_of(workplace, mutant, "tests/test_quoting.py") == SURVIVED


def outcome_of(workplace: Workplace, mutant: Mutant, tests: str) -> str:
    reach = Reach({mutant.file: {mutant.mistake.line: [tests]}}, {tests: 1.0})
    return workplace.try_mutant(mutant, reach, {}).state
