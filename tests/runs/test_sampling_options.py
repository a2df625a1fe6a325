"""Options of sampling reach the recipe, from Python and from the command line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlx_video import RequestError, WanPipeline
from mlx_video.cli import generate
from mlx_video.cli.arguments import build_parser, request_from
from mlx_video.config import ModelConfig, SamplingDefaults, TransformerConfig
from mlx_video.request import GenerateRequest, make_request
from mlx_video.runs.sampling.recipe_choice import read_choices
from mlx_video.sampling.guidance_forms.limited_steps import GuidanceRange, SkippedGuidance
from mlx_video.sampling.guidance_forms.normalized_attention import NormalizedAttention
from mlx_video.sampling.guidance_forms.projected import ProjectedGuidanceForm
from mlx_video.sampling.guidance_forms.skip_layer import SkipLayers
from mlx_video.sampling.guidance_forms.zero_star import ZeroStar
from mlx_video.sampling.recipe import SamplingChoices
from mlx_video.sampling.step_caches.easycache import EasyCache
from mlx_video.sampling.step_caches.first_block import FirstBlockCache
from mlx_video.sampling.step_caches.magcache import MagCache
from mlx_video.sampling.step_caches.teacache import TeaCache
from tests.fixtures.sampling_runs import SMALL, open_experts

CONFIG = ModelConfig(
    "wan2.2-t2v-a14b",
    "2.2",
    TransformerConfig(dim=64, ffn_dim=96, num_heads=2, num_layers=12),
    sampling=SamplingDefaults(),
    is_dual=True,
)
SLG = ["--slg", "9,10", "--slg-scale", "2", "--slg-start", "0.1", "--slg-end", "0.5"]
WORDS = [
    (["--recipe", "lightning"], {"recipe": "lightning"}),
    (["--scheduler", "heun"], {"solver": "heun"}),
    (["--noise-levels", "karras"], {"spacing": "karras"}),
    (["--sigmas", "1,0.5"], {"sigmas": (1.0, 0.5)}),
    (["--timesteps", "999,500"], {"timesteps": (999.0, 500.0)}),
    (["--expert-steps", "2"], {"expert_steps": 2}),
    (["--dmd-warp", "on"], {"warps": True}),
    (["--dmd-warp", "off"], {"warps": False}),
    (["--step-cache", "magcache"], {"step_cache": MagCache()}),
    (
        ["--step-cache", "magcache", "--step-cache-threshold", "0.2", "--step-cache-skips", "3"],
        {"step_cache": MagCache(error=0.2, skips=3)},
    ),
    (
        ["--step-cache", "magcache", "--step-cache-retention", "0.5", "--no-step-cache-last"],
        {"step_cache": MagCache(retention=0.5, keeps_last=False)},
    ),
    (
        ["--step-cache", "teacache", "--teacache-mode", "ret", "--teacache-coefficients", "2,1"],
        {"step_cache": TeaCache(mode="ret", coefficients=(2.0, 1.0))},
    ),
    (["--step-cache", "teacache", "--teacache-speedup", "2"], {"step_cache": TeaCache(speedup=2.0)}),
    (["--step-cache", "easycache", "--step-cache-start", "3"], {"step_cache": EasyCache(first_steps=3)}),
    (["--step-cache", "first-block"], {"step_cache": FirstBlockCache()}),
    (["--cfg-skip", "late", "--cfg-ratio", "0.6"], {"guidance_forms": (SkippedGuidance("late", 0.6),)}),
    (["--cfg-start", "0.1"], {"guidance_forms": (GuidanceRange(0.1, 1.0),)}),
    (["--cfg-zero-star", "0"], {"guidance_forms": (ZeroStar(0),)}),
    (["--apg"], {"guidance_forms": (ProjectedGuidanceForm(),)}),
    (
        ["--apg", "--apg-eta", "1", "--apg-norm", "5"],
        {"guidance_forms": (ProjectedGuidanceForm(1, -0.75, 5),)},
    ),
    (SLG, {"guidance_forms": (SkipLayers(frozenset({9, 10}), 2.0, 0.1, 0.5),)}),
    (
        ["--slg", "9", "--slg-mode", "uncond", "--slg-prompt", "positive"],
        {"guidance_forms": (SkipLayers(frozenset({9}), mode="uncond", prompt="positive"),)},
    ),
    (["--nag", "5", "--nag-alpha", "0.3"], {"guidance_forms": (NormalizedAttention(5.0, 3.5, 0.3),)}),
]


def choices_of(*words: str, config: ModelConfig = CONFIG) -> SamplingChoices:
    parser = build_parser("generate", None, generate.OPTIONS)
    arguments = parser.parse_args(["--prompt", "a cat", *words])
    return read_choices(request_from(GenerateRequest, arguments), config)


@pytest.mark.parametrize(("words", "choices"), WORDS)
def test_an_option_reaches_what_it_sets(words: list[str], choices: dict[str, Any]):
    assert choices_of(*words) == replace(SamplingChoices(), **choices)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--slg", "9,12"], "slg: 12: this model has the blocks 0 to 11"),
        (["--step-cache-skips", "2"], "step_cache_skips: --step-cache off does not read it"),
        (
            ["--step-cache", "easycache", "--teacache-mode", "ret"],
            "teacache_mode: --step-cache easycache does not read it",
        ),
    ],
)
def test_options_that_fit_nothing_are_refused(words: list[str], text: str):
    with pytest.raises(RequestError, match=text):
        choices_of(*words)


def test_an_unknown_recipe_is_refused_with_the_choices():
    with pytest.raises(RequestError, match="recipe: 'turbo' is not one of official, fastwan"):
        make_request(GenerateRequest, {"prompt": "a cat", "recipe": "turbo"})


@pytest.mark.slow
def test_options_make_the_run_and_stand_in_its_record(tmp_path: Path):
    pipeline = open_experts(tmp_path)
    assert isinstance(pipeline, WanPipeline)
    options = SMALL | {"steps": 10, "guide_scale": (1.0, 3.0)}
    video = pipeline(
        "a cat",
        scheduler="dpmpp_2m_sde",
        noise_levels="beta",
        expert_steps=4,
        step_cache="magcache",
        cfg_zero_star=1,
        nag=5.0,
        nag_alpha=0.4,
        **options,
    )
    settings = video.settings
    expected = {
        "scheduler": "dpmpp_2m_sde", "noise_levels": "beta", "expert_steps": "4", "cfg_zero_star": "1",
        "nag": "5.0", "nag_alpha": "0.4", "steps": "10",
    }  # fmt: skip
    assert expected.items() <= settings.items()
    assert settings["step_cache"].startswith("magcache, error 0.06, skips 2, retention 0.4, plan ")
    assert not {"recipe", "boundary", "nag_tau", "slg_scale", "apg", "cfg_end"} & settings.keys()
