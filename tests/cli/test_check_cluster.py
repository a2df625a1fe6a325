"""`python -m mlx_video.check_cluster`, alone and on two processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlx_video import check_cluster
from mlx_video.planning.machine_gains import Link
from mlx_video.runs.cluster.check import gain_rows, published_sizes
from tests.distributed.ranks import run_ranks
from tests.runs.cluster.shared_runs import Models

WORDS = ("-m", "mlx_video.check_cluster")


def test_a_machine_by_itself_is_told_how_to_start_it(capsys):
    assert check_cluster.main([]) == 1
    assert "There is one machine alone. Start the command on several: mlx.launch" in capsys.readouterr().err


def test_rows_are_of_ways_that_so_many_machines_can_take():
    sizes = published_sizes(832, 480, 81)
    assert [step.tokens for step in sizes.values()] == [32760, 8190, 32760]
    ways = {count: {row[1] for row in gain_rows(sizes, count, 1e13, Link(1e-4, 5e9))} for count in (2, 3, 13)}
    assert ways[2] - ways[3] == {"--parallel guidance"}
    assert "--parallel tensor" in ways[13], "of the 14B alone"
    first = next(iter(gain_rows(sizes, 2, 9.8e12, Link(1e-4, 5e9))))
    assert first == ("1.3B 832x480x81", "one machine", "57.7 s", "1", "1", "0")


@pytest.mark.nightly
@pytest.mark.slow
def test_two_processes_are_told_of_and_compared(tmp_path_factory: pytest.TempPathFactory):
    models = Models(tmp_path_factory.mktemp("models"))
    model: Path = models("wan2.1-t2v-1.3b")
    first, second = run_ranks(2, [*WORDS, f"--model-dir={model}", "--width=64", "--height=64"])
    assert (first.code, second.code, second.out) == (0, 0, ""), first.err
    for words in ("(rank 1 of 2)", "link between neighbours, measured: ", "--parallel context", model.name):
        assert words in first.out
    other = models("wan2.1-t2v-1.3b", quantize=True, bits=4, group_size=32)
    first, _ = run_ranks(2, [[*WORDS, f"--model-dir={one}"] for one in (model, other)])
    assert first.code == 1
    assert "(rank 1 of 2) would compute something else" in first.err
