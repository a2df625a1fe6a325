"""Folders go both ways between this package and mlx-video-with-audio, and make the same latents in both.

Latents only: that package's decoder of Wan2.1 gives 4T frames of T latent ones, the official code 4T-3.
"""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import mlx_video
from mlx_video import convert_checkpoint
from mlx_video.api import build_request
from mlx_video.events import StepFinished
from mlx_video.loading.components import open_model
from mlx_video.runs.generate import generate, prepare_run
from mlx_video.sampling.noise import draw_noise
from tests.fixtures.tiny_checkpoint import TinySizes
from tests.fixtures.tiny_variants import TINY_VARIANTS, write_tiny_variant
from tests.parity import interop_run

DISTRIBUTION = "mlx-video-with-audio"
PROMPT, SEED = "two cats fight on a calm sea", 3
NUM_FRAMES, STEPS = 5, 4
# Both compute in float32; what differs is the order of sums, which four guided steps amplify a little.
TOLERANCE = 1e-3
# Keys that only a folder of ours has; the other package leaves unknown ones aside.
OUR_KEYS = {"mlx_video", "quantization"}


def find_package() -> Path | None:
    """The folder that holds the other package's `mlx_video`; None without it."""
    try:
        place = Path(str(importlib.metadata.distribution(DISTRIBUTION).locate_file("")))
    except importlib.metadata.PackageNotFoundError:
        return None
    is_ours = (place / "mlx_video") == Path(str(mlx_video.__file__)).parent
    return None if is_ours or not (place / "mlx_video/models/wan").is_dir() else place


PACKAGE = find_package()
pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(PACKAGE is None, reason=f"needs {DISTRIBUTION} beside, not over, this package"),
]


@dataclass(frozen=True)
class Case:
    """A model and how it is converted."""

    variant: str
    width: int = 48
    options: dict[str, object] = field(default_factory=dict)

    @property
    def sizes(self) -> TinySizes:
        return TINY_VARIANTS[self.variant].sizes

    @property
    def run(self) -> dict[str, object]:
        """The settings of a run, which both packages spell alike."""
        return {"width": self.width, "height": 32, "num_frames": NUM_FRAMES, "steps": STEPS}

    @property
    def noise_shape(self) -> tuple[int, ...]:
        z_dim, (_, rows, columns) = self.sizes.vae.z_dim, self.sizes.vae.stride
        return (z_dim, 2, 32 // rows, self.width // columns)


QUANTIZED = {"quantize": True, "bits": 4, "group_size": 64}
CASES = {
    "t2v": Case("wan2.1-t2v-1.3b"),
    "dual": Case("wan2.2-t2v-a14b"),
    "ti2v": Case("wan2.2-ti2v-5b", width=64),
    "quantized": Case("wan2.1-t2v-1.3b", options=QUANTIZED),
}


def their_sizes(sizes: TinySizes) -> dict[str, object]:
    """Our sizes under the names of their config."""
    network, text = sizes.transformer, sizes.text_encoder
    names = ("dim", "ffn_dim", "num_heads", "num_layers", "text_dim", "text_len", "freq_dim")
    t5 = ("vocab_size", "dim", "dim_attn", "dim_ffn", "num_heads", "num_layers", "num_buckets")
    return {n: getattr(network, n) for n in names} | {f"t5_{n}": getattr(text, n) for n in t5}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every case converted by both packages, and the latents that theirs makes of both folders."""
    root = tmp_path_factory.mktemp("interop")
    jobs: dict[str, list[object]] = {"convert": [], "inspect": [], "generate": []}
    for name, case in CASES.items():
        write_tiny_variant(root / name / "source", case.variant)
        ours = convert_checkpoint(
            root / name / "source", root / name / "ours", dtype="float32", **case.options
        )
        options = {**case.options, "dtype": "float32"}
        paths = {"source": str(root / name / "source"), "output": str(root / name / "theirs")}
        jobs["convert"].append({**paths, "options": options, "sizes": their_sizes(case.sizes)})
        jobs["inspect"].append(str(ours))
        np.save(root / name / "noise.npy", np.array(draw_noise("torch", SEED, case.noise_shape)))
        jobs["generate"].extend(generation(root / name, maker, case) for maker in ("ours", "theirs"))
    run_theirs(root / "jobs.json", jobs)
    return root


def generation(folder: Path, maker: str, case: Case) -> dict[str, object]:
    return {
        "folder": str(folder / maker),
        "tokenizer": str(folder / "source/google/umt5-xxl/tokenizer.json"),
        "noise": str(folder / "noise.npy"),
        "result": str(folder / f"{maker}.npy"),
        "options": case.run | {"prompt": PROMPT},
    }


def run_theirs(file: Path, jobs: dict[str, list[object]]) -> None:
    file.write_text(json.dumps(jobs))
    command = [sys.executable, "-P", interop_run.__file__, str(PACKAGE), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=file.parent)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def latents_here(root: Path, name: str, maker: str) -> np.ndarray:
    """What this package makes of a folder; theirs lacks a tokenizer, as all that their converter writes."""
    folder, config = open_model(root / name / maker)
    folder = replace(folder, tokenizer=root / name / "ours/tokenizer")
    run = prepare_run(build_request(PROMPT, CASES[name].run | {"seed": SEED}), folder, config)
    with closing(generate(run)) as events:
        steps = (event.latents for event in events if isinstance(event, StepFinished))
        return np.array(list(islice(steps, STEPS))[-1])


@pytest.mark.parametrize("name", CASES)
def test_final_latents_agree_whoever_converted_and_whoever_ran(root: Path, name: str):
    expected = latents_here(root, name, "ours")
    others = {
        "theirs here": latents_here(root, name, "theirs"),
        "ours there": np.load(root / name / "ours.npy"),
        "theirs there": np.load(root / name / "theirs.npy"),
    }
    noise = np.load(root / name / "noise.npy")
    assert np.abs(expected - noise).max() > 0.1
    for other in others.values():
        np.testing.assert_allclose(other, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", CASES)
def test_both_converters_write_the_same_tensors(root: Path, name: str):
    ours, theirs = root / name / "ours", root / name / "theirs"
    files = [file.name for file in theirs.glob("*.safetensors")]
    assert {"t5_encoder.safetensors", "vae.safetensors"} < set(files)
    for file in files:
        found, expected = mx.load(str(ours / file)), mx.load(str(theirs / file))
        expected.pop("freqs", None)
        assert {n: a.dtype for n, a in found.items()} == {n: a.dtype for n, a in expected.items()}
        assert all(mx.array_equal(found[tensor], expected[tensor]) for tensor in expected)


@pytest.mark.parametrize("name", CASES)
def test_a_folder_of_ours_fits_their_transformer_text_encoder_and_config_strictly(root: Path, name: str):
    found = json.loads((root / "jobs.results.json").read_text())[str(root / name / "ours")]
    assert found["wrong"]
    assert not any(found["wrong"].values())
    assert found["missing_keys"] == []
    assert set(found["other_keys"]) <= OUR_KEYS
