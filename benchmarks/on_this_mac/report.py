"""What was measured, in words: lines for the terminal, and one row for an issue."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.on_this_mac.parts import PRODUCT, Scale

HEADER = (
    "machine", "products TFLOPS", "attention TFLOPS", "faster ways", "wrong", "× floor", "hidden", "plan",
    "commit",
)  # fmt: skip
CLEARLY = 1.1
"""How many times as fast a way must be to be named."""
WRONG_ABOVE = 0.1
# Rounds of every work, the warm-up among them, and the works beside the forward itself.
_ROUNDS, _WORKS = 6, 3

Part = Mapping[str, Any]


def estimate_minutes(name: str, scale: Scale, parts: Mapping[str, Part]) -> float | None:
    """How long the transformers may take at the rate of products; None for other parts."""
    rate = _rate(parts.get("operations", {}), PRODUCT)
    if name != "transformer" or not rate:
        return None
    t, h, w = scale.grid
    tokens, flops = t * h * w, 0.0
    for dim, ffn_dim, _, blocks in scale.widths.values():
        flops += blocks * tokens * (2 * (6 * dim * dim + 2 * dim * ffn_dim) + 4 * tokens * dim)
    return flops * _ROUNDS * _WORKS / (rate * 1e12) / 60


def _rate(part: Part, operation: str) -> float | None:
    """TFLOPS of an operation as usual."""
    ways = part.get("figures", {}).get(operation, {}).get("ways", ())
    return ways[0]["tflops"] if ways else None


def describe(name: str, part: Part) -> Iterator[str]:
    """A part's figures, a line each."""
    if "failure" in part:
        yield f"failed: {part['failure']}"
        return
    for what, figures in part["figures"].items():
        yield f"{what}: {_LINES[name](figures)}"
    yield f"took {part['seconds']:.0f} s"


def _describe_operation(figures: Part) -> str:
    usual, *others = figures["ways"]
    rate = f" ({usual['tflops']:.3g} TFLOPS)" if usual["tflops"] else ""
    text = f"{figures['size']}, {usual['ms']:.2f} ms{rate}{_mark(usual)}"
    for way in others:
        text += f"; {way['way']}: " + (way["failure"] or f"{way['ms']:.2f} ms{_mark(way)}")
    return text


def _mark(way: Part) -> str:
    return "" if way["error"] is not None and way["error"] < WRONG_ABOVE else " WRONG"


def _describe_times(figures: Part) -> str:
    seconds = figures.get("median_s") or figures.get("fused", figures.get("plain"))["median_s"]
    return f"{seconds:.3f} s, {figures['times_floor']:.2f} times its bare work"


def _describe_overlap(figures: Part) -> str:
    return f"{_hidden(figures)} of the reading hidden, {figures['gb_per_second']:.2f} GB/s read alone"


def _hidden(figures: Part) -> str:
    return "too little to tell" if figures["hidden"] is None else f"{figures['hidden']:.0%}"


def _describe_plan(figures: Part) -> str:
    planned, measured, ratio = (figures[key] for key in ("predicted_gb", "measured_gb", "ratio"))
    return f"{planned:.3f} GB planned, {measured:.3f} measured ({ratio:.2f})"


_LINES = {
    "operations": _describe_operation,
    "transformer": _describe_times,
    "VAEs": _describe_times,
    "streaming": _describe_overlap,
    "plans": _describe_plan,
}


def markdown_row(report: Mapping[str, Any]) -> str:
    """A table of one row."""
    parts = {name: part.get("figures", {}) for name, part in report["parts"].items()}
    operations = report["parts"].get("operations", {})
    times = [*parts.get("transformer", {}).items(), *parts.get("VAEs", {}).items()]
    cells = (
        report["device"],
        _number(_rate(operations, PRODUCT)),
        _number(_rate(operations, "attention among tokens")),
        ", ".join(_faster_ways(parts.get("operations", {}))) or "–",
        ", ".join(_wrong(parts.get("operations", {}))) or "–",
        ", ".join(f"{name} {figures['times_floor']:.2f}" for name, figures in times) or "–",
        ", ".join(f"{name} {_hidden(one)}" for name, one in parts.get("streaming", {}).items()) or "–",
        ", ".join(f"{name} {one['ratio']:.2f}" for name, one in parts.get("plans", {}).items()) or "–",
        report["commit"],
    )
    rule = "---|" * len(HEADER)
    return f"| {' | '.join(HEADER)} |\n|{rule}\n| {' | '.join(cells)} |"


def _number(value: float | None) -> str:
    return f"{value:.3g}" if value else "–"


def _faster_ways(operations: Mapping[str, Part]) -> Iterator[str]:
    """The fastest way of each operation, where it is clearly faster than the usual one."""
    for name, figures in operations.items():
        usual = figures["ways"][0]
        right = [way for way in figures["ways"] if not way["failure"] and not _mark(way)]
        fastest = min(right, key=lambda way: way["ms"], default=usual)
        if usual["ms"] >= CLEARLY * fastest["ms"]:
            yield f"{name}, {fastest['way']}: {usual['ms'] / fastest['ms']:.2g}×"


def _wrong(operations: Mapping[str, Part]) -> Iterator[str]:
    return (name for name, figures in operations.items() if _mark(figures["ways"][0]))
