"""One layer's tensors in an adapter, put together and checked against the layer by their shapes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from mlx_video.errors import AdapterError
from mlx_video.formats.tensor_source import FLOAT_DTYPES
from mlx_video.lora.adapter_file import AdapterFile
from mlx_video.lora.changes import Change, Delta, Full, Hadamard, Kronecker, LowRank, is_column_magnitude
from mlx_video.lora.dialects import UNSUPPORTED
from mlx_video.lora.scaling import Scaling
from mlx_video.lora.widening import PATCH_EMBEDDING
from mlx_video.weights.names.adapter_names import Role
from mlx_video.weights.names.transformer_names import PATCH_CELLS
from mlx_video.weights.rules import Shape

# Channels that tell the published transformers apart.
SIZES = {1536: "Wan 1.3B", 3072: "Wan 5B", 5120: "Wan 14B"}
NO_ALPHA = "none"
OWN_ALPHA = "in the file"

_LOHA: tuple[Role, Role, Role, Role] = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
_LOKR: tuple[tuple[Role, Role, Role], ...] = (
    ("lokr_w1", "lokr_w1_a", "lokr_w1_b"),
    ("lokr_w2", "lokr_w2_a", "lokr_w2_b"),
)


@dataclass(frozen=True, slots=True)
class AdapterLayer:
    """What a file holds for one layer.

    Attributes:
        file: the adapter.
        path: the layer, in our spelling.
        spelled: the layer, in the file's.
        keys: role → name in the file.
        shapes: the transformer's parameters, dense.
    """

    file: AdapterFile
    path: str
    spelled: str
    keys: Mapping[Role, str]
    shapes: Mapping[str, Shape]

    @property
    def weight_name(self) -> str:
        """The layer's weight; a parameter that is no layer's stands for itself."""
        return self.path if self.path in self.shapes else f"{self.path}.weight"

    @property
    def weight_shape(self) -> Shape:
        """Shape of the dense weight."""
        return self.shapes[self.weight_name]

    def shape(self, role: Role) -> Shape:
        """Shape of a tensor of the file, as stored."""
        return self.file.shape(self.keys[role])

    def matrix(self, role: Role) -> tuple[int, int]:
        """Rows and columns of a tensor of the file; a convolution's kernel counts as columns."""
        shape = self.shape(role)
        if len(shape) < 2:
            self.refuse(f"{self.keys[role]} is {list(shape)}, no matrix", "The file is damaged.")
        return shape[0], math.prod(shape[1:])

    def refuse(self, what: str, cure: str) -> NoReturn:
        """Raise an error about this layer."""
        raise AdapterError(f"{self.file.label}: {self.path}: {what}. {cure}")


@dataclass(frozen=True, slots=True)
class LayerChanges:
    """What a file does to one layer.

    Attributes:
        changes: parameter → changes, in the order in which they are applied.
        alpha_source: where the scale's numerator stands; None where nothing has a rank.
    """

    changes: Mapping[str, tuple[Change, ...]]
    alpha_source: str | None


def input_channels(layer: AdapterLayer) -> tuple[int, int] | None:
    """Latent channels that the adapter and the model put into a token, where they differ.

    Adapters for image-to-video and control models take more than those for text-to-video.
    """
    if layer.path != PATCH_EMBEDDING:
        return None
    if "up" in layer.keys and layer.shape("up")[:1] != layer.weight_shape[:1]:
        return None  # of another width altogether
    roles: tuple[Role, ...] = ("down", "hada_w1_b", "diff", "set_weight")
    columns = {math.prod(layer.shape(role)[1:]) for role in roles if role in layer.keys}
    found, expected = (size // PATCH_CELLS for size in (max(columns, default=0), layer.weight_shape[1]))
    return (found, expected) if found not in (0, expected) else None


def build_changes(layer: AdapterLayer, scaling: Scaling, strength: float) -> LayerChanges:
    """Decide what a file does to a layer.

    Args:
        layer: its tensors.
        scaling: what the file's metadata say.
        strength: the user's.

    Raises:
        AdapterError: tensors are missing, of a kind that cannot be applied, or do not fit each other or the
            layer.
    """
    _check_kinds(layer)
    alpha, alpha_source = _find_alpha(layer, scaling)
    delta = _build_delta(layer, scaling, alpha)
    if delta is None:
        _refuse_strays(layer)
    elif scaling.is_dora and "magnitude" not in layer.keys and isinstance(delta, LowRank):
        layer.refuse("is DoRA by the file's metadata, but has no magnitudes", "Download the file again.")
    changes: dict[str, tuple[Change, ...]] = {}
    for name, change in _list_changes(layer, delta, strength):
        changes[name] = (*changes.get(name, ()), change)
    return LayerChanges(changes, alpha_source if delta is not None and delta.rank is not None else None)


def _list_changes(layer: AdapterLayer, delta: Delta | None, strength: float) -> list[tuple[str, Change]]:
    """In the order of their application: values first, so that deltas are added to them."""
    changes = []
    whole: tuple[Role, ...] = ("set_weight", "diff")
    for role in whole:
        if role in layer.keys:
            _check_full(layer, role, layer.weight_name)
            full = Full(layer.keys[role])
            changes.append(
                (layer.weight_name, Change(layer.file, full, strength, replaces=role == "set_weight"))
            )
    if delta is not None:
        change = Change(layer.file, delta, strength, _find_magnitude(layer))
        changes.append((layer.weight_name, change))
    of_bias: tuple[Role, ...] = ("diff_b", "up_bias")
    for role in of_bias:
        if role in layer.keys:
            bias = f"{layer.path}.bias"
            _check_full(layer, role, bias)
            scale = delta.scale if role == "up_bias" and delta is not None else 1.0
            changes.append((bias, Change(layer.file, Full(layer.keys[role], scale), strength)))
    return changes


def _check_kinds(layer: AdapterLayer) -> None:
    for role, name in layer.keys.items():
        if role in UNSUPPORTED:
            layer.refuse(
                f"{name} is {UNSUPPORTED[role]}, which this version does not apply",
                "Use an adapter of another kind.",
            )
        if role == "reshape_weight":
            _check_enlargement(layer, name)
            continue
        dtype = layer.file.infos[name].dtype
        if dtype not in FLOAT_DTYPES and not (role == "alpha" and dtype.startswith(("I", "U"))):
            layer.refuse(
                f"{name} is {dtype}; adapters must be F32, F16 or BF16",
                "8-bit files lack their scales: use the bf16 or fp16 file of this adapter.",
            )


def _check_enlargement(layer: AdapterLayer, name: str) -> None:
    """Refuse a shape to which the layer is to be enlarged that is not the one it gets anyway."""
    stated, shape = layer.file.read_shape(name), layer.weight_shape
    if _flat(stated) != _flat(shape):
        layer.refuse(
            f"{name} enlarges it to {list(stated)}, the adapter's other tensors fit {list(shape)}",
            "Only the patch embedding of a text-to-video model is enlarged, by the channels of one video: "
            "use an adapter for this model.",
        )


def _find_alpha(layer: AdapterLayer, scaling: Scaling) -> tuple[float | None, str]:
    if "alpha" in layer.keys:
        return layer.file.read_number(layer.keys["alpha"]), OWN_ALPHA
    alpha = scaling.find_alpha(layer.spelled)
    return alpha, scaling.source if alpha is not None else NO_ALPHA


def _build_delta(layer: AdapterLayer, scaling: Scaling, alpha: float | None) -> Delta | None:
    keys = layer.keys
    built: list[Delta] = []
    if "down" in keys or "up" in keys:
        built.append(_build_low_rank(layer, scaling, alpha))
    if any(role in keys for role in _LOHA):
        built.append(_build_hadamard(layer, scaling, alpha))
    if any(role in keys for side in _LOKR for role in side):
        built.append(_build_kronecker(layer, scaling, alpha))
    if len(built) > 1:
        layer.refuse("has tensors of two kinds of adapters", "The file is damaged.")
    return built[0] if built else None


def _build_low_rank(layer: AdapterLayer, scaling: Scaling, alpha: float | None) -> LowRank:
    down, up = _need(layer, "down"), _need(layer, "up")
    (rank, columns), (rows, other_rank) = layer.matrix("down"), layer.matrix("up")
    _check_ranks(layer, ("down", rank), ("up", other_rank))
    _check_matrix(layer, rows, columns)
    return LowRank(down, up, rank, scaling.scale(alpha, rank))


def _build_hadamard(layer: AdapterLayer, scaling: Scaling, alpha: float | None) -> Hadamard:
    first, second, third, fourth = (_need(layer, role) for role in _LOHA)
    for up, down in (_LOHA[:2], _LOHA[2:]):
        (rows, rank), (other_rank, columns) = layer.matrix(up), layer.matrix(down)
        _check_ranks(layer, (up, rank), (down, other_rank))
        _check_matrix(layer, rows, columns)
    rank = layer.matrix("hada_w1_b")[0]
    return Hadamard((first, second, third, fourth), rank, scaling.scale(alpha, rank))


def _build_kronecker(layer: AdapterLayer, scaling: Scaling, alpha: float | None) -> Kronecker:
    sides: list[tuple[str, ...]] = []
    sizes: list[tuple[int, int]] = []
    ranks: list[int] = []
    for whole, left, right in _LOKR:
        if whole in layer.keys:
            sides.append((layer.keys[whole],))
            sizes.append(layer.matrix(whole))
            continue
        sides.append((_need(layer, left), _need(layer, right)))
        (rows, rank), (other_rank, columns) = layer.matrix(left), layer.matrix(right)
        _check_ranks(layer, (left, rank), (right, other_rank))
        sizes.append((rows, columns))
        ranks.append(rank)
    _check_matrix(layer, sizes[0][0] * sizes[1][0], sizes[0][1] * sizes[1][1])
    # The second side's rank counts where both have one; without any, alpha does not count either.
    rank_or_none = ranks[-1] if ranks else None
    scale = 1.0 if rank_or_none is None else scaling.scale(alpha, rank_or_none)
    return Kronecker(sides[0], sides[1], rank_or_none, scale)


def _need(layer: AdapterLayer, role: Role) -> str:
    if role not in layer.keys:
        present = ", ".join(layer.keys.values())
        layer.refuse(
            f"has {present}, but its {role} is missing", "Half of the tensors were lost: download it again."
        )
    return layer.keys[role]


def _refuse_strays(layer: AdapterLayer) -> None:
    roles: tuple[Role, ...] = ("alpha", "magnitude", "up_bias", "reshape_weight")
    for role in roles:
        if role in layer.keys:
            layer.refuse(
                f"has {layer.keys[role]}, but no pair that it belongs to", "Download the file again."
            )


def _find_magnitude(layer: AdapterLayer) -> str | None:
    if "magnitude" not in layer.keys:
        return None
    shape, (rows, columns) = layer.shape("magnitude"), layer.weight_shape
    if math.prod(shape) != (columns if is_column_magnitude(shape) else rows):
        layer.refuse(
            f"{layer.keys['magnitude']} is {list(shape)}, the layer is {[rows, columns]}",
            "Its DoRA magnitudes must be one for each row, or [1, columns].",
        )
    return layer.keys["magnitude"]


def _check_ranks(layer: AdapterLayer, first: tuple[str, int], second: tuple[str, int]) -> None:
    if first[1] != second[1]:
        layer.refuse(
            f"{first[0]} has rank {first[1]}, {second[0]} has rank {second[1]}",
            "They are from two adapters; download the file again.",
        )
    if first[1] < 1:
        layer.refuse("has rank 0", "The file is damaged; download it again.")


def _check_matrix(layer: AdapterLayer, rows: int, columns: int) -> None:
    shape = layer.weight_shape
    if len(shape) != 2:
        layer.refuse(
            f"is {list(shape)} in the model, no matrix that factors could change", "The file is damaged."
        )
    if shape != (rows, columns):
        _refuse_shape(layer, shape, (rows, columns))


def _check_full(layer: AdapterLayer, role: Role, name: str) -> None:
    shape, expected = layer.shape(role), layer.shapes.get(name)
    if expected is None:
        layer.refuse(
            f"{layer.keys[role]} changes a bias, which the layer does not have", "It is for another model."
        )
    if _flat(shape) != _flat(expected):
        _refuse_shape(layer, expected, shape)


def _flat(shape: Shape) -> Shape:
    """A shape that equal ones share whatever their axes of length one and however a kernel is laid out."""
    lengths = tuple(length for length in shape if length != 1)
    return (lengths[0], math.prod(lengths[1:])) if lengths else ()


def _refuse_shape(layer: AdapterLayer, expected: Shape, found: Shape) -> NoReturn:
    width = next((size for size in found if size in SIZES and size not in expected), None)
    origin = (
        f"The adapter is for dim {width} ({SIZES[width]})" if width else "The adapter is for another model"
    )
    layer.refuse(
        f"is {list(expected)} in the model, the adapter changes {list(found)}",
        f"{origin}; use one that was made for this model.",
    )
