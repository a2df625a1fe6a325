"""Video-As-Prompt from a checkpoint in its published layout to frames, by both commands, in float32.

The network with its two streams and the loop are written out in PyTorch from the authors' formulas; encoders,
VAE and solver are the official ones.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlx_video.cli import convert, generate
from mlx_video.conditioning.control.video_prompt import clip_view
from mlx_video.media.sources.pick_frames import even_numbers
from tests.fixtures.diffusers_checkpoint import write_diffusers_variant
from tests.fixtures.tiny_variants import tiny_variant, write_tiny_variant
from tests.parity.compare_runs import assert_runs_agree, read_run
from tests.parity.official_run import build_scheduler, load_vae, read_transformer, text_encoder, to_frames
from tests.parity.official_wan21_image import encode_clip
from tests.parity.plain_network import PlainNetwork

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.parity, pytest.mark.slow]

# As for the other control models.

NAME = "wan2.1-video-as-prompt-14b"
PROMPT, NEGATIVE_PROMPT = "A red circle moves left", "blurred"
CAPTION, NEGATIVE_CAPTION = "A square grows", "grey"
SEED, STEPS, GUIDE_SCALE, SHIFT = 42, 6, 4.0, 4.0  # the shift is the model's own
WIDTH, HEIGHT, NUM_FRAMES = 48, 16, 9
REFERENCE_FRAMES, REFERENCE_SIZE = 14, (40, 60)
LATENT_FRAMES, ROWS, COLUMNS = 3, 2, 6


class PlainTwoStreams(PlainNetwork):
    """Velocity of the main stream beside that of a reference.

    Source: modelscope/DiffSynth-Studio diffsynth/models/wan_video_mot.py; bytedance/Video-As-Prompt
    diffusers pipeline_wan_i2v_mot.py.
    """

    def predict(
        self, latents: Any, timestep: float, texts: tuple[Any, Any], images: tuple[Any, Any], others: Any
    ) -> Any:
        main, expert = _Stream(self, ""), _Stream(self, "mot_ref.")
        concat, reference = others
        main.begin(torch.cat([latents, concat]), timestep, texts[0], images[0], range(LATENT_FRAMES))
        expert.begin(reference, 1.0, texts[1], images[1], range(-LATENT_FRAMES, 0))
        for index in range(self.config.num_layers):
            both = (main, expert) if index in self.config.mot_layers else (main,)
            heads = [stream.project(index) for stream in both]
            mixed = self.attend(*(torch.cat(parts) for parts in zip(*heads, strict=True)))
            for stream, part in zip(both, mixed.split([len(stream.x) for stream in both]), strict=True):
                stream.go_on(index, part)
        shift, scale = self.weights["head.modulation"][0] + main.embedding
        patches = self.linear("head.head", self.norm(main.x) * (1 + scale) + shift)
        patches = patches.reshape(LATENT_FRAMES, ROWS // 2, COLUMNS // 2, 2, 2, -1)
        return patches.permute(5, 0, 1, 3, 2, 4).reshape(-1, LATENT_FRAMES, ROWS, COLUMNS)


class _Stream:
    """One of the two streams; `own` stands before the names of its weights."""

    def __init__(self, network: PlainNetwork, own: str) -> None:
        self.network, self.own = network, own
        self.outer = PlainNetwork(
            {name.removeprefix(own): values for name, values in network.weights.items()}, network.config
        )

    def begin(self, latents: Any, timestep: float, text: Any, image: Any, times: range) -> None:
        outer = self.outer
        self.x = outer.convolve3d("patch_embedding", latents).flatten(1).T
        self.embedding = outer.embed_time(timestep)
        silu = torch.nn.functional.silu(self.embedding)
        self.modulation = outer.linear("time_projection.1", silu).reshape(6, -1)
        padding = outer.config.text_len - len(text)
        padded = torch.nn.functional.pad(text, (0, 0, 0, padding))
        self.text = outer.feed("text_embedding", padded, approximate="tanh")
        self.image = outer.embed_image(image)
        self.turns = outer.turns([*times], ROWS // 2, COLUMNS // 2)

    def project(self, index: int) -> tuple[Any, Any, Any]:
        net, path = self.network, f"blocks.{index}.{self.own}"
        self.table = net.weights[f"{path}modulation"][0] + self.modulation
        y = net.norm(self.x) * (1 + self.table[1]) + self.table[0]
        attention = f"{path}self_attn"
        q, k = (
            net.turn(net.rms(f"{attention}.norm_{n}", net.linear(f"{attention}.{n}", y)), self.turns)
            for n in "qk"
        )
        return q, k, net.linear(f"{attention}.v", y)

    def go_on(self, index: int, mixed: Any) -> None:
        net, path = self.network, f"blocks.{index}.{self.own}"
        x = self.x + self.table[2] * net.linear(f"{path}self_attn.o", mixed)
        cross, y = f"{path}cross_attn", net.norm(x, f"{path}norm3")
        q, read = net.rms(f"{cross}.norm_q", net.linear(f"{cross}.q", y)), 0
        for end, source in (("", self.text), ("_img", self.image)):
            k = net.rms(f"{cross}.norm_k{end}", net.linear(f"{cross}.k{end}", source))
            read = read + net.attend(q, k, net.linear(f"{cross}.v{end}", source))
        x = x + net.linear(f"{cross}.o", read)
        y = net.norm(x) * (1 + self.table[4]) + self.table[3]
        self.x = x + self.table[5] * net.feed(f"{path}ffn", y, approximate="tanh")


def draw(path: Path, seed: int, size: tuple[int, int]) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def squash(pixels: np.ndarray) -> Any:
    return to_unit(np.asarray(Image.fromarray(pixels).resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)))


def to_unit(pixels: np.ndarray) -> Any:
    return torch.tensor(pixels.transpose(2, 0, 1)).float().div(255).sub(0.5).div(0.5)


def given(vae: Any, ends: dict[int, Any]) -> Any:
    """Mask and latents of a clip with given ends, zeros between: 20 channels."""
    clip, flags = torch.zeros(3, NUM_FRAMES, HEIGHT, WIDTH), torch.zeros(NUM_FRAMES)
    for number, pixels in ends.items():
        clip[:, number], flags[number] = pixels, 1
    slots = torch.cat([flags[:1].repeat(4), flags[1:]]).reshape(LATENT_FRAMES, 4).T
    mask = slots[:, :, None, None].expand(4, LATENT_FRAMES, ROWS, COLUMNS)
    return torch.cat([mask, vae.encode([clip])[0]])


def run_plain(original: Path, ends: list[np.ndarray], frames: list[np.ndarray]) -> tuple[Any, np.ndarray]:
    variant = tiny_variant(NAME)
    vae = load_vae(original, variant)
    network = PlainTwoStreams(read_transformer(original), variant.sizes.transformer)
    numbers = [0, NUM_FRAMES - 1][: len(ends)]
    picked = [frames[i] for i in torch.linspace(0, len(frames) - 1, NUM_FRAMES).long().tolist()]
    own_ends = [picked[number] for number in numbers]
    clip = torch.stack([squash(frame) for frame in picked], 1)
    reference = torch.cat(
        [vae.encode([clip])[0], given(vae, dict(zip(numbers, map(squash, own_ends), strict=True)))]
    )
    concat = given(vae, dict(zip(numbers, map(squash, ends), strict=True)))
    images = tuple(
        encode_clip(original, variant, [see(pixels) for pixels in pictures]).flatten(0, 1)
        for pictures in (ends, own_ends)
    )
    encode = text_encoder(original, variant.sizes)
    texts = encode([PROMPT, CAPTION]), encode([NEGATIVE_PROMPT, NEGATIVE_CAPTION])
    generator = torch.Generator().manual_seed(SEED)
    latents = torch.randn((16, LATENT_FRAMES, ROWS, COLUMNS), generator=generator)
    scheduler, timesteps = build_scheduler("unipc", STEPS, SHIFT)
    for timestep in timesteps:
        positive, negative = (
            network.predict(latents, float(timestep), tuple(pair), images, (concat, reference))
            for pair in texts
        )
        velocity = negative + GUIDE_SCALE * (positive - negative)
        latents = scheduler.step(velocity[None], timestep, latents[None], return_dict=False)[0][0]
    return latents.numpy(), to_frames(vae.decode([latents])[0])


def see(pixels: np.ndarray) -> Any:
    """What the authors' image processor shows CLIP, before its colours are normalized."""
    transformers = pytest.importorskip("transformers")
    processor = transformers.CLIPImageProcessor(do_normalize=False)
    values = np.asarray(processor(images=Image.fromarray(pixels), return_tensors="np")["pixel_values"][0])
    return torch.tensor(values).float().mul(2).sub(1)


@pytest.mark.parametrize("size", [(40, 60), (61, 33), (300, 224), (224, 224)])
def test_clip_sees_what_the_authors_processor_shows_it(size: tuple[int, int]):
    pixels = np.random.default_rng(5).integers(0, 256, (*size, 3), np.uint8)
    expected = see(pixels).permute(1, 2, 0).numpy()
    difference = np.abs(clip_view(pixels) - expected).max()
    assert difference <= 2 / 127.5 + 1e-6  # two levels: the libraries round between rows and columns


@pytest.mark.parametrize("count", [2, 9, 49, 81, 121])
def test_even_numbers_are_torchs(count: int):
    for last in range(0, 300, 7):
        assert even_numbers(last, count).tolist() == torch.linspace(0, last, count).long().tolist()


@pytest.mark.parametrize("num_ends", [1, 2], ids=["first frame", "first and last frame"])
def test_six_guided_steps_agree_with_the_formulas(
    num_ends: int, tmp_path: Path, record_property: Callable[[str, object], None]
):
    original, published, model = (tmp_path / name for name in ("original", "published", "model"))
    write_tiny_variant(original, NAME, seed=3)
    write_diffusers_variant(published, NAME, seed=3)
    names = ("image", "end_image")[:num_ends]
    ends = [
        draw(tmp_path / "pictures" / f"{name}.png", seed, (HEIGHT, WIDTH)) for seed, name in enumerate(names)
    ]
    frames = [
        draw(tmp_path / "reference" / f"{n:02}.png", 50 + n, REFERENCE_SIZE) for n in range(REFERENCE_FRAMES)
    ]
    with torch.no_grad():
        expected, expected_frames = run_plain(original, ends, frames)
    assert convert.main(
        ["--checkpoint-dir", str(published), "--output-dir", str(model), "--dtype", "float32"]
    ) == 0  # fmt: skip
    words = [
        word
        for name in names
        for word in (f"--{name.replace('_', '-')}", str(tmp_path / "pictures" / f"{name}.png"))
    ]
    assert generate.main([
        "--model-dir", str(model), "--prompt", PROMPT, "--negative-prompt", NEGATIVE_PROMPT,
        "--vap-video", str(tmp_path / "reference"), "--vap-prompt", CAPTION,
        "--negative-vap-prompt", NEGATIVE_CAPTION, "--width", str(WIDTH), "--height", str(HEIGHT),
        "--steps", str(STEPS), "--guide-scale", str(GUIDE_SCALE), "--seed", str(SEED), *words,
        "--num-frames", str(NUM_FRAMES), "--output-path", str(tmp_path / "video.gif"),
        "--save-latents", str(tmp_path / "latents.safetensors"), "--save-frames", str(tmp_path / "frames"),
    ]) == 0  # fmt: skip
    assert_runs_agree(read_run(tmp_path), (expected, expected_frames), record_property)
