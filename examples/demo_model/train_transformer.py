"""Train the demo transformer and its text encoder on cached latents, then write the checkpoint folder.

    python examples/demo_model/train_transformer.py --work-dir demo_training --steps 4000

Needs the "short" stage of train_vae.py. Stop and start it at will: model, averages and optimizer state are
kept in the work folder. `--export FOLDER` writes the original Wan2.1 layout from the last checkpoint.
"""

from __future__ import annotations

import argparse
import copy
import html
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import ftfy
import numpy as np
import torch
import torch.nn as nn
from diffusers import WanTransformer3DModel
from export import export_checkpoint
from grammar import draw_clip, split_scenes
from muon import Muon
from scale import add_scale, scaled
from torch_vae import WanVAE
from train_tokenizer import write_tokenizer
from transformers import UMT5Config, UMT5EncoderModel

STATE_FILE = "transformer.pt"
TEXT_LEN = 64
CLIPS_PER_SCENE = 4
BATCH = 32
PEAK_RATE = 1e-3
TRAINING_SHIFT = 2.5
NEGATIVE_PROMPT = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，"
    "丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，"
    "杂乱的背景，三条腿，背景人很多，倒着走"
)


Network = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Noisy latents with their conditions [B, C, T, H, W], timesteps [B] and token ids → velocity."""


class DemoModel(nn.Module):
    """Text encoder and transformer, trained together."""

    def __init__(self, vocab_size: int, in_channels: int = 16) -> None:
        super().__init__()
        self.text_encoder = UMT5EncoderModel(
            UMT5Config(
                vocab_size=vocab_size, d_model=128, d_kv=32, d_ff=256, num_layers=2, num_heads=4,
                feed_forward_proj="gated-gelu", dropout_rate=0.0, tie_word_embeddings=False,
            )
        )  # fmt: skip
        self.transformer = WanTransformer3DModel(
            patch_size=(1, 2, 2), num_attention_heads=3, attention_head_dim=64, in_channels=in_channels,
            out_channels=16, text_dim=128, freq_dim=256, ffn_dim=768, num_layers=6, cross_attn_norm=True,
            qk_norm="rms_norm_across_heads", eps=1e-6,
        )  # fmt: skip

    def encode_text(self, ids: torch.Tensor) -> torch.Tensor:
        """Text features [B, TEXT_LEN, dim] of padded token ids [B, TEXT_LEN]; 0 where there is no token."""
        mask = (ids != 0).long()
        longest = int(mask.sum(1).max())
        text = self.text_encoder(ids[:, :longest], attention_mask=mask[:, :longest]).last_hidden_state
        text = text * mask[:, :longest, None]
        return nn.functional.pad(text, (0, 0, 0, TEXT_LEN - longest))

    def forward(self, noisy: torch.Tensor, timestep: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Velocity for noisy latents [B, C, T, H, W] under padded token ids [B, TEXT_LEN]."""
        return self.transformer(noisy, timestep, self.encode_text(ids), return_dict=False)[0]


def latent_basis(latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean [C] and matrix [C, C] with latents = mean + matrix @ coordinates, which are easy to learn.

    This VAE has no KL term, so three directions carry nearly all variance (colour and background), spread
    over all channels; isotropic noise would drown the rest, where the shape is. The coordinates are principal
    components: the first three at unit variance, smaller ones lifted halfway (as the fourth root of their
    share) and not all the way, because the last ones hold nothing worth learning.
    """
    flat = latents.transpose(0, 1).flatten(1)
    variance, directions = torch.linalg.eigh(torch.cov(flat))
    variance, directions = variance.flip(0).clamp(min=1e-6), directions.flip(1)
    target = torch.minimum(torch.ones(()), (variance / variance[2]).sqrt()).sqrt()
    return flat.mean(1), directions * (variance.sqrt() / target)


def to_coordinates(latents: torch.Tensor, basis: dict[str, torch.Tensor]) -> torch.Tensor:
    """Latents [B, C, T, H, W] as the VAE gives them → what the transformer learns on."""
    centred = latents - basis["mean"].view(1, -1, 1, 1, 1)
    return torch.einsum("kc,bcthw->bkthw", torch.linalg.inv(basis["unmix"]), centred).contiguous()


def load_vae(folder: Path) -> WanVAE:
    """The VAE after its "short" stage, whose encoder is final."""
    vae = WanVAE(base=16)
    vae.load_state_dict(torch.load(folder / "vae_short.pt"))
    return vae


def training_clips(rounds: int, scale: float) -> Iterator[tuple[torch.Tensor, range]]:
    """Clips [b, 3, F, H, W] in [-1, 1] and the indices of their scenes; the same ones in every process."""
    scenes, _ = split_scenes()
    scenes = scenes[: scaled(len(scenes), scale)]
    rng = np.random.default_rng(11)
    started = time.time()
    for round_index in range(rounds):
        for first in range(0, len(scenes), 6):
            clips = np.stack([draw_clip(scene, rng) for scene in scenes[first : first + 6]])
            video = torch.from_numpy(clips).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
            yield video, range(first, first + len(clips))
        print(f"round {round_index + 1} of {rounds}, {time.time() - started:.0f}s", flush=True)


def cache_latents(folder: Path, scale: float = 1.0) -> dict[str, torch.Tensor]:
    """Encode the training clips once, and keep them in the coordinates of `latent_basis`."""
    path = folder / "latents.pt"
    if path.exists():
        return torch.load(path)
    vae = load_vae(folder)
    encoded, indices = [], []
    for clips, scenes in training_clips(CLIPS_PER_SCENE, scale):
        with torch.inference_mode():
            encoded.append(vae.encode(clips).contiguous())
        indices += scenes
    latents = torch.cat(encoded)
    mean, unmix = latent_basis(latents)
    data = {"scene": torch.tensor(indices), "mean": mean, "unmix": unmix}
    data["latents"] = to_coordinates(latents, data)
    torch.save(data, path)
    return data


class Captions:
    """Token ids of every training caption, padded to TEXT_LEN."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = write_tokenizer(folder / "tokenizer")
        scenes, _ = split_scenes()
        self.by_scene = torch.stack([torch.stack([self.pad(c) for c in s.captions()]) for s in scenes])
        cleaned = html.unescape(ftfy.fix_text(NEGATIVE_PROMPT))
        self.dropped = torch.stack([self.pad(""), self.pad(cleaned)])

    def pad(self, text: str) -> torch.Tensor:
        ids = self.tokenizer.encode(text).ids[: TEXT_LEN - 1]
        ids = ids if ids[-1:] == [1] else [*ids, 1]
        return torch.tensor(ids + [0] * (TEXT_LEN - len(ids)))

    def draw(self, scenes: torch.Tensor) -> torch.Tensor:
        """One caption for each scene; a tenth become empty or the model family's negative prompt."""
        style = torch.randint(self.by_scene.shape[1], scenes.shape)
        ids = self.by_scene[scenes, style]
        drop = torch.rand(scenes.shape) < 0.1
        ids[drop] = self.dropped[torch.randint(2, (int(drop.sum()),))]
        return ids


def training_loss(
    model: Network, latents: torch.Tensor, ids: torch.Tensor, concat_latents: torch.Tensor | None = None
) -> torch.Tensor:
    """Flow matching: the network predicts noise minus data at a random noise level."""
    level = torch.sigmoid(torch.randn(len(latents)))
    sigma = TRAINING_SHIFT * level / (1 + (TRAINING_SHIFT - 1) * level)
    noise = torch.randn_like(latents)
    noisy = torch.lerp(latents, noise, sigma.view(-1, 1, 1, 1, 1))
    if concat_latents is not None:
        noisy = torch.cat([noisy, concat_latents], 1)
    velocity = model(noisy, sigma * 1000, ids)
    return (velocity - (noise - latents)).square().mean()


def learning_rate(step: int, steps: int) -> float:
    """Warm up over 150 steps, hold, and fall to nothing over the last 35 percent."""
    fall = 0.35 * steps
    return PEAK_RATE * min(1.0, (step + 1) / 150, max(0.01, (steps - step) / fall))


def make_optimizers(model: DemoModel) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the transformer's blocks, AdamW for everything else that learns."""
    matrices = [p for p in model.transformer.blocks.parameters() if p.ndim == 2 and p.requires_grad]
    chosen = set(matrices)
    others = [p for p in model.parameters() if p.requires_grad and p not in chosen]
    return [
        Muon(matrices, lr=PEAK_RATE, weight_decay=0.01),
        torch.optim.AdamW(others, lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def run_training(
    model: DemoModel, state_file: Path, steps: int, draw_loss: Callable[[], torch.Tensor]
) -> None:
    """Minimise what `draw_loss` returns for ever new batches, from where `state_file` left off."""
    average = copy.deepcopy(model).requires_grad_(False)
    optimizers = make_optimizers(model)
    first_step = 0
    if state_file.exists():
        state = torch.load(state_file)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        first_step = state["step"]
        torch.manual_seed(first_step)
    print(f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)
    model.transformer.compile(dynamic=False)
    started, losses = time.time(), []
    for step in range(first_step, steps):
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = learning_rate(step, steps)
        loss = draw_loss()
        model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        decay = min(0.999, (step + 1) / (step + 10))
        torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
        losses.append(loss.item())
        if step % 50 == 49:
            seconds = time.time() - started
            print(f"step {step + 1} loss {np.mean(losses[-200:]):.4f} {seconds:.0f}s", flush=True)
        if step % 250 == 249 or step == steps - 1:
            state = {"model": model.state_dict(), "average": average.state_dict(), "step": step + 1}
            state["optimizers"] = [optimizer.state_dict() for optimizer in optimizers]
            torch.save(state, state_file)


def train(folder: Path, steps: int, scale: float) -> None:
    data = cache_latents(folder, scale)
    captions = Captions(folder)
    torch.manual_seed(3)
    model = DemoModel(captions.tokenizer.get_vocab_size())

    def draw_loss() -> torch.Tensor:
        chosen = torch.randint(len(data["latents"]), (BATCH,))
        return training_loss(model, data["latents"][chosen], captions.draw(data["scene"][chosen]))

    run_training(model, folder / STATE_FILE, scaled(steps, scale), draw_loss)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work-dir", type=Path, default=Path("demo_training"))
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--export", type=Path, help="write the checkpoint folder and stop")
    add_scale(parser)
    args = parser.parse_args()
    if args.export:
        export_checkpoint(args.work_dir, args.export)
    else:
        train(args.work_dir, args.steps, args.scale)


if __name__ == "__main__":
    main()
