"""The official text-to-video loop, from the files of an original checkpoint folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlx_video.config import DEFAULT_NEGATIVE_PROMPT, WAN21_LATENT_MEAN, WAN21_LATENT_STD
from tests.fixtures.tiny_checkpoint import TinySizes
from tests.parity.official import wan_module


@dataclass(frozen=True)
class OfficialRun:
    """What the official modules make of a checkpoint.

    Attributes:
        latents: [C, T, H, W].
        frames: uint8 [F, H, W, 3].
    """

    latents: np.ndarray
    frames: np.ndarray


def run_official(
    folder: Path, sizes: TinySizes, *, prompt: str, seed: int, steps: int, shift: float, guide_scale: float,
    solver: str, latent_shape: tuple[int, int, int, int],
) -> OfficialRun:  # fmt: skip
    """Encode, sample and decode with the official networks and schedulers, float32 on the CPU.

    Source: Wan2.1 wan/text2video.py, WanT2V.generate.
    """
    import torch

    config = json.loads((folder / "config.json").read_text())
    texts = [
        encode_text(folder, sizes, text, config["text_len"]) for text in (prompt, DEFAULT_NEGATIVE_PROMPT)
    ]
    model = load_transformer(folder, config, sizes.transformer.text_dim)
    generator = torch.Generator("cpu").manual_seed(seed)
    latents = torch.randn(latent_shape, generator=generator, dtype=torch.float32)
    num_tokens = latent_shape[1] * latent_shape[2] * latent_shape[3] // 4
    scheduler, timesteps = build_scheduler(solver, steps, shift)
    with torch.no_grad():
        for timestep in timesteps:
            positive, negative = (
                model([latents], t=timestep[None], context=[text], seq_len=num_tokens)[0] for text in texts
            )
            velocity = negative + guide_scale * (positive - negative)
            latents = scheduler.step(velocity[None], timestep, latents[None], return_dict=False)[0][0]
        video = decode(folder, sizes, latents)
    return OfficialRun(latents.numpy(), video)


def encode_text(folder: Path, sizes: TinySizes, text: str, text_len: int):
    """Features of the real tokens, [n, text_dim]."""
    import torch

    tokenizers = wan_module("tokenizers")
    tokenizer = tokenizers.HuggingfaceTokenizer(
        name=str(folder / "google" / "umt5-xxl"), seq_len=text_len, clean="whitespace"
    )
    ids, mask = tokenizer([text], return_mask=True, add_special_tokens=True)
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
    with torch.no_grad():
        return encoder(ids, mask)[0, : int(mask.sum())]


def load_transformer(folder: Path, config: dict, text_dim: int):
    """The official transformer with the folder's weights."""
    from safetensors.torch import load_file

    known = "model_type dim ffn_dim freq_dim in_dim out_dim num_heads num_layers text_len eps".split()
    model = wan_module("model").WanModel(text_dim=text_dim, **{key: config[key] for key in known})
    model.load_state_dict(load_file(folder / "diffusion_pytorch_model.safetensors"))
    return model.eval()


def build_scheduler(solver: str, steps: int, shift: float):
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


def decode(folder: Path, sizes: TinySizes, latents) -> np.ndarray:
    """The official VAE's frames as the official writer rounds them."""
    import torch

    vae = wan_module("vae2_1").WanVAE_(
        dim=sizes.vae.decoder_dim, z_dim=sizes.vae.z_dim, dim_mult=[1, 2, 4, 4], num_res_blocks=2,
        attn_scales=[], temperal_downsample=[False, True, True], dropout=0.0,
    )  # fmt: skip
    vae.load_state_dict(torch.load(folder / "Wan2.1_VAE.pth", weights_only=True))
    scale = [torch.tensor(WAN21_LATENT_MEAN), 1 / torch.tensor(WAN21_LATENT_STD)]
    video = vae.eval().decode(latents[None], scale)[0].clamp(-1, 1)
    return ((video + 1) / 2 * 255).to(torch.uint8).permute(1, 2, 3, 0).numpy()
