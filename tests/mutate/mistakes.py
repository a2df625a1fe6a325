"""Realistic mistakes: for a place in a syntax tree, what somebody could have written there instead."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

# What is mistaken for what.
COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==",
    ast.Is: "is not", ast.IsNot: "is", ast.In: "not in", ast.NotIn: "in",
}  # fmt: skip
ARITHMETIC: dict[type[ast.operator], str] = {
    ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.FloorDiv: "*", ast.Div: "*", ast.Mod: "*",
}  # fmt: skip
NAMES = {
    "min": "max", "max": "min", "any": "all", "all": "any", "first": "last", "low": "high", "high": "low",
    "height": "width", "width": "height", "float32": "bfloat16", "cos": "sin", "sin": "cos",
}  # fmt: skip
# What is written for people, or for type checkers: no test need hold every word of it.
FOR_PEOPLE = ("Error", "Notice", "option", "cast", "TypeVar", "dedent", "help", "repr")


@dataclass(frozen=True, slots=True)
class Mistake:
    """A change of the text between two places of a line-based source.

    Attributes:
        line, column: where the text begins; columns count bytes, as syntax trees do.
        end_line, end_column: where it ends.
        text: what stands there then.
        kind: in a word.
    """

    line: int
    column: int
    end_line: int
    end_column: int
    text: str
    kind: str

    def apply(self, source: str) -> str:
        """The source with the mistake."""
        lines = source.encode().splitlines(keepends=True)
        before = lines[self.line - 1][: self.column]
        after = lines[self.end_line - 1][self.end_column :]
        changed = before + self.text.encode() + after
        return b"".join((*lines[: self.line - 1], changed, *lines[self.end_line :])).decode()


def find_mistakes(source: str) -> Iterator[Mistake]:
    """All mistakes that the tables and functions of this module know for a source, in its order."""
    tree = ast.parse(source)
    for node in _walk(tree):
        for make in _MAKERS.get(type(node), ()):
            for kind, place, text in make(node):
                assert place.end_lineno is not None
                assert place.end_col_offset is not None
                yield Mistake(
                    place.lineno, place.col_offset, place.end_lineno, place.end_col_offset, text, kind
                )


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a tree that do something when a program runs, and that say it to no person."""
    if _is_left_out(node):
        return
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "bases", "type_params"):
            continue
        for child in value if isinstance(value, list) else (value,):
            if isinstance(child, ast.AST):
                yield from _walk(child)


def _is_left_out(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        name = ast.unparse(node.func).rpartition(".")[2]
        return name.endswith(FOR_PEOPLE)
    if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "__name__ == '__main__'"):
        return True
    if isinstance(node, ast.FunctionDef) and node.name in ("__repr__", "__str__", "_repr_html_"):
        return True
    if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).startswith("__"):
        return True
    return isinstance(node, (ast.JoinedStr, ast.Import, ast.ImportFrom, ast.Assert))


Found = Iterator[tuple[str, ast.expr | ast.stmt, str]]


def _compare(node: ast.Compare) -> Found:
    if len(node.ops) == 1:
        left, right = ast.unparse(node.left), ast.unparse(node.comparators[0])
        yield "comparison", node, f"({left} {COMPARISONS[type(node.ops[0])]} {right})"


def _logic(node: ast.BoolOp) -> Found:
    word = " or " if isinstance(node.op, ast.And) else " and "
    yield "logic", node, f"({word.join(f'({ast.unparse(value)})' for value in node.values)})"
    if len(node.values) > 1:
        yield "left out of a condition", node, f"({ast.unparse(node.values[0])})"


def _negation(node: ast.UnaryOp) -> Found:
    if isinstance(node.op, (ast.Not, ast.USub)):
        yield "sign", node, f"({ast.unparse(node.operand)})"


def _arithmetic(node: ast.BinOp) -> Found:
    is_text = any(isinstance(side, (ast.JoinedStr, ast.List)) for side in (node.left, node.right))
    is_text |= any(
        isinstance(side, ast.Constant) and isinstance(side.value, str) for side in (node.left, node.right)
    )
    is_path = isinstance(node.op, ast.Div) and re.search("path|folder|root|parent", ast.unparse(node))
    if type(node.op) in ARITHMETIC and not is_text and not is_path:
        left, right = ast.unparse(node.left), ast.unparse(node.right)
        yield "arithmetic", node, f"(({left}) {ARITHMETIC[type(node.op)]} ({right}))"


def _number(node: ast.Constant) -> Found:
    if isinstance(node.value, bool):
        yield "switch", node, repr(not node.value)
    elif isinstance(node.value, int):
        # Nobody is off by one at a limit of thousands.
        yield "off by one", node, repr(node.value + 1 if node.value < 100 else 2 * node.value)
    elif isinstance(node.value, float):
        yield "number", node, repr(node.value * 2 or 0.5)


def _condition(node: ast.If) -> Found:
    if not all(isinstance(each, ast.Raise) for each in node.body):
        yield "never so", node.test, "False"
    else:
        yield "check left out", node.test, "False"


def _choice(node: ast.IfExp) -> Found:
    yield "one of two", node, f"({ast.unparse(node.body)})"
    yield "one of two", node, f"({ast.unparse(node.orelse)})"


def _statement(node: ast.Expr) -> Found:
    if isinstance(node.value, ast.Call):
        yield "call left out", node, "pass"


def _call(node: ast.Call) -> Found:
    function = ast.unparse(node.func)
    given = [ast.unparse(each) for each in node.args]
    named = [
        f"{each.arg}={ast.unparse(each.value)}" if each.arg else f"**{ast.unparse(each.value)}"
        for each in node.keywords
    ]
    if len(given) >= 2 and all(isinstance(each, (ast.Name, ast.Attribute)) for each in node.args[:2]):
        swapped = [given[1], given[0], *given[2:]]
        yield "arguments swapped", node, f"{function}({', '.join((*swapped, *named))})"
    for index, keyword in enumerate(node.keywords):
        if keyword.arg == "strict":  # of zip(): says what holds anyway
            continue
        rest = (*given, *named[:index], *named[index + 1 :])
        yield "option left out", node, f"{function}({', '.join(rest)})"
    if isinstance(node.func, ast.Attribute) and node.func.attr == "astype":
        yield "cast left out", node, f"({ast.unparse(node.func.value)})"


def _name(node: ast.Name) -> Found:
    if isinstance(node.ctx, ast.Load) and node.id in NAMES:
        yield "name", node, NAMES[node.id]


def _attribute(node: ast.Attribute) -> Found:
    owner = ast.unparse(node.value)
    if isinstance(node.ctx, ast.Load) and node.attr in NAMES:
        yield "name", node, f"{owner}.{NAMES[node.attr]}"
    elif isinstance(node.ctx, ast.Load) and owner.rpartition(".")[2] in ("request", "settings", "options"):
        yield (
            "option ignored",
            node,
            f"type({owner})('').{node.attr}" if owner.endswith("request") else "None",
        )


def _sequence(node: ast.Tuple) -> Found:
    holds_slices = any(isinstance(each, ast.Slice) for each in node.elts)
    if isinstance(node.ctx, ast.Load) and len(node.elts) > 1 and not holds_slices:
        yield "item left out", node, f"({', '.join(map(ast.unparse, node.elts[:-1]))},)"


def _subscript(node: ast.Subscript) -> Found:
    if isinstance(node.slice, ast.Constant) and node.slice.value in (0, -1):
        yield "other end", node, f"{ast.unparse(node.value)}[{-1 - node.slice.value}]"


_MAKERS: dict[type[ast.AST], tuple[Callable[..., Found], ...]] = {
    ast.Compare: (_compare,),
    ast.BoolOp: (_logic,),
    ast.UnaryOp: (_negation,),
    ast.BinOp: (_arithmetic,),
    ast.Constant: (_number,),
    ast.If: (_condition,),
    ast.IfExp: (_choice,),
    ast.Expr: (_statement,),
    ast.Call: (_call,),
    ast.Name: (_name,),
    ast.Attribute: (_attribute,),
    ast.Tuple: (_sequence,),
    ast.Subscript: (_subscript,),
}
