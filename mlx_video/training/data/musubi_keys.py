"""The keys of musubi-tuner's dataset file: where each may stand, what it holds, and what it is without.

Source: kohya-ss/musubi-tuner src/musubi_tuner/dataset/config_utils.py, ConfigSanitizer and the parameters'
defaults beside it; docs/dataset_config.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from mlx_video.errors import DatasetError
from mlx_video.limits import MOST_CLIPS, MOST_FRAMES, MOST_PIXELS
from mlx_video.training.data.frame_windows import Extraction
from mlx_video.training.data.known_names import advise_known

GENERAL = "[general]"


@dataclass(frozen=True, slots=True)
class Holds:
    """What a key holds.

    Attributes:
        check: whether a value is right.
        must_be: what it must be, for the error.
        read: the value as it is used.
    """

    check: Callable[[Any], bool]
    must_be: str
    read: Callable[[Any], Any] = lambda value: value


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _whole(low: int, high: int) -> Holds:
    return Holds(
        lambda value: _is_whole(value) and low <= value <= high, f"a whole number, {low} to {high:,}"
    )


def _wholes(low: int, high: int) -> Holds:
    one = _whole(low, high)
    return Holds(
        lambda value: isinstance(value, list) and bool(value) and all(map(one.check, value)),
        f"a list such as [1, 25, 45] of whole numbers, {low} to {high:,}",
        tuple,
    )


def _is_size(value: Any) -> bool:
    sides = value if isinstance(value, list) else [value, value]
    is_pair = len(sides) == 2 and all(_is_whole(side) and side > 0 for side in sides)
    return is_pair and sides[0] * sides[1] <= MOST_PIXELS


TRUTH = Holds(lambda value: isinstance(value, bool), "true or false")
TEXT = Holds(lambda value: isinstance(value, str) and bool(value), 'a text, such as "clips"')
SIZE = Holds(
    _is_size,
    f"[width, height] in pixels, up to {MOST_PIXELS:,} of them",
    lambda value: tuple(value) if isinstance(value, list) else (value, value),
)
RATE = Holds(
    lambda value: isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1e6,
    "a positive number, such as 30.0",
    float,
)
EXTRACTION = Holds(lambda value: value in get_args(Extraction), f"one of {', '.join(get_args(Extraction))}")

COMMON: Mapping[str, tuple[Holds, Any]] = {
    "resolution": (SIZE, (960, 544)),
    "caption_extension": (TEXT, None),
    "batch_size": (_whole(1, 10_000), 1),
    "num_repeats": (_whole(1, MOST_CLIPS), 1),
    "enable_bucket": (TRUTH, False),
    "bucket_no_upscale": (TRUTH, False),
}
"""Of both sections: key → what it holds, and its default."""
BOTH: Mapping[str, tuple[Holds, Any]] = {
    "cache_directory": (TEXT, None),
    "control_directory": (TEXT, None),
    "fp_latent_window_size": (_whole(1, 1000), 9),
}
IMAGE: Mapping[str, tuple[Holds, Any]] = {
    **COMMON,
    "image_directory": (TEXT, None),
    "image_jsonl_file": (TEXT, None),
    **BOTH,
    "multiple_target": (TRUTH, False),
    "fp_1f_clean_indices": (_wholes(0, 1023), None),
    "fp_1f_target_index": (_whole(0, 1023), None),
    "fp_1f_no_post": (TRUTH, False),
    "no_resize_control": (TRUTH, False),
    "control_resolution": (SIZE, None),
}
"""Of pictures."""
VIDEO: Mapping[str, tuple[Holds, Any]] = {
    **COMMON,
    "video_directory": (TEXT, None),
    "video_jsonl_file": (TEXT, None),
    **BOTH,
    "target_frames": (_wholes(1, MOST_FRAMES), (1,)),
    "frame_extraction": (EXTRACTION, "head"),
    "frame_stride": (_whole(1, MOST_FRAMES), 1),
    "frame_sample": (_whole(1, MOST_CLIPS), 1),
    "max_frames": (_whole(1, MOST_FRAMES), 129),
    "source_fps": (RATE, None),
}
"""Of videos."""
OLD_NAMES = {
    "flux_kontext_no_resize_control": "no_resize_control",
    "qwen_image_edit_no_resize_control": "no_resize_control",
    "qwen_image_edit_control_resolution": "control_resolution",
}
"""Keys of earlier versions → their names now."""

NOWHERE: Mapping[str, str] = {}


def read_section(
    path: Path,
    section: str,
    given: Any,
    keys: Mapping[str, tuple[Holds, Any]],
    elsewhere: Mapping[str, str] = NOWHERE,
) -> dict[str, Any]:
    """The values of a section, checked.

    Args:
        path: of the file.
        section: as the file calls it.
        given: what stands there.
        keys: that it may have.
        elsewhere: keys of other sections → where they belong.

    Raises:
        DatasetError: a key is unknown, stands in the wrong place, or holds something else.
    """
    place = f"{path} {section}"
    if not isinstance(given, dict):
        raise DatasetError(f"{place}: is no table of keys. Write it as {section}, keys on the lines below.")
    read: dict[str, Any] = {}
    for written, value in given.items():
        key = str(OLD_NAMES.get(written, written))
        if key not in keys:
            raise DatasetError(
                f"{place}: unknown key {written}. {elsewhere.get(key) or advise_known(key, keys)}"
            )
        holds = keys[key][0]
        if not holds.check(value):
            raise DatasetError(f"{place}: {written} = {value!r} must be {holds.must_be}.")
        if key == written or key not in given:
            read[key] = holds.read(value)
    return read
