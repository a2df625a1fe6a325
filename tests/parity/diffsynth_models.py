"""Models of DiffSynth-Studio, loaded without what its package imports besides."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

torch = pytest.importorskip("torch")
_ROOMS = ("core", "models", "utils", "configs", "diffusion")
_PACKAGES = ("diffsynth", *(f"diffsynth.{room}" for room in _ROOMS))


@contextmanager
def bare_diffsynth() -> Iterator[None]:
    """Packages without their `__init__`, which imports training and video libraries."""
    spec = importlib.util.find_spec("diffsynth")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("diffsynth is not installed")
    root = Path(spec.submodule_search_locations[0])
    kept = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "diffsynth"}
    for name in kept:
        del sys.modules[name]
    for name in _PACKAGES:
        module = ModuleType(name)
        module.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = module
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "diffsynth"]:
            del sys.modules[name]
        sys.modules.update(kept)


def load_models(*names: str) -> list[Any]:
    """Modules of `diffsynth.models`, with attention in plain PyTorch."""
    with bare_diffsynth():
        modules = [importlib.import_module(f"diffsynth.models.{name}") for name in names]
    for module in modules:
        module.flash_attention = attend
    return modules


def load_losses() -> tuple[Any, Any]:
    """Modules `loss` and `flow_match` of `diffsynth.diffusion`, without its pipelines."""
    pipelines = ModuleType("diffsynth.diffusion.base_pipeline")
    pipelines.BasePipeline = object  # type: ignore[attr-defined]
    with bare_diffsynth():
        sys.modules[pipelines.__name__] = pipelines
        loss, flow_match = (
            importlib.import_module(f"diffsynth.diffusion.{name}") for name in ("loss", "flow_match")
        )
    return loss, flow_match


def attend(q: Any, k: Any, v: Any, num_heads: int, **_: object) -> Any:
    """Attention of [B, L, N·D] in all heads."""
    q, k, v = (part.unflatten(-1, (num_heads, -1)).transpose(1, 2) for part in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
