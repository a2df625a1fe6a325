"""Inputs of clips: DiffSynth-Studio's names of them, and those of a run's options.

Source: modelscope/DiffSynth-Studio examples/wanvideo/model_training/train.py, parse_extra_inputs.
"""

from __future__ import annotations

from collections.abc import Mapping

from mlx_video.errors import RequestError
from mlx_video.training.data.known_names import advise_known
from mlx_video.training.data.listed_runs import RUN_COLUMNS

FIRST_FRAME, LAST_FRAME = "image", "end_image"

OPTION_OF: Mapping[str, str] = {
    "input_image": FIRST_FRAME,
    "end_image": LAST_FRAME,
    "control_video": "control_video",
    "reference_image": "reference_image",
    "vace_video": "vace_video",
    "vace_video_mask": "vace_video_mask",
    "vace_reference_image": "vace_reference_image",
    "inpaint_video": "inpaint_video",
    "inpaint_video_mask": "inpaint_video_mask",
    "camera_control_direction": "camera_control_direction",
    "camera_control_speed": "camera_control_speed",
    "motion_bucket_id": "motion_bucket_id",
}
"""Column, or word of --extra-inputs → option of a run."""
NUMBERS = frozenset(("camera_control_speed", "motion_bucket_id"))
WORDS = frozenset(("camera_control_direction",))
VIDEOS = frozenset(("control_video", "vace_video", "vace_video_mask", "inpaint_video", "inpaint_video_mask"))
"""Options of a run whose frames go along with the clip's."""


def read_extra_inputs(text: str | None) -> frozenset[str] | None:
    """Options of a run that --extra-inputs names; None where it is not given.

    Raises:
        RequestError: a name is unknown.
    """
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    if names == ["none"]:
        return frozenset()
    names = [name for name in names if name not in RUN_COLUMNS]
    for name in names:
        if name not in OPTION_OF:
            raise RequestError("extra_inputs", f"{name}: unknown. {advise_known(name, [*OPTION_OF, 'none'])}")
    return frozenset(OPTION_OF[name] for name in names)
