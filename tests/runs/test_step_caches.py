"""Step caches through the whole pipeline: streamed, split between experts, and gone on with."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest

from mlx_video import RequestError, WanPipeline
from mlx_video.events import WorkPlanned
from mlx_video.formats.safetensors import SafetensorsFile
from mlx_video.models.transformer_block import TransformerBlock
from mlx_video.sampling.step_caches.easycache import EasyCache
from mlx_video.sampling.step_caches.first_block import FirstBlockCache
from mlx_video.sampling.step_caches.magcache import MagCache
from mlx_video.sampling.step_caches.tables import MAGNITUDES
from mlx_video.sampling.step_caches.teacache import TeaCache
from tests.fixtures.sampling_runs import (
    LAYERS,
    SMALL,
    assert_differs,
    assert_resumes_bit_for_bit,
    choose,
    notices_of,
    open_deep_model,
    open_experts,
)

pytestmark = pytest.mark.slow

STEPS = 10
LONG = {"steps": STEPS}
TABLE = MAGNITUDES["t2v-1.3b"]
CACHES = {
    "magcache": MagCache(error=0.3, retention=0.3, table=TABLE),
    "teacache": TeaCache(threshold=1.5, coefficients=(1.0, 0.0)),
    "easycache": EasyCache(threshold=5.0, first_steps=4),
    "first-block": FirstBlockCache(threshold=1.0),
}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> WanPipeline:
    return open_deep_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> WanPipeline:
    return open_experts(tmp_path_factory.mktemp("experts"))


def count_blocks(monkeypatch: pytest.MonkeyPatch, index: int) -> list[int]:
    """Steps in which a block runs, once for each pass."""
    steps, call = [], TransformerBlock.__call__

    def counted(self, x, context):
        if context.index == index:
            steps.append(context.step.index)
        return call(self, x, context)

    monkeypatch.setattr(TransformerBlock, "__call__", counted)
    return steps


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", CACHES)
def test_a_cached_run_is_resumed_bit_for_bit_and_makes_fewer_forwards(
    pipeline: WanPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    plain = pipeline("a cat", **(SMALL | LONG)).latents
    choose(monkeypatch, step_cache=CACHES[name])
    with monkeypatch.context() as patched:
        steps = count_blocks(patched, LAYERS - 1)
        cached = pipeline("a cat", **(SMALL | LONG)).latents
    assert 2 <= len(steps) < 2 * STEPS
    assert mx.array_equal(assert_resumes_bit_for_bit(pipeline, tmp_path, STEPS, **LONG), cached)
    assert mx.abs(cached - plain).max().item() > 1e-5


@pytest.mark.parametrize("name", CACHES)
def test_streamed_blocks_make_the_same_cached_run(
    pipeline: WanPipeline, monkeypatch: pytest.MonkeyPatch, name: str
):
    choose(monkeypatch, step_cache=CACHES[name])
    streamed, resident = (
        pipeline("a cat", stream=stream, **(SMALL | LONG)).latents for stream in ("on", "off")
    )
    assert mx.array_equal(streamed, resident)


@pytest.mark.parametrize("name", CACHES)
def test_a_skipped_step_reads_no_block(pipeline: WanPipeline, monkeypatch: pytest.MonkeyPatch, name: str):
    choose(monkeypatch, step_cache=CACHES[name])
    with monkeypatch.context() as patched:
        steps = count_blocks(patched, LAYERS - 1)
        pipeline("a cat", **(SMALL | LONG))
    reads, read_into = [], SafetensorsFile.read_into

    def counted(self, name, memory):
        reads.append(name)
        read_into(self, name, memory)

    monkeypatch.setattr(SafetensorsFile, "read_into", counted)
    pipeline("a cat", stream="on", **(SMALL | LONG))
    assert reads.count(f"blocks.{LAYERS - 1}.ffn.fc1.weight") == len(set(steps)) < STEPS


@pytest.mark.parametrize("kind", ["pipeline", "experts"])
def test_a_speed_that_is_asked_of_teacache_is_the_runs(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, kind: str
):
    model = request.getfixturevalue(kind)
    computed = []
    for speedup in (1.0, 1.5, 2.0):
        # The tiny model's features change by more than any threshold in each of a few steps.
        choose(monkeypatch, step_cache=TeaCache(coefficients=(0.1, 0.0), speedup=speedup))
        with monkeypatch.context() as patched:
            steps = count_blocks(patched, 0)
            video = model("a cat", **(SMALL | LONG))
        computed.append(len(steps) / 2)
        assert f"teacache, speed-up {speedup:g}, non-ret" in video.settings["step_cache"]
    # Of the five steps of an expert, two or three come about as near to a half.
    tolerance = 0.15 if kind == "pipeline" else 0.2
    assert [STEPS / count for count in computed] == pytest.approx([1.0, 1.5, 2.0], rel=tolerance)


def test_the_plan_of_magcache_is_what_happens_and_is_told_before(
    pipeline: WanPipeline, monkeypatch: pytest.MonkeyPatch
):
    choose(monkeypatch, step_cache=CACHES["magcache"])
    steps = count_blocks(monkeypatch, LAYERS - 1)
    (text,) = [text for text in notices_of(pipeline, **LONG) if "Step cache" in text]
    plan = "".join("C" if index in steps else "s" for index in range(STEPS))
    assert plan in text
    assert f"{len(steps)} of {2 * STEPS} forwards run" in text


def test_the_steps_of_magcache_weigh_the_forwards_that_run(
    pipeline: WanPipeline, monkeypatch: pytest.MonkeyPatch
):
    choose(monkeypatch, step_cache=CACHES["magcache"])
    steps, events = count_blocks(monkeypatch, LAYERS - 1), []
    pipeline("a cat", on_event=events.append, **(SMALL | LONG))
    (work,) = (event for event in events if isinstance(event, WorkPlanned))
    assert work.step_weights == tuple(float(steps.count(index)) for index in range(STEPS))
    assert 0.0 in work.step_weights
    assert work.weights_are_certain


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", ["magcache", "easycache", "first-block"])
def test_the_cache_of_an_expert_begins_anew(
    experts: WanPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    choose(monkeypatch, step_cache=CACHES[name], expert_steps=6)
    with monkeypatch.context() as patched:
        steps = count_blocks(patched, 0 if name == "easycache" else 1)
        experts("a cat", **(SMALL | LONG))
    assert steps.count(0) == steps.count(6) == 2  # both prompts, with each expert's first step
    assert len(steps) < 2 * STEPS
    assert_resumes_bit_for_bit(experts, tmp_path, STEPS, **LONG)


def test_a_state_of_another_cache_is_refused(
    pipeline: WanPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    options = SMALL | LONG | {"output_path": tmp_path / "video.webp"}
    with monkeypatch.context() as patched:
        choose(patched, step_cache=CACHES["first-block"])
        pipeline("a cat", keep_state=True, **options)
    with pytest.raises(RequestError, match="--step-cache is first-block, threshold 1 there and absent"):
        pipeline("a cat", resume=True, **options)


def test_what_a_cache_keeps_is_planned_for(pipeline: WanPipeline, monkeypatch: pytest.MonkeyPatch):
    plain = pipeline.plan("a cat", **(SMALL | LONG)).predicted["denoise"]
    choose(monkeypatch, step_cache=CACHES["magcache"])
    cached = pipeline.plan("a cat", **(SMALL | LONG)).predicted["denoise"]
    tokens, dim = 2, pipeline.config.transformer.dim
    # Two residuals in bfloat16, and what entered the blocks in float32.
    assert cached - plain == (2 * 2 + 4) * tokens * dim


def test_a_run_whose_cache_never_skips_is_the_plain_run(
    pipeline: WanPipeline, monkeypatch: pytest.MonkeyPatch
):
    plain = pipeline("a cat", **(SMALL | LONG)).latents
    for cache in (
        MagCache(error=0.0, table=TABLE),
        TeaCache(threshold=0.0, coefficients=(1.0, 0.0)),
        EasyCache(threshold=0.0),
        FirstBlockCache(threshold=0.0),
    ):
        with monkeypatch.context() as patched:
            choose(patched, step_cache=cache)
            assert mx.array_equal(pipeline("a cat", **(SMALL | LONG)).latents, plain)
    assert_differs(plain, pipeline("a dog", **(SMALL | LONG)).latents)
