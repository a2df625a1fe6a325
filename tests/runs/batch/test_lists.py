"""Lists of videos: seeds, names by patterns, and what is refused before anything is made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_video import RequestError
from mlx_video.media.video import open_video_writer
from mlx_video.request import GenerateRequest
from mlx_video.request.prompt_lines import PromptLine
from mlx_video.runs.batch.lists import Seeds, list_videos
from mlx_video.runs.batch.names import fill_pattern, refuse_equal_names, slug_of


def names(shared: dict, lines: list[dict], seeds: Seeds | None = None) -> list[tuple[str, int]]:
    items = list_videos(shared, [PromptLine("", line) for line in lines], seeds)
    return [(item.request.output_path.name, item.request.seed) for item in items]


CAT, DOG = {"prompt": "a cat"}, {"prompt": "Two dogs!"}
LINES = [PromptLine("", CAT), PromptLine("", DOG)]
OUT = {"output_path": Path("out/v.mp4")}


def test_a_count_makes_seeds_that_follow_on_each_other():
    assert names({**OUT, "seed": 7}, [CAT], Seeds(3)) == [
        ("v_7_1.mp4", 7),
        ("v_8_2.mp4", 8),
        ("v_9_3.mp4", 9),
    ]
    largest = 2**64 - 1
    assert [seed for _, seed in names({**OUT, "seed": largest}, [CAT], Seeds(2))] == [largest, 0]


def test_listed_seeds_make_a_video_each_of_every_prompt():
    made = names(OUT, [CAT, DOG], Seeds(listed=(3, -2)))
    assert made == [
        ("v_3_1.mp4", 3),
        (f"v_{2**64 - 2}_2.mp4", 2**64 - 2),
        ("v_3_3.mp4", 3),
        (f"v_{2**64 - 2}_4.mp4", 2**64 - 2),
    ]


def test_random_seeds_differ_and_stand_in_the_name():
    made = names(OUT, [CAT], Seeds(4))
    assert len({seed for _, seed in made}) == 4
    assert [name for name, _ in made] == [f"v_{seed}_{i}.mp4" for i, (_, seed) in enumerate(made, start=1)]


def test_one_video_keeps_its_plain_name_and_a_line_its_own():
    assert names({**OUT, "seed": 1}, [CAT]) == [("v.mp4", 1)]
    assert names({**OUT, "seed": 1}, [CAT, DOG | {"output_path": Path("dogs.webp")}]) == [
        ("v_1_1.mp4", 1),
        ("dogs.webp", 1),
    ]
    assert names({"seed": 1}, [{**CAT, "output_path": Path("cat.webp")}], Seeds(2))[1] == ("cat_2_2.webp", 2)


def test_a_pattern_says_where_seed_number_and_prompt_stand():
    shared = {"output_path": Path("out/{prompt}-{i:03}-{seed}.{other}.mp4"), "seed": 5}
    assert names(shared, [CAT, DOG]) == [("a-cat-001-5.{other}.mp4", 5), ("two-dogs-002-5.{other}.mp4", 5)]
    assert names({"output_path": Path("{prompt}.mp4")}, [CAT])[0][0] == "a-cat.mp4"


@given(st.text())
def test_a_slug_is_a_short_name_that_any_file_system_takes(prompt: str):
    slug = slug_of(prompt)
    assert 0 < len(slug.encode()) <= 60
    assert all(letter.isalnum() or letter == "-" for letter in slug)
    assert not slug.startswith("-")
    assert fill_pattern(Path("a/{prompt}.mp4"), seed=1, number=1, prompt=prompt) == Path(f"a/{slug}.mp4")


def test_a_prompt_that_holds_a_pattern_fills_in_nothing_more():
    path = fill_pattern(Path("{prompt}_{i}.mp4"), seed=1, number=2, prompt="{seed} ../x")
    assert path == Path("seed-x_2.mp4")


@pytest.mark.parametrize(
    ("shared", "lines", "seeds", "text"),
    [
        ({"seed": 1}, [CAT], Seeds(listed=(1, 2)), "beside --seeds"),
        ({}, [CAT | {"seed": 4}], Seeds(listed=(1, 2)), "beside --seeds"),
        ({}, [CAT], Seeds(2, (1, 2)), "beside --seeds"),
        ({}, [{"steps": 3}], None, "missing: say what the video should show"),
        ({"decode_only": Path("a.safetensors")}, [{}], Seeds(2), "one video of its latents"),
        ({}, [CAT | {"steps": 0}], None, "must be between 1 and 1000"),
        ({"seed": 2**64}, [CAT], Seeds(2), "must be between"),
    ],
)
def test_a_list_that_contradicts_itself_is_refused(shared: dict, lines: list[dict], seeds, text: str):
    with pytest.raises(RequestError, match=text) as caught:
        list_videos(shared, [PromptLine("list.txt, line 1", line) for line in lines], seeds)
    assert "In list.txt, line 1." in caught.value.message


@pytest.mark.parametrize("kind", ["video", "images", "latent", "both"])
def test_equal_names_are_refused_whatever_the_output_is(tmp_path: Path, kind: str):
    requests = [GenerateRequest("a", output_path=tmp_path / "a.mp4", output_type=kind) for _ in range(2)]
    with pytest.raises(RequestError, match="videos 1 and 2 of the list both have this name"):
        refuse_equal_names(requests)
    refuse_equal_names(requests[:1])


def test_a_list_that_goes_on_finds_the_seeds_that_it_drew(tmp_path: Path):
    def save(name: str, prompt: str, seed: int) -> None:
        with open_video_writer(tmp_path / name, 16, 16, 16, {"prompt": prompt, "seed": str(seed)}) as writer:
            writer.write(np.zeros((1, 16, 16, 3), np.uint8))

    save("v_11_1.webp", "a cat", 11)
    save("v_22_2.webp", "another list's prompt", 22)
    shared = {"output_path": tmp_path / "v.webp", "resume": True}
    (first, seed), (_, other) = names(shared, [CAT, DOG])
    assert (first, seed) == ("v_11_1.webp", 11)
    assert other != 22
    assert names({**shared, "resume": False}, [CAT, DOG])[0][1] != 11


def test_previews_of_a_list_share_a_file_and_other_results_do_not(tmp_path: Path):
    shared = {"output_path": tmp_path / "v_{i}.mp4", "preview": tmp_path / "p.webp"}
    refuse_equal_names(item.request for item in list_videos(shared, LINES))
    for option in ("profile", "save_latents", "save_frames"):
        alike = list_videos({**shared, option: tmp_path / "one"}, LINES)
        with pytest.raises(RequestError, match=f"{option}: .*one: videos 1 and 2 of the list both"):
            refuse_equal_names(item.request for item in alike)
    other = [LINES[0], PromptLine("", {**DOG, "preview": tmp_path / "v_1.mp4"})]
    with pytest.raises(RequestError, match="preview"):
        refuse_equal_names(item.request for item in list_videos(shared, other))


@pytest.mark.parametrize("option", ["profile", "save_latents", "save_frames", "preview"])
def test_every_result_takes_a_pattern(tmp_path: Path, option: str):
    shared = {"output_path": tmp_path / "v.mp4", option: tmp_path / "{prompt}_{seed}_{i}.webp"}
    for number, item in enumerate(list_videos(shared, LINES), 1):
        request = item.request
        expected = f"{slug_of(request.prompt)}_{request.seed}_{number}.webp"
        assert getattr(request, option) == tmp_path / expected
    assert list_videos({"preview": "terminal"}, LINES[:1])[0].request.preview == "terminal"


def test_a_line_with_a_name_of_its_own_finds_its_seed_again(tmp_path: Path):
    lines = [
        PromptLine("", {**each, "output_path": tmp_path / f"{index}.webp"})
        for index, each in enumerate((CAT, DOG))
    ]
    with open_video_writer(tmp_path / "0.webp", 16, 16, 16, {"prompt": "a cat", "seed": "11"}) as writer:
        writer.write(np.zeros((1, 16, 16, 3), np.uint8))
    assert list_videos({"resume": True}, lines)[0].request.seed == 11
    assert list_videos({"resume": False}, lines)[0].request.seed != 11
