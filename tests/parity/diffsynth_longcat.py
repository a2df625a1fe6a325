"""LongCat-Video's transformer as DiffSynth-Studio has it."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from tests.parity.diffsynth_models import load_models

torch = pytest.importorskip("torch")


def load_longcat_module() -> Any:
    """The module, with attention in plain PyTorch."""
    (module,) = load_models("longcat_video_dit")
    # All is float32 here, which autocast of a CPU does not know.
    module.amp = SimpleNamespace(autocast=lambda *_, **__: nullcontext())
    return module


def empty_longcat(config: Any) -> Any:
    """Their transformer of our sizes."""
    return load_longcat_module().LongCatVideoTransformer3DModel(
        hidden_size=config.dim, depth=config.num_layers, num_heads=config.num_heads,
        caption_channels=config.text_dim, adaln_tembed_dim=config.time_dim,
        frequency_embedding_size=config.freq_dim,
    )  # fmt: skip


def build_longcat(config: Any, seed: int = 0) -> Any:
    """The same, filled so that every path counts."""
    torch.manual_seed(seed)
    model = empty_longcat(config)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=1.5 / parameter[0].numel() ** 0.5)
        else:
            torch.nn.init.normal_(parameter, mean=float("norm" in name and "weight" in name), std=0.1)
    return model.eval().requires_grad_(False)
