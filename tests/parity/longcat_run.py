"""LongCat-Video's pipeline around DiffSynth-Studio's port of its transformer, float32 on the CPU.

Text encoder, VAE and scheduler are those of transformers and Diffusers, as in the authors' pipeline. Latents
of given frames are means, where the authors draw a sample.

Source: meituan-longcat/LongCat-Video longcat_video/pipeline_longcat_video.py, generate_t2v, generate_i2v,
generate_vc and generate_refine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlx_video.weights.names.text_encoder_names import text_encoder_tensors
from mlx_video.weights.names.vae_names import vae_tensors
from tests.fixtures.diffusers_checkpoint import text_encoder_name, vae_name
from tests.fixtures.longcat_checkpoint import longcat_arrays
from tests.fixtures.tiny_checkpoint import Arrays, TinySizes, random_arrays
from tests.parity.diffsynth_longcat import empty_longcat
from tests.parity.diffusers_pipeline import build_text_encoder, build_vae, load

torch = pytest.importorskip("torch")
TEXT_LEN = 512
TAIL_START, TAIL_STEPS = 500, 10


@dataclass(frozen=True)
class LongCatRequest:
    """What the pipeline is asked for.

    Attributes:
        given: pictures that the video begins with, at any size.
        remembers: whether keys and values of these are kept.
        goes_on: whether they are the end of a video.
        refined: pictures of the video that is refined.
        part: of a video made in several; each draws its noise behind that of the others.
        changes: of weights by the adapter, under the authors' names; not None for the distilled steps.
    """

    prompt: str
    negative_prompt: str
    steps: int
    seed: int
    width: int
    height: int
    num_frames: int
    guide_scale: float = 4.0
    given: Sequence[Image.Image] = ()
    remembers: bool = False
    goes_on: bool = False
    refined: Sequence[Image.Image] = ()
    part: int = 0
    changes: Arrays | None = None


class LongCatPipeline:
    """The networks with the numbers of `write_longcat`."""

    def __init__(self, folder: Path, sizes: TinySizes, seed: int = 0) -> None:
        config = sizes.transformer
        self.folder = folder
        self.transformer = empty_longcat(config)
        self.transformer.t_embedder.timestep_embedding = _exact_sinusoid
        self.weights = longcat_arrays(config, seed)
        texts = random_arrays(text_encoder_tensors(sizes.text_encoder), seed + 1)
        named = {text_encoder_name(name): values for name, values in texts.items()}
        # The folder holds them in bfloat16.
        encoder = load(build_text_encoder(sizes.text_encoder), named)
        self.text_encoder = encoder.to(torch.bfloat16).float()
        frames = random_arrays(vae_tensors(sizes.vae), seed + 2)
        named = {vae_name(name, sizes.vae.z_dim): values for name, values in frames.items()}
        self.vae = load(build_vae(sizes.vae), named)
        statistics = (self.vae.config.latents_mean, self.vae.config.latents_std)
        self.mean, self.std = (torch.tensor(values)[None, :, None, None, None] for values in statistics)

    @torch.no_grad()
    def __call__(self, request: LongCatRequest) -> tuple[np.ndarray, np.ndarray]:
        """Latents [C, T, H, W] and frames in [0, 1], [F, H, W, 3]."""
        self._set_weights(request.changes or {})
        shape = (1, 16, 1 + (request.num_frames - 1) // 4, request.height // 8, request.width // 8)
        generator = torch.Generator().manual_seed(request.seed)
        for _ in range(1 + request.part):
            latents = torch.randn(shape, generator=generator)
        if request.given:
            clean = self.encode(request.given, request.width, request.height)
            latents[:, :, : clean.shape[2]] = clean
        if request.refined:
            enlarged = self.enlarge(request.refined, request)
            latents = 0.5 * enlarged + 0.5 * latents
            for block in self.transformer.blocks:
                block.attn._process_attn = see_few_blocks
        latents = self.sample(latents, request)
        video = self.vae.decode(latents * self.std + self.mean, return_dict=False)[0]
        return latents[0].numpy(), (video[0] / 2 + 0.5).clamp(0, 1).permute(1, 2, 3, 0).numpy()

    def _set_weights(self, changes: Arrays) -> None:
        weights = {name: values + changes.get(name, 0) for name, values in self.weights.items()}
        self.transformer.load_state_dict({name: torch.tensor(values) for name, values in weights.items()})
        self.transformer.eval()

    def encode(self, pictures: Sequence[Image.Image], width: int, height: int) -> Any:
        """Latents of pictures, squashed into the video's size as Diffusers' processor of videos does."""
        from diffusers.video_processor import VideoProcessor

        video = VideoProcessor(vae_scale_factor=8).preprocess_video([*pictures], height=height, width=width)
        return (self.vae.encode(video).latent_dist.mode() - self.mean) / self.std

    def enlarge(self, pictures: Sequence[Image.Image], request: LongCatRequest) -> Any:
        """Latents of pictures in twice their number and the video's size."""
        interpolate, size = torch.nn.functional.interpolate, (request.height, request.width)
        video = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2)
        video = interpolate(video.float(), size=size, mode="bilinear", align_corners=True)
        video = video.permute(1, 0, 2, 3)[None] / 255
        frames = 2 * len(pictures)
        video = interpolate(video, size=(frames, *size), mode="trilinear", align_corners=True) * 2 - 1
        missing = -frames % 16
        video = torch.cat([video, video[:, :, -1:].repeat(1, 1, missing, 1, 1)], 2)
        return (self.vae.encode(video).latent_dist.mode() - self.mean) / self.std

    def encode_text(self, text: str) -> tuple[Any, Any]:
        """Features [1, 1, 512, dim] of a text, those behind its end too, and the mask [1, 512] of its end."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer" / "tokenizer.json"))
        ids = tokenizer.encode(text).ids
        numbers, mask = (torch.zeros(1, TEXT_LEN, dtype=torch.int64) for _ in range(2))
        numbers[0, : len(ids)], mask[0, : len(ids)] = torch.tensor(ids), 1
        return self.text_encoder(numbers, mask).last_hidden_state[:, None], mask

    def _take_timestep(self, timestep: Any) -> None:
        """Let all frames have a timestep, of which DiffSynth-Studio puts the first ones to 0.

        The authors' transformer takes timesteps as they are; no frame of this call is clean.
        """
        embedder = self.transformer.t_embedder
        embed = type(embedder).forward
        embedder.forward = lambda given, dtype: embed(embedder, timestep.expand(len(given)), dtype)

    def sample(self, latents: Any, request: LongCatRequest) -> Any:
        """The loop over the noise levels."""
        texts = [self.encode_text(request.prompt)]
        if request.guide_scale > 1:
            texts.append(self.encode_text(request.negative_prompt))
        given = 1 + (len(request.given) - 1) // 4 if request.given else 0
        clean, cache = latents[:, :, :given], {}
        if request.remembers:
            zeros, features = torch.zeros(1, given), torch.zeros_like(texts[0][0])
            _, cache = self.transformer(clean, zeros, features, return_kv=True, skip_crs_attn=True)
            latents = latents[:, :, given:]
        timesteps = _timesteps(request)
        sigmas = torch.cat([timesteps / 1000, torch.zeros(1)])
        for index, timestep in enumerate(timesteps):
            of_frames = timestep.repeat(1, latents.shape[2])
            if request.remembers:
                self._take_timestep(timestep)
            else:
                of_frames[:, :given] = 0
            found = [
                self.transformer(
                    latents, of_frames, features, mask, num_cond_latents=given, kv_cache_dict=cache
                )
                for features, mask in texts
            ]
            velocity = -_guide(found, request.guide_scale)
            moved = latents + (sigmas[index + 1] - sigmas[index]) * velocity
            if given and not request.remembers:
                moved[:, :, :given] = clean
            latents = moved
        return torch.cat([clean, latents], 2) if request.remembers else latents


def _guide(found: Sequence[Any], scale: float) -> Any:
    if len(found) == 1:
        return found[0]
    positive, negative = found
    fitted = negative * (positive * negative).sum() / ((negative**2).sum() + 1e-8)
    return fitted + scale * (positive - fitted)


def see_few_blocks(q: Any, k: Any, v: Any, shape: tuple[int, int, int]) -> Any:
    """Attention of blocks of 4x4x4 tokens to one in 16 of them, by a mask over attention to all."""
    numbers = torch.arange(q.shape[2]).reshape(shape)
    cut = numbers.unfold(0, 4, 4).unfold(1, 4, 4).unfold(2, 4, 4).reshape(-1, 64)
    means = [part[:, :, cut].mean(3) for part in (q, k)]
    count = max(1, int((1 - 0.9375) * len(cut)))
    chosen = (means[0] @ means[1].transpose(2, 3)).topk(count).indices
    sees = torch.zeros(*chosen.shape[:3], len(cut), dtype=torch.bool).scatter_(3, chosen, True)
    block = torch.empty(q.shape[2], dtype=torch.int64)
    block[cut.reshape(-1)] = torch.arange(len(cut)).repeat_interleave(64)
    mask = sees[:, :, block][:, :, :, block]
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def _timesteps(request: LongCatRequest) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=12.0)
    if request.changes is None or request.refined:
        sigmas = torch.linspace(1, 0.001, request.steps)
    else:
        falling = torch.arange(50, 0, -1) * 20
        picked = np.floor(np.linspace(0, 50, request.steps, endpoint=False)).astype(np.int64)
        sigmas = falling[picked].float() / 1000
    scheduler.set_timesteps(request.steps, sigmas=sigmas.numpy())
    timesteps = scheduler.timesteps
    if request.refined:
        return torch.cat([torch.tensor([500.0]), timesteps[timesteps < 500]])
    if request.goes_on and request.changes is None:
        tail = torch.linspace(TAIL_START, 0, TAIL_STEPS + 1)[:-1]
        timesteps = torch.cat([timesteps[timesteps > TAIL_START], tail])
    return timesteps


def _exact_sinusoid(timesteps: Any, dim: int, max_period: float = 10000) -> Any:
    """In float64, as ours: float32 is exact to 6e-8 of 1000."""
    half = dim // 2
    angles = timesteps.double()[:, None] * torch.exp(
        -math.log(max_period) * torch.arange(half).double() / half
    )
    return torch.cat([angles.cos(), angles.sin()], 1).float()
