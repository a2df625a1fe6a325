"""LongCat-Video's transformer as DiffSynth-Studio has it, loaded without what its package imports besides."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
_PACKAGES = ("diffsynth", "diffsynth.core", "diffsynth.models", "diffsynth.utils", "diffsynth.configs")


@contextmanager
def _bare_packages() -> Iterator[None]:
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


def load_longcat_module() -> Any:
    """The module, with attention in plain PyTorch."""
    with _bare_packages():
        module = importlib.import_module("diffsynth.models.longcat_video_dit")
    module.flash_attention = _attend
    # All is float32 here, which autocast of a CPU does not know.
    module.amp = SimpleNamespace(autocast=lambda *_, **__: nullcontext())
    return module


def _attend(q: Any, k: Any, v: Any, num_heads: int, **_: object) -> Any:
    q, k, v = (part.unflatten(-1, (num_heads, -1)).transpose(1, 2) for part in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def build_longcat(config: Any, seed: int = 0) -> Any:
    """Their transformer of our sizes, filled so that every path counts."""
    torch.manual_seed(seed)
    model = load_longcat_module().LongCatVideoTransformer3DModel(
        hidden_size=config.dim, depth=config.num_layers, num_heads=config.num_heads,
        caption_channels=config.text_dim, adaln_tembed_dim=config.time_dim,
        frequency_embedding_size=config.freq_dim,
    )  # fmt: skip
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=1.5 / parameter[0].numel() ** 0.5)
        else:
            torch.nn.init.normal_(parameter, mean=float("norm" in name and "weight" in name), std=0.1)
    return model.eval().requires_grad_(False)
