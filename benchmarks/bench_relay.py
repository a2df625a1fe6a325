"""Peak memory of a run with two experts, against a run that needs only one of them.

    python -m benchmarks.bench_relay                # 1.1 GB per expert, 5 GB of disk for a while
    python -m benchmarks.bench_relay --num-layers 1

A synthetic Wan2.2-T2V-A14B of reduced size is converted in float32 and run in a process of its own for each
way: one expert serving every step (boundary 0), both in relay, both kept. Everything is deleted at the end.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.bench_convert import (
    bare_bytes,
    peak_resident_bytes,
    random_tensors,
    write_safetensors,
    write_torch_archive,
)
from mlx_video.config import TextEncoderConfig, TransformerConfig, VAEConfig
from mlx_video.weights.names.text_encoder_names import text_encoder_tensors
from mlx_video.weights.names.transformer_names import transformer_tensors
from mlx_video.weights.names.vae_shapes import vae_tensors
from tests.fixtures.tiny_checkpoint import (
    TEXT_ENCODER_FILE,
    TOKENIZER_FOLDER,
    TRANSFORMER_STEM,
    VAE_FILE,
    source_config,
    write_tokenizer,
)

ROOT = Path(__file__).parents[1]
TEXT_ENCODER = TextEncoderConfig(vocab_size=160, dim=32, dim_attn=32, dim_ffn=48, num_heads=4, num_layers=2)
VAE = VAEConfig(encoder_dim=8, decoder_dim=8)
WAYS = {
    "one expert": {"boundary": 0.0},
    "relay": {"boundary": 0.9},
    "parallel": {"boundary": 0.9, "experts": "parallel"},
}
LIMIT_BYTES = 100e6
LIMIT_RATIO = 1.1


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-layers", type=int, default=6, help="blocks of 1.3B width (default: 6)")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(run_measured(Path(args.child[0]), args.child[1])))
        return 0
    with tempfile.TemporaryDirectory(prefix="bench_relay_") as folder:
        source, converted = Path(folder) / "source", Path(folder) / "converted"
        expert_bytes = write_source(source, args.num_layers)
        convert(source, converted)
        report(expert_bytes, {way: measure(converted, way) for way in WAYS}, args.num_layers)
    return 0


def write_source(folder: Path, num_layers: int) -> int:
    """The checkpoint in its original layout; returns the bytes of one expert."""
    config = TransformerConfig(1536, 8960, 12, num_layers, text_dim=TEXT_ENCODER.dim)
    for seed, name in enumerate(("low_noise_model", "high_noise_model")):
        tensors = random_tensors(transformer_tensors(config), "F32", seed)
        (folder / name).mkdir(parents=True)
        write_safetensors(folder / name / f"{TRANSFORMER_STEM}.safetensors", tensors)
        (folder / name / "config.json").write_text(json.dumps(source_config(config)))
    write_torch_archive(
        folder / TEXT_ENCODER_FILE, random_tensors(text_encoder_tensors(TEXT_ENCODER), "BF16")
    )
    write_torch_archive(folder / VAE_FILE, random_tensors(vae_tensors(VAE), "F32"))
    write_tokenizer(folder / TOKENIZER_FOLDER)
    return sum(tensor.nbytes for tensor in tensors)


def convert(source: Path, output: Path) -> None:
    command = [sys.executable, "-m", "mlx_video.convert_wan", "--dtype", "float32", "--quiet"]
    subprocess.run([*command, "--checkpoint-dir", source, "--output-dir", output], cwd=ROOT, check=True)


def measure(folder: Path, way: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.bench_relay", "--child", str(folder), way]
    printed = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    figures: dict[str, float] = json.loads(printed)
    return figures


def run_measured(folder: Path, way: str) -> dict[str, float]:
    from mlx_video import WanPipeline
    from mlx_video.events import StageFinished

    peaks: list[int] = []

    def keep_peak(event: object) -> None:
        if isinstance(event, StageFinished):
            peaks.append(event.peak_bytes)

    WanPipeline.from_pretrained(folder)(
        "a red circle", on_event=keep_peak, width=64, height=64, num_frames=5, steps=4, shift=5.0, seed=1,
        guide_scale=(3.0, 4.0), **WAYS[way],
    )  # fmt: skip
    return {"mlx": max(peaks), "resident": peak_resident_bytes() - bare_bytes()}


def report(expert_bytes: int, figures: dict[str, dict[str, float]], num_layers: int) -> None:
    print(f"one expert holds {expert_bytes / 1e9:.2f} GB in float32")
    alone = figures["one expert"]
    for way, found in figures.items():
        times = [found[kind] / alone[kind] for kind in ("mlx", "resident")]
        print(
            f"{way}: {found['mlx'] / 1e9:.2f} GB of MLX memory, {found['resident'] / 1e9:.2f} GB resident "
            f"above the interpreter; {times[0]:.2f} and {times[1]:.2f} times one expert"
        )
    for kind in ("mlx", "resident"):
        limit = LIMIT_RATIO * alone[kind] + LIMIT_BYTES
        verdict = "kept" if figures["relay"][kind] <= limit else "MISSED"
        print(f"relay, {kind}: at most {limit / 1e9:.2f} GB allowed: {verdict}")
    print(
        f"| two experts in relay, float32 | {num_layers} blocks of 1.3B width each | 64×64×5, 4 steps | – | "
        f"{figures['relay']['mlx'] / alone['mlx']:.2f} × memory of one expert | "
        f"{figures['relay']['mlx'] / 1e9:.2f} (both kept: {figures['parallel']['mlx'] / 1e9:.2f}) |"
    )


if __name__ == "__main__":
    sys.exit(main())
