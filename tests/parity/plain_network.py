"""The transformer with its control networks, written out in PyTorch operations from the published formulas.

No published package that can be installed here has these networks with the official rotary positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlx_video.config import TransformerConfig

THETA = 10000.0


class PlainNetwork:
    """Velocity of one transformer.

    Args:
        weights: under the official names.
        config: its sizes.

    Source: aigc-apps/VideoX-Fun videox_fun/models/wan_transformer3d.py, WanTransformer3DModel;
    modelscope/DiffSynth-Studio diffsynth/models/wan_video_dit.py, WanModel.
    """

    def __init__(self, weights: Mapping[str, Any], config: TransformerConfig) -> None:
        self.weights, self.config = weights, config

    def __call__(
        self,
        latents: Any,
        timestep: float,
        context: Any,
        *,
        concat: Any = None,
        image: Any = None,
        reference: Any = None,
        camera: Any = None,
        added: Any = None,
        times: Sequence[int] = (),
    ) -> Any:
        """Predict the velocity [16, T, h, w].

        Args:
            latents: [16, T, h, w].
            timestep: 0 to 1000.
            context: text features [n, text_dim], without padding.
            concat: channels behind those of the latents.
            image: image features [K, image_dim].
            reference: latents of a picture, [16, h, w].
            camera: packed rays, [24, T, H, W].
            added: to the modulation, [6, dim].
            times: positions in time of the latent frames; those of a video if empty.
        """
        import torch

        functional = torch.nn.functional
        frames = latents if concat is None else torch.cat([latents, concat])
        cells = self.convolve3d("patch_embedding", frames)
        if camera is not None:
            cells = cells + self.adapt_camera(camera).transpose(0, 1)
        count, rows, columns = cells.shape[1:]
        tokens, places = cells.flatten(1).T, [*(times or range(count))]
        if reference is not None:
            first = self.convolve2d("ref_conv", reference[None], stride=2)[0].flatten(1).T
            tokens, places = torch.cat([first, tokens]), [0, *(place + 1 for place in places)]
        embedding = self.embed_time(timestep)
        modulation = self.linear("time_projection.1", functional.silu(embedding)).reshape(6, -1)
        modulation = modulation if added is None else modulation + added
        text = functional.pad(context, (0, 0, 0, self.config.text_len - len(context)))
        text = self.feed("text_embedding", text, approximate="tanh")
        images = None if image is None else self.embed_image(image)
        turns = self.turns(places, rows, columns)
        for index in range(self.config.num_layers):
            tokens = self.block(f"blocks.{index}", tokens, modulation, text, images, turns)
        shift, scale = self.weights["head.modulation"][0] + embedding
        patches = self.linear("head.head", self.norm(tokens) * (1 + scale) + shift)
        patches = patches[-count * rows * columns :].reshape(count, rows, columns, 2, 2, -1)
        return patches.permute(5, 0, 1, 3, 2, 4).reshape(-1, count, 2 * rows, 2 * columns)

    def block(self, path: str, x: Any, modulation: Any, text: Any, images: Any, turns: Any) -> Any:
        shift, scale, gate, shift2, scale2, gate2 = self.weights[f"{path}.modulation"][0] + modulation
        own, cross = f"{path}.self_attn", f"{path}.cross_attn"
        y = self.norm(x) * (1 + scale) + shift
        q, k = (self.turn(self.rms(f"{own}.norm_{n}", self.linear(f"{own}.{n}", y)), turns) for n in "qk")
        x = x + gate * self.linear(f"{own}.o", self.attend(q, k, self.linear(f"{own}.v", y)))
        y = self.norm(x, f"{path}.norm3")
        q = self.rms(f"{cross}.norm_q", self.linear(f"{cross}.q", y))
        mixed = 0
        for end, source in (("", text), ("_img", images)):
            if source is not None:
                k = self.rms(f"{cross}.norm_k{end}", self.linear(f"{cross}.k{end}", source))
                mixed = mixed + self.attend(q, k, self.linear(f"{cross}.v{end}", source))
        x = x + self.linear(f"{cross}.o", mixed)
        y = self.norm(x) * (1 + scale2) + shift2
        return x + gate2 * self.feed(f"{path}.ffn", y, approximate="tanh")

    def embed_time(self, timestep: float) -> Any:
        return self.feed_silu("time_embedding", sinusoid(timestep, self.config.freq_dim))

    def embed_image(self, image: Any) -> Any:
        if "img_emb.emb_pos" in self.weights:
            image = image + self.weights["img_emb.emb_pos"][0]
        hidden = self.linear("img_emb.proj.1", self.norm(image, "img_emb.proj.0", eps=1e-5))
        hidden = self.linear("img_emb.proj.3", _torch().nn.functional.gelu(hidden))
        return self.norm(hidden, "img_emb.proj.4", eps=1e-5)

    def adapt_camera(self, rays: Any) -> Any:
        """[24, T, H, W] → [T, dim, h/2, w/2]."""
        functional = _torch().nn.functional
        cells = functional.pixel_unshuffle(rays.transpose(0, 1), 8)
        x = self.convolve2d("control_adapter.conv", cells, stride=2)
        path = "control_adapter.residual_blocks.0"
        inner = functional.relu(self.convolve2d(f"{path}.conv1", x, padding=1))
        return x + self.convolve2d(f"{path}.conv2", inner, padding=1)

    def turns(self, places: Sequence[int], rows: int, columns: int) -> Any:
        """Complex factors [L, 1, D/2] of the rotary positions."""
        torch = _torch()
        head_dim = self.config.dim // self.config.num_heads
        side = 2 * (head_dim // 6)
        grid = torch.meshgrid(torch.tensor(places), torch.arange(rows), torch.arange(columns), indexing="ij")
        angles = [
            axis.reshape(-1, 1).double() * THETA ** (-torch.arange(0, size, 2).double() / size)
            for axis, size in zip(grid, (head_dim - 2 * side, side, side), strict=True)
        ]
        angles = torch.cat(angles, dim=1)
        return torch.polar(torch.ones_like(angles), angles)[:, None]

    def turn(self, x: Any, turns: Any) -> Any:
        torch = _torch()
        heads = x.double().reshape(len(x), self.config.num_heads, -1, 2)
        return torch.view_as_real(torch.view_as_complex(heads) * turns).reshape(x.shape).float()

    def attend(self, q: Any, k: Any, v: Any) -> Any:
        q, k, v = (x.reshape(len(x), self.config.num_heads, -1).transpose(0, 1) for x in (q, k, v))
        shares = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1)
        return (shares @ v).transpose(0, 1).flatten(1)

    def norm(self, x: Any, path: str = "", eps: float = 0.0) -> Any:
        scales = (self.weights[f"{path}.weight"], self.weights[f"{path}.bias"]) if path else ()
        return _torch().nn.functional.layer_norm(x, x.shape[-1:], *scales, eps=eps or self.config.eps)

    def rms(self, path: str, x: Any) -> Any:
        mean = x.pow(2).mean(-1, keepdim=True)
        return x * (mean + self.config.eps).rsqrt() * self.weights[f"{path}.weight"]

    def linear(self, path: str, x: Any) -> Any:
        return _torch().nn.functional.linear(x, self.weights[f"{path}.weight"], self.weights[f"{path}.bias"])

    def feed(self, path: str, x: Any, approximate: str) -> Any:
        hidden = _torch().nn.functional.gelu(self.linear(f"{path}.0", x), approximate=approximate)
        return self.linear(f"{path}.2", hidden)

    def feed_silu(self, path: str, x: Any) -> Any:
        return self.linear(f"{path}.2", _torch().nn.functional.silu(self.linear(f"{path}.0", x)))

    def convolve3d(self, path: str, x: Any) -> Any:
        weight, bias = self.weights[f"{path}.weight"], self.weights[f"{path}.bias"]
        return _torch().nn.functional.conv3d(x[None], weight, bias, stride=self.config.patch_size)[0]

    def convolve2d(self, path: str, x: Any, **options: int) -> Any:
        weight, bias = self.weights[f"{path}.weight"], self.weights[f"{path}.bias"]
        return _torch().nn.functional.conv2d(x, weight, bias, **options)


def sinusoid(value: float, width: int) -> Any:
    """Cosines, then sines, of falling frequencies, [width]."""
    torch = _torch()
    half = width // 2
    waves = float(value) * THETA ** (-torch.arange(half).double() / half)
    return torch.cat([waves.cos(), waves.sin()]).float()


def control_motion(weights: Mapping[str, Any], bucket: float) -> Any:
    """What a motion controller adds to the modulation, [6, dim].

    Source: modelscope/DiffSynth-Studio diffsynth/models/wan_video_motion_controller.py,
    WanMotionControllerModel.
    """
    functional = _torch().nn.functional
    hidden = sinusoid(10 * bucket, weights["linear.0.weight"].shape[1])
    for place in (0, 2, 4):
        hidden = functional.silu(hidden) if place else hidden
        hidden = functional.linear(hidden, weights[f"linear.{place}.weight"], weights[f"linear.{place}.bias"])
    return hidden.reshape(6, -1)


def _torch() -> Any:
    import torch

    return torch
