"""krea-realtime without keys and values that are kept: every forward sees all of its frames, under a mask.

The loop is the authors' own, written out. Their decoder keeps the newest frame twice where it should keep the
two newest ones, which is a defect; here the official VAE decodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_video.config import TransformerConfig
from tests.parity.diffsynth_models import load_models, torch
from tests.parity.official_run import to_frames

GROUP = 3
TRAINING_STEPS = 1000


class DenseKrea:
    """The transformer over context frames and a block together.

    Args:
        weights: under the official names.
        config: its sizes.

    Source: krea-ai/realtime-video wan/modules/causal_model.py, CausalWanModel; modelscope/DiffSynth-Studio
    diffsynth/models/wan_video_dit.py, WanModel.
    """

    def __init__(self, weights: Mapping[str, Any], config: TransformerConfig) -> None:
        (self._module,) = load_models("wan_video_dit")
        self._model = self._module.WanModel(
            dim=config.dim, in_dim=config.in_dim, ffn_dim=config.ffn_dim, out_dim=config.out_dim,
            text_dim=config.text_dim, freq_dim=config.freq_dim, eps=config.eps, patch_size=config.patch_size,
            num_heads=config.num_heads, num_layers=config.num_layers, has_image_input=False,
        ).eval()  # fmt: skip
        self._model.load_state_dict(dict(weights))
        self._config = config

    def behind(self, context: Any | None, latents: Any, timestep: float, text: Any) -> Any:
        """Velocity of a block [C, T, h, w] behind clean context frames."""
        frames = latents if context is None else torch.cat([context, latents], dim=1)
        count = frames.shape[1] - latents.shape[1]
        times = [0.0] * count + [timestep] * latents.shape[1]
        with torch.no_grad():
            return self._forward(frames, times, count, text)[:, count:]

    def _forward(self, frames: Any, times: Sequence[float], count: int, text: Any) -> Any:
        model, functional = self._model, torch.nn.functional
        tokens = model.patch_embedding(frames[None])
        _, _, length, rows, columns = tokens.shape
        per_frame = rows * columns
        tokens = tokens.flatten(2).transpose(1, 2)
        # The package rounds a sinusoid to the type of its timesteps; float32 afterwards, as here.
        sinusoid = self._module.sinusoidal_embedding_1d(
            self._config.freq_dim, torch.tensor(times, dtype=torch.float64)
        ).float()
        embedding = model.time_embedding(sinusoid)
        modulation = model.time_projection(embedding).unflatten(1, (6, -1))
        embedding, modulation = (
            values.repeat_interleave(per_frame, dim=0)[None] for values in (embedding, modulation)
        )
        turns = torch.cat(
            [
                model.freqs[0][:length].view(length, 1, 1, -1).expand(length, rows, columns, -1),
                model.freqs[1][:rows].view(1, rows, 1, -1).expand(length, rows, columns, -1),
                model.freqs[2][:columns].view(1, 1, columns, -1).expand(length, rows, columns, -1),
            ],
            dim=-1,
        ).reshape(length * per_frame, 1, -1)
        mask = see_earlier(length, count).repeat_interleave(per_frame, 0).repeat_interleave(per_frame, 1)
        heads = self._config.num_heads

        def attend(q: Any, k: Any, v: Any) -> Any:
            q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k, v))
            return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)

        context = model.text_embedding(self._pad(text)[None])
        for block in model.blocks:
            block.self_attn.attn.forward = attend
            tokens = block(tokens, context, modulation, turns)
            del block.self_attn.attn.forward
        patches = model.head(tokens, embedding)[0].reshape(length, rows, columns, 2, 2, -1)
        return patches.permute(5, 0, 1, 3, 2, 4).reshape(-1, length, 2 * rows, 2 * columns)

    def _pad(self, text: Any) -> Any:
        return torch.nn.functional.pad(text, (0, 0, 0, self._config.text_len - len(text)))


def see_earlier(length: int, count: int) -> Any:
    """Which frames [length, length] see which: context frames their group and those before, others all."""
    frames = torch.arange(length)
    ends = ((frames // GROUP + 1) * GROUP).clamp(max=count)
    ends[count:] = length
    return frames[None] < ends[:, None]


@dataclass(frozen=True)
class AuthorsRequest:
    """What the authors' server is asked for."""

    seed: int
    num_blocks: int
    context: int
    latent_size: tuple[int, int]
    steps: int = 5
    shift: float = 5.0


def begin_stream(vae: Any) -> Any:
    """The official VAE going on from what it decoded before, as within one video."""
    vae.model.clear_cache()
    vae.model.clear_cache = lambda: None
    return vae


def run_authors(
    model: DenseKrea, vae: Any, streaming_vae: Any, text: Any, request: AuthorsRequest
) -> tuple[Any, Any]:
    """Latents [16, T, h, w] and uint8 frames [F, H, W, 3] of a video made block by block.

    Args:
        model: the transformer.
        vae: encodes.
        streaming_vae: another instance, of :func:`begin_stream`.
        text: features of the prompt.
        request: what is asked for.

    Source: krea-ai/realtime-video release_server.py, GenerationSession.
    """
    generator = torch.Generator("cpu").manual_seed(request.seed)
    height, width = request.latent_size
    whole = (GROUP * request.num_blocks, 16, height, width)
    noise = torch.randn(whole, generator=generator)
    latents = torch.zeros(whole)
    shown = torch.zeros(3, 0, 8 * height, 8 * width)
    timesteps = denoising_schedule(request.steps, request.shift)
    for block in range(request.num_blocks):
        start = GROUP * block
        context = clean_context(latents[:start], shown, vae, block, request.context)
        x = noise[start : start + GROUP]
        for index, timestep in enumerate(timesteps):
            velocity = model.behind(
                None if context is None else context.transpose(0, 1), x.transpose(0, 1), float(timestep), text
            ).transpose(0, 1)
            clean = (x.double() - sigma_of(timestep, request.shift) * velocity.double()).float()
            if index + 1 < len(timesteps):
                sigma = sigma_of(timesteps[index + 1], request.shift).float()
                x = (1 - sigma) * clean + sigma * torch.randn(clean.shape, generator=generator)
        latents[start : start + GROUP] = clean
        with torch.no_grad():
            new = streaming_vae.decode([clean.transpose(0, 1)])[0]
        shown = torch.cat([shown, new], dim=1)
    return latents.transpose(0, 1), to_frames(shown)


def clean_context(latents: Any, shown: Any, vae: Any, block: int, kept: int) -> Any | None:
    """Frames [k, 16, h, w] that stand before a block; None for the first block."""
    if block == 0:
        return None
    first, others = latents[:1], latents[1:][len(latents[1:]) - min(kept - 1, len(latents) - 1) :]
    if (block - 1) * GROUP >= kept:
        oldest = shown[:, -(1 + 4 * (kept - 1))]
        with torch.no_grad():
            first = vae.encode([oldest[:, None]])[0].transpose(0, 1)
    return torch.cat([first, others])


def denoising_schedule(steps: int, shift: float) -> Any:
    """Timesteps of a block, float32."""
    entries = torch.linspace(TRAINING_STEPS, 0, steps, dtype=torch.float32).to(torch.long)
    timesteps = sigma_table(shift) * TRAINING_STEPS
    return torch.cat([timesteps, torch.zeros(1)])[TRAINING_STEPS - entries]


def sigma_table(shift: float) -> Any:
    """Noise levels of the training steps, float32."""
    sigmas = torch.linspace(1.0, 0.0, TRAINING_STEPS + 1)[:-1]
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def sigma_of(timestep: Any, shift: float) -> Any:
    """The noise level of the entry that is nearest to a timestep, float64."""
    table = sigma_table(shift)
    return table.double()[(table * TRAINING_STEPS - timestep).abs().argmin()]
