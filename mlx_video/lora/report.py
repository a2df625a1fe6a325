"""What the user is told of an adapter: what it changes, how strongly, and what of it fits nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from mlx_video.errors import AdapterError
from mlx_video.layouts.components import Expert, find_role
from mlx_video.lora.changes import Change, Full, Hadamard, Kronecker
from mlx_video.lora.dialects import AdapterKey
from mlx_video.lora.halves import Part
from mlx_video.lora.layers import NO_ALPHA, LayerChanges
from mlx_video.lora.zeros import Zeros
from mlx_video.weights.names.adapter_names import PAIR_ROLES
from mlx_video.weights.quantize import ChooseLayer

# Scales beyond these are rare enough to be a mistake.
SMALLEST_SCALE, LARGEST_SCALE = 1 / 64, 4.0
HIGHEST_SCALE = 1e6
"""Beyond it nothing is left of the weights: the alpha is damaged."""
_SHOWN = 3


def describe(
    part: Part,
    layers: Mapping[str, LayerChanges],
    strength: float,
    zeros: Zeros,
    is_quantized: ChooseLayer,
) -> str:
    """One sentence: what of a file is applied, its ranks, where alpha stands, the scale, what is zero."""
    changes = [change for layer in layers.values() for of in layer.changes.values() for change in of]
    parts = [_count_kinds(changes, sum(key.role in PAIR_ROLES for key in part.keys))]
    parts.append(f"{_count(len(layers), 'layer')} changed")
    ranked = [change.delta for change in changes if change.delta.rank is not None]
    if ranked:
        sources = dict.fromkeys(layer.alpha_source for layer in layers.values() if layer.alpha_source)
        alphas = " and ".join("absent" if source == NO_ALPHA else source for source in sources if source)
        scales = [delta.scale for delta in ranked]
        parts.append(f"rank {_range([delta.rank for delta in ranked if delta.rank is not None])}")
        parts.append(f"alpha {alphas}")
        parts.append(f"scale {_range(scales)} × strength {strength:g}")
        parts[-1] += f" = {_range([scale * strength for scale in scales])}"
    else:
        parts.append(f"strength {strength:g}")
    dense = sum(is_quantized(path) and _becomes_dense(path, layer) for path, layer in layers.items())
    if dense:
        become = "layer becomes" if dense == 1 else "layers become"
        parts.append(f"{dense} {become} dense in a quantized model (--lora-mode merge quantizes them again)")
    return f"{part.label}: {', '.join([*parts, *_count_zeros(zeros)])}."


def _count_zeros(zeros: Zeros) -> Iterator[str]:
    if zeros.layers:
        yield f"{_count(zeros.layers, 'layer')} left as they are: zeros"
    if zeros.bare_magnitudes:
        pairs = _count(zeros.bare_magnitudes, "pair")
        yield f"{pairs} of zeros, of which the magnitudes alone count: they may change nothing"


def describe_zeros(label: str, zeros: Zeros) -> str:
    """That a file changes nothing, and why."""
    return (
        f"{label}: changes nothing: what it holds for {_count(zeros.layers, 'layer')} is zero (first: "
        f"{zeros.first}), as a training leaves it that failed or never began. Train it again, or download it "
        "again."
    )


def _count_kinds(changes: Sequence[Change], pairs_in_file: int) -> str:
    kinds = Counter(_kind(change) for change in changes)
    pairs = sum(kinds.pop(kind, 0) for kind in ("LoRA", "LoHa", "LoKr", "DoRA"))
    texts = [f"{pairs} of {_count(pairs_in_file, 'pair')}"] if pairs_in_file else []
    special = Counter(_kind(change) for change in changes if _kind(change) in ("LoHa", "LoKr", "DoRA"))
    texts += [f"of these {count} {kind}" for kind, count in special.items()]
    return ", ".join([*texts, *(_count(count, kind) for kind, count in kinds.items())])


def _kind(change: Change) -> str:
    if change.magnitude is not None:
        return "DoRA"
    if isinstance(change.delta, Full):
        return "whole value" if change.replaces else "whole delta"
    return {Hadamard: "LoHa", Kronecker: "LoKr"}.get(type(change.delta), "LoRA")


def _becomes_dense(path: str, layer: LayerChanges) -> bool:
    of_weight = layer.changes.get(f"{path}.weight", ())
    return any(not change.is_low_rank for change in of_weight)


def describe_unmatched(part: Part, unmatched: Sequence[tuple[AdapterKey, str]]) -> str:
    """How many tensors of a file fit nothing, why, and the first of them."""
    reasons = Counter(reason for _, reason in unmatched)
    counted = "; ".join(f"{count} {reason}" for reason, count in reasons.items())
    names = [key.name for key, _ in unmatched[:_SHOWN]]
    return (
        f"{part.label}: {len(unmatched)} of {_count(part.size, 'key')} fit nothing in the model: "
        f"{counted} (first: {', '.join(names)})."
    )


def warn_of_scale(label: str, layers: Iterable[LayerChanges], strength: float) -> list[str]:
    """Notices about scales that are probably not what the user wants.

    Raises:
        AdapterError: a scale leaves nothing of the weights.
    """
    layers = list(layers)
    scales = [
        abs(strength * change.delta.scale)
        for layer in layers
        for of_name in layer.changes.values()
        for change in of_name
        if change.delta.rank is not None
    ]
    if scales and max(scales) > HIGHEST_SCALE:
        raise AdapterError(
            f"{label}: its changes count {_range(scales)} times, at most {HIGHEST_SCALE:g} is applied. Is "
            "its alpha damaged? Download it again, or choose another strength."
        )
    notices = []
    if scales and (min(scales) < SMALLEST_SCALE or max(scales) > LARGEST_SCALE):
        notices.append(
            f"{label}: its changes count {_range(scales)} times, far from the usual 1. If the video "
            "looks burnt or unchanged, choose another strength."
        )
    has_no_alpha = any(layer.alpha_source == NO_ALPHA for layer in layers)
    if has_no_alpha and "lightning" in label.lower() and strength == 1:
        notices.append(
            f"{label}: holds no alpha, so its scale is the strength alone. The first Wan2.2-Lightning "
            "adapters were made for 0.125."
        )
    return notices


def warn_of_expert(part: Part, expert: Expert | None, transformer: str) -> list[str]:
    """A notice where a file is for another expert than the one it is applied to."""
    if expert is None or transformer == expert:
        return []
    meant, taken = find_role(expert), find_role(transformer)
    cure = f"Give it as {meant.adapter_flag} if that was meant; --lora stands for both experts."
    if transformer == "model":
        cure = (
            "This model has one transformer: such an adapter suits it where that is this expert, converted "
            "alone, and may not suit it otherwise."
        )
    return [f"{part.label}: looks made for the {meant.words}, and is applied to the {taken.words}. {cure}"]


def _count(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


def _range(numbers: Sequence[float]) -> str:
    lowest, highest = f"{min(numbers):.4g}", f"{max(numbers):.4g}"
    return lowest if lowest == highest else f"{lowest} to {highest}"
