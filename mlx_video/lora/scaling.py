"""How strongly a file's pairs count where no alpha lies beside them: what its metadata says."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mlx_video.errors import AdapterError
from mlx_video.layouts.components import Expert
from mlx_video.lora.adapter_file import AdapterFile
from mlx_video.lora.dialects import FIRST_TRANSFORMER

MOST_REPETITIONS = 4
"""Of parts of a pattern of layers' names."""
PEFT_KEY = "lora_adapter_metadata"
KOHYA_KEY = "ss_network_alpha"
# Before the settings of one transformer, as before its tensors.
_HIGH, _LOW = (FIRST_TRANSFORMER, "transformer_1."), "transformer_2."


@dataclass(frozen=True, slots=True)
class Scaling:
    """What a file says of its own scale.

    Attributes:
        alpha: of every pair without one of its own; None for the pair's rank.
        patterns: end of a layer's path → its alpha.
        by_root: the scale is alpha over the root of the rank.
        is_dora: every pair has magnitudes.
        source: where this stands, for the report; "" if nowhere.
    """

    alpha: float | None = None
    patterns: Mapping[str, float] = field(default_factory=dict)
    by_root: bool = False
    is_dora: bool = False
    source: str = ""

    def find_alpha(self, path: str) -> float | None:
        """The alpha of the layer at `path`, in the file's spelling; None for its rank."""
        for pattern, alpha in self.patterns.items():
            if _ends_like(path, pattern):
                return alpha
        return self.alpha

    def scale(self, alpha: float | None, rank: int) -> float:
        """Scale of a pair: alpha over its rank, or over the root of it. No alpha, or 0, stands for 1."""
        return alpha / (math.sqrt(rank) if self.by_root else rank) if alpha else 1.0


def _ends_like(path: str, pattern: str) -> bool:
    """Source: peft src/peft/utils/other.py, get_pattern_key."""
    try:
        return re.match(rf"(.*\.)?({pattern})$", path) is not None
    except (re.error, OverflowError, RecursionError):
        return path == pattern or path.endswith(f".{pattern}")


def read_scaling(file: AdapterFile, expert: Expert | None = None) -> Scaling:
    """Read a file's metadata, or the adapter_config.json beside it.

    Kohya's alpha counts only in a file with its own names of pairs and no alpha tensor at all: tools that
    convert such files keep the metadata, but have multiplied alpha into the factors.

    Raises:
        AdapterError: the PEFT metadata cannot be read.
    """
    if settings := _read_peft(file, expert):
        return _from_peft(settings, file)
    text = file.metadata.get(KOHYA_KEY)
    has_kohya_pairs = any(name.endswith(".lora_down.weight") for name in file.infos)
    if text is None or not has_kohya_pairs or any(name.endswith(".alpha") for name in file.infos):
        return Scaling()
    alpha = _as_number(text)
    return Scaling(alpha, source=KOHYA_KEY) if alpha else Scaling()


def _read_peft(file: AdapterFile, expert: Expert | None) -> Mapping[str, Any]:
    text: str | bytes | None = file.metadata.get(PEFT_KEY)
    place = f"metadata {PEFT_KEY}"
    if text is None and file.config_path is not None:
        text, place = file.config_path.read_bytes(), file.config_path.name
    if text is None:
        return {}
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict):
        raise AdapterError(
            f"{file.label}: {place} is no JSON object. The file is damaged; download it again."
        )
    return _without_prefixes(settings, expert)


def _without_prefixes(settings: Mapping[str, Any], expert: Expert | None) -> Mapping[str, Any]:
    """Settings by PEFT's own names: of one expert, where each has its own."""
    others = {"high_noise": (_LOW,), "low_noise": _HIGH}.get(expert or "", ())
    return {
        key.partition(".")[2] if key.startswith((*_HIGH, _LOW)) else key: value
        for key, value in settings.items()
        if not key.startswith(others)
    }


def _from_peft(settings: Mapping[str, Any], file: AdapterFile) -> Scaling:
    patterns = settings.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise AdapterError(
            f"{file.label}: alpha_pattern is no object. The file is damaged; download it again."
        )
    for pattern in filter(_takes_for_ever, patterns):
        raise AdapterError(
            f"{file.label}: alpha_pattern {pattern!r} repeats a group, or repeats often: to look for it can "
            "take for ever. Write the layers' names in its place."
        )
    alpha = settings.get("lora_alpha")
    return Scaling(
        alpha=None if alpha is None else _read_alpha(file, "lora_alpha", alpha),
        patterns={key: _read_alpha(file, f"alpha_pattern {key}", value) for key, value in patterns.items()},
        by_root=settings.get("use_rslora") is True,
        is_dora=settings.get("use_dora") is True,
        source=file.config_path.name if PEFT_KEY not in file.metadata and file.config_path else PEFT_KEY,
    )


def _takes_for_ever(pattern: str) -> bool:
    """Whether a pattern may be looked for in more ways than there is time for."""
    return bool(re.search(r"\)[*+?{]", pattern)) or len(re.findall(r"[*+{]", pattern)) > MOST_REPETITIONS


def _read_alpha(file: AdapterFile, name: str, value: object) -> float:
    """An alpha of the metadata.

    Raises:
        AdapterError: it is no finite number.
    """
    number = _as_number(value)
    if number is None:
        raise AdapterError(
            f"{file.label}: {name} is {value!r}, which is no finite number. Download it again."
        )
    return number


def _as_number(value: object) -> float | None:
    """A finite number, or the text of one; None for anything else."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
