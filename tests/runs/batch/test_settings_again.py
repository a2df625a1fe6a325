"""A record of a run, taken as options, settles to the run of which it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mlx_video import convert_checkpoint
from mlx_video.api import build_request
from mlx_video.loading.components import open_model
from mlx_video.request import GenerateRequest
from mlx_video.runs.batch.earlier_settings import read_earlier
from mlx_video.runs.generate import settle
from tests.fixtures.tiny_variants import write_tiny_variant

pytestmark = pytest.mark.slow

SMALL = {"seed": 1, "width": 64, "height": 64, "num_frames": 5}


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("model")
    write_tiny_variant(root / "original", "wan2.2-t2v-a14b")
    return open_model(convert_checkpoint(root / "original", root / "model", dtype="float32"))


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 4},
        {"steps": 4, "expert_steps": 1},
        {"steps": 4, "guide_scale": (3.0, 5.0), "scheduler": "euler", "noise_levels": "beta"},
        {"sigmas": (1.0, 0.5)},
        {"timesteps": (1000.0, 500.0)},
        {"recipe": "lightning"},
        {"recipe": "causvid"},
        {"steps": 4, "slg": (1,), "cfg_skip": "late", "cfg_ratio": 0.5},
        {"steps": 4, "nag": 5.0, "cfg_zero_star": 1},
        {"steps": 20, "step_cache": "easycache", "step_cache_threshold": 0.05},
        {"steps": 20, "step_cache": "magcache"},
        {"steps": 4, "num_frames": 9, "context_frames": 5, "context_overlap": 4, "trim_first_frames": 1},
    ],
    ids=str,
)
def test_a_record_settles_to_the_run_of_which_it_is(opened, tmp_path: Path, options: dict):
    settings = settle(build_request("a cat", SMALL | options), *opened).settings()
    chunks = PngInfo()
    chunks.add_text("Comment", json.dumps(settings))
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=chunks)
    again = GenerateRequest(**read_earlier(tmp_path / "a.png").options)
    assert settle(again, *opened).settings() == settings
