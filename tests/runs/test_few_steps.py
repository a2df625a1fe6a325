"""The demo's distilled adapter: its file picks four steps without guidance, and they draw the prompt."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mlx_video import WanPipeline
from mlx_video.api import build_request
from mlx_video.config import ModelConfig, SamplingDefaults, TransformerConfig
from mlx_video.events import StepFinished
from mlx_video.models.forward import Forward
from mlx_video.runs.settings import plan_run
from mlx_video.variants.registry import find_variant

EXAMPLES = Path(__file__).parents[2] / "examples" / "demo_model"
ADAPTER = EXAMPLES / "few_steps.safetensors"
PAIRS = 6
DEMO = ModelConfig(
    "wan2.1-t2v-demo",
    "2.1",
    TransformerConfig(dim=192, ffn_dim=768, num_heads=3, num_layers=6, text_dim=128, text_len=64),
    sampling=SamplingDefaults(steps=30, guide_scale=(4.0, 4.0), num_frames=17, width=64, height=64),
    is_dual=False,
)


def test_its_file_is_small_and_picks_the_recipe():
    assert ADAPTER.stat().st_size <= 2e6
    plan = plan_run(build_request("a red circle", {"loras": [ADAPTER]}), DEMO, find_variant(DEMO))
    assert plan.recipe is not None
    assert plan.recipe.schedule.sigmas.tolist() == pytest.approx([1, 0.9375, 5 / 6, 0.625, 0])
    assert (plan.recipe.solver, plan.guide_scale, plan.negative_prompt) == ("euler", (1.0, 1.0), None)
    told = [notice.text for notice in plan.notices]
    assert "few_steps.safetensors: its metadata names how it was distilled; recipe lightx2v is taken." in told


def test_the_users_recipe_wins_over_the_files():
    request = build_request("a red circle", {"loras": [ADAPTER], "recipe": "official"})
    plan = plan_run(request, DEMO, find_variant(DEMO))
    assert (plan.steps, plan.guide_scale) == (30, (4.0, 4.0))


@pytest.mark.slow
def test_four_forwards_draw_the_prompts_of_unseen_scenes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import grammar
    import score

    forwards, run = [], Forward.run

    def count(self: Forward, index: int, name, block) -> None:
        if index == 0:
            forwards.append(index)
        run(self, index, name, block)

    monkeypatch.setattr(Forward, "run", count)
    pipeline, steps, read = WanPipeline.from_pretrained(), [], []
    for scene, seed in grammar.held_out_pairs(PAIRS):
        video = pipeline(scene.captions()[seed % 4], seed=seed, loras=[ADAPTER], on_event=steps.append)
        read.append((scene, score.read_scene(video.frames)))
    assert len(forwards) == 4 * PAIRS
    assert sum(isinstance(event, StepFinished) for event in steps) == 4 * PAIRS
    scores = score.accuracies(read)
    assert min(scores[name] for name in ("colour", "background", "motion")) >= 5 / 6
    for name in ("grammar", "score"):
        sys.modules.pop(name)
