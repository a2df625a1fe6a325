"""Every model, from a checkpoint folder in the original layout to frames, through the product's own path."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlx_video import WanPipeline, convert_checkpoint
from mlx_video.media.clip import Video
from tests.fixtures.tiny_variants import TINY_VARIANTS, write_tiny_variant
from tests.parity.compare_runs import assert_runs_agree
from tests.parity.official_run import OfficialRequest, OfficialRun, run_wan21
from tests.parity.official_wan21_image import run_wan21_image
from tests.parity.official_wan22 import run_wan22

pytest.importorskip("torch")
pytestmark = pytest.mark.parity


PROMPT, SEED, STEPS = "A red circle moves left", 42, 6
BASE_NEGATIVE_PROMPT = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，"
    "JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，"
    "手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
)
# Neither of the size of a video nor of its shape.
IMAGE_SIZES = {"first.png": (100, 62), "last.png": (100, 62)}


@dataclass(frozen=True)
class Case:
    """A model and what it is asked for; what is left out is the model's own default on both sides.

    Attributes:
        high_noise_steps: how many the high-noise expert must serve.
    """

    variant: str
    run: Callable[..., OfficialRun]
    shift: float
    guide_scale: float | tuple[float, float] = 5.0
    num_frames: int = 9
    size: tuple[int, int] = (48, 32)
    max_area: int = 0
    images: tuple[str, ...] = ()
    negative_prefix: str = ""
    boundary: float = 0.0
    high_noise_steps: int = 0


CASES = {
    "Wan2.1 T2V-1.3B": Case("wan2.1-t2v-1.3b", run_wan21, 5.0),
    "Wan2.1 T2V-14B": Case("wan2.1-t2v-14b", run_wan21, 5.0, num_frames=5, size=(32, 48)),
    "Wan2.1 T2V-14B, one picture": Case("wan2.1-t2v-14b", run_wan21, 5.0, num_frames=1),
    "Wan2.1 I2V-14B": Case(
        "wan2.1-i2v-14b", run_wan21_image, 3.0, max_area=1728, images=("first.png",),
        negative_prefix="镜头晃动，",
    ),
    "Wan2.1 FLF2V-14B": Case(
        "wan2.1-flf2v-14b", run_wan21_image, 16.0, max_area=1728, images=("first.png", "last.png"),
        negative_prefix="镜头切换，镜头晃动，",
    ),
    "Wan2.2 T2V-A14B": Case(
        "wan2.2-t2v-a14b", run_wan22, 12.0, (3.0, 4.0), boundary=0.875, high_noise_steps=4
    ),
    "Wan2.2 I2V-A14B": Case(
        "wan2.2-i2v-a14b", run_wan22, 5.0, (3.0, 4.0), max_area=1728, images=("first.png",), boundary=0.9,
        high_noise_steps=3,
    ),
    "Wan2.2 TI2V-5B": Case("wan2.2-ti2v-5b", run_wan22, 5.0, size=(96, 64)),
    "Wan2.2 TI2V-5B, from an image": Case(
        "wan2.2-ti2v-5b", run_wan22, 5.0, max_area=6144, images=("first.png",)
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Models:
    """Checkpoints and their conversions, each made once."""

    root: Path

    def original(self, name: str) -> Path:
        path = self.root / "original" / name
        if not path.exists():
            write_tiny_variant(path, name, seed=3)
        return path

    def converted(self, name: str) -> Path:
        path = self.root / "converted" / name
        return path if path.exists() else convert_checkpoint(self.original(name), path, dtype="float32")

    def images(self, names: Sequence[str]) -> tuple[Path, ...]:
        for number, (name, (width, height)) in enumerate(IMAGE_SIZES.items()):
            pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)
            Image.fromarray(pixels).save(self.root / name)
        return tuple(self.root / name for name in names)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("models"))


def run_official(models: Models, case: Case, solver: str) -> OfficialRun:
    request = OfficialRequest(
        prompt=PROMPT, negative_prompt=case.negative_prefix + BASE_NEGATIVE_PROMPT, seed=SEED, steps=STEPS,
        shift=case.shift, guide_scale=case.guide_scale, solver=solver, num_frames=case.num_frames,
        boundary=case.boundary, size=case.size, max_area=case.max_area, images=models.images(case.images),
    )  # fmt: skip
    return case.run(models.original(case.variant), TINY_VARIANTS[case.variant], request)


def run_ours(models: Models, case: Case, solver: str) -> Video:
    pipeline = WanPipeline.from_pretrained(models.converted(case.variant))
    options = {"width": case.size[0], "height": case.size[1]}
    if case.images:
        options = dict(zip(("image", "end_image"), models.images(case.images), strict=False))
        pipeline = with_area(pipeline, case.max_area)
    return pipeline(
        PROMPT, seed=SEED, steps=STEPS, shift=case.shift, guide_scale=case.guide_scale, scheduler=solver,
        num_frames=case.num_frames, **options,
    )  # fmt: skip


def with_area(pipeline: WanPipeline, max_area: int) -> WanPipeline:
    """The same model, with another area in its config.json."""
    path = pipeline.folder.path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"max_area": max_area}))
    return WanPipeline.from_pretrained(pipeline.folder.path)


@pytest.mark.parametrize("solver", ["unipc", "dpm++"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_six_guided_steps_agree_with_the_official_code(
    case: Case, solver: str, models: Models, record_property: Callable[[str, object], None]
):
    official, ours = run_official(models, case, solver), run_ours(models, case, solver)
    found = np.array(ours.latents), ours.frames
    assert_runs_agree(found, (official.latents, official.frames), record_property)
    check_experts(official, case)


def check_experts(official: OfficialRun, case: Case) -> None:
    """Both experts took part, each in its own part of the schedule."""
    if case.boundary:
        high, low = official.timesteps["high_noise_model"], official.timesteps["low_noise_model"]
        assert (len(high) // 2, len(low) // 2) == (case.high_noise_steps, STEPS - case.high_noise_steps)
        assert min(high) >= 1000 * case.boundary > max(low)
