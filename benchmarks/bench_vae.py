"""Decode or encode a clip at a VAE's real widths, against its bare convolutions.

The floor is one call of mx.conv3d (or conv2d) per convolution of the network, each over the whole clip at
once, on random data of the activations' shape. It leaves out norms, activations, attention, biases and every
cache, and it holds whole clips in memory.

    python -m benchmarks.bench_vae decode --latents 3 --latent-size 16
    python -m benchmarks.bench_vae encode --latents 3 --latent-size 16
    python -m benchmarks.bench_vae memory --latents 3 --longer 6 --latent-size 16
    python -m benchmarks.bench_vae decode --generation 2.2 --latents 3 --latent-size 8
    python -m benchmarks.bench_vae memory --latents 3 --longer 6 --latent-size 16 --tile 8
    python -m benchmarks.bench_vae tile --latents 2 --latent-size 90 --latent-width 160 --tile 80

`memory` decodes in a fresh process for each length and reports the most memory MLX had in use and the most
the process had resident. `tile` sends random features through the largest tile of a frame and holds the most
memory against the prediction that a run's plan is made from; the weights are in neither.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise

import mlx.core as mx
from mlx.utils import tree_map

from benchmarks.timing import TABLE_HEADER, alternate, format_row
from mlx_video.config import WAN21_VAE, WAN22_VAE, VAEConfig
from mlx_video.geometry import pixel_frames
from mlx_video.latents.decode import decode_frames
from mlx_video.latents.encode import encode_video
from mlx_video.latents.tiling import DECODER_STAGES, cut_tiles
from mlx_video.models.vae.autoencoder import WanVAE
from mlx_video.models.vae.halves import decoder_widths
from mlx_video.models.vae.stream import StreamState
from mlx_video.planning.vae_memory import decode_peak_bytes

CONFIGS = {"2.1": WAN21_VAE, "2.2": WAN22_VAE}
# Float32, different order of sums in forty layers.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Conv:
    """One convolution over a whole clip.

    Attributes:
        frames, height, width: of its input, causal context and materialised upsampling included.
        channels: in, out.
        kernel: (t, h, w); (h, w) for a 2-D convolution over all frames.
        stride, padding: of the call, in all axes of the kernel.
    """

    frames: int
    height: int
    width: int
    channels: tuple[int, int]
    kernel: tuple[int, ...]
    stride: tuple[int, ...] | int = 1
    padding: tuple[int, ...] | int = 0

    def call(self, inputs: Callable[[tuple[int, ...]], mx.array]) -> mx.array:
        into, out = self.channels
        pixels = (self.frames, self.height, self.width, into)
        weight = inputs((out, *self.kernel, into))
        if len(self.kernel) == 2:
            return mx.conv2d(inputs(pixels), weight, self.stride, self.padding)
        return mx.conv3d(inputs((1, *pixels)), weight, self.stride, self.padding)


def causal(frames: int, side: int, into: int, out: int) -> Conv:
    return Conv(frames + 2, side, side, (into, out), (3, 3, 3), padding=(0, 1, 1))


def pointwise(frames: int, side: int, into: int, out: int) -> Conv:
    return Conv(frames, side, side, (into, out), (1, 1, 1))


def residual(frames: int, side: int, into: int, out: int) -> Iterator[Conv]:
    yield causal(frames, side, into, out)
    yield causal(frames, side, out, out)
    if into != out:
        yield pointwise(frames, side, into, out)


def middle(frames: int, side: int, width: int) -> Iterator[Conv]:
    yield from residual(frames, side, width, width)
    yield pointwise(frames, side, width, 3 * width)
    yield pointwise(frames, side, width, width)
    yield from residual(frames, side, width, width)


def decoder_convs(latents: int, side: int, generation: str, base: int) -> Iterator[Conv]:
    """Every convolution of the decoder over a clip of `latents` frames of side × side cells."""
    widths = (4 * base, 4 * base, 4 * base, 2 * base, base)
    z_dim, shrink = CONFIGS[generation].z_dim, 2 if generation == "2.1" else 1
    frames = latents
    yield pointwise(frames, side, z_dim, z_dim)
    yield causal(frames, side, z_dim, widths[0])
    yield from middle(frames, side, widths[0])
    for stage, (into, out) in enumerate(pairwise(widths)):
        yield from residual(frames, side, into // shrink if stage else into, out)
        for _ in range(2):
            yield from residual(frames, side, out, out)
        if stage < 2:  # all frames but the first become two
            yield Conv(frames + 1, side, side, (out, 2 * out), (3, 1, 1))
            frames = 2 * frames - 1
        if stage < 3:
            side *= 2
            yield Conv(frames, side, side, (out, out // shrink), (3, 3), padding=1)
    yield causal(frames, side, base, pixel_channels(generation))


def encoder_convs(latents: int, side: int, generation: str, base: int) -> Iterator[Conv]:
    """Every convolution of the encoder over the clip that gives `latents` frames of side × side cells."""
    widths = (base, base, 2 * base, 4 * base, 4 * base)
    z_dim, frames, side = CONFIGS[generation].z_dim, pixel_frames(latents), 8 * side
    yield causal(frames, side, pixel_channels(generation), base)
    for stage, (into, out) in enumerate(pairwise(widths)):
        yield from residual(frames, side, into, out)
        yield from residual(frames, side, out, out)
        if stage < 3:
            yield Conv(frames, side + 1, side + 1, (out, out), (3, 3), stride=2)
            side //= 2
        if stage in (1, 2):
            yield Conv(frames, side, side, (out, out), (3, 1, 1), stride=(2, 1, 1))
            frames = (frames + 1) // 2
    yield from middle(frames, side, widths[-1])
    yield causal(frames, side, widths[-1], 2 * z_dim)
    yield pointwise(frames, side, 2 * z_dim, 2 * z_dim)


def pixel_channels(generation: str) -> int:
    """Of one position at the networks' highest resolution; Wan2.2 packs 2×2 pixels into one."""
    return 3 if generation == "2.1" else 12


class Floor:
    """The bare convolutions, each evaluated and released before the next; inputs are made once and kept."""

    def __init__(self, convs: Sequence[Conv]) -> None:
        self.convs = convs
        self.arrays: dict[tuple[int, ...], mx.array] = {}

    def __call__(self) -> None:
        for conv in self.convs:
            mx.eval(conv.call(self.input))

    def input(self, shape: tuple[int, ...]) -> mx.array:
        if shape not in self.arrays:
            self.arrays[shape] = mx.random.normal(shape)
            mx.eval(self.arrays[shape])
        return self.arrays[shape]

    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays.values())


def half_config(generation: str, width: int, *, encoder: bool) -> VAEConfig:
    """One half, of the width asked for or else, for 0, the real one."""
    real = CONFIGS[generation]
    if encoder:
        return replace(real, encoder_dim=width or real.encoder_dim, decoder_dim=None)
    return replace(real, encoder_dim=None, decoder_dim=width or real.decoder_dim)


def random_vae(generation: str, width: int = 0, *, encoder: bool) -> WanVAE:
    """One half of the VAE with weights that keep activations near unit size."""
    mx.random.seed(0)
    vae = WanVAE(half_config(generation, width, encoder=encoder))

    def draw(parameter: mx.array) -> mx.array:
        fan_in = parameter.size // parameter.shape[0]
        return mx.random.normal(parameter.shape) * fan_in**-0.5 if fan_in > 1 else mx.ones(parameter.shape)

    vae.update(tree_map(draw, vae.parameters()))
    mx.eval(vae.parameters())
    return vae


def random_latents(options: argparse.Namespace, frames: int) -> mx.array:
    z_dim = CONFIGS[options.generation].z_dim
    return mx.random.normal((z_dim, frames, *latent_sides(options)), key=mx.random.key(1))


def random_frames(options: argparse.Namespace) -> mx.array:
    side = CONFIGS[options.generation].stride[1] * options.latent_size
    frames = mx.random.uniform(-1, 1, (pixel_frames(options.latents), side, side, 3), key=mx.random.key(1))
    mx.eval(frames)
    return frames


def latent_sides(options: argparse.Namespace) -> tuple[int, int]:
    return options.latent_size, options.latent_width or options.latent_size


def check_equal(found: mx.array, expected: mx.array) -> None:
    """Stop unless both ways of running gave the same numbers."""
    error = (mx.abs(found - expected).max() / mx.abs(expected).max()).item()
    if error > TOLERANCE:
        raise SystemExit(f"wrong before fast: relative difference {error:.1e} exceeds {TOLERANCE:.0e}")


def bench_decode(options: argparse.Namespace) -> None:
    vae = random_vae(options.generation, options.width, encoder=False)
    latents = random_latents(options, options.latents)
    short = latents[:, : min(2, options.latents)]

    def decode(latents: mx.array = latents, **how: object) -> mx.array:
        return mx.concatenate(list(decode_frames(vae, latents, **how)))

    check_equal(decode(short), decode(short, latents_per_push=short.shape[1], parts=(99,) * 4))
    how = {
        "latents_per_push": options.latents_per_push,
        "parts": tuple(options.parts),
        "tile": options.tile or None,
    }
    check_equal(decode(short), decode(short, **how))
    report("VAE decode", options, decoding(options, vae, **how))


def bench_encode(options: argparse.Namespace) -> None:
    vae = random_vae(options.generation, options.width, encoder=True)
    short = random_frames(options)[:5]
    tile = options.tile or None
    check_equal(encode_video(vae, short), encode_video(vae, [short[:2], short[2:]], tile=tile))
    report("VAE encode", options, encoding(options, vae, tile=tile))


@dataclass(frozen=True, slots=True)
class Coding:
    """One direction of a VAE, and its bare convolutions.

    Attributes:
        run: the work.
        floor: what it cannot do without.
        width: base width of the half at work.
    """

    run: Callable[[], mx.array]
    floor: Floor
    width: int


def decoding(options: argparse.Namespace, vae: WanVAE | None = None, **how: object) -> Coding:
    """Decode the clip that the options describe."""
    vae, latents = (
        vae or random_vae(options.generation, options.width, encoder=False),
        random_latents(options, options.latents),
    )
    width = vae.config.decoder_dim or 0
    convs = decoder_convs(options.latents, options.latent_size, options.generation, width)
    return Coding(lambda: mx.concatenate(list(decode_frames(vae, latents, **how))), Floor([*convs]), width)


def encoding(options: argparse.Namespace, vae: WanVAE | None = None, **how: object) -> Coding:
    """Encode the clip that gives the latents which the options describe."""
    vae, frames = vae or random_vae(options.generation, options.width, encoder=True), random_frames(options)
    width = vae.config.encoder_dim or 0
    convs = encoder_convs(options.latents, options.latent_size, options.generation, width)
    return Coding(lambda: encode_video(vae, frames, **how), Floor([*convs]), width)


def report(what: str, options: argparse.Namespace, coding: Coding) -> None:
    label = what.split()[-1]
    times = alternate({"floor": coding.floor, label: coding.run}, warmups=1, repeats=options.repeats)
    # The floor's inputs lie in memory all the while, and are no part of the work.
    own = replace(times[label], peak_bytes=times[label].peak_bytes - coding.floor.nbytes())
    model, size = (
        f"Wan{options.generation} VAE, width {coding.width}, float32",
        f"{options.latents}x{options.latent_size}x{options.latent_size} latents",
    )
    print(TABLE_HEADER)
    print(format_row(f"{what}, floor", model, size, times["floor"]))
    print(format_row(what, model, size, own, times["floor"]))


def bench_memory(options: argparse.Namespace) -> None:
    """Decode two lengths, each in a process of its own."""
    print("| latents | MLX peak MB | resident peak MB |\n|---|---|---|")
    for frames in (options.latents, options.longer):
        arguments = ["-m", "benchmarks.bench_vae", "memory-of-one", "--latents", str(frames)]
        for name in ("generation", "latent-size", "latent-width", "width", "latents-per-push", "tile"):
            arguments += [f"--{name}", str(getattr(options, name.replace("-", "_")))]
        arguments += ["--parts", *map(str, options.parts)]
        subprocess.run([sys.executable, *arguments], check=True)


def print_memory(options: argparse.Namespace) -> None:
    """One row: the peaks of this process while it decodes one clip and drops every chunk."""
    vae, latents = (
        random_vae(options.generation, options.width, encoder=False),
        random_latents(options, options.latents),
    )
    mx.reset_peak_memory()
    chunks = decode_frames(
        vae,
        latents,
        tile=options.tile or None,
        latents_per_push=options.latents_per_push,
        parts=tuple(options.parts),
    )
    count = sum(len(chunk) for chunk in chunks)
    if count != pixel_frames(options.latents):
        raise SystemExit(f"wrong before small: {count} frames from {options.latents} latents")
    unit = 1 if sys.platform == "darwin" else 1024
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    print(f"| {options.latents} | {mx.get_peak_memory() / 1e6:.0f} | {resident / 1e6:.0f} |")


def bench_tile(options: argparse.Namespace) -> None:
    """One row: the most memory of the largest tile, beside the weights, and what is predicted of all."""
    height, width = latent_sides(options)
    vae, state = random_vae(options.generation, options.width, encoder=False), StreamState()
    grid = cut_tiles(DECODER_STAGES, height, width, options.tile or max(height, width))
    tile = max(chain(*grid), key=lambda tile: len(tile.rows.spans[0]) * len(tile.columns.spans[0]))
    rows, columns = tile.crop_input()
    before, started = mx.get_active_memory(), time.perf_counter()
    mx.reset_peak_memory()
    for index in range(options.latents):
        shape = (1, 1, height, width, decoder_widths(vae.config.decoder_dim or 0)[0])
        part = mx.random.normal(shape, key=mx.random.key(index))[:, :, rows, columns]
        for frames in vae.decode_features(part, state, crops=tile.crops):
            mx.eval(frames)
    seconds, peak = time.perf_counter() - started, mx.get_peak_memory() - before
    predicted = decode_peak_bytes(vae.config, height, width, tile=options.tile or None)
    print("| tile | of | latents | seconds | MLX peak MB | predicted MB |\n|---|---|---|---|---|---|")
    row = f"| {options.tile} | {height}x{width} | {options.latents} | {seconds:.1f} |"
    print(f"{row} {peak / 1e6:.0f} | {predicted / 1e6:.0f} |")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("decode", "encode", "memory", "memory-of-one", "tile"))
    parser.add_argument("--latents", type=int, default=3, help="latent frames (default 3)")
    parser.add_argument("--longer", type=int, default=6, help="latent frames of the second memory run")
    parser.add_argument("--latent-size", type=int, default=16, help="latent rows and columns (default 16)")
    parser.add_argument("--latent-width", type=int, default=0, help="latent columns, where they differ")
    parser.add_argument("--tile", type=int, default=0, help="latent cells (default 0, whole frames)")
    parser.add_argument("--generation", choices=("2.1", "2.2"), default="2.1", help="default 2.1")
    parser.add_argument("--width", type=int, default=0, help="base width (default 0, the real one)")
    parser.add_argument("--repeats", type=int, default=3, help="timed rounds (default 3)")
    parser.add_argument("--latents-per-push", type=int, default=1, help="default 1")
    parser.add_argument("--parts", type=int, nargs=4, default=(1, 1, 1, 1), help="frames per stage")
    return parser


def main() -> None:
    options = build_parser().parse_args()
    runs = {"decode": bench_decode, "encode": bench_encode, "memory": bench_memory, "tile": bench_tile}
    runs.get(options.what, print_memory)(options)


if __name__ == "__main__":
    main()
