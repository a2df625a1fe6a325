"""Train the demo VAE: single frames first, then short clips.

    python examples/demo_model/train_vae.py --work-dir demo_training

Can be stopped and started again: it continues from the last checkpoint in the work folder. The encoder is
final afterwards; sharpen_decoder.py goes on with the decoder alone.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from grammar import NUM_FRAMES, draw_clip, split_scenes
from scale import add_scale, scaled
from torch_vae import CausalConv3d, Resample, WanVAE


@dataclass(frozen=True)
class Stage:
    name: str
    num_frames: int
    batch: int
    steps: int
    peak_rate: float
    latent_noise: float


STAGES = (
    Stage("frames", 1, 16, 1100, 4e-4, 0.0),
    Stage("short", 5, 6, 300, 1.5e-4, 0.03),
)


def draw_batch(stage: Stage, rng: np.random.Generator) -> torch.Tensor:
    """Random training clips [B, 3, F, 64, 64] in [-1, 1]."""
    scenes, _ = split_scenes()
    clips = []
    for _ in range(stage.batch):
        clip = draw_clip(scenes[rng.integers(len(scenes))], rng)
        first = rng.integers(NUM_FRAMES - stage.num_frames + 1)
        clips.append(clip[first : first + stage.num_frames])
    pixels = torch.from_numpy(np.stack(clips)).permute(0, 4, 1, 2, 3)
    return pixels.float() / 127.5 - 1


def reconstruction_loss(output: torch.Tensor, clip: torch.Tensor) -> torch.Tensor:
    """L1 plus squared error; the shape is a small part of a frame, so its pixels weigh more."""
    border = clip[:, :, :, :1, :1]
    weight = 1 + 4 * ((clip - border).abs().amax(1, keepdim=True) > 0.15)
    error = output - clip
    return (weight * (error.abs() + 2 * error.square())).mean()


@torch.no_grad()
def inflate(model: WanVAE) -> None:
    """Turn a model of single frames into one of clips that starts from the same pictures.

    Single frames train only the last tap of each temporal kernel, so the others are still noise: they begin
    at zero. Down-sampling in time begins as a mean of two frames, up-sampling as a repetition.
    """
    for module in model.modules():
        if isinstance(module, CausalConv3d) and module.kernel_size[0] == 3:
            module.weight[:, :, :2] = 0
        elif isinstance(module, Resample) and module.mode.endswith("3d"):
            kernel, bias = module.time_conv.weight, module.time_conv.bias
            kernel.zero_()
            bias.zero_()
            copies = kernel.shape[0] // kernel.shape[1]
            identity = torch.eye(kernel.shape[1]).repeat(copies, 1)
            if module.mode == "up3d":
                kernel[:, :, 2, 0, 0] = identity
            else:
                kernel[:, :, 1:, 0, 0] = 0.5 * identity[..., None]


def train_stage(model: WanVAE, stage: Stage, folder: Path) -> None:
    rng = np.random.default_rng([7, stage.num_frames])
    weights = list(model.parameters())
    optimizer = torch.optim.AdamW(weights, lr=stage.peak_rate, betas=(0.9, 0.99), weight_decay=1e-4)
    warm_up = 100
    started = time.time()
    for step in range(stage.steps):
        progress = step / stage.steps
        rate = min(1.0, (step + 1) / warm_up) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in optimizer.param_groups:
            group["lr"] = stage.peak_rate * rate
        clip = draw_batch(stage, rng)
        latents = model.encode(clip)
        noisy = latents + stage.latent_noise * torch.randn_like(latents)
        output = model.decode(noisy)
        loss = reconstruction_loss(output, clip) + 1e-3 * latents.square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        if step % 25 == 0 or step == stage.steps - 1:
            psnr = 10 * math.log10(4 / (output.detach().clamp(-1, 1) - clip).square().mean().item())
            spread = latents.detach().std(dim=(0, 2, 3, 4)).sort().values
            print(
                f"{stage.name} {step:5d} loss {loss.item():.4f} psnr {psnr:.1f} latent std "
                f"{spread[0]:.2f}-{spread[8]:.2f}-{spread[-1]:.2f} {time.time() - started:.0f}s",
                flush=True,
            )
        if step % 100 == 99:
            torch.save(model.state_dict(), folder / f"vae_{stage.name}_running.pt")
    torch.save(model.state_dict(), folder / f"vae_{stage.name}.pt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work-dir", type=Path, default=Path("demo_training"))
    add_scale(parser)
    args = parser.parse_args()
    folder = args.work_dir
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(5)
    model = WanVAE(base=16)
    for planned in STAGES:
        stage = replace(planned, steps=scaled(planned.steps, args.scale))
        finished = folder / f"vae_{stage.name}.pt"
        running = folder / f"vae_{stage.name}_running.pt"
        if finished.exists():
            model.load_state_dict(torch.load(finished))
            continue
        if running.exists():
            model.load_state_dict(torch.load(running))
        elif stage.name == "short":
            inflate(model)
        train_stage(model, stage, folder)


if __name__ == "__main__":
    main()
