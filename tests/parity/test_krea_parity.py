"""krea-realtime beside DiffSynth-Studio's network under a mask, and beside the authors' loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import convert_wan, generate_wan
from mlx_video.config import TransformerConfig
from mlx_video.latents.latents_file import load_latents
from mlx_video.media.video import read_frames
from mlx_video.models.transformer import WanTransformer
from mlx_video.runs.sampling.block_velocity import BlockVelocity
from mlx_video.sampling.blocks import block_schedule
from mlx_video.weights.names.transformer_names import WAN_RULES, transformer_tensors
from tests.fixtures.tiny_checkpoint import TinySizes, random_arrays, write_tiny_checkpoint
from tests.fixtures.tiny_variants import TinyVariant
from tests.fixtures.weight_files import store, write_safetensors
from tests.models.networks import at, load
from tests.parity.official import wan_module
from tests.parity.official_run import load_vae, text_encoder, to_frames

torch = pytest.importorskip("torch")
from tests.parity.dense_krea import (  # noqa: E402
    AuthorsRequest,
    DenseKrea,
    begin_stream,
    denoising_schedule,
    run_authors,
    sigma_of,
)

pytestmark = pytest.mark.parity

# Float32 on both sides, summed in another order; two blocks of magnitude 1 to 4.
NETWORK_TOLERANCE = 1e-5
# Rounding grows over the steps, and from block to block.
LATENTS_TOLERANCE = 1e-4
# A difference in the last digit may fall on either side of a whole number.
FRAMES_TOLERANCE = 1

# Heads of 128, as the published file says nothing else; DiffSynth's positions need an even third of that.
CONFIG = TransformerConfig(256, 320, 2, 2, text_dim=32, freq_dim=64)
KREA_FILE = "krea-realtime-video-14b.safetensors"
PROMPT, SEED = "A red circle moves left", 42
WIDTH, HEIGHT = 48, 32
LATENT_SIZE = (HEIGHT // 8, WIDTH // 8)


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    return random_arrays(transformer_tensors(CONFIG), seed=5)


@pytest.fixture(scope="module")
def dense(weights: dict[str, np.ndarray]) -> DenseKrea:
    return DenseKrea({name: torch.tensor(values) for name, values in weights.items()}, CONFIG)


@pytest.fixture(scope="module")
def official(weights: dict[str, np.ndarray]) -> Any:
    """Wan2.1's own transformer."""
    model = wan_module("model").WanModel(
        dim=CONFIG.dim, ffn_dim=CONFIG.ffn_dim, freq_dim=CONFIG.freq_dim, text_dim=CONFIG.text_dim,
        num_heads=CONFIG.num_heads, num_layers=CONFIG.num_layers,
    )  # fmt: skip
    model.load_state_dict({name: torch.tensor(values) for name, values in weights.items()})
    return model.eval()


@pytest.fixture(scope="module")
def transformer(weights: dict[str, np.ndarray]) -> WanTransformer:
    return load(WanTransformer(CONFIG), weights, WAN_RULES, mx.float32)


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def assert_close(found: mx.array, expected: Any, tolerance: float) -> float:
    expected = expected.numpy()
    assert found.shape == expected.shape
    error = np.abs(np.array(found) - expected).max() / np.abs(expected).max()
    assert error <= tolerance
    return float(error)


@pytest.mark.parametrize("timestep", [1000.0, 625.0, 0.0])
def test_the_first_block_is_an_ordinary_forward(
    transformer: WanTransformer,
    dense: DenseKrea,
    official: Any,
    timestep: float,
    record_property: Callable[..., None],
):
    latents, text = draw(1, 16, 3, *LATENT_SIZE), draw(2, 9, 32)
    velocity = BlockVelocity(transformer, transformer.project_text(mx.array(text)), frames=3)
    velocity.see(None)
    found = velocity(mx.array(latents), at(timestep))
    with torch.no_grad():
        (expected,) = official(
            [torch.tensor(latents)], t=torch.tensor([timestep]), context=[torch.tensor(text)], seq_len=18
        )
    record_property("error", assert_close(found, expected, NETWORK_TOLERANCE))
    behind_nothing = dense.behind(None, torch.tensor(latents), timestep, torch.tensor(text))
    assert_close(found, behind_nothing, NETWORK_TOLERANCE)


@pytest.mark.parametrize("context", [1, 2, 3, 4, 7])
def test_a_block_behind_keys_and_values_is_a_dense_forward_under_a_mask(
    transformer: WanTransformer, dense: DenseKrea, context: int, record_property: Callable[..., None]
):
    frames, latents = draw(3, 16, context, *LATENT_SIZE), draw(4, 16, 3, *LATENT_SIZE)
    text = draw(2, 9, 32)
    velocity = BlockVelocity(transformer, transformer.project_text(mx.array(text)), frames=3)
    velocity.see(mx.array(draw(5, 16, 5, *LATENT_SIZE)))  # of a block before; nothing of it may stay
    velocity.see(mx.array(frames))
    for timestep in (1000.0, 833.25, 0.0):
        found = velocity(mx.array(latents), at(timestep))
        expected = dense.behind(torch.tensor(frames), torch.tensor(latents), timestep, torch.tensor(text))
        record_property("error", assert_close(found, expected, NETWORK_TOLERANCE))


@pytest.mark.parametrize("shift", [5.0, 3.0, 8.0])
def test_noise_levels_and_timesteps_are_those_of_the_authors(shift: float):
    for steps in range(2, 42):
        schedule, timesteps = block_schedule(steps, shift), denoising_schedule(steps, shift)
        # Their table is float32, ours is rounded once.
        np.testing.assert_allclose(schedule.timesteps, timesteps.numpy(), atol=2e-4)
        sigmas = [float(sigma_of(timestep, shift)) for timestep in timesteps]
        np.testing.assert_allclose(schedule.sigmas[:-1], sigmas, atol=2e-7)


@pytest.fixture(scope="module")
def krea(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TinySizes]:
    """A Wan2.1 folder, and beside its transformer the file of krea-realtime as published."""
    root = tmp_path_factory.mktemp("krea")
    sizes = TinySizes(transformer=CONFIG)
    write_tiny_checkpoint(root / "Wan2.1-T2V-14B", sizes, seed=3)
    arrays = random_arrays(transformer_tensors(CONFIG), seed=8)
    write_safetensors(root / KREA_FILE, [store(f"model.{name}", values) for name, values in arrays.items()])
    command = ["--checkpoint-dir", str(root / "Wan2.1-T2V-14B"), "--transformer", str(root / KREA_FILE)]
    assert convert_wan.main([*command, "--output-dir", str(root / "converted"), "--dtype", "float32"]) == 0
    return root, sizes


def read_krea(root: Path) -> dict[str, object]:
    from safetensors.torch import load_file

    return {name.removeprefix("model."): tensor for name, tensor in load_file(root / KREA_FILE).items()}


def run_command(root: Path, out: Path, *options: str) -> tuple[mx.array, np.ndarray]:
    """Latents and lossless frames of the command."""
    size = ["--width", str(WIDTH), "--height", str(HEIGHT), "--seed", str(SEED)]
    results = ["--output-path", str(out / "a.webp"), "--save-frames", str(out / "frames")]
    results += ["--save-latents", str(out / "latents.safetensors")]
    model = ["--model-dir", str(root / "converted"), "--prompt", PROMPT]
    assert generate_wan.main([*model, *size, *results, *options]) == 0
    frames = [read_frames(path)[0] for path in sorted((out / "frames").iterdir())]
    return load_latents(out / "latents.safetensors")[0], np.stack(frames)


def encode_prompt(root: Path, sizes: TinySizes) -> object:
    return text_encoder(root / "Wan2.1-T2V-14B", sizes)([PROMPT])[0]


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("context", "blocks", "options"),
    [
        pytest.param(3, 4, (), marks=pytest.mark.nightly),
        (1, 3, ("--steps", "4")),
        pytest.param(4, 4, ("--steps", "2", "--shift", "8"), marks=pytest.mark.nightly),
    ],
)
def test_a_video_made_block_by_block_is_that_of_the_authors(
    krea: tuple[Path, TinySizes],
    tmp_path: Path,
    context: int,
    blocks: int,
    options: tuple[str, ...],
    record_property: Callable[..., None],
):
    root, sizes = krea
    dense = DenseKrea(read_krea(root), CONFIG)
    vae = load_vae(root / "Wan2.1-T2V-14B", TinyVariant(sizes))
    given = dict(zip(options[::2], options[1::2], strict=True))
    request = AuthorsRequest(SEED, blocks, context, LATENT_SIZE)
    request = replace(request, steps=int(given.get("--steps", 5)), shift=float(given.get("--shift", 5)))
    stream = begin_stream(load_vae(root / "Wan2.1-T2V-14B", TinyVariant(sizes)))
    expected, frames = run_authors(dense, vae, stream, encode_prompt(root, sizes), request)
    command = ["--kv-cache-frames", str(context), "--num-frames", str(12 * blocks - 3)]
    latents, found = run_command(root, tmp_path, *command, *options)
    record_property("latents", assert_close(latents, expected, LATENTS_TOLERANCE))
    assert found.shape == frames.shape
    difference = np.abs(found.astype(int) - frames).max()
    record_property("frames", int(difference))
    assert difference <= FRAMES_TOLERANCE
    assert frames.std() > 10, "a grey video would prove little"
    with torch.no_grad():
        at_once = to_frames(vae.decode([expected])[0])
    assert np.abs(at_once.astype(int) - frames).max() <= FRAMES_TOLERANCE, (
        "the stream is the official decoding"
    )


def test_a_video_made_as_a_whole_takes_six_euler_steps(
    krea: tuple[Path, TinySizes], tmp_path: Path, record_property: Callable[..., None]
):
    """Source: modelscope/DiffSynth-Studio examples/wanvideo/model_inference/krea-realtime-video.py."""
    root, sizes = krea
    dense = DenseKrea(read_krea(root), CONFIG)
    text = encode_prompt(root, sizes)
    generator = torch.Generator("cpu").manual_seed(SEED)
    latents = torch.randn((16, 3, *LATENT_SIZE), generator=generator)
    levels = torch.linspace(1, 0, 7, dtype=torch.float64)
    sigmas = 20 * levels / (1 + 19 * levels)
    for sigma, next_sigma in pairwise(sigmas):
        velocity = dense.behind(None, latents, 1000 * float(sigma), text)
        latents = latents + (float(next_sigma) - float(sigma)) * velocity
    vae = load_vae(root / "Wan2.1-T2V-14B", TinyVariant(sizes))
    found, frames = run_command(root, tmp_path, "--num-frames", "9")
    record_property("latents", assert_close(found, latents, LATENTS_TOLERANCE))
    with torch.no_grad():
        expected = to_frames(vae.decode([latents])[0])
    assert np.abs(frames.astype(int) - expected).max() <= FRAMES_TOLERANCE
