"""One adapter's tensors: described at once, read when a layer is changed."""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Mapping
from functools import cached_property
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_video.errors import AdapterError
from mlx_video.files.hub_cache import published_name
from mlx_video.files.unusable_paths import explain_missing, is_dangling
from mlx_video.formats.fingerprint import fingerprint_weights, stamp_files
from mlx_video.formats.safetensors import SafetensorsFile
from mlx_video.formats.tensor_source import TensorInfo, open_tensors
from mlx_video.layouts.adapter_folder import ADAPTER_CONFIG, ADAPTER_FILES, adapter_candidates
from mlx_video.lora.longcat_file import LongCatAdapter, is_longcat_file


class AdapterFile:
    """The tensors of one adapter.

    The file stays open while this object lives, so that streamed layers can be changed again and again.

    Args:
        path: a safetensors or torch file, or the folder of a PEFT or Diffusers adapter.

    Attributes:
        label: what messages call it.
        infos: name → shape and dtype.
        metadata: the texts in a safetensors header; empty for other files.
        config_path: PEFT's description beside the file; None without one.

    Raises:
        AdapterError: there is no such file, or the folder holds none that is known as an adapter.
        CheckpointError: the file is damaged or of an unknown format.
    """

    def __init__(self, path: Path) -> None:
        file = _find_file(path)
        self.label = published_name(path) or str(path)
        source = open_tensors(file)
        weakref.finalize(self, source.close)
        self._source = LongCatAdapter(source) if is_longcat_file(source) else source
        self.infos: Mapping[str, TensorInfo] = self._source.infos
        self.metadata = source.metadata if isinstance(source, SafetensorsFile) else {}
        config = file.with_name(ADAPTER_CONFIG)
        self.config_path = config if file.name in ADAPTER_FILES and config.is_file() else None
        self._path, self._stamp = file, stamp_files(file)
        self._kept: dict[str, mx.array] = {}

    @cached_property
    def identity(self) -> Hashable:
        """What no file has that holds other tensors, nor this one once it is written anew."""
        return self._stamp, fingerprint_weights(self._path)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor as stored."""
        return self.infos[name].shape

    def read(self, name: str, *, keep: bool = False) -> mx.array:
        """Read a tensor as stored; float64 comes as float32.

        Args:
            name: a key of `infos`.
            keep: hold it in memory for the next time.
        """
        array = self._kept.get(name)
        if array is None:
            array = self._source.read(name)
            if keep:
                self._kept[name] = array
        return array

    def is_zero(self, name: str) -> bool:
        """Whether a tensor is zero throughout; of most others the first row tells enough.

        Args:
            name: a key of `infos`.
        """
        if len(self.shape(name)) > 1 and mx.any(self._source.read(name, slice(0, 1)) != 0).item():
            return False
        return not mx.any(self._source.read(name) != 0).item()

    def read_number(self, name: str) -> float:
        """Read a tensor of one element.

        Raises:
            AdapterError: it has none or several, or the number is not finite.
        """
        array = self.read(name)
        values = np.array(array.astype(mx.float32)).reshape(-1)
        if values.size != 1 or not np.isfinite(values[0]):
            found = values[0] if values.size == 1 else f"{values.size} numbers"
            raise AdapterError(
                f"{self.label}: {name} holds {found} instead of one finite number. "
                "The file is damaged; download it again."
            )
        return float(values[0])

    def read_shape(self, name: str) -> tuple[int, ...]:
        """Read a tensor that states the shape of another.

        Raises:
            AdapterError: its numbers are no sizes.
        """
        values = np.array(self.read(name).astype(mx.float32)).reshape(-1)
        if not values.size or not all(np.isfinite(values) & (values >= 1) & (values % 1 == 0)):
            raise AdapterError(
                f"{self.label}: {name} holds {values.tolist()} instead of a shape. The file is damaged; "
                "download it again."
            )
        return tuple(map(int, values))


def _find_file(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        reason = explain_missing(path, "there is no such adapter file. Check the path.")
        raise AdapterError(f"{path}: {reason}")
    # A dangling link counts, so that it is named and no other adapter is taken in its place.
    files = (file.name for file in path.iterdir() if file.is_file() or is_dangling(file))
    found = adapter_candidates(list(files))
    if len(found) == 1:
        return path / found[0]
    held = f"holds {', '.join(found)}" if found else "holds no safetensors file"
    raise AdapterError(f"{path}: the folder {held}. Give the path of one adapter file.")
