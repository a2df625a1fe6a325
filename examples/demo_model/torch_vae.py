"""The Wan2.1 VAE in torch for training: whole clips at once, the official tensor names.

The official module walks a clip in chunks with caches. Training wants one pass, so here each layer applies
the first-frame rules itself; the result is the same. Activations are channels-last, which is several times
faster on a CPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F

LATENT_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
LATENT_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip


LAST_DOUBLING = 7  # the decoder's layer that doubles frames for the last time
CELL_PIXELS = 4  # what comes out of that doubling has a cell for so many pixels, in rows and in columns
WINDOW_CELLS = 8


@dataclass(frozen=True)
class Windows:
    """Frames of each clip to decode, and the first row and column of cells in each: int64 [B, n]."""

    frames: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor


class CausalConv3d(nn.Conv3d):
    """3x3x3 (or 1x1x1) convolution that sees only past frames, or none but its own."""

    sees_past = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kernel_t, kernel_s = self.kernel_size[0], self.kernel_size[1]
        weight = self.weight
        if kernel_t > 1 and (x.shape[2] == 1 or not self.sees_past):
            weight = weight[:, :, -1:]  # the frames before the first are zeros
        elif kernel_t > 1:
            zeros = torch.zeros_like(x[:, :, :1]).expand(-1, -1, kernel_t - 1, -1, -1)
            x = torch.cat([zeros, x], 2)
        return F.conv3d(x, weight, self.bias, padding=(0, kernel_s // 2, kernel_s // 2))


class RMSNorm(nn.Module):
    def __init__(self, channels: int, rank: int = 3) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *[1] * rank))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Channels are the innermost axis in memory, so the fused last-axis norm applies to a view.
        gamma = self.gamma.flatten()
        return F.rms_norm(x.movedim(1, -1), gamma.shape, gamma, eps=1e-12).movedim(-1, 1)


class ResidualBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            RMSNorm(c_in), nn.SiLU(), CausalConv3d(c_in, c_out, 3),
            RMSNorm(c_out), nn.SiLU(), nn.Identity(), CausalConv3d(c_out, c_out, 3),
        )  # fmt: skip
        self.shortcut = CausalConv3d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.residual(x) + self.shortcut(x)


class AttentionBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = RMSNorm(channels, rank=2)
        self.to_qkv = nn.Conv2d(channels, channels * 3, 1)
        self.proj = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.proj.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, c, t, h, w = x.shape
        tokens = self.norm(x).permute(0, 2, 3, 4, 1).reshape(b * t, 1, h * w, c)
        q, k, v = F.linear(tokens, self.to_qkv.weight.flatten(1), self.to_qkv.bias).chunk(3, -1)
        out = F.scaled_dot_product_attention(q, k, v)
        out = F.linear(out, self.proj.weight.flatten(1), self.proj.bias)
        return x + out.reshape(b, t, h, w, c).permute(0, 4, 1, 2, 3)


class Resample(nn.Module):
    def __init__(self, channels: int, mode: str) -> None:
        super().__init__()
        self.mode = mode
        down = mode.startswith("down")
        conv = nn.Conv2d(channels, channels if down else channels // 2, 3)
        self.resample = nn.Sequential(nn.Identity(), conv)
        if mode.endswith("3d"):
            self.time_conv = nn.Conv3d(channels, channels if down else channels * 2, (3, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.mode.startswith("down"):
            conv = self.resample[1]
            x = F.conv3d(F.pad(x, (0, 1, 0, 1)), conv.weight.unsqueeze(2), conv.bias, stride=(1, 2, 2))
            if self.mode == "down3d" and x.shape[2] > 1:
                later = F.conv3d(x, self.time_conv.weight, self.time_conv.bias, stride=(2, 1, 1))
                x = torch.cat([x[:, :, :1], later], 2)
            return x
        return self.enlarge(self.double_frames(x) if self.mode == "up3d" and x.shape[2] > 1 else x)

    def double_frames(self, x: torch.Tensor) -> torch.Tensor:
        """Two frames for every one but the first."""
        later = torch.cat([torch.zeros_like(x[:, :, :1]).expand(-1, -1, 2, -1, -1), x[:, :, 1:]], 2)
        later = F.conv3d(later, self.time_conv.weight, self.time_conv.bias)
        b, c2, t, h, w = later.shape
        later = later.reshape(b, 2, c2 // 2, t, h, w).permute(0, 2, 3, 1, 4, 5)
        return torch.cat([x[:, :, :1], later.reshape(b, c2 // 2, t * 2, h, w)], 2)

    def enlarge(self, x: torch.Tensor) -> torch.Tensor:
        """Frames of twice the width and height."""
        conv = self.resample[1]
        x = F.interpolate(x, scale_factor=(1, 2, 2), mode="nearest")
        x = x.contiguous(memory_format=torch.channels_last_3d)
        return F.conv3d(x, conv.weight.unsqueeze(2), conv.bias, padding=(0, 1, 1))


def middle(channels: int) -> nn.Sequential:
    return nn.Sequential(
        ResidualBlock(channels, channels), AttentionBlock(channels), ResidualBlock(channels, channels)
    )


def head(channels: int, c_out: int) -> nn.Sequential:
    return nn.Sequential(RMSNorm(channels), nn.SiLU(), CausalConv3d(channels, c_out, 3))


class Encoder(nn.Module):
    def __init__(self, base: int, z: int) -> None:
        super().__init__()
        widths = [base, base, base * 2, base * 4, base * 4]
        self.conv1 = CausalConv3d(3, base, 3)
        layers: list[nn.Module] = []
        for stage, mode in enumerate(("down2d", "down3d", "down3d", None)):
            layers += [ResidualBlock(widths[stage], widths[stage + 1])]
            layers += [ResidualBlock(widths[stage + 1], widths[stage + 1])]
            layers += [Resample(widths[stage + 1], mode)] if mode else []
        self.downsamples = nn.Sequential(*layers)
        self.middle = middle(widths[-1])
        self.head = head(widths[-1], z * 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.middle(self.downsamples(self.conv1(x))))


class Decoder(nn.Module):
    def __init__(self, base: int, z: int) -> None:
        super().__init__()
        widths = [base * 4, base * 4, base * 4, base * 2, base]
        self.conv1 = CausalConv3d(z, widths[0], 3)
        self.middle = middle(widths[0])
        layers: list[nn.Module] = []
        for stage, mode in enumerate(("up3d", "up3d", "up2d", None)):
            c_in = widths[stage] // (2 if stage else 1)
            layers += [ResidualBlock(c_in, widths[stage + 1])]
            layers += [ResidualBlock(widths[stage + 1], widths[stage + 1]) for _ in range(2)]
            layers += [Resample(widths[stage + 1], mode)] if mode else []
        self.upsamples = nn.Sequential(*layers)
        self.head = head(widths[-1], 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.upsamples(self.middle(self.conv1(x))))

    @torch.no_grad()
    def forget_past(self) -> None:
        """Let the layers after the last doubling of frames see one frame at a time."""
        for module in (*self.upsamples[LAST_DOUBLING + 1 :].modules(), *self.head.modules()):
            if isinstance(module, CausalConv3d) and module.kernel_size[0] > 1:
                module.sees_past = False
                module.weight[:, :, :-1] = 0

    def decode_windows(self, x: torch.Tensor, windows: Windows) -> torch.Tensor:
        """Square windows of frames, each a clip [1, 3, 1, n, n], once the past is forgotten.

        The pixels next to a window's sides see zeros instead of what is beyond them.
        """
        doubling = self.upsamples[LAST_DOUBLING]
        x = doubling.double_frames(self.upsamples[:LAST_DOUBLING](self.middle(self.conv1(x))))
        along = torch.arange(WINDOW_CELLS)
        rows = (windows.rows[:, :, None] + along)[:, :, :, None]
        columns = (windows.columns[:, :, None] + along)[:, :, None, :]
        clips = torch.arange(len(x))[:, None, None, None]
        pieces = x.permute(0, 2, 3, 4, 1)[clips, windows.frames[:, :, None, None], rows, columns]
        x = doubling.enlarge(pieces.flatten(0, 1).movedim(-1, 1).unsqueeze(2))
        return self.head(self.upsamples[LAST_DOUBLING + 1 :](x))


class WanVAE(nn.Module):
    """Encoder, decoder and the two pointwise layers between; `state_dict()` has the official names."""

    def __init__(self, base: int = 16, z: int = 16) -> None:
        super().__init__()
        self.z = z
        self.encoder = Encoder(base, z)
        self.conv1 = CausalConv3d(z * 2, z * 2, 1)
        self.conv2 = CausalConv3d(z, z, 1)
        self.decoder = Decoder(base, z)
        self.register_buffer("mean", torch.tensor(LATENT_MEAN).view(1, -1, 1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(LATENT_STD).view(1, -1, 1, 1, 1), persistent=False)

    def encode(self, video: torch.Tensor) -> torch.Tensor:
        """Clip [B, 3, F, H, W] in [-1, 1] to normalised latents [B, z, T, H/8, W/8]."""
        video = video.contiguous(memory_format=torch.channels_last_3d)
        return (self.conv1(self.encoder(video))[:, : self.z] - self.mean) / self.std

    def decode(self, latents: torch.Tensor, windows: Windows | None = None) -> torch.Tensor:
        """Normalised latents to a clip, not clamped, or to windows of it as `decode_windows` has them."""
        x = (latents * self.std + self.mean).contiguous(memory_format=torch.channels_last_3d)
        x = self.conv2(x)
        return self.decoder(x) if windows is None else self.decoder.decode_windows(x, windows)
