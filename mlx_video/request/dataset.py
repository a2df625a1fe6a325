"""What a training learns from: a dataset's file or folder, how it is cut, and where it is encoded to."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_video.errors import RequestError
from mlx_video.request.kinds import ReadPath, WrittenPath
from mlx_video.request.option import at_least, check_options, option, settle_paths

DATASET_GROUP = "dataset"
_NOT_OF_TOML = "of a CSV, JSONL or folder; a TOML file says it itself"


@dataclass(frozen=True, slots=True)
class DatasetOptions:
    """Options of the dataset."""

    dataset_config: ReadPath | None = option(
        None,
        help="musubi-tuner's dataset file (`.toml`), or DiffSynth-Studio's list of clips (`.csv`, `.jsonl`, "
        "`.json`)",
        group=DATASET_GROUP,
        metavar="FILE",
        excludes_others=True,
    )
    dataset: ReadPath | None = option(
        None,
        help="folder of pictures and clips with a `.txt` of the same name beside each, or of latents that "
        "runs wrote",
        group=DATASET_GROUP,
        metavar="DIR",
        excludes_others=True,
    )
    dataset_base_path: ReadPath | None = option(
        None,
        help="folder at which paths of a CSV, JSONL or JSON file start",
        group=DATASET_GROUP,
        metavar="DIR",
        default_text="the file's own",
        only_with=("dataset_config",),
    )
    dataset_repeat: int = option(
        1, help=f"how often an epoch shows each clip {_NOT_OF_TOML}", group=DATASET_GROUP, check=at_least(1)
    )
    batch_size: int = option(
        1, help=f"examples of a step, at most, {_NOT_OF_TOML}", group=DATASET_GROUP, check=at_least(1)
    )
    width: int | None = option(
        None,
        help=f"pixels of examples {_NOT_OF_TOML}; only together with --height",
        group=DATASET_GROUP,
        default_text="of a folder buckets of the model's area, of a list each clip's own",
        check=at_least(1),
    )
    height: int | None = option(
        None,
        help="likewise; of a folder both give the area of buckets",
        group=DATASET_GROUP,
        default_text="as for --width",
        check=at_least(1),
    )
    max_pixels: int = option(
        1024 * 1024,
        help="pixels of a frame, at most, where a CSV, JSONL or JSON file's clips keep their own sizes",
        group=DATASET_GROUP,
        check=at_least(256),
    )
    num_frames: int | None = option(
        None,
        help=f"frames of an example, 4n+1, {_NOT_OF_TOML}; a shorter clip gives what it has",
        group=DATASET_GROUP,
        default_text="the model's",
        check=at_least(1),
    )
    extra_inputs: str | None = option(
        None,
        help="what conditions the model, with commas between: `input_image` and `end_image` are a clip's "
        "first and last frame, others columns of the list, such as `control_video`; `none` for text alone",
        group=DATASET_GROUP,
        metavar="NAMES",
        default_text="what the model needs, and what the dataset has for it",
    )
    cache_directory: WrittenPath | None = option(
        None,
        help="folder for encoded clips and captions",
        group=DATASET_GROUP,
        metavar="DIR",
        default_text="`mlx-video-cache` in the dataset's folder, or what the file says",
    )
    cache_only: bool = option(False, help="encode clips and captions, and end there", group=DATASET_GROUP)
    inspect_dataset: bool = option(
        False,
        help="show buckets, counts and what is missing, draw a contact sheet, and end there",
        group=DATASET_GROUP,
    )
    contact_sheet: WrittenPath | None = option(
        None,
        help="PNG that --inspect-dataset draws",
        group=DATASET_GROUP,
        metavar="FILE",
        default_text="`contact-sheet.png` here",
        only_with=("inspect_dataset",),
    )

    def __post_init__(self) -> None:
        check_options(self)
        settle_paths(self)
        if self.dataset_config is not None and self.dataset is not None:
            raise RequestError(
                "dataset", "beside --dataset-config: a training has one dataset. Give one of them."
            )
        if self.contact_sheet is not None and not self.inspect_dataset:
            raise RequestError("contact_sheet", "is drawn by --inspect-dataset alone. Give that too.")
        if self.cache_only and self.inspect_dataset:
            raise RequestError("cache_only", "beside --inspect-dataset, which encodes nothing. Give one.")
