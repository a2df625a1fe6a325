"""The official networks with the files of an original checkpoint folder, and Wan2.1's loop around them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.fixtures.tiny_checkpoint import TinySizes
from tests.fixtures.tiny_variants import TinyVariant
from tests.parity.official import wan_module


@dataclass(frozen=True)
class OfficialRequest:
    """What the official code is asked for.

    Attributes:
        guide_scale: one number, or (low noise, high noise).
        boundary: fraction of the schedule; for two experts.
        size: (width, height) in pixels, where no image decides.
        max_area: pixels of a frame, where an image decides.
        images: files of the first and perhaps the last frame.
    """

    prompt: str
    negative_prompt: str
    seed: int
    steps: int
    shift: float
    guide_scale: Any
    solver: str
    num_frames: int
    boundary: float = 0.0
    size: tuple[int, int] = (48, 32)
    max_area: int = 0
    images: tuple[Path, ...] = ()

    def open_images(self) -> list[Any]:
        """As the official command line opens them."""
        from PIL import Image

        return [Image.open(path).convert("RGB") for path in self.images]


@dataclass(frozen=True)
class OfficialRun:
    """What the official modules make of a checkpoint.

    Attributes:
        latents: [C, T, H, W].
        frames: uint8 [F, H, W, 3].
        timesteps: those at which each transformer served, by its folder's name.
    """

    latents: np.ndarray
    frames: np.ndarray
    timesteps: dict[str, list[int]]


class Recorded:
    """A transformer that notes the timesteps at which it is called."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.timesteps: list[int] = []

    def __call__(self, latents: Any, t: Any, **inputs: Any) -> Any:
        self.timesteps.append(int(t.max()))
        return self.model(latents, t=t, **inputs)


def run_wan21(folder: Path, variant: TinyVariant, request: OfficialRequest) -> OfficialRun:
    """Encode, sample and decode a text-to-video model, float32 on the CPU.

    Source: Wan2.1 wan/text2video.py, WanT2V.generate.
    """
    width, height = request.size
    stride_t, stride_h, stride_w = variant.sizes.vae.stride
    latent_frames = (request.num_frames - 1) // stride_t + 1
    model = Recorded(load_transformer(folder, variant.sizes.transformer.text_dim))
    vae = load_vae(folder, variant)
    latents = sample(
        model,
        encode_texts(folder, variant.sizes, request),
        (variant.sizes.vae.z_dim, latent_frames, height // stride_h, width // stride_w),
        request,
    )
    return OfficialRun(latents.numpy(), to_frames(vae.decode([latents])[0]), {"model": model.timesteps})


def sample(
    model: Callable[..., Any],
    texts: Sequence[Any],
    latent_shape: tuple[int, ...],
    request: OfficialRequest,
    **inputs: Any,
) -> Any:
    """The guided loop of one transformer.

    Args:
        texts: features of the prompt and of the negative prompt.
        inputs: what the transformer takes at every call besides.
    """
    import torch

    generator = torch.Generator("cpu").manual_seed(request.seed)
    latents = torch.randn(latent_shape, generator=generator, dtype=torch.float32)
    num_tokens = latent_shape[1] * latent_shape[2] * latent_shape[3] // 4
    scheduler, timesteps = build_scheduler(request.solver, request.steps, request.shift)
    with torch.no_grad():
        for timestep in timesteps:
            positive, negative = (
                model([latents], t=timestep[None], context=[text], seq_len=num_tokens, **inputs)[0]
                for text in texts
            )
            velocity = negative + request.guide_scale * (positive - negative)
            latents = scheduler.step(velocity[None], timestep, latents[None], return_dict=False)[0][0]
    return latents


def encode_texts(folder: Path, sizes: TinySizes, request: OfficialRequest) -> list[Any]:
    """Features of the prompt and of the negative prompt, [n, text_dim] each."""
    encode = text_encoder(folder, sizes)
    return [encode([text])[0] for text in (request.prompt, request.negative_prompt)]


def text_encoder(folder: Path, sizes: TinySizes) -> Callable[..., list[Any]]:
    """Texts → features of the real tokens, as wan/modules/t5.py, T5EncoderModel gives them."""
    import torch

    tokenizer = wan_module("tokenizers").HuggingfaceTokenizer(
        name=str(folder / "google" / "umt5-xxl"), seq_len=sizes.transformer.text_len, clean="whitespace"
    )
    encoder = wan_module("t5").T5Encoder(
        vocab=sizes.text_encoder.vocab_size,
        dim=sizes.text_encoder.dim,
        dim_attn=sizes.text_encoder.dim_attn,
        dim_ffn=sizes.text_encoder.dim_ffn,
        num_heads=sizes.text_encoder.num_heads,
        num_layers=sizes.text_encoder.num_layers,
        num_buckets=sizes.text_encoder.num_buckets,
        shared_pos=False,
        dropout=0.0,
    )
    weights = torch.load(folder / "models_t5_umt5-xxl-enc-bf16.pth", weights_only=True)
    encoder.load_state_dict({name: tensor.float() for name, tensor in weights.items()})

    @torch.no_grad()
    def encode(texts: list[str], device: object = None) -> list[Any]:
        ids, mask = tokenizer(texts, return_mask=True, add_special_tokens=True)
        return [row[: int(keep.sum())] for row, keep in zip(encoder(ids, mask), mask, strict=True)]

    return encode


def load_transformer(folder: Path, text_dim: int) -> Any:
    """The official transformer with the folder's weights, of one file or several."""
    config = json.loads((folder / "config.json").read_text())
    known = "model_type dim ffn_dim freq_dim in_dim out_dim num_heads num_layers text_len eps".split()
    model = wan_module("model").WanModel(text_dim=text_dim, **{key: config[key] for key in known})
    model.load_state_dict(read_transformer(folder))
    return model.eval().requires_grad_(False)


def read_transformer(folder: Path) -> dict[str, Any]:
    """The tensors of all weight files of a transformer."""
    from safetensors.torch import load_file

    weights: dict[str, Any] = {}
    for path in sorted(folder.glob("diffusion_pytorch_model*.safetensors")):
        weights |= load_file(path)
    return weights


def build_scheduler(solver: str, steps: int, shift: float) -> tuple[Any, Any]:
    """The scheduler and its timesteps as the official pipeline sets them up."""
    wan_module("model")
    from wan.utils import fm_solvers, fm_solvers_unipc

    settings = {"num_train_timesteps": 1000, "shift": 1, "use_dynamic_shifting": False}
    if solver == "unipc":
        scheduler = fm_solvers_unipc.FlowUniPCMultistepScheduler(**settings)
        scheduler.set_timesteps(steps, device="cpu", shift=shift)
        return scheduler, scheduler.timesteps
    scheduler = fm_solvers.FlowDPMSolverMultistepScheduler(**settings)
    sigmas = fm_solvers.get_sampling_sigmas(steps, shift)
    return scheduler, fm_solvers.retrieve_timesteps(scheduler, device="cpu", sigmas=sigmas)[0]


def load_vae(folder: Path, variant: TinyVariant) -> Any:
    """The official VAE behind its own interface, which holds the latents' means and deviations."""
    import torch

    is_wan22, sizes = variant.has_wan22_vae, variant.sizes.vae
    module = wan_module("vae2_2" if is_wan22 else "vae2_1")
    decoder = {"dec_dim": sizes.decoder_dim} if is_wan22 else {}
    network = module.WanVAE_(
        dim=sizes.encoder_dim, z_dim=sizes.z_dim, dim_mult=[1, 2, 4, 4], num_res_blocks=2,
        attn_scales=[], temperal_downsample=[False, True, True], dropout=0.0, **decoder,
    )  # fmt: skip
    network.load_state_dict(torch.load(folder / variant.vae_file, weights_only=True))
    # CUDA's autocast does nothing here but warn of its old name.
    module.amp = SimpleNamespace(autocast=lambda **_: nullcontext())
    with pytest.MonkeyPatch.context() as patch:  # its own builder knows one width alone
        patch.setattr(module, "_video_vae", lambda **_: network)
        build = module.Wan2_2_VAE if is_wan22 else module.Wan2_1_VAE
        return build(z_dim=sizes.z_dim, vae_pth="", device="cpu")


def to_frames(video: Any) -> np.ndarray:
    """[3, F, H, W] in [-1, 1] as the official writers round it: videos down, one picture to the nearest.

    Source: Wan2.1 wan/utils/utils.py, cache_video and cache_image.
    """
    import torch

    scaled = (video + 1) / 2 * 255
    if video.shape[1] == 1:
        scaled = (scaled + 0.5).clamp(0, 255)
    return scaled.to(torch.uint8).permute(1, 2, 3, 0).numpy()
