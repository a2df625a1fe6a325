"""Whose a VAE is, where its tensors do not tell: by its file's name, its config.json, its bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from mlx_video.convert.proposals import name_below
from mlx_video.errors import CheckpointError, MissingPartError
from mlx_video.formats.tensor_source import TensorSource
from mlx_video.layouts.checkpoint_files import CheckpointFiles
from mlx_video.layouts.components import ORIGINAL_STEM
from mlx_video.layouts.folder_layout import CONFIG_FILE, read_json_object
from mlx_video.variants.other_vaes import OTHER_VAES, WAN_VAE_CLASS, WAN_VAE_NAMES, OtherVAE


def choose_vae(
    files: CheckpointFiles, fitting: Sequence[tuple[tuple[Path, ...], TensorSource]], *, is_named: bool
) -> tuple[TensorSource, tuple[str, ...]]:
    """Choose Wan's of several VAEs with the same tensors, as far as anything tells.

    Args:
        files: the checkpoint.
        fitting: files and tensors of each VAE whose latents the transformer makes.
        is_named: whether the user chose the VAE; another model's is taken only then.

    Returns:
        The VAE, and what to tell the user of it.

    Raises:
        CheckpointError: there are several.
        MissingPartError: there is another model's alone.
    """
    found = [(paths, source, find_other_vae(paths)) for paths, source in fitting]
    others = [(source, other) for _, source, other in found if other]
    if is_named:
        told = (f"{vae.label}: is the VAE of {other.title}: {other.difference}." for vae, other in others)
        return fitting[0][1], tuple(told)
    own = [(paths, source) for paths, source, other in found if other is None]
    if len(own) > 1:
        raise CheckpointError(
            f"{files.path}: holds several VAEs for this model: "
            f"{', '.join(name_below(files.path, paths[0]) for paths, _ in own)}. Choose one with --vae FILE."
        )
    if not own:
        source, other = others[0]
        raise MissingPartError(
            f"{files.path}: the VAE {source.label} is that of {other.title}: {other.difference}. Give Wan's "
            "with --vae FILE, or this one if it is meant."
        )
    paths, source = own[0]
    if _is_surely_wan(files, paths):
        return source, ()
    return source, (
        f"{source.label}: taken as the VAE by its tensors; nothing else says that it is Wan's, and "
        f"{OTHER_VAES[0].title} has one with the same tensors. Choose another with --vae FILE.",
    )


def find_other_vae(paths: Sequence[Path]) -> OtherVAE | None:
    """The other model that a VAE of Wan's form is of; None for Wan's, and for one that nothing tells apart.

    Args:
        paths: its files. Of one that is as large as a published file, all bytes are read.
    """
    path, class_name = paths[0], _read_class(paths[0])
    for other in OTHER_VAES:
        if class_name and class_name in (other.class_name, WAN_VAE_CLASS):
            return other if class_name == other.class_name else None
        if other.names.search(path.name) or _is_published(path, other):
            return other
    return None


def _is_surely_wan(files: CheckpointFiles, paths: Sequence[Path]) -> bool:
    """Whether something besides the tensors says that a VAE of this checkpoint is Wan's."""
    path = paths[0]
    if any(paths == others for others in files.transformers.values()):
        return True  # one file of the whole model
    if WAN_VAE_NAMES.search(name_below(files.path, path)):
        return True
    return path.name.startswith(ORIGINAL_STEM) and path.parent == files.path / "vae"


def _read_class(path: Path) -> str:
    """The class that Diffusers wrote beside its weights; "" where there is none."""
    file = path.parent / CONFIG_FILE
    if not path.name.startswith(ORIGINAL_STEM) or not file.is_file():
        return ""
    try:
        return str(read_json_object(file).get("_class_name", ""))
    except CheckpointError:
        return ""


def _is_published(path: Path, other: OtherVAE) -> bool:
    digest = other.published.get(path.stat().st_size)
    if digest is None:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == digest
