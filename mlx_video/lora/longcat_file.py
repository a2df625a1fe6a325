"""LongCat-Video's adapters: names with hyphens spelt out, scales of their own, layers trained in parts.

Source: meituan-longcat/LongCat-Video longcat_video/modules/lora_utils.py, LoRANetwork.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx

from mlx_video.errors import CheckpointError
from mlx_video.formats.tensor_source import TensorInfo, TensorSource, TensorView

HYPHEN = "___lorahyphen___"
"""Stands for the dots in a layer's name."""
_PREFIX = "lora."
_SCALE = ".alpha_scale"
_PART = re.compile(r"(?P<layer>.+)\.lora_up\.blocks\.(?P<number>\d+)\.weight")


def is_longcat_file(source: TensorSource) -> bool:
    """Whether a file has names as this model's adapters do."""
    return any(HYPHEN in name for name in source.infos)


class LongCatAdapter(TensorView):
    """A `TensorSource` of an adapter under Kohya's names.

    A layer trained in parts, such as one for queries, keys and values, has a narrow matrix for each: `down`
    holds their rows one below the other, and `up` lies in parts that fill the blocks of a diagonal. The
    stored scale becomes an alpha of as much.

    Args:
        source: closed with this one.

    Raises:
        CheckpointError: a layer lacks a part.
    """

    def __init__(self, source: TensorSource) -> None:
        super().__init__(source)
        self._source = source
        self._stored: dict[str, str] = {}
        self._parts: dict[str, list[str]] = {}
        for name in source.infos:
            plain = name.replace(HYPHEN, ".").removeprefix(_PREFIX)
            if part := _PART.fullmatch(plain):
                self._parts.setdefault(f"{part['layer']}.lora_up.weight", []).append(name)
            elif plain.endswith(_SCALE):
                self._stored[f"{plain.removesuffix(_SCALE)}.alpha"] = name
            else:
                self._stored[plain] = name
        for names in self._parts.values():
            names.sort(key=lambda name: int(name.split(".")[-2]))
        self.infos: Mapping[str, TensorInfo] = {
            **{name: TensorInfo(name, self._shape(name), source.infos[old].dtype, old)
               for name, old in self._stored.items()},
            **{name: self._describe(name) for name in self._parts},
        }  # fmt: skip

    def _shape(self, name: str) -> tuple[int, ...]:
        return self._source.infos[self._stored[name]].shape

    def _describe(self, name: str) -> TensorInfo:
        parts = [self._source.infos[part] for part in self._parts[name]]
        down = self._find_down(name)
        if (
            any(len(part.shape) != 2 for part in parts)
            or sum(part.shape[1] for part in parts) != down.shape[0]
        ):
            raise CheckpointError(
                f"{self.label}: {parts[0].name} and the other parts of its layer, {len(parts)} in all, do "
                f"not fit {down.name} {list(down.shape)}. The file is damaged; download it again."
            )
        shape = (sum(part.shape[0] for part in parts), down.shape[0])
        return TensorInfo(name, shape, parts[0].dtype, ", ".join(part.name for part in parts))

    def _find_down(self, up: str) -> TensorInfo:
        """The other matrix of a layer."""
        stored = self._stored.get(up.replace(".lora_up.", ".lora_down."))
        if stored is None:
            raise CheckpointError(
                f"{self.label}: {self._parts[up][0]} has no lora_down beside it. The file is damaged; "
                "download it again."
            )
        return self._source.infos[stored]

    def file_of(self, name: str) -> Path:
        """The file that holds a tensor."""
        return self._source.file_of(self._stored[name] if name in self._stored else self._parts[name][0])

    def read(self, name: str, rows: slice | None = None) -> mx.array:
        """Read a tensor, or rows of it."""
        if name in self._parts:
            whole = self._read_up(name)
        elif name.endswith(".alpha"):
            scale = self._source.read(self._stored[name]).astype(mx.float32)
            down = self._stored[f"{name.removesuffix('.alpha')}.lora_down.weight"]
            whole = scale * self._source.infos[down].shape[0]
        else:
            return self._source.read(self._stored[name], rows)
        return whole if rows is None else whole[rows]

    def _read_up(self, name: str) -> mx.array:
        """The parts along a diagonal."""
        columns, begin, filled = self.infos[name].shape[1], 0, []
        for part in map(self._source.read, self._parts[name]):
            end = begin + part.shape[1]
            filled.append(mx.pad(part, [(0, 0), (begin, columns - end)]))
            begin = end
        return mx.concatenate(filled)
