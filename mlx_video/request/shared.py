"""Declarations of options that several requests have in common."""

from __future__ import annotations

from typing import Any

from mlx_video.request.option import option

TEXT_GROUP = "model and text"
THE_MODELS = "the model's"
_ADAPTED = {
    "lora": "every transformer",
    "lora_high": "the high-noise expert alone",
    "lora_low": "the low-noise expert alone",
}


def adapters_option(flag_name: str, group: str) -> Any:
    """Adapters for one transformer, or for all; `flag_name` is in the singular, as each flag names one."""
    return option(
        (),
        help=f"adapter for {_ADAPTED[flag_name]}, a file or `owner/name/file` on the Hub, and its strength, "
        "1 if left out",
        group=group,
        flag_name=flag_name,
    )


def strict_option(group: str) -> Any:
    """The switch that makes an error of what an adapter cannot do."""
    return option(
        False,
        help="refuse an adapter that changes nothing, or of which a part does not fit the model, instead of "
        "saying so",
        group=group,
        affects="run",
    )


def component_option(help: str, group: str, default_text: str) -> Any:
    """A component in place of that of the checkpoint or model."""
    return option(None, help=help, group=group, metavar="FILE", default_text=default_text, affects="run")


def tiny_vae_option(group: str) -> Any:
    """The tiny decoder that a model may have besides its VAE."""
    return component_option(
        "tiny decoder of the model's latents, `taew2_1` (16 channels) or `taew2_2` (48) of "
        "madebyollin/taehv: makes the previews, and with --decoder tiny of generate_wan the video",
        group,
        "the model's, if it has one",
    )


def tokenizer_option(group: str, default_text: str) -> Any:
    """The tokenizer in place of that of the checkpoint or model."""
    return option(
        None,
        help="folder or repository with `tokenizer.json` or `spiece.model`",
        group=group,
        metavar="DIR",
        default_text=default_text,
        affects="run",
    )


def revision_option(group: str = "") -> Any:
    """What of a repository on the Hub is meant."""
    return option(
        None,
        help="branch, tag or commit of the repository on the Hub",
        group=group,
        metavar="NAME",
        default_text="its main branch",
        affects="run",
    )
