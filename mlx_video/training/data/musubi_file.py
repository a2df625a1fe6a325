"""musubi-tuner's dataset file: its sections become tables of clips.

Source: kohya-ss/musubi-tuner src/musubi_tuner/dataset/config_utils.py and datasources.py;
docs/dataset_config.md.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlx_video.conditioning.control.one_frame import OneFrame
from mlx_video.errors import DatasetError, RequestError
from mlx_video.training.data.bucket_sizes import BucketSizes
from mlx_video.training.data.clips import CONTROL, Clip, Given, Table, check_count
from mlx_video.training.data.frame_windows import FrameRule, round_targets
from mlx_video.training.data.known_names import advise_known
from mlx_video.training.data.listed_files import (
    PICTURE_SUFFIXES,
    VIDEO_SUFFIXES,
    caption_clip,
    list_files,
    match_picture_controls,
    match_video_control,
)
from mlx_video.training.data.musubi_keys import COMMON, GENERAL, IMAGE, VIDEO, read_section
from mlx_video.training.data.text_files import parse_text, read_json_lines, read_text

CACHE_FOLDER = "mlx-video-cache"
"""Folder inside a dataset's own in which its cache lies where none is named."""
_SOURCES = ("image_directory", "image_jsonl_file", "video_directory", "video_jsonl_file")


def read_musubi_file(path: Path) -> tuple[Table, ...]:
    """Read a dataset file of musubi-tuner, TOML or JSON.

    Relative paths in it start at the current folder, as in musubi-tuner.

    Raises:
        DatasetError: a key is unknown or wrong, a folder is missing, or a control is.
    """
    text = read_text(path)
    is_json = path.suffix.lower() == ".json"
    given = parse_text(
        path, "JSON" if is_json else "TOML", lambda: (json if is_json else tomllib).loads(text)
    )
    if not isinstance(given, dict):
        raise DatasetError(f"{path}: holds no sections. Write [general] and [[datasets]].")
    for key in given.keys() - {"general", "datasets"}:
        raise DatasetError(f"{path}: unknown section {key}. {advise_known(key, ('general', 'datasets'))}")
    elsewhere = dict.fromkeys(IMAGE.keys() | VIDEO.keys(), "It belongs into a section [[datasets]].")
    general = read_section(path, GENERAL, given.get("general", {}), COMMON, elsewhere)
    sections = given.get("datasets", [])
    if not isinstance(sections, list) or not sections:
        raise DatasetError(f"{path}: no dataset. Write a section [[datasets]] for each folder.")
    return tuple(_read_dataset(path, number, section, general) for number, section in enumerate(sections))


def _read_dataset(path: Path, number: int, given: Any, general: Mapping[str, Any]) -> Table:
    section = f"[[datasets]] {number}"
    is_video = isinstance(given, dict) and any(name in given for name in _SOURCES[2:])
    keys, others, kind = (VIDEO, IMAGE, "pictures") if is_video else (IMAGE, VIDEO, "videos")
    own = read_section(path, section, given, keys, dict.fromkeys(others, f"It counts for {kind} alone."))
    sources = [name for name in _SOURCES if name in own]
    place = f"{path} {section}"
    if len(sources) != 1:
        raise DatasetError(f"{place}: needs one of {', '.join(_SOURCES)}, has {len(sources)}.")
    values = {name: default for name, (_, default) in keys.items()}
    values |= {**general, **own}
    _refuse_foreign(place, values)
    table = (_video_table if is_video else _image_table)(place, values, sources[0])
    check_count(table.clips, f"{place} {sources[0]} = {values[sources[0]]!r}")
    return table


def _refuse_foreign(place: str, values: Mapping[str, Any]) -> None:
    """Refuse what only other models of musubi-tuner's know."""
    if values.get("multiple_target"):
        raise DatasetError(f"{place}: multiple_target is for Qwen-Image-Layered alone. Leave it out.")
    for key in ("no_resize_control", "control_resolution"):
        if values.get(key):
            raise DatasetError(
                f"{place}: {key}: control pictures of Wan have the size of the picture beside them. Leave "
                "the key out."
            )


def _video_table(place: str, values: Mapping[str, Any], source: str) -> Table:
    extraction = values["frame_extraction"]
    if extraction == "uniform" and values["frame_sample"] == 1:
        extraction = "head"
    targets = round_targets(values["target_frames"])
    frames = FrameRule(
        extraction,
        targets,
        values["frame_stride"],
        values["frame_sample"],
        values["max_frames"],
        values["source_fps"],
    )
    notices = []
    if set(targets) != set(values["target_frames"]):
        notices.append(f"{place}: target_frames are rounded down to 4n+1: {', '.join(map(str, targets))}.")
    if values["bucket_no_upscale"] and values["enable_bucket"]:
        notices.append(f"{place}: bucket_no_upscale counts for pictures alone; videos fill their buckets.")
    clips = (
        _listed_videos(place, values) if source == "video_directory" else _described(place, values, source)
    )
    return Table(
        place,
        tuple(clips),
        # musubi-tuner cuts videos to buckets whatever enable_bucket says.
        BucketSizes(values["resolution"]),
        "musubi",
        frames,
        _cache_directory(values, source),
        values["batch_size"],
        values["num_repeats"],
        pads_controls=True,
        notices=tuple(notices),
    )


def _image_table(place: str, values: Mapping[str, Any], source: str) -> Table:
    one = _one_frame(place, values)
    is_listed = source == "image_directory"
    listed = _listed_pictures(place, values, one) if is_listed else _described(place, values, source, one)
    clips = tuple(listed)
    without = [clip for clip in clips if clip.caption is None] if is_listed else []
    notices: tuple[str, ...] = ()
    if without:
        notices = (
            f"{place}: pictures without a caption are left out, as musubi-tuner does: {len(without)}, first "
            f"{without[0].path.name}.",
        )
    return Table(
        place,
        tuple(clip for clip in clips if clip.caption is not None or not is_listed),
        BucketSizes(
            values["resolution"],
            values["enable_bucket"],
            values["enable_bucket"] and values["bucket_no_upscale"],
        ),
        "musubi",
        FrameRule(),
        _cache_directory(values, source),
        values["batch_size"],
        values["num_repeats"],
        one_frame=one,
        pads_controls=True,
        notices=notices,
    )


def _one_frame(place: str, values: Mapping[str, Any]) -> OneFrame | None:
    clean, target = values["fp_1f_clean_indices"], values["fp_1f_target_index"]
    if clean is None and target is None:
        return None
    if clean is None or target is None:
        raise DatasetError(f"{place}: fp_1f_clean_indices and fp_1f_target_index go together. Give both.")
    try:
        one = OneFrame(target, clean)
        one.check_pictures(len(clean))
    except RequestError as error:
        raise DatasetError(f"{place}: fp_1f_clean_indices, fp_1f_target_index: {error.message}") from error
    return one


def _cache_directory(values: Mapping[str, Any], source: str) -> Path:
    if values["cache_directory"]:
        return Path(values["cache_directory"]).expanduser()
    own = Path(values[source]).expanduser()
    return (own if source.endswith("_directory") else own.parent) / CACHE_FOLDER


def _suffix(place: str, values: Mapping[str, Any]) -> str:
    suffix = values["caption_extension"]
    if suffix is None:
        raise DatasetError(f'{place}: caption_extension is missing. Write caption_extension = ".txt".')
    if not suffix.startswith(".") or len(suffix) < 2 or "/" in suffix:
        raise DatasetError(f'{place}: caption_extension = "{suffix}" is no suffix. Write ".txt", say.')
    return str(suffix)


def _folder(place: str, values: Mapping[str, Any], key: str) -> Path:
    folder = Path(values[key]).expanduser()
    if not folder.exists() and not folder.is_absolute():
        raise DatasetError(
            f'{place}: {key} = "{folder}": not found from the current folder, {Path.cwd()}. Run the command '
            "where relative paths start, or write whole paths."
        )
    return folder


def _listed_videos(place: str, values: Mapping[str, Any]) -> Iterator[Clip]:
    suffix = _suffix(place, values)
    controls = _folder(place, values, "control_directory") if values["control_directory"] else None
    for path in list_files(_folder(place, values, "video_directory"), VIDEO_SUFFIXES):
        clip = caption_clip(path, suffix, is_picture=False)
        inputs = {CONTROL: match_video_control(path, controls)} if controls else {}
        yield replace(clip, inputs=inputs)


def _listed_pictures(place: str, values: Mapping[str, Any], one: OneFrame | None) -> Iterator[Clip]:
    suffix = _suffix(place, values)
    paths = list_files(_folder(place, values, "image_directory"), PICTURE_SUFFIXES)
    clips = [caption_clip(path, suffix, is_picture=True) for path in paths]
    if not values["control_directory"]:
        if one:
            raise DatasetError(f"{place}: fp_1f_clean_indices need control_directory, which is missing.")
        yield from clips
        return
    captioned = [clip.path for clip in clips if clip.caption is not None]
    folder = _folder(place, values, "control_directory")
    matched = match_picture_controls(captioned, folder, len(one.control_indices) if one else 1)
    for clip in clips:
        yield replace(clip, inputs=_controls(matched[clip.path], one) if clip.path in matched else {})


def _controls(pictures: tuple[Path, ...], one: OneFrame | None) -> dict[str, Given]:
    """Pictures as inputs: around one that is made, or as a control of one frame."""
    return {"control_image": pictures} if one else {CONTROL: pictures[0]}


def _described(
    place: str, values: Mapping[str, Any], source: str, one: OneFrame | None = None
) -> Iterator[Clip]:
    """Clips of a JSONL file."""
    is_picture = source.startswith("image")
    name = "image_path" if is_picture else "video_path"
    known = {name, f"{name}_0", "caption", "control_path", *(f"control_path_{i}" for i in range(3))}
    for line, row in read_json_lines(_folder(place, values, source)):
        path = row.get(name, row.get(f"{name}_0") if is_picture else None)
        if path is None:
            written = next((key for key in row if key not in known), "")
            advice = f" {written} is there: {advise_known(written, known)}" if written else ""
            raise DatasetError(f"{line}: {name} is missing.{advice}")
        if not isinstance(path, str) or not isinstance(row.get("caption", ""), str):
            raise DatasetError(f"{line}: {name} and caption must be texts.")
        controls = _paths(row, line)
        yield Clip(
            Path(path).expanduser(),
            row.get("caption"),
            line,
            is_picture,
            _listed_controls(controls, line, one, is_picture=is_picture),
        )


def _paths(row: Mapping[str, Any], line: str) -> tuple[Path, ...]:
    """Controls of a line by their numbers; one without a number comes first."""
    numbered: list[tuple[int, Path]] = []
    for key, value in row.items():
        number = key.removeprefix("control_path").removeprefix("_")
        if key.startswith("control_path") and value:
            if not isinstance(value, str) or not (number.isdecimal() or key == "control_path"):
                raise DatasetError(f"{line}: {key} must be a path, and end in a number or nothing.")
            numbered.append((int(number or 0), Path(value).expanduser()))
    return tuple(path for _, path in sorted(numbered))


def _listed_controls(
    controls: tuple[Path, ...], line: str, one: OneFrame | None, *, is_picture: bool
) -> dict[str, Given]:
    if not one:
        return {CONTROL: controls[0]} if controls else {}
    count = len(one.control_indices)
    if len(controls) < count:
        raise DatasetError(f"{line}: {len(controls)} control paths, fp_1f_clean_indices name {count}.")
    return _controls(controls[:count], one) if is_picture else {}
