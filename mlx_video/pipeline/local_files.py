"""Requests that name files on the Hub, with the downloaded files in their place."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import Any, TypeVar

from mlx_video.checkpoint.hub import fetch_folder, fetch_part
from mlx_video.checkpoint.hub_files import Use
from mlx_video.events import Event
from mlx_video.request import LORA_FIELDS, ConvertRequest, GenerateRequest

Request = TypeVar("Request", ConvertRequest, GenerateRequest)


def with_local_checkpoint(request: ConvertRequest) -> Generator[Event, None, ConvertRequest]:
    """Download what a conversion needs of the Hub: the checkpoint, components, adapters.

    Yields:
        What is downloaded, with its progress; nothing where all is here.

    Raises:
        CheckpointError: a repository cannot be had or lacks a file, or the disk is too full.
        RequestError: a revision is given for a folder.
    """
    local: dict[str, Any] = {}
    for name, place in request.components.items():
        local[name] = yield from fetch_part(place)
    if request.checkpoint_dir is not None:
        use: Use = "run" if request.quantize_only else "convert"
        local["checkpoint_dir"] = yield from fetch_folder(
            request.checkpoint_dir, request.revision, use, request.components
        )
        local["revision"] = None
    return (yield from with_local_adapters(replace(request, **local)))


def with_local_adapters(request: Request) -> Generator[Event, None, Request]:
    """Download the adapters that are named as owner/name/file of a repository on the Hub.

    Yields:
        What is downloaded, with its progress; nothing where all are here.

    Raises:
        CheckpointError: a repository cannot be had or lacks a file, or the disk is too full.
    """
    local: dict[str, Any] = {}
    for name in LORA_FIELDS:
        choices = []
        for choice in getattr(request, name):
            choices.append(replace(choice, path=(yield from fetch_part(choice.path))))
        local[name] = tuple(choices)
    return replace(request, **local)
