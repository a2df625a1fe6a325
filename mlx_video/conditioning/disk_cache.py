"""Encoded prompts kept between runs, so that a prompt of an earlier run needs no text encoder."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import mlx.core as mx
import numpy as np

from mlx_video import __version__
from mlx_video.config import TextEncoderConfig
from mlx_video.errors import CheckpointError, MediaError
from mlx_video.files.cache_folder import cache_folder
from mlx_video.files.whole_file import written_whole
from mlx_video.formats.fingerprint import fingerprint_weights
from mlx_video.formats.safetensors import SafetensorsFile
from mlx_video.models.dispatch import current_limits, device_facts
from mlx_video.models.elementwise import is_compile_enabled, on_gpu

TENSOR_NAME = "context"
DIGEST_NAME = "sha256"
# About a hundred of the longest prompts.
MAX_BYTES = 512 * 10**6
_SUFFIX = ".safetensors"
_ABANDONED_SECONDS = 3600


class TextStore(Protocol):
    """Where encoded texts may be found, and are kept."""

    def load(self, numbers: Sequence[int]) -> mx.array | None:
        """Features [n, dim] of a text given as its token numbers; None where they are not here."""

    def store(self, numbers: Sequence[int], features: mx.array) -> None:
        """Keep the features of a text."""


@dataclass(frozen=True, slots=True)
class PromptCache:
    """Features of prompts on disk, each in a file of its own. The texts themselves are not kept.

    What is stored is exactly what the encoder gave. Several programs may use the folder at once: a file
    appears complete or not at all.

    Attributes:
        folder: made when something is stored.
        encoder: everything besides the tokens that decides the features, from :func:`describe_encoder`.
        dim: numbers per token.
        max_bytes: of all files; beyond it the ones not used for longest are removed. None removes none.
    """

    folder: Path
    encoder: str
    dim: int
    max_bytes: int | None = MAX_BYTES

    def load(self, numbers: Sequence[int]) -> mx.array | None:
        """Find the features of a prompt.

        Args:
            numbers: all its tokens.

        Returns:
            [n, dim] as they were stored; None where they are not, or the file is damaged.
        """
        path = self.path_of(numbers)
        try:
            with SafetensorsFile(path) as file:
                features, digest = file.read(TENSOR_NAME), file.metadata.get(DIGEST_NAME)
        except (CheckpointError, KeyError, OSError):
            return None
        if features.shape != (len(numbers), self.dim) or digest != _digest(features):
            return None
        with suppress(OSError):
            os.utime(path)  # so that the files not used for longest can be told
        return features

    def store(self, numbers: Sequence[int], features: mx.array) -> None:
        """Keep the features of a prompt, in place of damaged ones.

        Args:
            numbers: all its tokens.
            features: [n, dim].

        Raises:
            MediaError: the folder takes no files, or the disk is full.
        """
        path = self.path_of(numbers)
        try:
            with written_whole(path) as temporary:
                metadata = {DIGEST_NAME: _digest(features)}
                mx.save_safetensors(str(temporary), {TENSOR_NAME: features}, metadata)
        except RuntimeError as error:  # how MLX reports a full disk
            raise MediaError(f"{path}: cannot be written ({error}). Check the free space.") from error
        if self.max_bytes is not None:
            self._remove_oldest(self.max_bytes)

    def path_of(self, numbers: Sequence[int]) -> Path:
        """The file of a prompt, which need not exist."""
        key = hashlib.sha256(json.dumps([self.encoder, list(numbers)]).encode()).hexdigest()
        return self.folder / f"{key}{_SUFFIX}"

    def _remove_oldest(self, max_bytes: int) -> None:
        newest_first = sorted(self._files(), key=lambda entry: entry[1].st_mtime, reverse=True)
        total = 0
        for path, status in newest_first:
            total += status.st_size
            # Hidden files are another program's that is writing; old ones were left by one that was killed.
            is_writing = path.name.startswith(".")
            age = time.time() - status.st_mtime
            if age > _ABANDONED_SECONDS if is_writing else total > max_bytes:
                with suppress(OSError):
                    path.unlink()

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for path in self.folder.glob(f"*{_SUFFIX}"):
            with suppress(FileNotFoundError):  # another program was quicker
                yield path, path.stat()


def open_prompt_cache(weights: Path, config: TextEncoderConfig) -> PromptCache:
    """The user's cache of encoded prompts, for one text encoder.

    Args:
        weights: the encoder's safetensors file.
        config: its sizes.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    return PromptCache(cache_folder() / "prompts", describe_encoder(weights, config), config.dim)


def identify_encoder(weights: Path, config: TextEncoderConfig) -> str:
    """The text encoder itself, wherever its file lies: samples of every tensor, and its sizes.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    return json.dumps([fingerprint_weights(weights), asdict(config)], sort_keys=True)


def describe_encoder(weights: Path, config: TextEncoderConfig) -> str:
    """Everything besides the tokens that decides the features, to the last bit.

    The tokenizer is not part of it: features are kept for token numbers, after cleaning and cutting. The
    weights count with samples of every tensor, which training, merging and rounding change all over, and with
    the time of their file's last change, which tells an edit of a few rows in place.

    Args:
        weights: the encoder's safetensors file.
        config: its sizes.
    """
    limits = current_limits()
    parts = {
        "weights": [fingerprint_weights(weights), weights.stat().st_mtime_ns],
        "config": asdict(config),
        "versions": [__version__, mx.__version__],  # type: ignore[attr-defined]
        "device": device_facts().get("architecture", "") if on_gpu() else "cpu",
        "tf32": os.environ.get("MLX_ENABLE_TF32", ""),
        "fallbacks": [is_compile_enabled(), limits.fused_attention, limits.quantized_matmul],
    }
    return json.dumps(parts, sort_keys=True)


def _digest(features: mx.array) -> str:
    """Of the bytes and their type, so that a damaged file is told from a whole one."""
    data = np.array(features.view(mx.uint8), copy=False)
    return hashlib.sha256(str(features.dtype).encode() + data.tobytes()).hexdigest()
