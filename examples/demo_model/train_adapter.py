"""Teach the demo model a motion it does not know, growing, as a low-rank adapter in ComfyUI's naming.

    python examples/demo_model/train_adapter.py --work-dir demo_training --steps 400

Goes on from train_transformer.py's result, which stays as it is: only the adapter's factors learn. Half of
every batch are clips of the known motions, so that the adapter leaves those alone. The file that it writes
goes to `--lora`; evaluate_adapter.py scores it. Needs `pip install peft`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from export import TRANSFORMER_NAMES, rename
from grammar import NEW_MOTION, Scene, draw_clip, split_growing_scenes
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file
from scale import add_scale, scaled
from train_transformer import (
    BATCH,
    STATE_FILE,
    Captions,
    DemoModel,
    cache_latents,
    load_vae,
    to_coordinates,
    training_loss,
)

RANK = 8
CLIPS_PER_SCENE = 6
PEAK_RATE = 2e-3
WARM_UP_STEPS = 50
METADATA = {"modelspec.title": f"The motion {NEW_MOTION!r} for the demo model"}
LAYERS = ["to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2"]


def new_clips(scenes: Sequence[Scene]) -> np.ndarray:
    """Several drawings of every scene, uint8 [N, F, H, W, 3], scene by scene."""
    rng = np.random.default_rng(12)
    return np.stack([draw_clip(scene, rng) for scene in scenes for _ in range(CLIPS_PER_SCENE)])


def encode_new_clips(folder: Path, scenes: Sequence[Scene], basis: dict[str, torch.Tensor]) -> torch.Tensor:
    """Latents [N, C, T, H, W] of the new motion's training clips, in the transformer's coordinates."""
    path = folder / "adapter_latents.pt"
    if not path.exists():
        vae, encoded = load_vae(folder), []
        clips = torch.from_numpy(new_clips(scenes)).permute(0, 4, 1, 2, 3)
        for few in clips.split(6):
            with torch.inference_mode():
                encoded.append(vae.encode(few.float() / 127.5 - 1).contiguous())
        torch.save(to_coordinates(torch.cat(encoded), basis), path)
    return torch.load(path)


def tokenize(captions: Captions, scenes: Sequence[Scene]) -> torch.Tensor:
    """Token ids [scenes, styles, length]."""
    return torch.stack([torch.stack([captions.pad(text) for text in scene.captions()]) for scene in scenes])


def add_factors(model: DemoModel, rank: int) -> list[torch.nn.Parameter]:
    """Freeze the model and give its blocks' layers low-rank factors, which are returned."""
    model.requires_grad_(False)
    model.transformer.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=LAYERS))
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Warm up, hold, and fall to nothing over the second half."""
    return peak * min(1.0, (step + 1) / WARM_UP_STEPS, 2 * (1 - step / steps))


def train(folder: Path, output: Path, steps: int, scale: float) -> None:
    data, captions = cache_latents(folder, scale), Captions(folder)
    scenes, steps = split_growing_scenes()[0], scaled(steps, scale)
    scenes = scenes[: scaled(len(scenes), scale)]
    latents = encode_new_clips(folder, scenes, data)
    ids = tokenize(captions, scenes).repeat_interleave(CLIPS_PER_SCENE, dim=0)
    torch.manual_seed(5)
    model = DemoModel(captions.tokenizer.get_vocab_size())
    model.load_state_dict(torch.load(folder / STATE_FILE)["average"])
    factors = add_factors(model, RANK)
    optimizer = torch.optim.AdamW(factors, lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    started, losses, half = time.time(), [], BATCH // 2
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = learning_rate(step, steps, PEAK_RATE)
        new, known = torch.randint(len(latents), (half,)), torch.randint(len(data["latents"]), (half,))
        words = ids[new, torch.randint(ids.shape[1], new.shape)]
        batch = torch.cat([latents[new], data["latents"][known]])
        loss = training_loss(model, batch, torch.cat([words, captions.draw(data["scene"][known])]))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(factors, 1.0)
        optimizer.step()
        losses.append(loss.item())
        if step % 50 == 49 or step == steps - 1:
            seconds = time.time() - started
            print(f"step {step + 1} loss {np.mean(losses[-100:]):.4f} {seconds:.0f}s", flush=True)
            write_adapter(model, output, RANK, METADATA)


def write_adapter(model: DemoModel, path: Path, rank: int, metadata: dict[str, str]) -> None:
    """Save the factors as `diffusion_model.<layer>.lora_A.weight` and `lora_B`, with an alpha a layer."""
    found = get_peft_model_state_dict(model.transformer)
    tensors = {
        f"diffusion_model.{name}": factor.half() for name, factor in rename(found, TRANSFORMER_NAMES).items()
    }
    layers = {name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight")}
    tensors |= {f"{layer}.alpha": torch.tensor(float(rank)) for layer in layers}
    save_file(tensors, path, metadata)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work-dir", type=Path, default=Path("demo_training"))
    parser.add_argument("--output", type=Path, default=Path("examples/demo_model/growing.safetensors"))
    parser.add_argument("--steps", type=int, default=400)
    add_scale(parser)
    args = parser.parse_args()
    train(args.work_dir, args.output, args.steps, args.scale)


if __name__ == "__main__":
    main()
