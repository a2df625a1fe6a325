"""What a checkpoint's names and small JSON files say about sampling, made the converted model's defaults."""

from __future__ import annotations

from dataclasses import replace

from mlx_video.config import ModelConfig, SamplingDefaults
from mlx_video.errors import ConfigError
from mlx_video.files.hub_cache import published_name
from mlx_video.layouts.checkpoint_files import CheckpointFiles
from mlx_video.variants.distilled import DISTILLED_NAMES, adopt_distilled

# Diffusers rounds nothing, but some repositories list the statistics with fewer digits.
_STATISTICS_TOLERANCE = 1e-3


def adopt_hints(config: ModelConfig, files: CheckpointFiles) -> tuple[ModelConfig, tuple[str, ...]]:
    """Take shift, boundary and the settings of distilled models from a checkpoint.

    Args:
        config: with the official defaults.
        files: the checkpoint.

    Returns:
        The config to write, and a notice for each default that is not the official one.

    Raises:
        ConfigError: the checkpoint's files describe another model than its tensors.
    """
    _check_timesteps(config, files)
    _check_statistics(config, files)
    official, hints = config.sampling, files.hints
    sampling = official
    # A recipe of the model's own decides; the scheduler beside it is what its base model came with.
    if not official.recipe:
        sampling = replace(
            official, shift=hints.shift or official.shift, boundary=hints.boundary or official.boundary
        )
    settled, distilled = _adopt_distilled(sampling, config, files)
    notices = [
        f"{published_name(files.path)}: {name} {found:g} becomes the default (official: {usual:g})."
        for name in ("shift", "boundary")
        if (found := getattr(settled, name)) != (usual := getattr(official, name))
        and found == getattr(sampling, name)
    ]
    return replace(config, sampling=settled), (*notices, *distilled)


def _adopt_distilled(
    sampling: SamplingDefaults, config: ModelConfig, files: CheckpointFiles
) -> tuple[SamplingDefaults, tuple[str, ...]]:
    """The defaults of a distilled checkpoint; of two experts both must be."""
    marked = [name for name in files.transformer_names if DISTILLED_NAMES.search(name)]
    others = [name for name in files.transformer_names if name not in marked]
    if marked and others and not any(map(DISTILLED_NAMES.search, files.names)):
        return sampling, (
            f"{marked[0]}: the name suggests a distilled model, that of {others[0]} does not. The defaults "
            "are those of the base model; experts that were distilled together belong together.",
        )
    return adopt_distilled(sampling, config.transformer.model_type, (*files.names, *files.transformer_names))


def _check_timesteps(config: ModelConfig, files: CheckpointFiles) -> None:
    if files.hints.expands_timesteps and config.transformer.model_type != "ti2v":
        raise ConfigError(
            f"{files.path}: model_index.json has expand_timesteps true, as TI2V-5B alone needs it, but the "
            f"tensors are of {config.variant}. They belong to different checkpoints; fetch both again."
        )


def _check_statistics(config: ModelConfig, files: CheckpointFiles) -> None:
    """A VAE whose latents are scaled in another way would make wrong colours without any error."""
    known = {"latents_mean": config.vae.latent_mean, "latents_std": config.vae.latent_std}
    for key, official in known.items():
        stated = files.vae_config.get(key)
        if stated is None:
            continue
        fits = isinstance(stated, list) and len(stated) == len(official)
        if not fits or any(
            not isinstance(a, int | float) or abs(a - b) > _STATISTICS_TOLERANCE
            for a, b in zip(stated, official, strict=True)
        ):
            raise ConfigError(
                f"{files.path}: the VAE's config.json has other {key} than the Wan VAE of "
                f"{config.vae.z_dim} channels, so its latents are scaled in another way. Use the VAE of the "
                "model's Wan-AI repository."
            )
