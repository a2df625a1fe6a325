"""Sizes and latent statistics of the autoencoders."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_video.errors import ConfigError

# Per-channel statistics of the training latents. Source: Wan2.1 wan/modules/vae.py, WanVAE.
WAN21_LATENT_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
WAN21_LATENT_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip
# Source: Wan2.2 wan/modules/vae2_2.py, Wan2_2_VAE.
WAN22_LATENT_MEAN = (
    -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557,
    -0.1382, 0.0542, 0.2813, 0.0891, 0.1570, -0.0098, 0.0375, -0.1825,
    -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502,
    -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230,
    -0.0313, -0.1649, 0.0117, 0.0723, -0.2839, -0.2083, -0.0520, 0.3748,
    0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667,
)  # fmt: skip
WAN22_LATENT_STD = (
    0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013,
    0.8158, 1.0344, 0.5894, 1.0901, 0.6885, 0.6165, 0.8454, 0.4978,
    0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
    0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093,
    0.5709, 0.6065, 0.6415, 0.4944, 0.5726, 1.2042, 0.5458, 1.6887,
    0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class VAEConfig:
    """Sizes and latent statistics of a video autoencoder.

    `encoder_dim` and `decoder_dim` are the widths of the first encoder and the last decoder stage; the files
    do not state them, so they are read from tensor shapes. None stands for a half that the file lacks.
    `output_scale` is how many times wider and higher than the video's size the decoder makes its frames.
    """

    z_dim: int = 16
    stride: tuple[int, int, int] = (4, 8, 8)
    encoder_dim: int | None = 96
    decoder_dim: int | None = 96
    latent_mean: tuple[float, ...] = WAN21_LATENT_MEAN
    latent_std: tuple[float, ...] = WAN21_LATENT_STD
    output_scale: int = 1

    def __post_init__(self) -> None:
        if not self.z_dim == len(self.latent_mean) == len(self.latent_std):
            raise ConfigError(
                f"vae: {self.z_dim} latent channels, but {len(self.latent_mean)} means and "
                f"{len(self.latent_std)} standard deviations."
            )


WAN21_VAE = VAEConfig()
WAN22_VAE = VAEConfig(
    z_dim=48,
    stride=(4, 16, 16),
    encoder_dim=160,
    decoder_dim=256,
    latent_mean=WAN22_LATENT_MEAN,
    latent_std=WAN22_LATENT_STD,
)


def find_vae_config(z_dim: int) -> VAEConfig:
    """The published VAE whose latents have `z_dim` channels, with its published widths.

    Raises:
        ConfigError: there is none.
    """
    for config in (WAN21_VAE, WAN22_VAE):
        if config.z_dim == z_dim:
            return config
    raise ConfigError(
        f"vae: {z_dim} latent channels; this version knows VAEs of {WAN21_VAE.z_dim} (Wan2.1) and "
        f"{WAN22_VAE.z_dim} (Wan2.2 TI2V-5B). Use a checkpoint of one of these."
    )


@dataclass(frozen=True, slots=True)
class TinyVAEConfig:
    """Sizes of a tiny decoder.

    `widths` are the channels of its three stages and of what goes into the last convolution. `patch_size` is
    the side, in pixels, of the squares that come out of that.
    """

    z_dim: int = 16
    patch_size: int = 1
    widths: tuple[int, int, int, int] = (256, 128, 64, 64)
