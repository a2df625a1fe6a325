"""Options by the flags under which users of the commands know them."""

from __future__ import annotations

from mlx_video.request.convert import ConvertRequest
from mlx_video.request.generate import GenerateRequest
from mlx_video.request.many import ManyOptions
from mlx_video.request.model import ModelRequest
from mlx_video.request.option import options_of


def flag_of(name: str) -> str:
    """The flag of a request's field, with its dashes."""
    for request in (GenerateRequest, ConvertRequest, ModelRequest, ManyOptions):
        if name in options_of(request):
            return options_of(request)[name].flag
    return f"--{name.replace('_', '-')}"
