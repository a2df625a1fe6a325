"""Why a weight would not be finite with an adapter."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from mlx_video.errors import AdapterError
from mlx_video.lora.changes import Change
from mlx_video.weights.stream import is_finite


def name_files(changes: Sequence[Change]) -> str:
    """The files that changes come from, for a message."""
    return ", ".join(dict.fromkeys(change.file.label for change in changes))


def explain_non_finite(name: str, changes: Sequence[Change], dtype: mx.Dtype) -> AdapterError:
    """Read the tensors again to tell a damaged file from a strength too high for a dtype.

    Args:
        name: the parameter that would not be finite.
        changes: what was applied to it.
        dtype: it would have been stored in.
    """
    for change in changes:
        for tensor in change.tensors:
            if not is_finite(change.file.read(tensor)):
                return AdapterError(
                    f"{change.file.label}: {tensor} contains numbers that are NaN or infinite: the file is "
                    "damaged. Download it again."
                )
    spelled = str(dtype).removeprefix("mlx.core.")
    return AdapterError(
        f"{name}: exceeds the range of {spelled} with {name_files(changes)}. Lower the strength; 1 is usual."
    )
