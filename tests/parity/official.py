"""The official Wan modules (PyPI package wan22), imported without the parts that need a GPU."""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from types import ModuleType

import pytest


def exact_attention(q, k, v, q_lens=None, k_lens=None, **_):
    """Plain softmax attention in the inputs' dtype; every key up to `k_lens` counts."""
    import torch

    if k_lens is not None:
        k, v = k[:, : int(k_lens.max())], v[:, : int(k_lens.max())]
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    return out.transpose(1, 2).contiguous()


def _make_namespace(name: str, folder: str) -> None:
    """Register an empty package so that its real __init__ (CUDA, torchvision) never runs."""
    if name not in sys.modules:
        package = ModuleType(name)
        package.__path__ = [folder]
        sys.modules[name] = package


def wan_module(name: str) -> ModuleType:
    """Import `wan.modules.<name>`; skips the test where the package is not installed."""
    torch = pytest.importorskip("torch")
    spec = find_spec("wan") if "wan" not in sys.modules else sys.modules["wan"].__spec__
    if "wan" not in sys.modules:
        if spec is None or not spec.submodule_search_locations:
            pytest.skip("the reference package wan22 is not installed")
        root = spec.submodule_search_locations[0]
        _make_namespace("wan", root)
        _make_namespace("wan.modules", f"{root}/modules")
        _make_namespace("wan.utils", f"{root}/utils")
        torch.cuda.current_device = lambda: "cpu"  # t5.py asks at import time
    module = importlib.import_module(f"wan.modules.{name}")
    for function in ("flash_attention", "attention"):
        if hasattr(module, function):
            setattr(module, function, exact_attention)
    return module
