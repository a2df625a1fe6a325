"""The settings of an earlier video as options again; of other programs' files as far as they say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlx_video.errors import MediaError, RequestError
from mlx_video.events import Notice
from mlx_video.formats.safetensors_header import read_header
from mlx_video.latents.run_state import is_state, load_state
from mlx_video.media.embedded_settings import is_own_settings
from mlx_video.media.file_texts import read_objects
from mlx_video.request import GenerateRequest, flag_of, options_of
from mlx_video.request.kinds import ADAPTERS, IMAGE, PICTURES, VIDEO
from mlx_video.request.prompt_lines import read_values
from mlx_video.runs.batch.comfy_graph import is_graph, read_graph

_FILES = (IMAGE, PICTURES, VIDEO, ADAPTERS)


@dataclass(slots=True)
class EarlierSettings:
    """What a file says of how it was made.

    Attributes:
        program: that made it.
        options: names of our options → values.
        notices: what could not be taken over.
    """

    program: str
    options: dict[str, Any] = field(default_factory=dict)
    notices: list[Notice] = field(default_factory=list)


def read_earlier(path: Path) -> EarlierSettings:
    """Read the settings of a video, picture, file of latents or JSON file.

    Raises:
        MediaError: the file is missing, cannot be read, or says nothing of how it was made.
    """
    if path.suffix == ".safetensors":
        texts: Mapping[str, Any] = read_header(path).metadata
        found = {"": load_state(path).settings if is_state(texts) else texts}
    else:
        found = read_objects(path)
    sidecar = path.with_suffix(".metadata.json")
    if sidecar.is_file() and path.suffix != ".json":
        found |= {"sidecar": read_objects(sidecar).get("", {})}
    for program, recognise, take in _PROGRAMS:
        for name, settings in found.items():
            if recognise(name, settings):
                try:
                    taken = take(settings)
                except (AttributeError, KeyError, TypeError, ValueError) as error:
                    raise MediaError(
                        f"{path}: its settings of {program} are damaged ({error!r}). Give options instead."
                    ) from error
                return _checked(path, program, taken)
    raise MediaError(
        f"{path}: says nothing of how it was made. Settings are read from videos and pictures of mlx-video, "
        "ComfyUI and Wan2GP as they were saved, and from mlx-gen's .metadata.json beside a video."
    )


def _checked(path: Path, program: str, taken: Mapping[str, Any]) -> EarlierSettings:
    """Options one by one, so that one that is not known here costs only itself."""
    earlier = EarlierSettings(program)
    earlier.notices.append(Notice(f"{path}: settings of {program}."))
    for name, value in taken.items():
        try:
            options = read_values({name: value})
        except RequestError as error:
            earlier.notices.append(Notice(f"{flag_of(error.field)} is left out: {error.message}"))
            continue
        missing = [place for key, read in options.items() for place in _missing_files(key, read)]
        if missing:
            earlier.notices.append(
                Notice(f"{flag_of(name)} is left out: {', '.join(missing)} is not here. Give it again.")
            )
        else:
            earlier.options |= options
    return earlier


def _missing_files(name: str, value: Any) -> Iterator[str]:
    kind = options_of(GenerateRequest)[name].kind
    if kind not in _FILES:
        return
    for each in value if isinstance(value, tuple) else (value,):
        place = each.path if kind is ADAPTERS else each
        on_hub = kind is ADAPTERS and len(place.parts) > 2 and not place.is_absolute()
        if isinstance(place, Path) and not (place.exists() or on_hub):
            yield str(place)


def _take_own(settings: Mapping[str, str]) -> dict[str, Any]:
    """Our own records: texts as they stand behind the flags, several with commas between them."""
    known = options_of(GenerateRequest)
    taken: dict[str, Any] = {}
    for name, text in settings.items():
        if name not in known:
            continue  # the model, the frame rate
        kind = known[name].kind
        if kind is ADAPTERS:
            taken[name] = [_split_adapter(each) for each in text.split(", ")]
        elif kind is PICTURES:
            taken[name] = text.split(", ")
        elif name == "step_cache":
            taken[name] = text.partition(",")[0]  # what it settled to stands behind its name
        else:
            taken[name] = text
    return taken


def _split_adapter(text: str) -> tuple[str, str | float]:
    path, _, strength = text.rpartition(" ")
    try:
        return path, float(strength)
    except ValueError:
        return path, strength  # one that changes from step to step


def _take_wan2gp(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as Wan2GP saves them; its first guidance scale is that of high noise.

    Source: Wan2GP wgp.py, the settings of a task.
    """
    taken = _pick(
        settings,
        prompt="prompt",
        negative_prompt="negative_prompt",
        video_length="num_frames",
        num_inference_steps="steps",
        seed="seed",
        guidance_scale="guide_scale",
        flow_shift="shift",
        sample_solver="scheduler",
    )
    width, cross, height = str(settings.get("resolution", "")).partition("x")
    if cross:
        taken |= {"width": width, "height": height}
    low = settings.get("guidance2_scale")
    if settings.get("guidance_phases") == 2 and low is not None and "guide_scale" in taken:
        taken["guide_scale"] = [low, taken["guide_scale"]]
    strengths = str(settings.get("loras_multipliers", "")).split()
    names = settings.get("activated_loras") or []
    if names:
        padded = [*strengths, *["1"] * len(names)]
        taken["loras"] = [_read_strength(name, text) for name, text in zip(names, padded, strict=False)]
    return taken


def _read_strength(name: str, text: str) -> tuple[str, str | float]:
    try:
        return name, float(text)
    except ValueError:
        return name, text


def _take_mlx_gen(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings beside a video of mlx-gen; its second guidance is that of low noise.

    Source: mlx-gen src/mflux/utils/generated_video.py, GeneratedVideo.build_metadata.
    """
    taken = _pick(
        settings,
        prompt="prompt",
        negative_prompt="negative_prompt",
        seed="seed",
        steps="steps",
        guidance="guide_scale",
        flow_shift="shift",
        solver="scheduler",
        width="width",
        height="height",
        frames="num_frames",
        image_path="image",
        video_path="input_video",
    )
    if settings.get("guidance_2") is not None and "guide_scale" in taken:
        taken["guide_scale"] = [settings["guidance_2"], taken["guide_scale"]]
    if paths := settings.get("lora_paths"):
        strengths = settings.get("lora_scales") or [1.0] * len(paths)
        taken["loras"] = [*zip(paths, strengths, strict=False)]
    return taken


def _pick(settings: Mapping[str, Any], **names: str) -> dict[str, Any]:
    """Values under our names, those that are there."""
    return {ours: settings[theirs] for theirs, ours in names.items() if settings.get(theirs) is not None}


def _is_wan2gp(name: str, settings: Mapping[str, Any]) -> bool:
    return (
        str(settings.get("type", "")).startswith("WanGP")
        or {"video_length", "num_inference_steps"} <= settings.keys()
    )


_PROGRAMS: tuple[
    tuple[str, Callable[[str, Mapping[str, Any]], bool], Callable[[Any], dict[str, Any]]], ...
] = (
    ("mlx-video", lambda name, settings: is_own_settings(settings), _take_own),
    ("ComfyUI", lambda name, settings: is_graph(settings), read_graph),
    ("Wan2GP", _is_wan2gp, _take_wan2gp),
    ("mlx-gen", lambda name, settings: "mflux_version" in settings, _take_mlx_gen),
)
"""Program, whether it made settings of this name, and what they are as our options."""
