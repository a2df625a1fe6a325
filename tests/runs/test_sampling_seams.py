"""Whatever fits a seam of sampling works through the whole pipeline: streamed, guided, kept and resumed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_video import WanPipeline
from mlx_video.events import Notice
from mlx_video.formats.safetensors import SafetensorsFile
from mlx_video.layouts.components import EXPERTS
from mlx_video.models.block_context import BlockHook
from mlx_video.models.matmul import attend
from mlx_video.models.token_layout import TokenLayout, video_segment
from mlx_video.runs.stages import denoise as stages
from mlx_video.sampling.experts import split_at_step
from mlx_video.sampling.guidance import NEGATIVE, POSITIVE, Branch
from mlx_video.sampling.solvers.table import SOLVERS, SolverKind
from mlx_video.sampling.step_caches.step_cache import CachePlan
from tests.fixtures.sampling_runs import (
    LAYERS,
    SMALL,
    STEPS,
    assert_differs,
    assert_resumes_bit_for_bit,
    open_deep_model,
    open_experts,
    use_recipe,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> WanPipeline:
    return open_deep_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> WanPipeline:
    return open_experts(tmp_path_factory.mktemp("experts"))


# Step caches


class EverySecond:
    """Runs the blocks in even steps, and adds in odd ones what they added last, somewhat less."""

    decides_after = 0

    def __init__(self):
        self.entering = self.residual = None

    def enter(self, tokens):
        pass

    def reuse(self, tokens, context):
        self.entering = tokens
        if context.step.index % 2 == 0 or self.residual is None:
            return None
        return tokens + 0.9 * self.residual

    def store(self, tokens, context):
        self.residual = tokens - self.entering

    def state(self):
        return {} if self.residual is None else {"residual": self.residual}

    def restore(self, state):
        self.residual = state["residual"]


@pytest.mark.parametrize("stream", ["off", "on"])
def test_a_step_cache_is_resumed_bit_for_bit(
    pipeline: WanPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: str
):
    plain = pipeline("a cat", **SMALL).latents
    use_recipe(monkeypatch, step_cache=CachePlan("every second", lambda *_: EverySecond()))
    cached = assert_resumes_bit_for_bit(pipeline, tmp_path, stream=stream)
    assert_differs(cached, plain)


def test_a_skipped_step_reads_no_block(pipeline: WanPipeline, monkeypatch: pytest.MonkeyPatch):
    reads, read_into = [], SafetensorsFile.read_into

    def counted(self, name, memory):
        reads.append(name)
        read_into(self, name, memory)

    monkeypatch.setattr(SafetensorsFile, "read_into", counted)
    last_block = f"blocks.{LAYERS - 1}.ffn.fc1.weight"
    pipeline("a cat", stream="on", **SMALL)
    assert reads.count(last_block) == STEPS
    reads.clear()
    use_recipe(monkeypatch, step_cache=CachePlan("every second", lambda *_: EverySecond()))
    pipeline("a cat", stream="on", **SMALL)
    assert reads.count(last_block) == STEPS // 2
    # The first block is read ahead for the step that follows, whether or not that needs it.
    assert reads.count("blocks.0.ffn.fc1.weight") <= STEPS // 2 + 1


def test_step_caches_of_an_expert_end_with_it(
    experts: WanPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    built = []

    def build(transformer, branch, _):
        built.append((transformer, branch.name))
        return EverySecond()

    use_recipe(monkeypatch, step_cache=CachePlan("mine", build), expert_split=split_at_step(2))
    experts("a cat", **SMALL)
    assert built == [(name, prompt) for name in reversed(EXPERTS) for prompt in ("positive", "negative")]
    assert_resumes_bit_for_bit(experts, tmp_path)


def test_experts_are_split_as_the_recipe_says(experts: WanPipeline, monkeypatch: pytest.MonkeyPatch):
    events = []
    use_recipe(monkeypatch, expert_split=split_at_step(1))
    experts("a cat", on_event=events.append, **SMALL)
    texts = [event.text for event in events if isinstance(event, Notice)]
    assert any("Of 4 steps the high-noise expert serves 1, then the low-noise expert 3" in t for t in texts)


# Guidance


@dataclass(frozen=True)
class Momentum:
    """Guidance of three branches that remembers, and makes no forward in its first step."""

    all_branches = (POSITIVE, NEGATIVE, Branch("shallow", "negative", frozenset({1})))
    prompts = frozenset({"positive", "negative"})

    def branches(self, step):
        return self.all_branches if step.index else ()

    def combine(self, step, latents, velocities, kept):
        if not velocities:
            return mx.zeros_like(latents)
        positive, negative, shallow = velocities
        difference = positive - negative + 0.5 * (positive - shallow)
        kept["average"] = difference + 0.5 * kept.get("average", mx.zeros_like(difference))
        return negative + 2 * kept["average"]


@pytest.mark.parametrize("stream", ["off", "on"])
def test_guidance_of_its_own_is_resumed_bit_for_bit(
    pipeline: WanPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: str
):
    plain = pipeline("a cat", **SMALL).latents
    use_recipe(monkeypatch, guidance=Momentum())
    assert pipeline.plan("a cat", **SMALL).predicted["denoise"] > 0
    assert_differs(assert_resumes_bit_for_bit(pipeline, tmp_path, stream=stream), plain)


class AwayFromNegative:
    """One branch whose attention to the text moves away from the negative prompt."""

    prompts = frozenset({"positive", "negative"})

    @property
    def all_branches(self):
        return (Branch("positive", "positive", make_attention=self.make_attention),)

    def branches(self, step):
        return self.all_branches

    def combine(self, step, latents, velocities, kept):
        return velocities[0]

    def make_attention(self, prompts):
        def attention(queries, keys, values, site):
            mixed = attend(queries, keys, values, site.layer.scale)
            if site.kind != "text":
                return mixed
            other = prompts["negative"].text.keys_values(site.context.index, site.layer.keys_values)
            return 2 * mixed - attend(queries, other.keys, other.values, site.layer.scale)

        return attention


def test_guidance_may_work_inside_attention(pipeline: WanPipeline, monkeypatch: pytest.MonkeyPatch):
    plain = pipeline("a cat", **(SMALL | {"guide_scale": 1.0})).latents
    use_recipe(monkeypatch, guidance=AwayFromNegative())
    found = [pipeline("a cat", negative_prompt=text, **SMALL).latents for text in ("a dog", "rain")]
    assert_differs(found[0], plain)
    assert_differs(*found)


# Solvers with noise


class Renoise:
    """Jumps to the clean latents and adds fresh noise."""

    def __init__(self, sigmas, fresh_noise):
        self.sigmas = sigmas
        self.fresh_noise = fresh_noise

    def step(self, index, velocity, latents):
        clean, sigma = latents - self.sigmas[index] * velocity, self.sigmas[index + 1]
        return (1 - sigma) * clean + sigma * self.fresh_noise() if sigma else clean

    def state(self):
        return {}

    def restore(self, state):
        assert not state


@pytest.mark.sample(1)
@pytest.mark.parametrize("noise", ["torch", "mlx"])
def test_fresh_noise_is_the_same_after_resuming(
    pipeline: WanPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noise: str
):
    plain = pipeline("a cat", **SMALL, noise=noise).latents
    monkeypatch.setitem(SOLVERS, "euler", SolverKind(Renoise))
    latents = assert_resumes_bit_for_bit(pipeline, tmp_path, scheduler="euler", noise=noise)
    assert_differs(latents, plain)
    other = pipeline("a cat", **(SMALL | {"seed": 2}), scheduler="euler", noise=noise).latents
    assert_differs(other, latents)


# Add-ons


class Reference(BlockHook):
    """Puts tokens before those of the video, and scales what leaves the first block."""

    def __init__(self, tokens):
        self.tokens = tokens

    def extend(self, tokens, layout):
        segment = video_segment((1, 1, 1), (30, 0, 0), timestep=0.0, is_output=False)
        return mx.concatenate([self.tokens, tokens]), TokenLayout((segment, *layout.segments))

    def after_block(self, tokens, context):
        return tokens * 1.5 if context.index == 0 else tokens


@pytest.mark.sample(1)
@pytest.mark.parametrize("stream", ["off", "on"])
def test_an_add_on_reaches_every_pass(
    pipeline: WanPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: str
):
    plain = pipeline("a cat", **SMALL).latents
    build, passes = stages.build_conditioning, []

    def add_reference(transformer, one):
        passes.append(one)
        tokens = mx.random.normal((1, transformer.config.dim), key=mx.random.key(5))
        return replace(one, hooks=(*one.hooks, Reference(tokens)))

    def with_add_on(fields):
        return build(fields | {"add_ons": (add_reference,)})

    monkeypatch.setattr(stages, "build_conditioning", with_add_on)
    assert_differs(assert_resumes_bit_for_bit(pipeline, tmp_path, stream=stream), plain)
    assert len(passes) == 2 * (1 + 2 * (STEPS - 1))  # two prompts in each of the runs
