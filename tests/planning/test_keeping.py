"""Which networks of the published models stay in memory on machines of every size."""

from __future__ import annotations

import pytest

from mlx_video.planning.budget import GB
from mlx_video.planning.choices import KeptNetwork
from mlx_video.planning.fitting import fit_memory
from mlx_video.planning.keeping import keep_networks, used_networks
from mlx_video.planning.memory_plan import MemoryPlan
from mlx_video.planning.memory_task import MemoryTask
from tests.fixtures.published_models import mac, task

HD = (832, 480)
MACS = (24, 36, 48, 64, 96, 128, 192, 256, 512)
MODELS = ("wan2.1-t2v-1.3b", "wan2.1-t2v-14b", "wan2.1-i2v-14b", "wan2.2-t2v-a14b", "wan2.2-ti2v-5b")


def plan(run: MemoryTask, memory_gb: int, held=frozenset(), others=(), occupied: int = 0) -> MemoryPlan:
    return keep_networks(fit_memory(run, mac(memory_gb)), run, held, others, occupied)


def names(kept: MemoryPlan) -> list[str]:
    return [network.name for network in kept.kept]


@pytest.mark.parametrize(
    ("name", "bits", "memory_gb", "expected"),
    [
        ("wan2.1-t2v-14b", None, 36, ["vae_decoder"]),
        ("wan2.1-t2v-14b", None, 64, ["model", "vae_decoder"]),
        ("wan2.1-t2v-14b", None, 128, ["model", "text_encoder", "vae_decoder"]),
        ("wan2.2-t2v-a14b", None, 64, ["vae_decoder"]),
        ("wan2.2-t2v-a14b", None, 128, ["low_noise", "high_noise", "text_encoder", "vae_decoder"]),
        ("wan2.2-t2v-a14b", 4, 64, ["low_noise", "high_noise", "text_encoder", "vae_decoder"]),
    ],
)
def test_what_stays(name: str, bits: int | None, memory_gb: int, expected: list[str]):
    assert names(plan(task(name, *HD, bits=bits), memory_gb)) == expected


@pytest.mark.parametrize("memory_gb", MACS)
@pytest.mark.parametrize("name", MODELS)
def test_nothing_that_stays_changes_what_a_run_does_or_exceeds_the_budget(name: str, memory_gb: int):
    run = task(name, *HD)
    alone = fit_memory(run, mac(memory_gb))
    first = plan(run, memory_gb)
    later = plan(run, memory_gb, held=set(names(first)))
    for kept in (first, later):
        assert not kept.misfits
        assert kept.choices.resident_blocks == alone.choices.resident_blocks
        assert kept.choices.decode_tile == alone.choices.decode_tile
        assert kept.choices.encode_tile == alone.choices.encode_tile
        assert max(kept.predicted.values()) <= kept.host.budget.nbytes
    assert names(later) == names(first)
    for stage, again, bare in zip(first.stages, later.stages, alone.stages, strict=True):
        # What a first run has not loaded yet a later one finds there.
        assert bare.predicted_bytes <= stage.predicted_bytes <= again.predicted_bytes
    assert set(names(first)) <= set(used_networks(run))


def test_experts_are_beside_each_other_unless_they_are_counted_together():
    relay, parallel = (plan(task("wan2.2-t2v-a14b", *HD, keeps_both=both), 256) for both in (False, True))
    assert names(relay) == names(parallel)
    peaks = [next(s.predicted_bytes for s in one.stages if s.name == "denoise") for one in (relay, parallel)]
    # Together they also hold the prompts twice, each as one expert sees them.
    assert peaks[0] == pytest.approx(peaks[1], rel=0.02)


def test_more_adapters_and_networks_of_suspended_runs_leave_less_room():
    run = task("wan2.1-t2v-14b", *HD)
    assert "model" in names(plan(run, 64))
    assert names(plan(run, 64, occupied=int(15 * GB))) == []


def test_networks_of_earlier_runs_stay_where_those_of_this_one_leave_room():
    run, other = task("wan2.1-t2v-14b", *HD), KeptNetwork("old", "image_encoder", int(1.2 * GB))
    assert names(plan(run, 128, others=[other]))[-1] == "image_encoder"
    large = KeptNetwork("old", "vae_encoder", int(80 * GB))
    assert plan(run, 128, others=[large]).choices.kept == {"model", "text_encoder", "vae_decoder"}
    decodes = task("wan2.1-t2v-14b", *HD, only_decodes=True)
    transformer = KeptNetwork("old", "model", int(28.6 * GB))
    assert names(plan(decodes, 64, others=[transformer])) == ["vae_decoder", "model"]
    assert names(plan(decodes, 36, others=[transformer])) == ["vae_decoder"]


def test_the_plan_says_what_stays():
    text = str(plan(task("wan2.1-t2v-14b", *HD), 128))
    assert "kept for the next run: transformer, text encoder, VAE decoder (" in text
    assert "text encoder, all 24 blocks" in text
    assert "kept" not in str(fit_memory(task("wan2.1-t2v-14b", *HD), mac(128)))
