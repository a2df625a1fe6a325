"""What of a clip conditions a model: frames of its own, and what the dataset brings besides."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from mlx_video.errors import DatasetError
from mlx_video.training.data.clips import CONTROL, Clip, Given, Table
from mlx_video.training.data.input_names import FIRST_FRAME, LAST_FRAME, OPTION_OF
from mlx_video.variants.variant import Variant

OwnFrames = tuple[str, ...]
"""Which of a clip's own frames the model is given: "image" for the first, "end_image" for the last."""

_FOLLOWED = ("control_video", "vace_video")
"""Inputs that take a control, the first that a model knows."""


def find_inputs(
    clip: Clip, table: Table, variant: Variant, chosen: frozenset[str] | None
) -> dict[str, Given]:
    """What a clip brings for a model, by options of a run.

    Args:
        clip, table: of the dataset.
        variant: of the model.
        chosen: what the user named; None for all that the model takes.

    Raises:
        DatasetError: the model takes no control; or something is named that it does not take.
    """
    takes = variant.inputs.all
    given = {_option_of(name, clip, variant): value for name, value in clip.inputs.items()}
    if chosen is None:
        return {name: value for name, value in given.items() if name in takes}
    for name in chosen:
        if name not in takes:
            raise DatasetError(f"--extra-inputs: {variant.title} takes no {name}. Leave it out.")
        if name not in given and name not in (FIRST_FRAME, LAST_FRAME):
            raise DatasetError(
                f"{clip.path}: {clip.caption_place} has no {name}, which --extra-inputs names. Add it there."
            )
    return {name: value for name, value in given.items() if name in chosen or name == "control_image"}


def _option_of(name: str, clip: Clip, variant: Variant) -> str:
    if name != CONTROL:
        return name
    option = next((option for option in _FOLLOWED if option in variant.inputs.all), None)
    if option is None:
        raise DatasetError(
            f"{clip.path}: comes with a control, and {variant.title} takes none. Leave control_directory or "
            "control_path out, or train a control model."
        )
    return option


def find_unread(table: Table, variant: Variant) -> tuple[str, ...]:
    """Inputs of a table's clips that the model does not take, sorted."""
    names = {name for clip in table.clips for name in clip.inputs if name != CONTROL}
    return tuple(sorted(names - set(variant.inputs.all)))


def choose_own_frames(
    variant: Variant, given: Mapping[str, Given], chosen: frozenset[str] | None, frames: int
) -> OwnFrames:
    """Which of a clip's own frames the model is given.

    Without a choice of the user's a model is given what it cannot do without; image-to-video models, Fun InP
    among them, also what their makers train them with. A picture has no frame to spare: of what the model can
    do without, it is given none.

    Args:
        variant: of the model.
        given: what the clip brings already.
        chosen: what the user named; None for no choice.
        frames: of the example.

    Raises:
        DatasetError: the model needs a last frame besides the first, and there is one frame.
    """
    takes, required = variant.inputs.all, variant.inputs.required
    follows = any(name in takes for name in _FOLLOWED)
    usual = {FIRST_FRAME} if not follows else set[str]()
    usual |= {LAST_FRAME} if "inpaint_video" in takes else set()
    wanted = usual if chosen is None else {name for name in (FIRST_FRAME, LAST_FRAME) if name in chosen}
    if frames == 1:
        wanted = set()
    own = tuple(
        name
        for name in (FIRST_FRAME, LAST_FRAME)
        if name in takes and name not in given and (name in required or name in wanted)
    )
    if LAST_FRAME in own and frames == 1:
        raise DatasetError(
            f"{variant.title} needs a first and a last frame, and a picture is one. Give clips."
        )
    return own


def refuse_lacking(clip: Clip, table: Table, variant: Variant, brought: Collection[str]) -> None:
    """Refuse a clip that does not bring all that the model needs.

    Args:
        clip, table: of the dataset.
        variant: of the model.
        brought: options of a run that the clip and its own frames make.

    Raises:
        DatasetError: something is missing, or the model makes no picture among others.
    """
    inputs = variant.inputs
    if table.one_frame is not None:
        if not inputs.one_frame:
            raise DatasetError(
                f"{table.name}: fp_1f_clean_indices: {variant.title} makes no picture among others. Leave "
                "the keys of one frame out."
            )
        return  # the controls are the frames that it needs
    lacking = [name for name in inputs.required if name not in ("prompt", *brought)]
    if not set(inputs.alternatives) & {*brought} and inputs.alternatives:
        lacking.append(inputs.alternatives[0])
    for name in lacking:
        columns = [column for column, option in OPTION_OF.items() if option == name]
        if not columns:
            raise DatasetError(
                f"{clip.path}: {variant.title} needs {name}, which no dataset can name. It cannot be trained."
            )
        raise DatasetError(
            f"{clip.path}: {variant.title} needs {name}. Add the column {columns[0]} to the list of clips."
        )


def named_files(given: Mapping[str, Given]) -> Iterator[tuple[str, Path]]:
    """Every file that a clip's inputs name."""
    for name, value in sorted(given.items()):
        for path in value if isinstance(value, tuple) else (value,):
            if isinstance(path, Path):
                yield name, path
