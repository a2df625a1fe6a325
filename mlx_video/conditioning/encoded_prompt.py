"""A prompt that is encoded already, as a value for any number of calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import mlx.core as mx

_SHOWN_LENGTH = 60


@dataclass(frozen=True, slots=True, eq=False)
class EncodedPrompt:
    """Text features of a prompt and its negative prompt, for every model with the same text encoder.

    Attributes:
        prompt: as it was given.
        negative_prompt: as it was given; None for the model's own.
        texts: both as they were encoded.
        features: token numbers of a text → [n, dim].
        encoder: stands for the text encoder's weights and sizes.
        model: folder whose text encoder it was.
    """

    prompt: str
    negative_prompt: str | None
    texts: tuple[str, ...]
    features: Mapping[tuple[int, ...], mx.array]
    encoder: str
    model: Path

    @property
    def nbytes(self) -> int:
        """Bytes of the features."""
        return sum(features.nbytes for features in self.features.values())

    def load(self, numbers: Sequence[int]) -> mx.array | None:
        """Features [n, dim] of a text given as its token numbers; None for one that is not among them."""
        return self.features.get(tuple(numbers))

    def store(self, numbers: Sequence[int], features: mx.array) -> None:
        """Nothing is added to a value."""

    def __repr__(self) -> str:
        text = self.prompt if len(self.prompt) <= _SHOWN_LENGTH else f"{self.prompt[: _SHOWN_LENGTH - 1]}…"
        tokens = " + ".join(str(len(numbers)) for numbers in self.features)
        return f"EncodedPrompt({text!r}, {tokens} tokens, {self.nbytes / 1e6:.2f} MB, of {self.model.name})"

    def _repr_html_(self) -> str:
        return f"<div>{escape(repr(self))}</div>"
