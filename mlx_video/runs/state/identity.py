"""What decides a run's latents, as texts: told apart where a run is to go on from the state of another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import takewhile
from pathlib import Path

import numpy as np

from mlx_video.errors import RequestError
from mlx_video.formats.fingerprint import fingerprint_weights
from mlx_video.layouts.components import TINY_VAE, VAE
from mlx_video.layouts.folder_layout import TOKENIZER_FILES
from mlx_video.media.sources.source_video import SourceVideo
from mlx_video.request import INPUTS, LORA_FIELDS, flag_of, options_of
from mlx_video.request.kinds import ADAPTERS, IMAGE, PICTURES, VIDEO
from mlx_video.runs.inputs import encodes_frames
from mlx_video.runs.networks import is_called
from mlx_video.runs.run import Run
from mlx_video.weights.component_networks import find_network

_COMPARED_BY_CONTENT = (ADAPTERS, IMAGE, PICTURES, VIDEO)
_SHOWN_CHARACTERS = 60


def identify_run(run: Run) -> dict[str, str]:
    """Everything that decides a run's latents, as texts to compare.

    Returns:
        Flags with their settled values, and files of the model, images and adapters with fingerprints.
    """
    settings = run.own_settings()
    identity = {
        declared.flag: settings[name]
        for name, declared in options_of(type(run.request)).items()
        if name in settings and declared.affects == "latents" and declared.kind not in _COMPARED_BY_CONTENT
    }
    for name, image in run.images.items():
        identity[flag_of(name)] = _fingerprint_pixels(image)
    for name, pictures in run.pictures.items():
        identity[flag_of(name)] = "; ".join(map(_fingerprint_pixels, pictures))
    for name, kind in INPUTS.items():
        path = getattr(run.request, name) if kind in ("camera", "audio") else None
        if isinstance(path, Path) and path.is_file():
            identity[flag_of(name)] = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    for name, video in run.videos.items():
        identity[flag_of(name)] = _fingerprint_video(getattr(run.request, name), video)
    if run.part.history:
        identity["part"] = str(run.part.number + 1)
        identity["frames before"] = _fingerprint_frames(run.part.history())
    if run.images:
        identity["cut of the images"] = "to the video's shape" if run.plan.crops_images else "none"
    for name in LORA_FIELDS:
        for index, choice in enumerate(getattr(run.request, name)):
            key = f"adapter {index + 1} of {flag_of(name)}"
            identity[key] = f"{fingerprint_weights(choice.path)}, strength {choice.strength_text}"
    return identity | {path.name: fingerprint_weights(path) for path in _model_files(run)}


def _model_files(run: Run) -> Iterator[Path]:
    """The files that latents come from: not the VAE, nor what reads images, unless there are any."""
    model, encodes = run.model, encodes_frames(run)
    yield from model.transformers.values()
    for name, path in model.parts.items():
        if name == TINY_VAE.name:
            continue  # it makes frames of latents, and nothing else
        is_used = run.images or (name == VAE.name and encodes)
        if is_used or (is_called(run.request, name) and not _reads_images(name)):
            yield path
    if model.tokenizer is not None:
        yield from (path for name in TOKENIZER_FILES if (path := model.tokenizer / name).is_file())
    if run.images or encodes:
        yield from model.second_files.values()


def _reads_images(name: str) -> bool:
    return name == VAE.name or find_network(name).stage == "image"


def _fingerprint_pixels(image: np.ndarray) -> str:
    height, width = image.shape[:2]
    return f"{width}x{height}, {hashlib.sha256(np.ascontiguousarray(image).data).hexdigest()[:16]}"


def _fingerprint_video(source: object, video: SourceVideo) -> str:
    """That of the file or folder, or of the frames where there is none."""
    if isinstance(source, Path):
        return fingerprint_weights(source)
    frames = _fingerprint_frames(frame for frame, _ in video.read())
    return f"{video.name}, {video.fps} fps, {frames}"


def _fingerprint_frames(frames: Iterable[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for frame in frames:
        digest.update(np.ascontiguousarray(frame).data)
    return digest.hexdigest()[:16]


def refuse_other_run(path: Path, there: Mapping[str, str], identity: Mapping[str, str]) -> None:
    """Make sure that a state is of this run.

    Args:
        path: of the state, for the message.
        there: the identity that was found in it.
        identity: of this run, from :func:`identify_run`.

    Raises:
        RequestError: it is of another; the message names every difference.
    """
    names = [name for name in {**there, **identity} if there.get(name) != identity.get(name)]
    if names:
        differences = "; ".join(
            _describe_difference(name, there.get(name), identity.get(name)) for name in names
        )
        raise RequestError(
            "resume",
            f"{path} is of another run: {differences}. Ask for what it has, or leave --resume out to begin "
            "anew.",
        )


def _describe_difference(name: str, there: str | None, here: str | None) -> str:
    """Describe a difference by its two values, long texts from shortly before they part."""
    same = takewhile(lambda pair: pair[0] == pair[1], zip(there or "", here or "", strict=False))
    begin = max(0, len(list(same)) - _SHOWN_CHARACTERS // 2)
    return f"{name} is {_shorten(there, begin)} there and {_shorten(here, begin)} here"


def _shorten(text: str | None, begin: int) -> str:
    if text is None:
        return "absent"
    if len(text) <= _SHOWN_CHARACTERS:
        return text or '""'
    part = text[begin : begin + _SHOWN_CHARACTERS]
    return f'"{"…" * (begin > 0)}{part}{"…" * (begin + len(part) < len(text))}"'
