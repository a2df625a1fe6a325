"""Forms of guidance through the whole pipeline: streamed, gone on with, cached, and counted in forwards."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest

from mlx_video import RequestError, WanPipeline
from mlx_video.models.transformer import WanTransformer
from mlx_video.sampling.guidance_forms.limited_steps import GuidanceRange, SkippedGuidance
from mlx_video.sampling.guidance_forms.normalized_attention import NormalizedAttention
from mlx_video.sampling.guidance_forms.projected import ProjectedGuidanceForm
from mlx_video.sampling.guidance_forms.skip_layer import SkipLayers
from mlx_video.sampling.guidance_forms.zero_star import ZeroStar
from mlx_video.sampling.step_caches.easycache import EasyCache
from mlx_video.sampling.step_caches.first_block import FirstBlockCache
from tests.fixtures.sampling_runs import (
    SMALL,
    assert_differs,
    assert_resumes_bit_for_bit,
    choose,
    open_deep_model,
    open_experts,
)

pytestmark = pytest.mark.slow

FORMS = {
    "cfg-skip": (SkippedGuidance("alternate", 0.5), [1, 2, 1, 2]),
    "cfg-range": (GuidanceRange(0.0, 0.5), [2, 2, 1, 1]),
    "cfg-zero-star": (ZeroStar(1), [0, 2, 2, 2]),
    "apg": (ProjectedGuidanceForm(norm_limit=5.0), [2, 2, 2, 2]),
    "slg": (SkipLayers(frozenset({1}), end=0.5), [3, 3, 2, 2]),
    "slg of the negative": (SkipLayers(frozenset({1}), end=0.5, mode="uncond"), [2, 2, 2, 2]),
    "nag": (NormalizedAttention(5.0), [2, 2, 2, 2]),
}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> WanPipeline:
    return open_deep_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> WanPipeline:
    return open_experts(tmp_path_factory.mktemp("experts"))


def count_passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Passes of each step."""
    counts, predict = [], WanTransformer.predict

    def counted(self, latents, step, passes, **options):
        counts.append(len(passes))
        return predict(self, latents, step, passes, **options)

    monkeypatch.setattr(WanTransformer, "predict", counted)
    return counts


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", FORMS)
def test_a_form_is_resumed_and_streamed_bit_for_bit_and_makes_its_forwards(
    pipeline: WanPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    form, passes = FORMS[name]
    plain = pipeline("a cat", **SMALL).latents
    choose(monkeypatch, guidance_forms=(form,))
    with monkeypatch.context() as patched:
        counts = count_passes(patched)
        streamed = pipeline("a cat", stream="on", **SMALL).latents
    assert counts == passes
    whole = assert_resumes_bit_for_bit(pipeline, tmp_path)
    assert mx.array_equal(whole, streamed)
    assert_differs(whole, plain)


def test_normalized_attention_makes_the_negative_prompt_count_without_a_second_forward(
    pipeline: WanPipeline, monkeypatch: pytest.MonkeyPatch
):
    options = SMALL | {"guide_scale": 1.0}
    plain = pipeline("a cat", **options).latents
    assert pipeline("a cat", negative_prompt="rain", **options).latents.tolist() == plain.tolist()
    choose(monkeypatch, guidance_forms=(NormalizedAttention(5.0),))
    counts = count_passes(monkeypatch)
    found = [pipeline("a cat", negative_prompt=text, **options).latents for text in ("a dog", "rain")]
    assert set(counts) == {1}
    assert_differs(found[0], plain)
    assert_differs(*found)


def test_forms_and_two_experts_go_together(
    experts: WanPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    forms = (ProjectedGuidanceForm(), SkipLayers(frozenset({1}), end=1.0), NormalizedAttention(3.0))
    choose(monkeypatch, guidance_forms=forms, expert_steps=2)
    counts = count_passes(monkeypatch)
    options = {"guide_scale": (1.0, 4.0)}
    assert_resumes_bit_for_bit(experts, tmp_path, **options)
    assert counts[:4] == [3, 3, 1, 1]


@pytest.mark.sample(1)
@pytest.mark.parametrize("cache", [FirstBlockCache(1.0), EasyCache(5.0, 4)])
def test_forms_and_step_caches_go_together(
    pipeline: WanPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache
):
    forms = (SkipLayers(frozenset({1})), SkippedGuidance("middle", 0.5), ZeroStar(1))
    choose(monkeypatch, guidance_forms=forms, step_cache=cache)
    assert_resumes_bit_for_bit(pipeline, tmp_path, 10, steps=10)


def test_a_state_of_another_form_is_refused(pipeline: WanPipeline, tmp_path: Path):
    options = SMALL | {"output_path": tmp_path / "video.webp"}
    pipeline("a cat", keep_state=True, cfg_zero_star=1, **options)
    with pytest.raises(RequestError, match="--cfg-zero-star is 1 there and absent here"):
        pipeline("a cat", resume=True, **options)
