"""The command that measures ratios, the file it leaves, and the runs that read it."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import MLXVideoError, WanPipeline, calibrate
from mlx_video.models.transformer import WanTransformer
from mlx_video.runs.sampling.measured_file import MEASURED_FILE, read_measured
from tests.fixtures.sampling_runs import SMALL, notices_of, open_deep_model, open_experts

pytestmark = pytest.mark.slow

STEPS = 10
SIZE = ["--width", "16", "--height", "16", "--num-frames", "5", "--guide-scale", "3"]


@pytest.fixture
def pipeline(tmp_path: Path) -> WanPipeline:
    return open_deep_model(tmp_path)


def measure(pipeline: WanPipeline, folder: Path, *words: str, prompts: str = "a cat\n\na dog\n") -> int:
    (folder / "prompts.txt").write_text(prompts)
    model = str(pipeline.folder.path)
    return calibrate.main(
        ["--model-dir", model, "--prompts", str(folder / "prompts.txt"), *SIZE, "--steps", str(STEPS), *words]
    )


def test_measured_ratios_are_those_of_the_blocks_and_are_found(
    pipeline: WanPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    lengths: dict[str, list[float]] = {"positive": [], "negative": []}
    leave = WanTransformer._leave

    def noted(self, forward, grid):
        cache = forward._pass.cache
        lengths[("positive", "negative")[len(lengths["positive"]) > len(lengths["negative"])]].append(
            cache._before
        )
        return leave(self, forward, grid)

    with monkeypatch.context() as patched:
        patched.setattr(WanTransformer, "_leave", noted)
        assert measure(pipeline, tmp_path, prompts="a cat\n") == 0
    (found,) = read_measured(pipeline.folder.path)
    assert (found.pixels, found.steps, found.prompts, found.has_image) == (256, STEPS, 1, False)
    for prompt, residuals in lengths.items():
        norms = [np.linalg.norm(np.array(one, np.float64), axis=-1) for one in residuals]
        expected = [1.0, *((now / before).mean() for before, now in pairwise(norms))]
        assert np.allclose(found.branches["model"][prompt].ratios, expected, rtol=1e-5)
    told = notices_of(pipeline, steps=STEPS, step_cache="magcache")
    assert (
        "Step cache magcache: ratios measured on this model (256 pixels a frame, 10 steps, prompts: 1)."
        in told
    )


def test_measuring_changes_nothing_of_a_run_and_keeps_other_measurements(
    pipeline: WanPipeline, tmp_path: Path
):
    plain = pipeline("a cat", **(SMALL | {"steps": STEPS})).latents
    assert measure(pipeline, tmp_path) == 0
    assert mx.array_equal(pipeline("a cat", **(SMALL | {"steps": STEPS})).latents, plain)
    assert measure(pipeline, tmp_path, "--steps", "12") == 0
    assert measure(pipeline, tmp_path, "--steps", "12") == 0
    assert [one.steps for one in read_measured(pipeline.folder.path)] == [10, 12]
    assert [one.prompts for one in read_measured(pipeline.folder.path)] == [2, 2]


def test_a_measurement_tells_its_work_prompt_by_prompt(pipeline: WanPipeline, tmp_path: Path, capsys):
    assert measure(pipeline, tmp_path, "--json-events") == 0
    told = map(json.loads, capsys.readouterr().err.splitlines())
    first, second = (each for each in told if each["event"] == "WorkPlanned")
    assert (first["runs_after"], second["runs_after"]) == (1, 0)
    assert first["stages"] == ["text", "audio", "image", "denoise"]
    assert first["step_weights"] == [2.0] * STEPS
    assert first["weights_are_certain"]


def test_experts_are_measured_each(tmp_path: Path):
    experts = open_experts(tmp_path)
    assert measure(experts, tmp_path, prompts="a cat") == 0
    (found,) = read_measured(experts.folder.path)
    counts = {name: len(prompts["positive"].ratios) for name, prompts in found.branches.items()}
    assert [*counts] == ["high_noise", "low_noise"]
    assert sum(counts.values()) == STEPS
    assert min(counts.values()) > 1
    assert any("s" in text for text in notices_of(experts, steps=STEPS, step_cache="magcache"))


@pytest.mark.parametrize(
    ("prompts", "words", "code", "text"),
    [("\n \n", (), 1, "has no prompt"), ("a", ("--steps", "4"), 2, "--steps 4: step caches are for 9 or")],
)
def test_what_cannot_be_measured_is_refused(
    pipeline: WanPipeline,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    prompts: str,
    words: tuple,
    code: int,
    text: str,
):
    assert measure(pipeline, tmp_path, *words, prompts=prompts) == code
    assert text in " ".join(capsys.readouterr().err.split())
    assert not (pipeline.folder.path / MEASURED_FILE).exists()


def test_prompts_must_be_given(capsys: pytest.CaptureFixture[str]):
    assert calibrate.main([]) == 2
    assert "--prompts" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 2}', '{"format": 1, "measurements": [{}]}'])
def test_a_damaged_file_is_named(pipeline: WanPipeline, content: str):
    (pipeline.folder.path / MEASURED_FILE).write_text(content)
    with pytest.raises(MLXVideoError, match=f"{MEASURED_FILE}: holds no measured ratios"):
        pipeline("a cat", **(SMALL | {"steps": STEPS}), step_cache="magcache")
