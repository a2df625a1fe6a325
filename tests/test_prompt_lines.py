"""Lines of prompts: musubi-tuner's options, our own, JSON; whatever is wrong names file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlx_video import RequestError
from mlx_video.request import GenerateRequest, LoraChoice
from mlx_video.request.prompt_lines import SHORT_NAMES, read_line, read_lines, read_values


def test_the_short_options_of_musubi_tuner_mean_ours():
    line = read_line(
        "a cat, at night --w 832 --h 480 --f 81 --d 7 --s 20 --l 5.5 --fs 3 --i in.png --ei end.png "
        "--cn dance.mp4 --n blurry, low quality"
    )
    assert line.options == {
        "prompt": "a cat, at night",
        "width": 832,
        "height": 480,
        "num_frames": 81,
        "seed": 7,
        "steps": 20,
        "guide_scale": 5.5,
        "shift": 3.0,
        "image": Path("in.png"),
        "end_image": Path("end.png"),
        "control_video": Path("dance.mp4"),
        "negative_prompt": "blurry, low quality",
    }
    assert read_line("a --g 4").options["guide_scale"] == 4
    assert set(SHORT_NAMES) == {"w", "h", "f", "d", "s", "g", "l", "fs", "i", "ei", "cn", "n"}


def test_our_own_flags_are_read_as_on_the_command_line():
    line = read_line(
        "a cat --guide-scale 3,4 --lora style.safetensors 0.8 --lora 'my other.safetensors' "
        '--no-prompt-cache --apg --no-negative-prompt --image "my cat.png" --num_frames=5'
    )
    first, second = line.options["loras"]
    assert (first, second) == (
        LoraChoice(Path("style.safetensors"), 0.8),
        LoraChoice(Path("my other.safetensors"), 1.0),
    )
    assert line.options["guide_scale"] == (3.0, 4.0)
    assert line.options["image"] == Path("my cat.png")
    assert line.options["num_frames"] == 5
    assert (line.options["prompt_cache"], line.options["apg"]) == (False, True)
    assert line.options["negative_prompt"] == ""
    GenerateRequest(**{**line.options, "negative_prompt": None})


def test_dashes_inside_a_prompt_are_no_options():
    assert read_line("a well-made cat -- really, a state-of-the-art one").options == {
        "prompt": "a well-made cat -- really, a state-of-the-art one"
    }


def test_a_line_may_hold_options_alone():
    assert read_line("--steps 3").options == {"steps": 3}


def test_json_takes_the_names_of_our_options():
    line = read_line(
        '{"prompt": "a --w 3 cat", "num-frames": 5, "guide_scale": [3, 4], '
        '"loras": [["a.safetensors", 0.5]], "image": "in.png", "compile": false, "vace_scale": [1, 0.5]}'
    )
    assert line.options == {
        "prompt": "a --w 3 cat",
        "num_frames": 5,
        "guide_scale": (3, 4),
        "loras": (LoraChoice(Path("a.safetensors"), 0.5),),
        "image": Path("in.png"),
        "compile": False,
        "vace_scale": (1, 0.5),
    }


def test_a_path_with_a_space_stays_one_adapter_in_python():
    assert read_values({"loras": "my style.safetensors"}) == {
        "loras": (LoraChoice(Path("my style.safetensors")),)
    }


def test_comments_and_empty_lines_are_left_out_and_places_count_all_lines():
    lines = [*read_lines('\ufeff# a list\n\n a cat \n\t# b\n{"prompt": "a dog"}\n', "list.txt")]
    assert [line.place for line in lines] == ["list.txt, line 3", "list.txt, line 5"]
    assert [line.options["prompt"] for line in lines] == ["a cat", "a dog"]


@pytest.mark.parametrize(
    ("line", "field", "text"),
    [
        ("a cat --x 3", "x", "unknown option. A prompt takes those of a video that --help lists, and --w"),
        ("a cat --w abc", "width", "'abc' is no whole number"),
        ("a cat --w", "width", "has no value"),
        ("a cat --s 0", "steps", "must be between 1 and 1000"),
        ("a cat --scheduler nope", "scheduler", "is not one of unipc"),
        ("a cat --apg 3", "apg", "takes no value, here it has '3'"),
        ("a cat --of target_index=1", "of", "is not taken here. See --num-frames 1"),
        ("a cat --model-dir m", "model_dir", "unknown option"),
        ("a cat --lora a.safetensors x", "loras", "the strength of a.safetensors, 'x', is no number"),
        ('{"prompt": "a", "wdith": 3}', "wdith", "unknown option"),
        ('{"prompt": "a", "width": 1.5}', "width", "must be a whole number"),
        ('{"prompt": "a"', "prompt_file", "begins with { but is no JSON"),
    ],
)
def test_what_is_wrong_names_the_option_the_file_and_the_line(line: str, field: str, text: str):
    with pytest.raises(RequestError) as caught:
        list(read_lines(f"a dog\n{line}\n", "list.txt"))
    assert caught.value.field == field
    assert text in caught.value.message
    assert caught.value.message.endswith("In list.txt, line 2.")
