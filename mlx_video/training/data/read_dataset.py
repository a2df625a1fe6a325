"""A user's dataset, whatever its form: musubi-tuner's file, DiffSynth-Studio's list, or a bare folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mlx_video.config import ModelConfig
from mlx_video.errors import DatasetError, RequestError
from mlx_video.geometry import check_num_frames
from mlx_video.request.dataset import DatasetOptions
from mlx_video.request.option import options_of
from mlx_video.training.data.bucket_sizes import BucketSizes, LimitedSizes, Size
from mlx_video.training.data.clips import Clip, Dataset, Table, check_count
from mlx_video.training.data.finished_latents import list_latents, with_told
from mlx_video.training.data.frame_windows import FrameRule
from mlx_video.training.data.listed_columns import LIST_SUFFIXES, advise_columns, read_columns
from mlx_video.training.data.listed_files import PICTURE_SUFFIXES, VIDEO_SUFFIXES, caption_clip, list_files
from mlx_video.training.data.musubi_file import CACHE_FOLDER, read_musubi_file
from mlx_video.training.data.text_files import read_text

_OF_LISTS = (
    "dataset_repeat",
    "batch_size",
    "width",
    "height",
    "max_pixels",
    "num_frames",
    "dataset_base_path",
)
"""Options that say what a TOML file says itself."""


def read_dataset(options: DatasetOptions, config: ModelConfig) -> Dataset:
    """Read a dataset; of pictures and videos nothing is opened.

    Args:
        options: name it.
        config: of the model, which has the defaults of sizes and frames.

    Raises:
        RequestError: no dataset is named, or an option does not go with its kind.
        DatasetError: a file of it is missing or wrong.
    """
    if options.dataset is not None:
        source, tables = options.dataset, _read_folder(options.dataset, options, config)
    elif options.dataset_config is not None:
        source, tables = options.dataset_config, _read_file(options.dataset_config, options, config)
    else:
        raise RequestError("dataset_config", "missing: name a dataset by it, or by --dataset.")
    if options.cache_directory is not None:
        tables = tuple(replace(table, cache_directory=options.cache_directory) for table in tables)
    return Dataset(source, tables)


def _read_file(path: Path, options: DatasetOptions, config: ModelConfig) -> tuple[Table, ...]:
    if path.is_dir():
        raise RequestError("dataset_config", f"{path}: is a folder. Give it as --dataset.")
    suffix = path.suffix.lower()
    if suffix == ".toml" or (suffix == ".json" and _is_musubi_json(path)):
        _refuse_options_of_lists(options)
        return read_musubi_file(path)
    if suffix not in LIST_SUFFIXES:
        raise RequestError(
            "dataset_config", f"{path}: its name ends in none of .toml, {', '.join(LIST_SUFFIXES)}."
        )
    return (_read_list(path, options, config),)


def _is_musubi_json(path: Path) -> bool:
    return read_text(path).lstrip().startswith("{")


def _refuse_options_of_lists(options: DatasetOptions) -> None:
    declared = options_of(DatasetOptions)
    for name in _OF_LISTS:
        if getattr(options, name) != declared[name].default:
            raise RequestError(name, "the dataset's TOML file says this itself. Write it there.")


def _read_list(path: Path, options: DatasetOptions, config: ModelConfig) -> Table:
    base = options.dataset_base_path or path.parent
    clips, unknown = read_columns(path, base)
    check_count(clips, str(path))
    return Table(
        str(path),
        clips,
        LimitedSizes(_given_size(options), options.max_pixels),
        "diffsynth",
        FrameRule("full", max_frames=_num_frames(options, config)),
        base / CACHE_FOLDER,
        options.batch_size,
        options.dataset_repeat,
        notices=(advise_columns(unknown, path),) if unknown else (),
    )


def _read_folder(folder: Path, options: DatasetOptions, config: ModelConfig) -> tuple[Table, ...]:
    if options.dataset_base_path is not None:
        raise RequestError("dataset_base_path", "is for a list of clips, --dataset-config. Leave it out.")
    found = [
        *(_caption(path, is_picture=True) for path in list_files(folder, PICTURE_SUFFIXES)),
        *(_caption(path, is_picture=False) for path in list_files(folder, VIDEO_SUFFIXES | {".gif"})),
        *(with_told(_caption(path, is_picture=False)) for path in list_latents(folder)),
    ]
    check_count(found, str(folder))
    sampling = config.sampling
    table = Table(
        str(folder),
        tuple(found),
        BucketSizes(_given_size(options) or (sampling.width, sampling.height)),
        "musubi",
        FrameRule("full", max_frames=_num_frames(options, config), follows_file=True),
        folder / CACHE_FOLDER,
        options.batch_size,
        options.dataset_repeat,
    )
    return (table,)


def _caption(path: Path, *, is_picture: bool) -> Clip:
    return caption_clip(path, ".txt", is_picture=is_picture)


def _given_size(options: DatasetOptions) -> Size | None:
    if options.width is None and options.height is None:
        return None
    if options.width is None or options.height is None:
        lacking = "width" if options.width is None else "height"
        raise RequestError(lacking, "missing: examples have both sides given, or none.")
    return options.width, options.height


def _num_frames(options: DatasetOptions, config: ModelConfig) -> int:
    frames = options.num_frames or config.sampling.num_frames
    check_num_frames(frames, config.vae.stride[0])
    return frames


def refuse_missing_captions(dataset: Dataset) -> None:
    """Refuse a dataset in which a clip has no caption.

    Raises:
        DatasetError: it names the first of them.
    """
    if missing := dataset.missing_captions():
        first = missing[0]
        raise DatasetError(
            f"{first.path}: has no caption, nor have {len(missing) - 1} other clips. Write it into "
            f"{first.caption_place}; --inspect-dataset lists them all."
        )
