"""What each way of making fewer forwards costs in likeness, on the demo model.

    python -m benchmarks.bench_faster --pairs 60

Every way makes the clips of the same held-out (scene, seed) pairs. Forwards are those whose last block runs.
PSNR and SSIM compare with the clips of the full run; the four attributes are read back from the frames, as in
examples/demo_model/evaluate.py. MagCache's ratios are measured first, on scenes of the training,
in a copy of the model. The full run is checked to be the same when it is made again.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlx_video import WanPipeline
from mlx_video.files.whole_file import written_whole
from mlx_video.models.block_order import MAIN, BlockName
from mlx_video.models.forward import Forward
from mlx_video.request.calibrate import CalibrateRequest
from mlx_video.runs.calibrate import calibrate

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "demo_model"))

from grammar import Scene, held_out_pairs, split_scenes
from score import accuracies, read_scene

FEW_STEPS = Path(__file__).parents[1] / "examples" / "demo_model" / "few_steps.safetensors"
WAYS: dict[str, dict[str, Any]] = {
    "full": {},
    "4 steps, distilled adapter": {"loras": [FEW_STEPS]},
    "4 steps, no adapter": {"recipe": "lightx2v"},
    "half of the steps": {"steps": 15},
    "magcache": {"step_cache": "magcache"},
    "magcache, threshold 0.24, 6 skips": {
        "step_cache": "magcache",
        "step_cache_threshold": 0.24,
        "step_cache_skips": 6,
    },
    "easycache": {"step_cache": "easycache"},
    "easycache, threshold 0.2": {"step_cache": "easycache", "step_cache_threshold": 0.2},
    "first-block": {"step_cache": "first-block"},
    "guidance in the first 60 %": {"cfg_end": 0.6},
    "magcache, cfg-skip late": {"step_cache": "magcache", "cfg_skip": "late", "cfg_ratio": 0.6},
    "context windows of 9 frames": {"context_frames": 9, "context_overlap": 4},
}
COLUMNS = ("way", "forwards", "times fewer", "PSNR dB", "SSIM", "colour", "shape", "motion", "background")
CALIBRATION_PROMPTS = 4

Pairs = Sequence[tuple[Scene, int]]


@dataclass(frozen=True, slots=True)
class Result:
    """The clips of one way.

    Attributes:
        clips: uint8 [F, H, W, 3] for each pair.
        forwards: of a clip, in the mean.
    """

    clips: Sequence[np.ndarray]
    forwards: float


@contextmanager
def counted_forwards(last_block: int) -> Iterator[list[int]]:
    """Note every forward that comes to the last block, for the length of a `with` block."""
    noted, run = [], Forward.run

    def count(self: Forward, index: int, name: BlockName, block: Any) -> None:
        if name == BlockName(MAIN, last_block):
            noted.append(index)
        run(self, index, name, block)

    Forward.run = count  # type: ignore[method-assign]
    try:
        yield noted
    finally:
        Forward.run = run  # type: ignore[method-assign]


def make_clips(
    pipeline: WanPipeline, pairs: Pairs, options: Mapping[str, Any], kept: Path | None = None
) -> Result:
    """Make the clips of one way, but for those that are kept in a folder already."""
    clips, forwards = [], 0
    for scene, seed in pairs:
        file = kept and kept / f"{seed}.npz"
        if file and file.exists():
            stored = np.load(file)
            clip, made = stored["clip"], int(stored["forwards"])
        else:
            with counted_forwards(pipeline.config.transformer.num_layers - 1) as noted:
                clip = pipeline(scene.captions()[seed % 4], seed=seed, **options).frames
            made = len(noted)
            if file:
                file.parent.mkdir(parents=True, exist_ok=True)
                with written_whole(file) as temporary, temporary.open("wb") as opened:
                    np.savez_compressed(opened, clip=clip, forwards=made)
        clips.append(clip)
        forwards += made
    return Result(clips, forwards / len(pairs))


def folder_of(name: str, root: Path | None) -> Path | None:
    """Where the clips of a way are kept; None where none are."""
    return root and root / re.sub(r"\W+", "_", name).strip("_")


def measure_psnr(clip: np.ndarray, full: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB; infinite for equal clips."""
    error = np.square(clip.astype(np.float64) - full).mean()
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def measure_ssim(clip: np.ndarray, full: np.ndarray) -> float:
    """Structural similarity of brightness, mean over frames; windows are Gaussians of 1.5 pixels.

    Source: Wang et al., Image quality assessment: from error visibility to structural similarity, 2004.
    """
    one, other = (frames.astype(np.float64) @ (0.299, 0.587, 0.114) for frames in (clip, full))
    mean_one, mean_other = _blur(one), _blur(other)
    variances = _blur(one * one) - mean_one**2 + _blur(other * other) - mean_other**2
    covariance = _blur(one * other) - mean_one * mean_other
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    likeness = (2 * mean_one * mean_other + c1) * (2 * covariance + c2)
    return float((likeness / ((mean_one**2 + mean_other**2 + c1) * (variances + c2))).mean())


def _blur(frames: np.ndarray) -> np.ndarray:
    """Gaussian of 1.5 pixels and 11 taps over [F, H, W]; the edges are those of whole windows."""
    taps = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    taps /= taps.sum()
    for axis in (1, 2):
        windows = np.lib.stride_tricks.sliding_window_view(frames, len(taps), axis=axis)
        frames = windows @ taps
    return frames


def describe(name: str, result: Result, full: Result, pairs: Pairs) -> str:
    """The table's row of one way."""
    compared = list(zip(result.clips, full.clips, strict=True))
    psnr = np.mean([measure_psnr(*one) for one in compared])
    ssim = np.mean([measure_ssim(*one) for one in compared])
    read = [(scene, read_scene(clip)) for (scene, _), clip in zip(pairs, result.clips, strict=True)]
    scores = accuracies(read)
    cells = [
        name,
        f"{result.forwards:g}",
        f"{full.forwards / result.forwards:.2f}",
        "–" if np.isinf(psnr) else f"{psnr:.1f}",
        f"{ssim:.3f}",
        *(f"{100 * scores[column]:.0f} %" for column in COLUMNS[5:]),
    ]
    return f"| {' | '.join(cells)} |"


def measure_ratios(folder: Path, model: WanPipeline) -> WanPipeline:
    """A copy of a model with measured ratios beside it."""
    copy = shutil.copytree(model.folder.path, folder / "model")
    pipeline = WanPipeline.from_pretrained(copy)
    scenes, _ = split_scenes()
    prompts = folder / "prompts.txt"
    prompts.write_text("\n".join(scene.captions()[0] for scene in scenes[:CALIBRATION_PROMPTS]))
    for _ in calibrate(CalibrateRequest(prompts), pipeline.folder, pipeline.config):
        pass
    return pipeline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=60, help="held-out (scene, seed) pairs")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[*WAYS], metavar="WAY")
    parser.add_argument("--clips", type=Path, help="folder that keeps the clips, so that a run can go on")
    args = parser.parse_args()
    pairs = list(held_out_pairs(args.pairs))
    with tempfile.TemporaryDirectory() as folder:
        pipeline = measure_ratios(Path(folder), WanPipeline.from_pretrained())
        full = make_clips(pipeline, pairs, WAYS["full"], folder_of("full", args.clips))
        again = make_clips(pipeline, pairs[:1], WAYS["full"])
        assert np.array_equal(again.clips[0], full.clips[0]), "the full run is not the same again"
        print(f"{args.pairs} pairs\n\n| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
        for name in args.ways:
            kept = folder_of(name, args.clips)
            result = full if name == "full" else make_clips(pipeline, pairs, WAYS[name], kept)
            print(describe(name, result, full, pairs), flush=True)


if __name__ == "__main__":
    main()
