"""Which way machines choose: the fastest, as predicted, of those that fit in the memory of each."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mlx_video.api import build_request
from mlx_video.config import ModelConfig
from mlx_video.distributed.cluster import Cluster
from mlx_video.errors import ClusterError
from mlx_video.layouts.model_folder import ModelFolder
from mlx_video.loading.components import open_model
from mlx_video.planning.machine_gains import Link
from mlx_video.runs.cluster import choose
from mlx_video.runs.cluster.choose import expect_modes
from mlx_video.runs.cluster.machine_facts import MachineFacts, find_facts, refuse_differences
from mlx_video.runs.generate import settle
from mlx_video.runs.run import Run
from tests.fixtures.published_models import mac, task
from tests.runs.cluster.shared_runs import Models

pytestmark = pytest.mark.slow

FACTS = MachineFacts(
    {"mlx": "1", "mlx-video": "1"}, {"a.safetensors": "x"}, "Apple M4 Max", 64, 1 << 40, 1e12
)
FAST, SLOW = Link(0.0, 1e15), Link(1.0, 1e3)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelFolder, ModelConfig]:
    return open_model(Models(tmp_path_factory.mktemp("models"))("wan2.1-t2v-1.3b"))


def settled(opened: tuple[ModelFolder, ModelConfig], **options) -> Run:
    small = {"width": 64, "height": 64, "num_frames": 5, "steps": 2, "guide_scale": 3.0}
    return settle(build_request("a cat", {**small, **options}), *opened)


def modes(run: Run, link: Link, *facts: MachineFacts) -> list[str]:
    return [each.mode for each in expect_modes(run, facts, link)]


def test_two_machines_share_passes_where_there_are_two(opened):
    assert modes(settled(opened), FAST, FACTS, FACTS)[0] == "guidance"
    assert modes(settled(opened, guide_scale=1.0), FAST, FACTS, FACTS)[0] == "context"


def test_three_machines_share_tokens(opened):
    assert modes(settled(opened), FAST, FACTS, FACTS, FACTS)[0] == "context"
    assert "guidance" not in modes(settled(opened), FAST, FACTS, FACTS, FACTS)


def test_a_slow_link_is_told_to_lose(opened):
    (best, *_) = expect_modes(settled(opened, guide_scale=1.0), [FACTS] * 3, SLOW)
    assert best.gain < 1


def test_weights_are_shared_where_they_fit_in_no_machine(opened, monkeypatch: pytest.MonkeyPatch):
    host = mac(36, "M4 Max")
    monkeypatch.setattr(choose, "find_host", lambda limit: host)
    small = replace(FACTS, budget_bytes=host.budget.nbytes)
    for stream, expected in (
        ("off", {"tensor", "sharded"}),
        ("auto", {"guidance", "context", "tensor", "sharded"}),
    ):
        large = task("wan2.1-t2v-14b", stream=stream)
        monkeypatch.setattr(choose, "find_task", lambda run, large=large: large)
        assert {*modes(settled(opened), FAST, FACTS, small)} == expected


def test_the_slowest_machine_sets_the_pace(opened):
    slow = replace(FACTS, rate=1e11)
    (best, *_), (paced, *_) = (
        expect_modes(settled(opened), pair, FAST) for pair in ([FACTS] * 2, [FACTS, slow])
    )
    assert paced.seconds == pytest.approx(10 * best.seconds, rel=0.01)


def test_facts_name_versions_and_files(opened):
    facts = find_facts(opened[0], ["absent.safetensors"])
    assert {*facts.versions} == {"mlx", "mlx-video"}
    assert facts.files["absent.safetensors"] == "absent"
    assert len(facts.files) > 3
    assert facts.rate > 0
    assert MachineFacts(**facts.as_json()) == facts


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"versions": {"mlx": "2", "mlx-video": "1"}},
            "mlx is 2 there, 1 on one .rank 0 of 2.. Install the same",
        ),
        ({"files": {"a.safetensors": "y"}}, "a.safetensors is y there, x on one .* Copy the files"),
        ({"files": {}}, "a.safetensors is absent there"),
    ],
)
def test_differences_are_refused_by_name(changes: dict, words: str):
    cluster = Cluster(0, 2, ("one", "two"))
    refuse_differences(cluster, [FACTS, FACTS])
    with pytest.raises(ClusterError, match=rf"two \(rank 1 of 2\) would compute something else: {words}"):
        refuse_differences(cluster, [FACTS, replace(FACTS, **changes)])
