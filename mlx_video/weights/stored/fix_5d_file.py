"""The file in which a GGUF converter keeps the tensors of five axes that it left out of its own.

ComfyUI-GGUF writes such tensors to fix_5d_tensors_<architecture>.safetensors, and puts them into the GGUF
file in a last step of its own, which is easily forgotten.

Source: city96/ComfyUI-GGUF tools/convert.py, handle_nd_tensor, and tools/fix_5d_tensors.py, apply_5d_fix.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from mlx_video.errors import CheckpointError
from mlx_video.formats.file_kind import recognise
from mlx_video.formats.gguf_header import read_gguf_header
from mlx_video.formats.tensor_source import TensorSource, open_tensors
from mlx_video.layouts.expert_names import guess_expert_of_file, guess_expert_of_name
from mlx_video.layouts.loose_files import is_weight_file
from mlx_video.weights.names.transformer_names import ANCHOR, BIAS_ANCHOR
from mlx_video.weights.rules import Shape

Shapes = Mapping[str, Shape]

# A few kernels; the largest transformer's is 13 MB.
_LARGEST_BYTES = 64 << 20
_AXES = 5


def is_fix_5d_file(path: Path) -> bool:
    """Whether a file holds the first kernel of a transformer, and nothing but tensors of five axes."""
    return bool(_read_fix_file(path))


def with_fix_5d_file(paths: tuple[Path, ...]) -> tuple[Path, ...]:
    """The files of a component, and the one beside a GGUF file that holds what its converter left out.

    Args:
        paths: one file, or shards.

    Returns:
        The same where nothing is left out, or no file beside it has it.

    Raises:
        CheckpointError: it cannot be told which of several files is the one, or a file is damaged.
    """
    if len(paths) != 1 or recognise(paths[0]) != "gguf":
        return paths
    shapes = {tensor.name: tensor.shape for tensor in read_gguf_header(paths[0]).tensors}
    if not any(_lacks_kernel(name, shapes) for name in shapes):
        return paths
    fitting = [path for path, fix in _fix_files(paths[0].parent) if _fits(fix, shapes)]
    fitting = [path for path in fitting if _may_belong(path, paths[0])]
    if len(fitting) > 1:
        names = " and ".join(path.name for path in fitting)
        raise CheckpointError(
            f"{paths[0]}: {ANCHOR} lies in a file of its own, and {names} beside it could be that file. "
            "Keep the one that was made with it."
        )
    if fitting:
        _refuse_doubt(paths[0], fitting[0])
    return (*paths, *fitting)


def check_kernel(source: TensorSource) -> None:
    """Refuse a transformer whose GGUF converter left out the first kernel, and say how it is put back.

    Args:
        source: under the official names.

    Raises:
        CheckpointError: the kernel is missing from a GGUF file.
    """
    if not _lacks_kernel(BIAS_ANCHOR, source.infos):
        return
    path = source.file_of(BIAS_ANCHOR)
    if recognise(path) != "gguf":
        return
    bias = source.infos[BIAS_ANCHOR].shape
    others = [
        f" {other.name} beside it is of another model ({list(shape)}, the bias here is {list(bias)})."
        for other, shapes in _fix_files(path.parent)
        for shape in shapes.values()
        if shape[:1] != bias
    ]
    raise CheckpointError(
        f"{path.name}: {ANCHOR} is missing. ComfyUI-GGUF keeps it in fix_5d_tensors_wan.safetensors, and the "
        f"step that puts it back, tools/fix_5d_tensors.py, was left out.{''.join(others)} Lay that file "
        "beside this one, run the step, or fetch a GGUF file that is whole."
    )


def report_fix_5d_file(paths: Sequence[Path]) -> Iterator[str]:
    """Say so where the last of a transformer's files is one that lay beside the first."""
    if len(paths) == 2 and recognise(paths[0]) == "gguf" and is_fix_5d_file(paths[1]):
        name = paths[1].name
        yield f"{paths[0].name}: {ANCHOR}, which its converter left out, is taken from {name} beside it."


def describe_fix_5d_file() -> str:
    """What to say of such a file where it stands alone."""
    return (
        f"holds {ANCHOR} alone, which a GGUF converter left out of its file. Give that file (.gguf), with "
        "this one beside it."
    )


def _lacks_kernel(bias: str, names: Collection[str]) -> bool:
    is_bias = bias == BIAS_ANCHOR or bias.endswith(f".{BIAS_ANCHOR}")
    return is_bias and bias in names and f"{bias.removesuffix('bias')}weight" not in names


def _fix_files(folder: Path) -> Iterator[tuple[Path, Shapes]]:
    for path in sorted(folder.iterdir()):
        if is_weight_file(path) and (shapes := _read_fix_file(path)):
            yield path, shapes


def _read_fix_file(path: Path) -> Shapes:
    """What a fix file holds; nothing for other files, whatever is wrong with them."""
    if path.stat().st_size > _LARGEST_BYTES:
        return {}
    try:
        with open_tensors(path) as source:
            shapes = {name: info.shape for name, info in source.infos.items()}
    except CheckpointError:
        return {}
    is_fix = all(len(shape) == _AXES for shape in shapes.values()) and any(map(_is_kernel, shapes))
    return shapes if is_fix else {}


def _is_kernel(name: str) -> bool:
    return name == ANCHOR or name.endswith(f".{ANCHOR}")


def _fits(fix: Shapes, shapes: Shapes) -> bool:
    """Whether each tensor is one that the file lacks, and has as many channels as its bias there."""
    return all(
        name not in shapes and shapes.get(f"{name.removesuffix('weight')}bias") == shape[:1]
        for name, shape in fix.items()
    )


def _may_belong(fix: Path, path: Path) -> bool:
    """Whether the names do not tell of two experts."""
    experts = {guess_expert_of_file(fix), guess_expert_of_file(path)} - {None}
    return len(experts) < 2


def _refuse_doubt(path: Path, fix: Path) -> None:
    """Two experts in a folder have kernels of their own: one file cannot serve both."""
    expert = guess_expert_of_name(path.stem)
    if expert is None or guess_expert_of_file(fix) is not None:
        return
    found = {
        guess_expert_of_name(other.stem) for other in path.parent.iterdir() if other.suffix.lower() == ".gguf"
    }
    if len(found - {None}) > 1:
        raise CheckpointError(
            f"{path}: {ANCHOR} lies in a file of its own, and {fix.name} beside it does not say of which "
            f"expert it is. Name it after its expert (fix_5d_tensors_{expert}.safetensors), or give each "
            "expert a folder."
        )
