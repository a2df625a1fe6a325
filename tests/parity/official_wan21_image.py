"""Wan2.1's image-to-video pipelines: the official loop and CLIP around Diffusers' transformer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlx_video.config import TransformerConfig
from tests.fixtures.tiny_variants import TinyVariant
from tests.parity.diffusers_transformer import build_diffusers
from tests.parity.official import clip_module, to_tensor, wan_module
from tests.parity.official_run import (
    OfficialRequest,
    OfficialRun,
    Recorded,
    encode_texts,
    load_vae,
    read_transformer,
    sample,
    to_frames,
)

TEXT_TOKENS = 512
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class ImageTransformer:
    """Diffusers' transformer, called as the official one is."""

    def __init__(self, folder: Path, config: TransformerConfig) -> None:
        arrays = {name: tensor.numpy() for name, tensor in read_transformer(folder).items()}
        self.network = build_diffusers(config, arrays)
        # Diffusers works the sinusoid out in float32, which is off by 3e-5 at late timesteps.
        self.network.condition_embedder.timesteps_proj = official_sinusoid(config.freq_dim)

    def __call__(
        self, latents: list[Any], t: Any, context: list[Any], seq_len: int, clip_fea: Any, y: list[Any]
    ) -> list[Any]:
        import torch

        padding = torch.zeros(TEXT_TOKENS - len(context[0]), context[0].shape[1])
        return self.network(
            hidden_states=torch.cat([latents[0], y[0]])[None],
            timestep=t,
            encoder_hidden_states=torch.cat([context[0], padding])[None],
            encoder_hidden_states_image=clip_fea,
            return_dict=False,
        )[0]


def official_sinusoid(freq_dim: int) -> Any:
    """The official sinusoid as a module: float64 inside."""
    import torch

    class Sinusoid(torch.nn.Module):
        def forward(self, timesteps: Any) -> Any:
            return wan_module("model").sinusoidal_embedding_1d(freq_dim, timesteps).float()

    return Sinusoid()


def run_wan21_image(folder: Path, variant: TinyVariant, request: OfficialRequest) -> OfficialRun:
    """Encode, sample and decode from one image or from two of one size, float32 on the CPU.

    Source: Wan2.1 wan/image2video.py, WanI2V.generate; wan/first_last_frame2video.py, WanFLF2V.generate
    (there for 81 frames alone).
    """
    import torch

    images = [to_tensor(image).sub_(0.5).div_(0.5) for image in request.open_images()]
    height, width = choose_size(images[0].shape[1:], request.max_area)
    with torch.no_grad():
        features = encode_clip(folder, variant, images)
        vae = load_vae(folder, variant)
        condition = vae.encode([make_clip(images, request.num_frames, height, width)])[0]
    y = torch.cat([make_mask(len(images), request.num_frames, *condition.shape[2:]), condition])
    model = Recorded(ImageTransformer(folder, variant.sizes.transformer))
    texts = encode_texts(folder, variant.sizes, request)
    latents = sample(model, texts, tuple(condition.shape), request, clip_fea=features, y=[y])
    with torch.no_grad():
        frames = to_frames(vae.decode([latents])[0])
    return OfficialRun(latents.numpy(), frames, {"model": model.timesteps})


def choose_size(image_size: tuple[int, int], max_area: int) -> tuple[int, int]:
    """Height and width of the video, in pixels."""
    import numpy as np

    ratio = image_size[0] / image_size[1]
    rows, columns = (round(np.sqrt(area) // 8 // 2 * 2) for area in (max_area * ratio, max_area / ratio))
    return 8 * rows, 8 * columns


def make_clip(images: list[Any], num_frames: int, height: int, width: int) -> Any:
    """[3, F, H, W]: the images at the ends, grey between them and after one alone."""
    import torch

    first, *last = (
        torch.nn.functional.interpolate(image[None], size=(height, width), mode="bicubic").transpose(0, 1)
        for image in images
    )
    return torch.cat([first, torch.zeros(3, num_frames - len(images), height, width), *last], dim=1)


def make_mask(num_images: int, num_frames: int, rows: int, columns: int) -> Any:
    """[4, T, h, w]: 1 where an image is given."""
    import torch

    mask = torch.ones(1, num_frames, rows, columns)
    mask[:, 1 : num_frames - 1 if num_images == 2 else None] = 0
    mask = torch.cat([torch.repeat_interleave(mask[:, :1], repeats=4, dim=1), mask[:, 1:]], dim=1)
    return mask.view(1, mask.shape[1] // 4, 4, rows, columns).transpose(1, 2)[0]


def encode_clip(folder: Path, variant: TinyVariant, images: list[Any]) -> Any:
    """CLIP features [n, tokens, width], from the tower with everything its file holds.

    Source: Wan2.1 wan/modules/clip.py, CLIPModel.visual.
    """
    import torch

    size = variant.sizes.image_encoder
    tower = clip_module().VisionTransformer(
        image_size=size.image_size, patch_size=size.patch_size, dim=size.width,
        mlp_ratio=size.mlp_width // size.width, out_dim=24, num_heads=size.num_heads,
        num_layers=size.num_layers + 1, pool_type="token", pre_norm=True, post_norm=False, activation="gelu",
    ).eval()  # fmt: skip
    weights = torch.load(
        folder / "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth", weights_only=True
    )
    visual = {name.removeprefix("visual."): value for name, value in weights.items() if "visual." in name}
    tower.load_state_dict(visual)
    squashed = torch.cat(
        [
            torch.nn.functional.interpolate(
                image[None], size=(size.image_size, size.image_size), mode="bicubic", align_corners=False
            )
            for image in images
        ]
    )
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    return tower((squashed * 0.5 + 0.5 - mean) / std, use_31_block=True)
