"""Teach the demo model to do with 4 steps and no guidance, as a low-rank adapter in ComfyUI's naming.

    python examples/demo_model/train_few_steps.py --work-dir few_steps

Needs no clips: the teacher, the model that ships, walks noise to latents under the captions of the training
scenes, with guidance and the official solver. These walks are made once and kept in the work folder, so that
the script can be stopped and started. Then the same model with low-rank factors, the student, learns to be
at the next of the recipe's four noise levels where the teacher was. evaluate_few_steps.py scores the file.
Needs `pip install peft`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from export import TEXT_ENCODER_NAMES, TRANSFORMER_NAMES, rename
from safetensors.torch import load_file
from train_adapter import add_factors, learning_rate, write_adapter
from train_transformer import Captions, DemoModel

from mlx_video.convert.demo_model import DEMO_CHECKPOINT
from mlx_video.sampling.schedule import build_schedule
from mlx_video.sampling.solvers.official import UniPCSolver

STEPS, SHIFT, GUIDE_SCALE = 4, 5.0, 4.0
TEACHER_STEPS = 16  # a multiple of STEPS: every level of the student's is one of the teacher's
LATENT_SHAPE = (16, 5, 8, 8)
WALKS_AT_ONCE = 32
RANK = 32
# Of the recipe that the package takes for it: STEPS of Euler under SHIFT, without guidance.
METADATA = {"modelspec.title": "Four steps without guidance for the demo model", "recipe": "lightx2v"}
PEAK_RATE = 1e-3
# Of each batch, half are last steps, which see most of what a viewer sees.
STEP_OF_EACH = (0,) * 4 + (1,) * 4 + (2,) * 8 + (3,) * 16


def load_checkpoint(folder: Path, captions: Captions) -> DemoModel:
    """A demo model in the original layout, in float32 and fixed."""
    model = DemoModel(captions.tokenizer.get_vocab_size()).requires_grad_(False).eval()
    stored = load_file(folder / "diffusion_pytorch_model.safetensors")
    stored_text = torch.load(folder / "models_t5_umt5-xxl-enc-bf16.pth")
    parts = (
        (model.transformer, stored, TRANSFORMER_NAMES),
        (model.text_encoder, stored_text, TEXT_ENCODER_NAMES),
    )
    for part, tensors, names in parts:
        own = {name: next(iter(rename({name: value}, names))) for name, value in part.state_dict().items()}
        part.load_state_dict({name: tensors[stored].float() for name, stored in own.items()})
    return model


@torch.inference_mode()
def encode_captions(model: DemoModel, captions: Captions) -> tuple[torch.Tensor, torch.Tensor]:
    """Text features [captions, length, dim] of training scenes, and [length, dim] of the negative prompt."""
    *positive, negative = model.encode_text(
        torch.cat([captions.by_scene.flatten(0, 1), captions.dropped[1:]])
    )
    return torch.stack(positive), negative


@torch.inference_mode()
def walk(model: DemoModel, noise: torch.Tensor, text: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """The teacher's guided walks at the student's levels, [STEPS + 1, B, C, T, H, W], from noise on."""
    sigmas = build_schedule("euler", TEACHER_STEPS, SHIFT).sigmas.tolist()
    # At pure noise the solver's logarithms are infinite; the official code begins just below it.
    solver = UniPCSolver([float(build_schedule("unipc", TEACHER_STEPS, SHIFT).sigmas[0]), *sigmas[1:]])
    both, latents, points = torch.cat([text, negative.expand_as(text)]), noise, [noise]
    for index, sigma in enumerate(sigmas[:-1]):
        timesteps = torch.full((len(both),), 1000 * sigma)
        velocity = model.transformer(torch.cat([latents, latents]), timesteps, both, return_dict=False)[0]
        positive, negated = velocity.chunk(2)
        latents = solver.step(index, torch.lerp(negated, positive, GUIDE_SCALE), latents)
        if (index + 1) % (TEACHER_STEPS // STEPS) == 0:
            points.append(latents)
    return torch.stack(points)


def make_walks(model: DemoModel, captions: Captions, folder: Path, count: int) -> None:
    """Make what is missing of the teacher's walks: a file for each batch, with points and captions."""
    folder.mkdir(parents=True, exist_ok=True)
    text, negative = encode_captions(model, captions)
    for index in range(count):
        path = folder / f"{index:05d}.pt"
        if path.exists():
            continue
        draw = torch.Generator().manual_seed(index)
        chosen = torch.randint(len(text), (WALKS_AT_ONCE,), generator=draw)
        noise = torch.randn(WALKS_AT_ONCE, *LATENT_SHAPE, generator=draw)
        walks = {"points": walk(model, noise, text[chosen], negative), "caption": chosen}
        torch.save(walks, path.with_suffix(".part"))
        path.with_suffix(".part").rename(path)
        print(f"walks {WALKS_AT_ONCE * (index + 1)}", flush=True)


def load_walks(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Points [STEPS + 1, N, C, T, H, W] of all walks, and their captions [N]."""
    files = [torch.load(path) for path in sorted(folder.glob("*.pt"))]
    return torch.cat([one["points"] for one in files], 1), torch.cat([one["caption"] for one in files])


class Student:
    """The model with factors, and the walks it learns from.

    Args:
        model: with factors.
        text: features [captions, length, dim].
        points, captions: of :func:`load_walks`.
    """

    def __init__(
        self, model: DemoModel, text: torch.Tensor, points: torch.Tensor, captions: torch.Tensor
    ) -> None:
        self._model, self._text, self._points, self._captions = model, text, points, captions
        self._sigmas = torch.from_numpy(build_schedule("euler", STEPS, SHIFT).sigmas.copy())

    def draw_loss(self) -> torch.Tensor:
        """Error of the mean velocity from one point of the teacher's walks to the next, over a new batch."""
        step = torch.tensor(STEP_OF_EACH)
        chosen = torch.randint(len(self._captions), step.shape)
        start, end, sigma = self._points[step, chosen], self._points[step + 1, chosen], self._sigmas[step]
        fall = (sigma - self._sigmas[step + 1]).view(-1, 1, 1, 1, 1)
        text = self._text[self._captions[chosen]]
        with torch.autocast("cpu", torch.bfloat16):
            velocity = self._model.transformer(start, 1000 * sigma, text, return_dict=False)[0]
        return (velocity.float() - (start - end) / fall).square().mean()


def train(folder: Path, checkpoint: Path, output: Path, walks: int, updates: int) -> None:
    captions = Captions(folder)
    model = load_checkpoint(checkpoint, captions)
    make_walks(model, captions, folder / "walks", walks)
    text, _ = encode_captions(model, captions)
    torch.manual_seed(5)
    factors = add_factors(model, RANK)
    model.transformer.compile(dynamic=False)
    student = Student(model, text.clone(), *load_walks(folder / "walks"))
    optimizer = torch.optim.AdamW(factors, lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    started, losses = time.time(), []
    for update in range(updates):
        optimizer.param_groups[0]["lr"] = learning_rate(update, updates, PEAK_RATE)
        optimizer.zero_grad()
        loss = student.draw_loss()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(factors, 1.0)
        optimizer.step()
        losses.append(loss.item())
        if update % 50 == 49:
            seconds = time.time() - started
            print(f"update {update + 1} loss {np.mean(losses[-100:]):.4f} {seconds:.0f}s", flush=True)
    write_adapter(model, output, RANK, METADATA)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work-dir", type=Path, default=Path("few_steps_training"))
    parser.add_argument("--checkpoint", type=Path, default=DEMO_CHECKPOINT, help="the teacher")
    parser.add_argument("--output", type=Path, default=Path("examples/demo_model/few_steps.safetensors"))
    parser.add_argument("--walks", type=int, default=12, help="batches of the teacher's walks")
    parser.add_argument("--updates", type=int, default=500)
    args = parser.parse_args()
    train(args.work_dir, args.checkpoint, args.output, args.walks, args.updates)


if __name__ == "__main__":
    main()
