"""Train the demo's control model: the text-to-video transformer, taught to follow an outline in a video.

    python examples/demo_model/train_control.py --work-dir demo_training --steps 700

Goes on from an exported checkpoint, by default the one that ships; its text encoder and VAE stay as they are.
The transformer becomes one of Wan2.2's Fun Control: 36 more input channels (a control video's 16, a mask of 4
and 16 of the given frames) and tokens of a reference image. Only its first blocks learn; the later ones stay
those of text to video. `--export FOLDER` writes what learned and the config from the last checkpoint.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
from export import export_control, is_guided, load_text_encoder, load_transformer
from grammar import (
    GUIDED_MOTION,
    MOTIONS,
    PATHS,
    Course,
    Scene,
    draw_course,
    draw_outline,
    draw_path,
    draw_scene,
    split_guided_scenes,
    split_scenes,
)
from scale import add_scale, scaled
from sharpen_decoder import SHIPPED_VAE, load_vae, to_unit_range
from torch_vae import WanVAE
from train_transformer import Captions, DemoModel, Network, run_training, training_loss

SHIPPED = SHIPPED_VAE.parent
STATE_FILE = "transformer_control.pt"
CLIPS = 700
KNOWN_EVERY = 5  # one clip of so many moves as the text-to-video model's clips do, and its caption says so
IMAGE_EVERY = 6  # one clip of so many may be given with its first frame
CHANNELS = 52
BATCH = 16
NO_CONTROL, NO_CONTROL_KNOWN = 0.05, 0.5  # how often the control video is left out; the caption then decides
WITH_IMAGE, WITH_REFERENCE = 0.9, 0.15  # of the clips that have one; of all clips
IDLE_WORDS = 0.25  # captions that name a motion which the outline contradicts
ENCODED_TOGETHER = 6


class PatchEmbedding(nn.Conv3d):
    """Tokens of noise and conditions; those of the first frame, a reference image, by other weights."""

    def __init__(self, narrow: nn.Conv3d) -> None:
        size = narrow.kernel_size
        super().__init__(CHANNELS, narrow.out_channels, size, stride=size)
        self.reference = nn.Conv2d(narrow.in_channels, narrow.out_channels, size[1:], stride=size[1:])

    def take_over(self, narrow: nn.Conv3d) -> None:
        """The trained weights; those of the new channels begin at zero."""
        with torch.no_grad():
            self.weight.zero_()
            self.weight[:, : narrow.in_channels] = narrow.weight
            self.bias.copy_(narrow.bias)
            self.reference.weight.copy_(narrow.weight[:, :, 0])
            self.reference.bias.copy_(narrow.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        reference = self.reference(x[:, : self.reference.in_channels, 0])
        return torch.cat([reference.unsqueeze(2), super().forward(x[:, :, 1:])], 2)


class ControlModel(DemoModel):
    """The demo with a control's channels and a reference image."""

    def __init__(self, checkpoint: Path, vocab_size: int) -> None:
        super().__init__(vocab_size)
        load_text_encoder(self.text_encoder, checkpoint)
        load_transformer(self.transformer, checkpoint)
        narrow = self.transformer.patch_embedding
        self.transformer.patch_embedding = PatchEmbedding(narrow)
        self.transformer.patch_embedding.take_over(narrow)
        self.text_encoder.requires_grad_(False)
        for name, parameter in self.transformer.named_parameters():
            parameter.requires_grad_(is_guided(name))

    def guide(self, reference: torch.Tensor) -> Network:
        """The model as a function of noisy latents with conditions, timestep and ids.

        Args:
            reference: latents [B, 16, h, w] of an image; zeros for none.
        """

        def forward(noisy: torch.Tensor, timestep: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
            before = nn.functional.pad(reference, (0, 0, 0, 0, 0, CHANNELS - reference.shape[1]))
            return self(torch.cat([before.unsqueeze(2), noisy], 2), timestep, ids)[:, :, 1:]

        return forward


@dataclass
class Clips:
    """What the model learns from, in latents.

    Attributes:
        scenes: of each clip.
        videos, outlines: [N, 16, T, h, w].
        firsts: of the first frame with gray behind it, of every `IMAGE_EVERY`-th clip.
    """

    scenes: list[Scene]
    videos: torch.Tensor
    outlines: torch.Tensor
    firsts: torch.Tensor


def draw_training_clips(count: int, seed: int = 13) -> list[tuple[Scene, Course]]:
    """Scenes and courses, the same ones in every process; nothing held out is among them."""
    rng = np.random.default_rng(seed)
    guided, held_out = split_guided_scenes()
    unseen = {(scene.colour, scene.shape, scene.background) for scene in held_out}
    known = [s for s in split_scenes()[0] if (s.colour, s.shape, s.background) not in unseen]
    drawn = []
    for number in range(count):
        if number % KNOWN_EVERY == 0:
            scene = known[rng.integers(len(known))]
            drawn.append((scene, draw_course(scene, rng)))
        else:
            path = PATHS[rng.integers(len(PATHS))]
            drawn.append((guided[rng.integers(len(guided))], draw_path(path, rng)))
    return drawn


def encode(vae: WanVAE, clips: list[np.ndarray]) -> torch.Tensor:
    """Clips [F, H, W, 3], 0 to 255 → normalised latents [N, 16, T, h, w], exact to a few percent."""
    encoded, started = [], time.time()
    for first in range(0, len(clips), ENCODED_TOGETHER):
        pixels = torch.from_numpy(np.stack(clips[first : first + ENCODED_TOGETHER]))
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            encoded.append(vae.encode(to_unit_range(pixels)).float().contiguous())
    print(f"encoded {len(clips)} clips, {time.time() - started:.0f}s", flush=True)
    return torch.cat(encoded).clone()


def cache_clips(folder: Path, checkpoint: Path, count: int) -> Clips:
    """The training clips' latents, encoded once; the exported VAE gives the transformer's own."""
    drawn = draw_training_clips(count)
    scenes = [scene for scene, _ in drawn]
    path = folder / "control_latents.pt"
    if not path.exists():
        vae = load_vae(checkpoint / SHIPPED_VAE.name)
        videos = [draw_scene(*one) for one in drawn]
        firsts = [with_gray_behind(video) for video in videos[::IMAGE_EVERY]]
        outlines = [draw_outline(scene.shape, course) for scene, course in drawn]
        torch.save([encode(vae, clips) for clips in (videos, outlines, firsts)], path)
    return Clips(scenes, *torch.load(path))


def with_gray_behind(video: np.ndarray) -> np.ndarray:
    """The first frame, then frames without content: float32 that 8-bit gray cannot express, 127.5."""
    frames = np.full(video.shape, 127.5, np.float32)
    frames[0] = video[0]
    return frames


class Lessons:
    """Random batches of clips with what is given of them."""

    def __init__(self, clips: Clips, captions: Captions) -> None:
        self.clips, self.captions = clips, captions
        own = {
            scene: torch.stack([captions.pad(text) for text in scene.captions()]) for scene in clips.scenes
        }
        self.ids = torch.stack([own[scene] for scene in clips.scenes])
        self.idle_ids = torch.stack([self.contradicting(scene) for scene in clips.scenes])
        self.is_known = torch.tensor([scene.motion != GUIDED_MOTION for scene in clips.scenes])
        looks: dict[tuple[str, str, str], list[int]] = {}
        for number, scene in enumerate(clips.scenes):
            looks.setdefault((scene.colour, scene.shape, scene.background), []).append(number)
        self.alike = [looks[s.colour, s.shape, s.background] for s in clips.scenes]

    def contradicting(self, scene: Scene) -> torch.Tensor:
        """Captions [5, length] of the same look with every motion's words."""
        scenes = [Scene(scene.colour, scene.shape, motion, scene.background) for motion in MOTIONS]
        return torch.stack([self.captions.pad(one.captions()[0]) for one in scenes])

    def draw_ids(self, chosen: torch.Tensor) -> torch.Tensor:
        """One caption for each clip; a tenth become empty or the model family's negative prompt."""
        count = len(chosen)
        ids = self.ids[chosen, torch.randint(self.ids.shape[1], (count,))]
        idle = ~self.is_known[chosen] & (torch.rand(count) < IDLE_WORDS)
        ids[idle] = self.idle_ids[chosen, torch.randint(len(MOTIONS), (count,))][idle]
        drop = torch.rand(count) < 0.1
        ids[drop] = self.captions.dropped[torch.randint(2, (int(drop.sum()),))]
        return ids

    def draw_conditions(self, chosen: torch.Tensor) -> torch.Tensor:
        """Control, mask and given frames [B, 36, T, h, w]; zeros stand for what is not given."""
        control = self.clips.outlines[chosen]
        left_out = torch.where(self.is_known[chosen], NO_CONTROL_KNOWN, NO_CONTROL)
        control[torch.rand(len(chosen)) < left_out] = 0.0
        masked = torch.zeros_like(control)
        mask = masked[:, :4].clone()
        given = (chosen % IMAGE_EVERY == 0) & (torch.rand(len(chosen)) < WITH_IMAGE)
        masked[given] = self.clips.firsts[chosen[given] // IMAGE_EVERY]
        mask[given, :, 0] = 1
        return torch.cat([control, mask, masked], 1)

    def draw_references(self, chosen: torch.Tensor) -> torch.Tensor:
        """Latents [B, 16, h, w] of a picture of the same look elsewhere, or zeros."""
        others = [self.alike[i][torch.randint(len(self.alike[i]), ())] for i in chosen.tolist()]
        references = self.clips.videos[torch.tensor(others), :, 0]
        references[torch.rand(len(chosen)) >= WITH_REFERENCE] = 0.0
        return references


def train(folder: Path, checkpoint: Path, steps: int, scale: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    captions = Captions(folder)
    clips = cache_clips(folder, checkpoint, scaled(CLIPS, scale))
    lessons = Lessons(clips, captions)
    torch.manual_seed(6)
    model = ControlModel(checkpoint, captions.tokenizer.get_vocab_size())

    def draw_loss() -> torch.Tensor:
        chosen = torch.randint(len(clips.scenes), (BATCH,))
        guided = model.guide(lessons.draw_references(chosen))
        ids, conditions = lessons.draw_ids(chosen), lessons.draw_conditions(chosen)
        return training_loss(guided, clips.videos[chosen], ids, conditions)

    run_training(model, folder / STATE_FILE, scaled(steps, scale), draw_loss)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work-dir", type=Path, default=Path("demo_training"))
    parser.add_argument("--checkpoint", type=Path, default=SHIPPED, help="exported checkpoint to go on from")
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--export", type=Path, help="write what learned and the config, and stop")
    add_scale(parser)
    args = parser.parse_args()
    if args.export:
        export_control(args.work_dir / STATE_FILE, args.export)
    else:
        train(args.work_dir, args.checkpoint, args.steps, args.scale)


if __name__ == "__main__":
    main()
