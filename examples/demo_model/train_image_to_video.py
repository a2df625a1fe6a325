"""Train the demo's image-to-video sibling: the text-to-video transformer, taught to read a first frame.

    python examples/demo_model/train_image_to_video.py --work-dir demo_training --steps 2000

Goes on from train_transformer.py's result, on the same clips. Text encoder and VAE stay as they are, so the
two models share them. The input gains Wan's 20 image-to-video channels: a mask of 4, and 16 of a clip that is
the first frame followed by mid-gray. `--export FOLDER` writes transformer and config of the last checkpoint.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from export import IMAGE_CONFIG, export_sibling
from scale import add_scale, scaled
from train_transformer import (
    BATCH,
    STATE_FILE,
    Captions,
    DemoModel,
    cache_latents,
    load_vae,
    run_training,
    to_coordinates,
    training_clips,
    training_loss,
)

IMAGE_STATE_FILE = "transformer_i2v.pt"
ROUNDS = 2  # of the clips that train_transformer.py learned from; encoding takes a minute or two each
CHANNELS = 36


def cache_conditions(folder: Path, basis: dict[str, torch.Tensor], scale: float) -> torch.Tensor:
    """Mask and condition latents [N, 20, T, H, W] of the first clips' first frames."""
    path = folder / "conditions.pt"
    if path.exists():
        return torch.load(path)
    vae, encoded = load_vae(folder), []
    for clips, _ in training_clips(ROUNDS, scale):
        clips[:, :, 1:] = 0.0
        with torch.inference_mode():
            encoded.append(vae.encode(clips).contiguous())
    latents = to_coordinates(torch.cat(encoded), basis)
    mask = torch.zeros_like(latents[:, :4])
    mask[:, :, 0] = 1
    conditions = torch.cat([mask, latents], 1)
    torch.save(conditions, path)
    return conditions


def widen(text_to_video: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The trained weights with a patch embedding of 36 channels; the new ones begin at zero."""
    name = "transformer.patch_embedding.weight"
    narrow = text_to_video[name]
    wide = narrow.new_zeros(narrow.shape[0], CHANNELS, *narrow.shape[2:])
    wide[:, : narrow.shape[1]] = narrow
    return text_to_video | {name: wide}


def train(folder: Path, steps: int, scale: float) -> None:
    data = cache_latents(folder, scale)
    conditions = cache_conditions(folder, data, scale)
    captions = Captions(folder)
    torch.manual_seed(4)
    model = DemoModel(captions.tokenizer.get_vocab_size(), CHANNELS)
    model.load_state_dict(widen(torch.load(folder / STATE_FILE)["average"]))
    model.text_encoder.requires_grad_(False)

    def draw_loss() -> torch.Tensor:
        chosen = torch.randint(len(conditions), (BATCH,))
        ids = captions.draw(data["scene"][chosen])
        return training_loss(model, data["latents"][chosen], ids, conditions[chosen])

    run_training(model, folder / IMAGE_STATE_FILE, scaled(steps, scale), draw_loss)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work-dir", type=Path, default=Path("demo_training"))
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--export", type=Path, help="write transformer and config, and stop")
    add_scale(parser)
    args = parser.parse_args()
    if args.export:
        export_sibling(args.work_dir / IMAGE_STATE_FILE, IMAGE_CONFIG, args.export)
    else:
        train(args.work_dir, args.steps, args.scale)


if __name__ == "__main__":
    main()
