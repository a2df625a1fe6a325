"""A list of videos on several machines: each is made once, and as by one machine."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from mlx_video import generate_wan
from tests.distributed.ranks import run_ranks, started
from tests.runs.cluster.shared_runs import PROGRAM, SMALL, Models

pytestmark = pytest.mark.slow

T2V = "wan2.1-t2v-1.3b"
LIST = """a cat --d 1
{{"prompt": "a dog", "seed": 2, "input_video": "{folder}/given.webp", "denoising_strength": 0.5}}
a cow --d 3 --lora none.safetensors
{{"prompt": "a hen", "seed": 4, "num_frames": 1, "save_frames": "{{seed}}.frames"}}
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("models"))


def words_of(models: Models, folder: Path, *words: str) -> list[str]:
    return [f"--model-dir={models(T2V)}", f"--output-path={folder}/v.webp", *SMALL[1:], *words]


def test_three_processes_make_the_videos_of_one(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    one, three = tmp_path / "one", tmp_path / "three"
    given = ["--prompt=a pond", f"--output-path={tmp_path}/given.webp"]
    assert generate_wan.main([*words_of(models, tmp_path), *given]) == 0
    (tmp_path / "list.txt").write_text(LIST.format(folder=tmp_path))
    listed = [f"--prompt-file={tmp_path}/list.txt"]
    for folder in (one, three):
        folder.mkdir()
    monkeypatch.chdir(one)
    assert generate_wan.main(words_of(models, one, *listed)) == 1
    monkeypatch.chdir(three)
    ended = run_ranks(3, [*PROGRAM, *words_of(models, three, *listed)])
    assert [each.code for each in ended] == [1, 0, 0]
    assert [(each.out, each.err) for each in ended[1:]] == [("", "")] * 2
    assert "video 3 of 4 (v_3_3.webp): none.safetensors" in ended[0].err
    assert "1 of 4 videos are not made: 3 (v_3_3.webp)" in ended[0].err
    assert " (rank 1 of 3) makes v_" in ended[0].err
    made = {path.relative_to(one): path.read_bytes() for path in one.rglob("*") if path.is_file()}
    assert len(made) == 4
    assert {path.relative_to(three): path.read_bytes() for path in three.rglob("*") if path.is_file()} == made


@pytest.mark.nightly
def test_the_item_of_a_killed_machine_is_made_by_another(models: Models, tmp_path: Path):
    shared = [word for word in words_of(models, tmp_path) if not word.startswith("--seed")]
    words = (*shared, "--prompt=a cat", "--seeds=1,2,3", "--steps=40", "--lost-after=5")
    with started(2, [*PROGRAM, *words]) as ranks:
        ranks.wait_until_told(0, "(rank 1 of 2) makes v_")
        ranks[1].send_signal(signal.SIGKILL)
        first, _ = ranks.wait(60)
    assert first.code == 0, first.err
    assert "(rank 1 of 2) has ended. v_" in first.err
    assert "goes to another machine." in first.err
    assert sorted(path.name for path in tmp_path.glob("v_*.webp")) == [
        "v_1_1.webp",
        "v_2_2.webp",
        "v_3_3.webp",
    ]
