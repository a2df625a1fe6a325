"""A checkpoint to convert."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mlx_video.errors import RequestError
from mlx_video.request.choices import DTypeName, ModelVersion, QuantizationBits, QuantizationGroup
from mlx_video.request.describe import documented
from mlx_video.request.kinds import Adapters, Place, WrittenPath
from mlx_video.request.option import check_options, option, options_of, settle_paths
from mlx_video.request.shared import (
    adapters_option,
    component_option,
    revision_option,
    strict_option,
    tiny_vae_option,
    tokenizer_option,
)

_ADAPTERS = "adapters, merged before rounding and quantizing"
_COMPONENTS = "components, in place of the checkpoint's"
_THE_CHECKPOINTS = "the checkpoint's"


def _weights_option(what: str) -> Place | None:
    return component_option(
        f"file of {what}, or the folder of its shards, here or as `owner/name/file` on the Hub",
        _COMPONENTS,
        _THE_CHECKPOINTS,
    )


def _is_same_path(path: Path, other: Path) -> bool:
    """Whether two paths lead to one place, which need not exist; links in a circle lead nowhere else."""
    return os.path.realpath(path) == os.path.realpath(other)


@documented
@dataclass(frozen=True, slots=True)
class ConvertRequest:
    """One checkpoint to convert."""

    checkpoint_dir: Place | None = option(
        None,
        help="folder of the Wan checkpoint: original, Diffusers, ComfyUI or LightX2V, or its only file; with "
        "--quantize-only a converted folder; or `owner/name` of a repository on the Hub, to be downloaded",
        default_text="the components given one by one",
    )
    output_dir: WrittenPath = option(Path("wan_mlx_model"), help="folder to make")
    revision: str | None = revision_option()
    dtype: DTypeName = option(
        "bfloat16",
        help="`bfloat16`, `float16` or `float32`, of transformer and text encoder; the VAE is always float32",
    )
    model_version: ModelVersion = option(
        "auto", help="Wan generation, `2.1` or `2.2`; `auto` tells it from the tensors"
    )
    called: str | None = option(
        None,
        help="what the transformer's publisher calls it, such as `krea-realtime-video`, for models that have "
        "the tensors of others and whose files were renamed",
        metavar="NAME",
        default_text="the names of files and folders",
    )
    quantize: bool = option(False, help="quantize the transformer blocks' linear layers")
    bits: QuantizationBits = option(4, help="bits of a quantized weight, 4 or 8")
    group_size: QuantizationGroup = option(64, help="weights that share one scale: 32, 64 or 128")
    quantize_only: bool = option(
        False, help="--checkpoint-dir is a folder converted earlier; quantize it, keeping its dtype"
    )
    loras: Adapters = adapters_option("lora", _ADAPTERS)
    loras_high: Adapters = adapters_option("lora_high", _ADAPTERS)
    loras_low: Adapters = adapters_option("lora_low", _ADAPTERS)
    strict_lora: bool = strict_option(_ADAPTERS)
    transformer: Place | None = _weights_option("the transformer")
    high_noise: Place | None = _weights_option("Wan2.2's high-noise expert")
    low_noise: Place | None = _weights_option("Wan2.2's low-noise expert")
    text_encoder: Place | None = _weights_option("UMT5")
    vae: Place | None = _weights_option("the VAE")
    clip: Place | None = _weights_option("the image encoder of Wan2.1 image-to-video models")
    audio_encoder: Place | None = _weights_option("wav2vec 2.0, through which speech-to-video models hear")
    motion_controller: Place | None = _weights_option("a motion controller, for --motion-bucket-id")
    tiny_vae: Place | None = tiny_vae_option(_COMPONENTS)
    tokenizer: Place | None = tokenizer_option(
        _COMPONENTS, "the checkpoint's, or that in the text encoder's file"
    )

    def __post_init__(self) -> None:
        check_options(self)
        settle_paths(self)
        self._check_components()
        if not (self.quantize or self.quantize_only):
            self._refuse_idle_options()
        if self.checkpoint_dir is not None and _is_same_path(self.checkpoint_dir, self.output_dir):
            raise RequestError(
                "output_dir", f"{self.output_dir} is the checkpoint folder itself. Choose another folder."
            )

    @property
    def components(self) -> dict[str, Path]:
        """The components that are given one by one: name of the option → its file or folder."""
        paths = {name: getattr(self, name) for name in COMPONENT_FIELDS}
        return {name: path for name, path in paths.items() if path is not None}

    def _check_components(self) -> None:
        given = self.components
        if given and self.quantize_only:
            message = "does not count with --quantize-only, which changes a converted folder. Leave it out."
            raise RequestError(next(iter(given)), message)
        for name in ("high_noise", "low_noise"):
            if name in given and "transformer" in given:
                raise RequestError(
                    name, "--transformer stands for both experts. Give one transformer, or two experts."
                )
        if self.checkpoint_dir is None:
            self._check_is_whole(given)
            if self.revision is not None:
                raise RequestError("revision", "counts only with --checkpoint-dir. Leave it out.")

    def _check_is_whole(self, given: dict[str, Path]) -> None:
        experts = {"high_noise", "low_noise"}
        needed = {"text_encoder", "vae", *(experts if experts & given.keys() else {"transformer"})}
        absent = (name for name in COMPONENT_FIELDS if name in needed - given.keys())
        missing = [f"--{name.replace('_', '-')}" for name in absent]
        if missing and given:
            raise RequestError(
                "checkpoint_dir", f"is not given, and {', '.join(missing)} neither. Add them, or the folder."
            )
        if missing:
            raise RequestError(
                "checkpoint_dir",
                f"is needed. Give the folder of a checkpoint, or its components: {', '.join(missing)}.",
            )

    def _refuse_idle_options(self) -> None:
        for name in ("bits", "group_size"):
            value = getattr(self, name)
            if value != options_of(type(self))[name].default:
                message = f"{value}: counts only with --quantize. Add it, or leave this option out."
                raise RequestError(name, message)


COMPONENT_FIELDS = tuple(
    name for name, declared in options_of(ConvertRequest).items() if declared.group == _COMPONENTS
)
