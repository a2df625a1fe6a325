"""Phases of a list, one video at a time."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import pytest

from mlx_video.events import finish
from mlx_video.runs.batch import expert_phases
from mlx_video.runs.batch.expert_phases import ExpertPhases


@pytest.mark.parametrize("is_finished", [True, False])
def test_a_video_whose_steps_are_taken_waits_for_the_decoder(monkeypatch, is_finished: bool):
    run = SimpleNamespace(
        finished_latents=mx.zeros((1,)) if is_finished else None,
        plan=SimpleNamespace(memory=SimpleNamespace(kept=()), steps=4),
    )
    taken = []

    def take_until(self, one, run, step):
        yield from ()
        taken.append(step)
        return []

    monkeypatch.setattr(ExpertPhases, "_resumed", lambda self, one: run)
    monkeypatch.setattr(ExpertPhases, "_take_until", take_until)
    monkeypatch.setattr(expert_phases, "_keeping", lambda run, name: run)
    waiting = expert_phases._Waiting(None, None, Path("conditioning"))
    left = finish(ExpertPhases(lambda request: run)._take_low_steps(waiting), lambda event: None)
    assert (left, taken) == (([waiting], []) if is_finished else ([], [4]))
