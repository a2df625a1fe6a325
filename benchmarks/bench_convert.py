"""Converting a synthetic Wan2.1-T2V-1.3B with the full UMT5-XXL, against copying the same bytes.

    python -m benchmarks.bench_convert                 # 35 GB of disk for a while, some minutes
    python -m benchmarks.bench_convert --scale small   # 0.6 GB, some seconds

Both read from the disk, where the system lets us empty its cache, and both flush what they write.
Copying is timed before and after converting; the faster time counts.
The conversion runs in a process of its own; its peak memory counts above
an interpreter with MLX imported. Everything is deleted at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np

from benchmarks.timing import Timing, format_row, ratio
from mlx_video.config import TextEncoderConfig, TransformerConfig, VAEConfig
from mlx_video.formats.tensor_source import open_tensors
from mlx_video.weights.names.text_encoder_names import text_encoder_tensors
from mlx_video.weights.names.transformer_names import transformer_tensors
from mlx_video.weights.names.vae_names import vae_tensors
from tests.fixtures.tiny_checkpoint import (
    TEXT_ENCODER_FILE,
    TOKENIZER_FOLDER,
    TRANSFORMER_STEM,
    VAE_FILE,
    source_config,
    write_tokenizer,
)
from tests.fixtures.weight_files import (
    ITEM_BYTES,
    StoredTensor,
    encode,
    write_safetensors,
    write_torch_archive,
)

ROOT = Path(__file__).parents[1]
BLOCK_ELEMENTS = 1 << 23
SCALES = {
    "full": (TransformerConfig(1536, 8960, 12, 30), TextEncoderConfig(), VAEConfig()),
    "small": (
        TransformerConfig(512, 2048, 4, 8, text_dim=1024),
        TextEncoderConfig(
            vocab_size=65536, dim=1024, dim_attn=1024, dim_ffn=2560, num_heads=16, num_layers=8
        ),
        VAEConfig(encoder_dim=24, decoder_dim=24),
    ),
}
MODELS = {"full": "Wan2.1-T2V-1.3B F32 + UMT5-XXL BF16", "small": "a small transformer F32 + UMT5 BF16"}
# (converted file, source file, converted name, source name): one of every kind of move.
SAMPLES = (
    ("model", f"{TRANSFORMER_STEM}.safetensors", "patch_embedding_proj.weight", "patch_embedding.weight"),
    ("model", f"{TRANSFORMER_STEM}.safetensors", "blocks.3.modulation", "blocks.3.modulation"),
    ("t5_encoder", TEXT_ENCODER_FILE, "token_embedding.weight", "token_embedding.weight"),
    ("t5_encoder", TEXT_ENCODER_FILE, "blocks.2.ffn.gate_proj.weight", "blocks.2.ffn.gate.0.weight"),
    ("vae", VAE_FILE, "decoder.conv1.weight", "decoder.conv1.weight"),
)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", choices=SCALES, default="full")
    parser.add_argument("--quantize", action="store_true", help="also pack the blocks into 4 bits")
    parser.add_argument(
        "--folder", type=Path, default=None, help="where to write (default: the temporary folder)"
    )
    parser.add_argument("--child", nargs=2, type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(convert_measured(*args.child, is_quantized=args.quantize)))
        return 0
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="bench_convert_") as folder:
        report(args, run(Path(folder), args))
    return 0


def run(folder: Path, args: argparse.Namespace) -> dict[str, float]:
    source, copied, output = folder / "source", folder / "copied", folder / "output"
    tensors = describe_files(args.scale)
    source_bytes = sum(tensor.nbytes for part in tensors.values() for tensor in part)
    free = shutil.disk_usage(folder).free
    if free < 2.05 * source_bytes:
        raise SystemExit(
            f"needs {2.05 * source_bytes / 1e9:.1f} GB of disk, {free / 1e9:.1f} GB are free on {folder}"
        )
    write_source(source, tensors, args.scale)
    copy_seconds = copy_measured(source, copied)
    empty_cache(source)
    flags = ["--quantize"] if args.quantize else []
    figures = convert_apart("benchmarks.bench_convert", "--child", str(source), str(output), *flags)
    check_samples(source, output)
    written = size_of(output)
    shutil.rmtree(output)
    copy_seconds = min(copy_seconds, copy_measured(source, copied))
    return figures | {"copy": copy_seconds, "source_bytes": source_bytes, "output_bytes": written}


def convert_apart(module: str, *arguments: str) -> dict[str, float]:
    """Seconds and bytes of a conversion in a process of its own."""
    command = [sys.executable, "-m", module, *arguments]
    child = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, float] = json.loads(child.stdout)
    return figures


def describe_files(scale: str) -> dict[str, list[StoredTensor]]:
    transformer, text_encoder, vae = SCALES[scale]
    return {
        f"{TRANSFORMER_STEM}.safetensors": random_tensors(transformer_tensors(transformer), "F32"),
        TEXT_ENCODER_FILE: random_tensors(text_encoder_tensors(text_encoder), "BF16"),
        VAE_FILE: random_tensors(vae_tensors(vae), "F32"),
    }


def random_tensors(shapes: dict[str, tuple[int, ...]], dtype: str, seed: int = 0) -> list[StoredTensor]:
    """Tensors of finite numbers, cut from one block of random ones at a place that depends on the name."""
    block = encode(
        np.random.default_rng(seed).standard_normal(BLOCK_ELEMENTS, np.float32) * 0.02, dtype
    ).tobytes()

    def cut(name: str, shape: tuple[int, ...]) -> StoredTensor:
        nbytes = int(np.prod(shape)) * ITEM_BYTES[dtype]
        return StoredTensor(
            name, shape, dtype, lambda: repeat_block(block, zlib.crc32(name.encode()), nbytes)
        )

    return [cut(name, shape) for name, shape in shapes.items()]


def repeat_block(block: bytes, start: int, nbytes: int) -> Iterator[bytes]:
    at = start % len(block) // 8 * 8
    while nbytes:
        chunk = block[at : at + nbytes]
        yield chunk
        nbytes -= len(chunk)
        at = 0


def write_source(folder: Path, tensors: dict[str, list[StoredTensor]], scale: str) -> None:
    folder.mkdir()
    for name, part in tensors.items():
        (write_safetensors if name.endswith(".safetensors") else write_torch_archive)(folder / name, part)
    (folder / "config.json").write_text(json.dumps(source_config(SCALES[scale][0])))
    write_tokenizer(folder / TOKENIZER_FOLDER, num_pieces=SCALES[scale][1].vocab_size)


def files_of(folder: Path) -> Iterable[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in files_of(folder))


def empty_cache(folder: Path) -> None:
    for path in files_of(folder):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def copy_measured(source: Path, target: Path) -> float:
    empty_cache(source)
    started = time.perf_counter()
    shutil.copytree(source, target)
    for path in files_of(target):
        with path.open("rb") as file:
            os.fsync(file.fileno())
    seconds = time.perf_counter() - started
    shutil.rmtree(target)
    os.sync()
    return seconds


def convert_measured(source: Path, output: Path, *, is_quantized: bool) -> dict[str, float]:
    from mlx_video.convert.convert import convert
    from mlx_video.request import ConvertRequest

    started = time.perf_counter()
    for _ in convert(ConvertRequest(source, output, quantize=is_quantized)):
        pass
    seconds = time.perf_counter() - started
    return {"convert": seconds, "peak_bytes": peak_resident_bytes() - bare_bytes()}


def bare_bytes() -> int:
    """What an interpreter takes that has imported MLX and nothing else."""
    code = "import mlx.core as mx; mx.eval(mx.zeros(1)); print(open('/proc/self/status').read())"
    if not Path("/proc/self/status").exists():
        code = "import mlx.core, resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    printed = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    return peak_of(printed)


def peak_resident_bytes() -> int:
    """Most memory that this process has held; on Linux getrusage would count the parent's as well."""
    status = Path("/proc/self/status")
    return peak_of(
        status.read_text() if status.exists() else str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    )


def peak_of(text: str) -> int:
    """Bytes from a /proc status, or from macOS's bare count."""
    high_water = re.search(r"VmHWM:\s+(\d+) kB", text)
    return int(high_water[1]) * 1024 if high_water else int(text)


def check_samples(source: Path, output: Path) -> None:
    """Compare whole tensors, or the ends of a large one, with what numpy makes of the source."""
    for converted, original, target_name, source_name in SAMPLES:
        with (
            open_tensors(output / f"{converted}.safetensors") as made,
            open_tensors(source / original) as given,
        ):
            count = given.infos[source_name].shape[0]
            for rows in (slice(0, min(4, count)), slice(max(count - 4, 0), count)):
                want = np.array(given.read(source_name, rows).astype(mx.float32))
                have = np.array(made.read(target_name, rows).astype(mx.float32))
                want = np.moveaxis(want, 1, -1) if converted == "vae" else want.reshape(have.shape)
                error = np.abs(have - want).max()
                # bfloat16 keeps 8 bits: half a step of the largest number.
                if error > (0 if converted == "vae" else np.abs(want).max() * 2**-8):
                    raise SystemExit(f"{target_name}: wrong by {error}")


def report(args: argparse.Namespace, figures: dict[str, float]) -> None:
    peak_bytes = int(figures["peak_bytes"])
    done, floor = Timing((figures["convert"],), peak_bytes), Timing((figures["copy"],), 0)
    print(f"source {figures['source_bytes'] / 1e9:.2f} GB, output {figures['output_bytes'] / 1e9:.2f} GB")
    print(f"converted in {done.median:.1f} s, copied in {floor.median:.1f} s")
    print(f"ratio {ratio(done, floor):.2f} (at most 2)")
    print(f"peak resident memory above the interpreter with MLX {peak_bytes / 1e9:.2f} GB (at most 1.5)")
    kind = "convert, 4 bits" if args.quantize else "convert to bfloat16"
    print(format_row(kind, MODELS[args.scale], f"{figures['source_bytes'] / 1e9:.1f} GB", done, floor))


if __name__ == "__main__":
    sys.exit(main())
