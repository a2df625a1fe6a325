"""The official Wan modules (PyPI package wan22), imported without the parts that need a GPU."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType

import numpy as np
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
        _make_namespace("wan.modules.animate", f"{root}/modules/animate")
        _make_namespace("wan.modules.s2v", f"{root}/modules/s2v")
        _make_namespace("wan.distributed", f"{root}/distributed")
        _make_namespace("wan.utils", f"{root}/utils")
        torch.cuda.current_device = lambda: "cpu"  # t5.py asks at import time
    module = importlib.import_module(f"wan.modules.{name}")
    for function in ("flash_attention", "attention"):
        if hasattr(module, function):
            setattr(module, function, exact_attention)
    return module


def speech_module(name: str) -> ModuleType:
    """Import `wan.modules.s2v.<name>`, with the attention of all modules that it takes classes from."""
    for other in ("attention", "model", "s2v.motioner"):
        wan_module(other)
    return wan_module(f"s2v.{name}")


def clip_module() -> ModuleType:
    """Wan2.1's clip.py, which the package keeps beside its Animate model."""
    wan_module("t5")  # and with it what must not see the stand-ins
    with stand_ins():
        return wan_module("animate.clip")


def wan_pipeline(name: str) -> ModuleType:
    """Import `wan.<name>`, such as text2video, with its loop silent."""
    for module in ("model", "t5", "vae2_1", "vae2_2"):
        wan_module(module)
    for module in ("fm_solvers", "fm_solvers_unipc"):
        importlib.import_module(f"wan.utils.{module}")
    with stand_ins():
        pipeline = importlib.import_module(f"wan.{name}")
    pipeline.tqdm = iter
    return pipeline


@contextmanager
def stand_ins() -> Iterator[None]:
    """While official files are imported: packages of which they use one function at most."""
    names = ("imageio", "torchvision", "torchvision.transforms", "torchvision.transforms.functional")
    modules = {name: ModuleType(name) for name in names}
    modules["torchvision"].transforms = modules["torchvision.transforms"]
    modules["torchvision.transforms"].functional = modules["torchvision.transforms.functional"]
    modules["torchvision.transforms.functional"].to_tensor = to_tensor
    with pytest.MonkeyPatch.context() as patch:
        for module_name, module in modules.items():
            patch.setitem(sys.modules, module_name, module)
        yield


def to_tensor(picture):
    """A Pillow image as [3, H, W] in [0, 1], as torchvision's function of this name makes it."""
    import torch

    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous().float().div(255)
