"""Files that hold several components of a model, each behind a prefix of its own."""

from __future__ import annotations

from mlx_video.errors import CheckpointError
from mlx_video.formats.sentencepiece_model import TOKENIZER_TENSOR
from mlx_video.formats.tensor_source import TensorSource
from mlx_video.weights.component_kind import find_components
from mlx_video.weights.names.image_encoder_names import TEXT_TOWER
from mlx_video.weights.renamed import RenamedTensors
from mlx_video.weights.rules import Rule, drop


def pick_component(source: TensorSource, component: str) -> TensorSource:
    """The tensors of one component without its prefix; a source that holds no other is returned as it is.

    Args:
        source: tensors as stored; the caller closes it.
        component: the one wanted.

    Raises:
        CheckpointError: the file holds several components and tensors that belong to none.
    """
    prefixes = {kind.component: kind.prefix for kind in find_components(source.infos)}
    if len(prefixes) < 2 or component not in prefixes:
        return source
    _check_every_tensor(source, list(prefixes.values()))
    own = prefixes.pop(component)
    others = (other for other in prefixes.values() if other and not own.startswith(other))
    return RenamedTensors(source, (*(drop(f"{other}*") for other in others), Rule(f"{own}*", "*"), drop("*")))


def _check_every_tensor(source: TensorSource, prefixes: list[str]) -> None:
    """Tensors may lie beside a component, as a text encoder's tokenizer does, but not beside all of them."""
    places = [prefix.partition(".")[0] + "." if prefix else "" for prefix in prefixes]
    if "visual." in places:
        places += [pattern.rstrip("*") for pattern in TEXT_TOWER]
    known = tuple(places)
    strange = [
        name for name in source.infos if not name.startswith(known) and not name.endswith(TOKENIZER_TENSOR)
    ]
    if strange:
        raise CheckpointError(
            f"{source.label}: holds several components behind prefixes ({', '.join(sorted(prefixes))}) and "
            f"{len(strange)} tensors that belong to none, first {strange[0]}. Use separate files instead."
        )
