"""Requests that name files on the Hub, with the downloaded files in their place."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from mlx_video.convert.find_checkpoint import check_component
from mlx_video.errors import RequestError
from mlx_video.events import Event
from mlx_video.hub.fetch import fetch_folder, fetch_part
from mlx_video.hub.files import Use
from mlx_video.layouts.staging import check_replaceable, lies_in
from mlx_video.lora.adapter_file import AdapterFile
from mlx_video.request import LORA_FIELDS, ConvertRequest, GenerateRequest, LoraChoice, flag_of

Request = TypeVar("Request", ConvertRequest, GenerateRequest)
Key = TypeVar("Key")
Fetch = Generator[Event, None, Path]


def with_local_checkpoint(request: ConvertRequest) -> Generator[Event, None, ConvertRequest]:
    """Download what a conversion needs of the Hub: the checkpoint, components, adapters.

    What is here is checked, and what is there is looked up, before the first byte is downloaded.

    Yields:
        What is downloaded, with its progress; nothing where all is here.

    Raises:
        AdapterError: an adapter that is here cannot be used.
        CheckpointError: a repository cannot be had or lacks a file, the disk is too full, or the name of the
            output is taken.
        RequestError: a component that is here is not what its option says, or lies in the folder that would
            be replaced; or a revision is given for a folder.
    """
    check_replaceable(request.output_dir)
    _refuse_reading_output(request)
    fetches: dict[str, Fetch] = {
        name: fetch_part(place, "tokenizer" if name == "tokenizer" else "component")
        for name, place in request.components.items()
    }
    if request.checkpoint_dir is not None:
        use: Use = "run" if request.quantize_only else "convert"
        fetches["checkpoint_dir"] = fetch_folder(
            request.checkpoint_dir, request.revision, use, request.components
        )
    here, begun = _begin(fetches)
    for name in here.keys() & request.components.keys():
        check_component(name, here[name])
    adapters = _fetch_adapters(request)
    adapters_here, adapters_begun = _begin(adapters)
    for path in adapters_here.values():
        AdapterFile(path)
    local: dict[str, Any] = here | (yield from _finish(fetches, begun))
    if "checkpoint_dir" in local:
        local["revision"] = None
    paths = adapters_here | (yield from _finish(adapters, adapters_begun))
    return replace(request, **local, **_chosen(request, paths))


def _refuse_reading_output(request: ConvertRequest) -> None:
    """Refuse to replace a folder that holds what is read.

    Raises:
        RequestError: it holds the checkpoint, a component or an adapter.
    """
    for flag, path in _read_places(request):
        if lies_in(path, request.output_dir):
            raise RequestError(
                "output_dir",
                f"{request.output_dir}: would be replaced, but {flag} {path} lies in it. Choose another "
                "folder.",
            )


def _read_places(request: ConvertRequest) -> Iterator[tuple[str, Path]]:
    """What a conversion reads: the flag and the path of each."""
    if request.checkpoint_dir is not None:
        yield "--checkpoint-dir", request.checkpoint_dir
    for name, path in request.components.items():
        yield flag_of(name), path
    for name in LORA_FIELDS:
        for choice in getattr(request, name):
            yield flag_of(name), choice.path


def with_local_adapters(request: Request) -> Generator[Event, None, Request]:
    """Download the adapters that are named as owner/name/file of a repository on the Hub.

    Yields:
        What is downloaded, with its progress; nothing where all are here.

    Raises:
        CheckpointError: a repository cannot be had or lacks a file, or the disk is too full.
    """
    fetches = _fetch_adapters(request)
    here, begun = _begin(fetches)
    return replace(request, **_chosen(request, here | (yield from _finish(fetches, begun))))


def _fetch_adapters(request: ConvertRequest | GenerateRequest) -> dict[Path, Fetch]:
    choices: list[LoraChoice] = [choice for name in LORA_FIELDS for choice in getattr(request, name)]
    return {choice.path: fetch_part(choice.path, "adapter") for choice in choices}


def _chosen(request: ConvertRequest | GenerateRequest, paths: Mapping[Path, Path]) -> dict[str, Any]:
    """The request's adapters by their files here; `named` stays what the user typed."""
    return {
        name: tuple(replace(choice, path=paths[choice.path]) for choice in getattr(request, name))
        for name in LORA_FIELDS
    }


def _begin(fetches: Mapping[Key, Fetch]) -> tuple[dict[Key, Path], dict[Key, Event]]:
    """Begin every download, which looks up its files; gives the paths of what is here, and first events."""
    here, begun = {}, {}
    for key, fetch in fetches.items():
        try:
            begun[key] = next(fetch)
        except StopIteration as end:
            here[key] = end.value
    return here, begun


def _finish(
    fetches: Mapping[Key, Fetch], begun: Mapping[Key, Event]
) -> Generator[Event, None, dict[Key, Path]]:
    """Carry the downloads through that were begun."""
    paths = {}
    for key, event in begun.items():
        yield event
        paths[key] = yield from fetches[key]
    return paths
