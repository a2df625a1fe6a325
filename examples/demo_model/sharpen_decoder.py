"""Sharpen the demo VAE's decoder; encoder and latents stay, so every model trained on them stays valid.

    python examples/demo_model/sharpen_decoder.py --work-dir demo_training --steps 2000

Goes on from the VAE that train_transformer.py exported. Cheap on a CPU: what follows the last doubling of
frames sees one frame at a time, so a step decodes few frames of each clip, and of those a window about the
shape; the networks run in bfloat16; a clip that was encoded serves several steps. `--export FILE` writes the
VAE with the averaged weights and stops.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from export import write_vae
from grammar import NUM_FRAMES, WIDTH, draw_clip, split_growing_scenes, split_scenes
from muon import Muon
from scale import add_scale, scaled
from torch_vae import CELL_PIXELS, WINDOW_CELLS, WanVAE, Windows

SHIPPED_VAE = Path(__file__).parents[2] / "mlx_video" / "demo_model" / "Wan2.1_VAE.pth"
STATE_FILE = "sharp_decoder.pt"
BATCH, FRAMES = 6, 6
FIRST_CLIPS, NEWEST_CLIPS = 40, 3000
GROWING_SHARE = 0.15  # of the clips, so that the adapter's motion decodes well too
CROSS_SHARE = 0.25  # of the clips are crosses, the hardest shape, besides their part of the others
ANYWHERE_SHARE = 0.15  # of the windows are not about the shape
MOST_NOISE = 0.03  # on latents; a transformer's are never exact
PEAK_RATE = 2e-4


class ClipStore:
    """The newest clips that were drawn, uint8 [F, H, W, 3], with their latents [C, T, h, w]."""

    def __init__(self, vae: WanVAE, seed: int) -> None:
        self.vae, self.rng = vae, np.random.default_rng(seed)
        self.known, self.growing = split_scenes()[0], split_growing_scenes()[0]
        self.clips: list[tuple[torch.Tensor, torch.Tensor]] = []
        for _ in range(FIRST_CLIPS):
            self.add()

    def add(self) -> None:
        """Draw a clip of a training scene and encode it; the oldest one goes when there are too many."""
        scenes = self.growing if self.rng.random() < GROWING_SHARE else self.known
        if self.rng.random() < CROSS_SHARE:
            scenes = [scene for scene in scenes if scene.shape == "cross"]
        clip = torch.from_numpy(draw_clip(scenes[self.rng.integers(len(scenes))], self.rng))
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            latents = self.vae.encode(to_unit_range(clip[None]))[0].float().contiguous()
        self.clips = [*self.clips[-NEWEST_CLIPS + 1 :], (clip, latents)]

    def draw(self) -> tuple[torch.Tensor, Windows, torch.Tensor]:
        """Latents [B, C, T, h, w], windows of their clips, and the pixels [B·n, 3, 1, H, W] of those."""
        chosen = [self.clips[i] for i in self.rng.integers(len(self.clips), size=BATCH)]
        places, pixels = [], []
        for clip, _ in chosen:
            for frame in self.rng.permutation(NUM_FRAMES)[:FRAMES]:
                row, column = self.place_window(clip[frame].numpy())
                places.append((frame, row, column))
                here = slice(row * CELL_PIXELS, (row + WINDOW_CELLS) * CELL_PIXELS)
                there = slice(column * CELL_PIXELS, (column + WINDOW_CELLS) * CELL_PIXELS)
                pixels.append(clip[frame, here, there][None])
        windows = Windows(*torch.tensor(np.array(places)).view(BATCH, FRAMES, 3).unbind(-1))
        return torch.stack([latents for _, latents in chosen]), windows, to_unit_range(torch.stack(pixels))

    def place_window(self, picture: np.ndarray) -> tuple[int, int]:
        """First row and column of cells of a window about the picture's shape, at times anywhere."""
        if self.rng.random() < ANYWHERE_SHARE:
            middle = self.rng.uniform(0, WIDTH, 2)
        else:
            middle = np.argwhere(np.abs(picture - picture[:1, :1].astype(float)).max(-1) > 30).mean(0)
        first = middle / CELL_PIXELS - WINDOW_CELLS / 2 + self.rng.uniform(-2, 2, 2)
        row, column = first.round().clip(0, WIDTH // CELL_PIXELS - WINDOW_CELLS).astype(int)
        return row, column


def to_unit_range(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 [B, F, H, W, 3] → float32 [B, 3, F, H, W] in [-1, 1]."""
    return pixels.permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def sharp_loss(output: torch.Tensor, clip: torch.Tensor) -> torch.Tensor:
    """L1 plus squared error, six times near edges, and the error of neighbouring pixels' differences."""
    b, c, f, h, w = clip.shape
    pictures = clip.transpose(1, 2).reshape(b * f, c, h, w)
    spread = F.max_pool2d(pictures, 5, 1, 2) + F.max_pool2d(-pictures, 5, 1, 2)
    edges = (spread.amax(1, keepdim=True) > 0.1).reshape(b, f, 1, h, w).transpose(1, 2)
    error = output - clip
    flat = ((1 + 5 * edges) * (error.abs() + 2 * error.square())).mean()
    return flat + 2 * (error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean())


def learning_rate(step: int, steps: int) -> float:
    """Warm up over 50 steps, hold, and fall to nothing over the last 70 percent."""
    return PEAK_RATE * min(1.0, (step + 1) / 50, max(0.01, (steps - step) / (0.7 * steps)))


def make_optimizers(weights: list[torch.nn.Parameter]) -> list[torch.optim.Optimizer]:
    """Muon for the convolutions' kernels, AdamW for everything else."""
    kernels = [p for p in weights if p.ndim >= 4 and p[0].numel() > 1]
    chosen = set(kernels)
    others = [p for p in weights if p not in chosen]
    return [
        Muon(kernels, lr=PEAK_RATE, weight_decay=0.0),
        torch.optim.AdamW(others, lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.0),
    ]


@dataclass
class Progress:
    """What a training keeps between two sittings."""

    weights: list[torch.nn.Parameter]
    average: list[torch.Tensor]
    optimizers: list[torch.optim.Optimizer]
    step: int = 0

    def load(self, path: Path) -> None:
        """Go on from a file, which need not be there."""
        if not path.exists():
            return
        state = torch.load(path)
        self.step, self.average = state["step"], state["average"]
        for weight, saved in zip(self.weights, state["weights"], strict=True):
            weight.data.copy_(saved)
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)

    def save(self, path: Path) -> None:
        """Write everything to a file."""
        optimizers = [optimizer.state_dict() for optimizer in self.optimizers]
        state = {"weights": self.weights, "average": self.average, "step": self.step}
        torch.save(state | {"optimizers": optimizers}, path)

    @torch.no_grad()
    def take_step(self, rate: float) -> None:
        """Change the weights by their gradients, and their average a little towards them."""
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        for optimizer in self.optimizers:
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        torch._foreach_lerp_(self.average, self.weights, 1 - min(0.99, self.step / (self.step + 9)))


def train(vae: WanVAE, state_file: Path, steps: int) -> None:
    """Train the decoder until it has taken so many steps, from where `state_file` left off."""
    vae.requires_grad_(False)
    weights = decoder_weights(vae)
    average = [weight.clone() for weight in weights]
    for weight in weights:
        weight.requires_grad_(True)
    progress = Progress(weights, average, make_optimizers(weights))
    progress.load(state_file)
    torch.manual_seed(progress.step)
    store, started, losses = ClipStore(vae, progress.step), time.time(), []
    while progress.step < steps:
        store.add()
        latents, windows, clip = store.draw()
        noisy = latents + MOST_NOISE * torch.rand(BATCH, 1, 1, 1, 1) * torch.randn_like(latents)
        with torch.autocast("cpu", torch.bfloat16):
            output = vae.decode(noisy, windows)
        loss = sharp_loss(output.float(), clip)
        loss.backward()
        progress.take_step(learning_rate(progress.step, steps))
        losses.append(loss.item())
        if progress.step % 50 == 0 or progress.step == steps:
            seconds = time.time() - started
            print(f"step {progress.step} loss {np.mean(losses[-50:]):.4f} {seconds:.0f}s", flush=True)
            progress.save(state_file)


def load_vae(path: Path) -> WanVAE:
    """An exported VAE whose decoder's last layers see one frame at a time."""
    vae = WanVAE()
    vae.load_state_dict({name: tensor.float() for name, tensor in torch.load(path).items()})
    vae.decoder.forget_past()
    return vae


def export(vae: WanVAE, state_file: Path, path: Path) -> None:
    """Write the VAE with the averaged weights of its decoder."""
    averages = torch.load(state_file)["average"]
    for weight, average in zip(decoder_weights(vae), averages, strict=True):
        weight.data.copy_(average)
    write_vae(vae.state_dict(), path)


def decoder_weights(vae: WanVAE) -> list[torch.nn.Parameter]:
    """What learns here, in the order of the state file."""
    return [*vae.conv2.parameters(), *vae.decoder.parameters()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work-dir", type=Path, default=Path("demo_training"))
    parser.add_argument("--vae", type=Path, default=SHIPPED_VAE, help="exported VAE to go on from")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--export", type=Path, help="write the VAE with the sharper decoder, and stop")
    add_scale(parser)
    args = parser.parse_args()
    args.work_dir.mkdir(parents=True, exist_ok=True)
    vae, state_file = load_vae(args.vae), args.work_dir / STATE_FILE
    if args.export:
        export(vae, state_file, args.export)
    else:
        train(vae, state_file, scaled(args.steps, args.scale))


if __name__ == "__main__":
    main()
