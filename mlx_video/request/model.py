"""A converted model to open."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_video.request.describe import documented
from mlx_video.request.kinds import Place
from mlx_video.request.option import check_options, option
from mlx_video.request.shared import (
    TEXT_GROUP,
    THE_MODELS,
    component_option,
    revision_option,
    tiny_vae_option,
    tokenizer_option,
)

_COMPONENTS = "components from elsewhere"


def _weights_option(what: str) -> Place | None:
    return component_option(
        f"{what} in place of the model's: a file or a folder that holds it, converted or of any Wan "
        "checkpoint, here or as `owner/name/file` on the Hub",
        _COMPONENTS,
        THE_MODELS,
    )


@documented
@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One model to open. Whoever opens it judges whether a place is an address that is read."""

    folder: Place | None = option(
        None,
        help="converted model folder, or a folder of FastVideo's for MLX; or `owner/name` of a repository on "
        "the Hub or the address of its page, to be downloaded",
        group=TEXT_GROUP,
        flag_name="model_dir",
        default_text="the demo model",
    )
    revision: str | None = revision_option(TEXT_GROUP)
    text_encoder: Place | None = _weights_option("UMT5")
    vae: Place | None = _weights_option("the VAE")
    tiny_vae: Place | None = tiny_vae_option(_COMPONENTS)
    tokenizer: Place | None = tokenizer_option(_COMPONENTS, THE_MODELS)

    def __post_init__(self) -> None:
        check_options(self)
