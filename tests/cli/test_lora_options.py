"""Adapters on the command line: how they are written, and what is said of those that cannot be used."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlx_video import RequestError, convert_checkpoint, convert_wan, generate_wan
from mlx_video.request import LoraChoice
from mlx_video.runs.batch import maker
from mlx_video.runs.stages import encode
from tests.fixtures.adapter_files import write_adapter
from tests.fixtures.tiny_checkpoint import TinySizes, write_tiny_checkpoint
from tests.fixtures.tiny_variants import write_tiny_variant
from tests.fixtures.weight_files import store, write_safetensors

SIZE = ["--width", "48", "--height", "32", "--num-frames", "1", "--steps", "1", "--seed", "3"]
CONFIG = TinySizes().transformer


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "Wan2.1-T2V").path


@pytest.fixture(scope="module")
def folder(original: Path) -> Path:
    return convert_checkpoint(original, original.parent / "converted", dtype="float32")


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("experts")
    write_tiny_variant(root / "original", "wan2.2-t2v-a14b")
    return convert_checkpoint(root / "original", root / "converted", dtype="float32")


def generate(folder: Path, output: Path, *options: str) -> int:
    command = ["--model-dir", str(folder), "--prompt", "a cat", *SIZE, "--output-path", str(output)]
    return generate_wan.main([*command, *options])


@pytest.fixture
def stops_after_notices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends a run where its first stage would begin."""

    def stop(*_):
        raise RequestError("prompt", "stopped.")

    monkeypatch.setattr(encode, "fill_conditioning", stop)


def parse(*options: str):
    return generate_wan.build_parser().parse_args(["--prompt", "a cat", *options])


def test_each_flag_collects_its_adapters_in_order():
    args = parse(
        "--lora", "a.safetensors", "0.5", "--lora-high", "h", "2", "--lora", "b", "-1",
        "--lora-low", "l", "1e-1",
    )  # fmt: skip
    request = generate_wan.build_request(args)
    assert request.loras == (LoraChoice(Path("a.safetensors"), 0.5), LoraChoice(Path("b"), -1.0))
    assert request.loras_high == (LoraChoice(Path("h"), 2.0),)
    assert request.loras_low == (LoraChoice(Path("l"), 0.1),)


def test_without_adapters_nothing_is_chosen_and_the_mode_is_auto():
    request = generate_wan.build_request(parse())
    assert (request.loras, request.loras_high, request.loras_low) == ((), (), ())
    assert (request.lora_mode, request.strict_lora) == ("auto", False)


def test_a_strength_left_out_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    request = generate_wan.build_request(parse("--lora", "~/a.safetensors", "--lora-mode", "side"))
    assert request.loras == (LoraChoice(tmp_path / "a.safetensors", 1.0),)
    assert request.lora_mode == "side"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--lora", "a", "strong"], "argument --lora: the strength of a, 'strong', is no number"),
        (["--lora", "a", "b", "c"], "argument --lora: 'a b c' is more than a path and a strength. Repeat"),
        (["--lora-high", "a", "nan"], "argument --lora-high: the strength of a, 'nan', is no number"),
        (["--lora-low", "a", "inf"], "argument --lora-low: the strength of a, 'inf', is no number"),
        (["--lora"], "argument --lora: expected at least one argument"),
        (["--lora", "~no-such-user/a"], "argument --lora: ~no-such-user/a: names the home of an unknown"),
    ],
)
@pytest.mark.parametrize("command", [generate_wan, convert_wan])
def test_what_is_no_path_and_strength_is_a_usage_error(command, options: list[str], text: str, capsys):
    required = ["--checkpoint-dir", "x"] if command is convert_wan else []
    with pytest.raises(SystemExit) as caught:
        command.main([*required, *options])
    assert caught.value.code == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "high", "low"),
    [
        (["0.8;1.0"], "0.8", "1.0"),
        (["0.8; -1"], "0.8", "-1"),
        (["1,0.5"], "STRENGTH", "STRENGTH"),
        (["1/0.5"], "STRENGTH", "STRENGTH"),
        (["1", "0.5"], "STRENGTH", "STRENGTH"),
    ],
)
@pytest.mark.parametrize("command", [generate_wan, convert_wan])
@pytest.mark.parametrize("flag", ["--lora", "--lora-low"])
def test_two_strengths_point_to_the_options_of_the_experts(command, flag, words, high, low, capsys):
    with pytest.raises(SystemExit) as caught:
        command.main([flag, "a.safetensors", *words])
    assert caught.value.code == 2
    cure = f"--lora-high a.safetensors {high} --lora-low a.safetensors {low}"
    assert cure in capsys.readouterr().err


def test_adapters_are_always_merged_when_converting(capsys):
    with pytest.raises(SystemExit) as caught:
        convert_wan.main(["--checkpoint-dir", "x", "--lora-mode", "side"])
    assert caught.value.code == 2
    assert "unrecognized arguments: --lora-mode side" in capsys.readouterr().err


def test_generate_video_passes_its_adapters_on(folder: Path, monkeypatch: pytest.MonkeyPatch):
    seen = []

    def stop(request, *_):
        seen.extend([request.loras, request.loras_high, request.loras_low])
        raise RequestError("loras", "seen.")

    monkeypatch.setattr(maker, "prepare_run", stop)
    with pytest.raises(RequestError, match="loras: seen"):
        generate_wan.generate_video(
            folder, "a cat", loras=[("a", 0.5)], loras_high=[("h", 2)], loras_low=None
        )
    assert seen == [(LoraChoice(Path("a"), 0.5),), (LoraChoice(Path("h"), 2.0),), ()]


@pytest.mark.usefixtures("stops_after_notices")
def test_what_an_adapter_does_is_printed(folder: Path, tmp_path: Path, capsys):
    write_adapter(tmp_path / "style.safetensors", CONFIG)
    generate(folder, tmp_path / "a.png", "--lora", str(tmp_path / "style.safetensors"), "0.5")
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "style.safetensors" in line]
    assert line.startswith("style.safetensors: 20 of 20 pairs, 20 layers changed, rank 4,")
    assert line.endswith("scale 0.5 × strength 0.5 = 0.25.")


def write_unknown(path: Path) -> None:
    tensors = [
        store(f"unet.down_blocks.{i}.lora_down.weight", np.zeros((4, 8), np.float32)) for i in range(3)
    ]
    write_safetensors(path, tensors)


def write_partly_unknown(path: Path) -> None:
    down, up = np.ones((4, 128), np.float32), np.ones((128, 4), np.float32)
    write_safetensors(
        path,
        [
            store(f"diffusion_model.blocks.{block}.self_attn.q.{name}.weight", values)
            for block in (0, 7)
            for name, values in (("lora_down", down), ("lora_up", up))
        ],
    )


def write_half_a_pair(path: Path) -> None:
    name = "diffusion_model.blocks.0.self_attn.q.lora_down.weight"
    write_safetensors(path, [store(name, np.zeros((4, 128), np.float32))])


def write_rank_zero(path: Path) -> None:
    layer = "diffusion_model.blocks.0.self_attn.q"
    write_safetensors(
        path,
        [
            store(f"{layer}.lora_down.weight", np.zeros((0, 128), np.float32)),
            store(f"{layer}.lora_up.weight", np.zeros((128, 0), np.float32)),
        ],
    )


def write_zeros(path: Path) -> None:
    write_both_halves(path, [""], gain=0.0)


def write_both_halves(
    path: Path, roots: Sequence[str] = ("transformer_1.", "transformer_2."), *, gain: float = 1.0
) -> None:
    down, up = np.ones((4, 128), np.float32), np.full((128, 4), gain, np.float32)
    write_safetensors(
        path,
        [
            store(f"diffusion_model.{root}blocks.0.self_attn.q.{name}.weight", values)
            for root in roots
            for name, values in (("lora_A", down), ("lora_B", up))
        ],
    )


def write_for_a_wider_model(path: Path) -> None:
    write_adapter(path, replace(CONFIG, dim=256))


def write_cut(path: Path) -> None:
    write_adapter(path, CONFIG)
    path.write_bytes(path.read_bytes()[:-10])


def write_web_page(path: Path) -> None:
    path.write_text("<!DOCTYPE html><html>Log in to download</html>")


def write_nothing(path: Path) -> None:
    """Leave the file out."""


REFUSALS = [
    (write_unknown, (), ["none of", "unet.down_blocks.0.lora_down.weight"]),
    (write_partly_unknown, ("--strict-lora",), ["blocks.7.self_attn.q", "--strict-lora"]),
    (write_half_a_pair, (), ["blocks.0.self_attn.q", "its up is missing"]),
    (write_rank_zero, (), ["blocks.0.self_attn.q", "rank 0"]),
    (write_zeros, ("--strict-lora",), ["changes nothing", "--strict-lora"]),
    (write_zeros, ("--strict-lora", "--quiet"), ["changes nothing", "--strict-lora"]),
    (write_both_halves, (), ["holds two adapters", "diffusion_model.transformer_1.", "one transformer"]),
    (write_for_a_wider_model, (), ["blocks.0.self_attn.q", "256", "128"]),
    (write_cut, (), ["header promises"]),
    (write_web_page, (), ["HTML"]),
    (write_nothing, (), ["no such adapter file"]),
]


@pytest.mark.parametrize("command", ["generate", "convert"])
@pytest.mark.parametrize(
    ("write", "flags", "texts"), REFUSALS, ids=lambda value: getattr(value, "__name__", "")
)
def test_a_file_that_cannot_be_used_ends_with_one_and_names_it_before_any_work(
    write, flags, texts: list[str], command: str, original: Path, folder: Path, tmp_path: Path, capsys
):
    path, output = tmp_path / "style.safetensors", tmp_path / "result.png"
    write(path)
    before, options = set(tmp_path.iterdir()), ("--lora", str(path), "1", *flags)
    if command == "generate":
        code = generate(folder, output, *options)
    else:
        code = convert_wan.main(["--checkpoint-dir", str(original), "--output-dir", str(output), *options])
    printed = capsys.readouterr()
    errors = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    assert code == 1
    assert len(errors) == 1
    assert all(text in errors[0] for text in ("style.safetensors", *texts)), errors[0]
    assert " ...\n" not in printed.err, "a stage began"
    assert printed.out == ""
    assert set(tmp_path.iterdir()) == before


@pytest.mark.usefixtures("stops_after_notices")
def test_what_does_not_fit_is_reported_with_count_and_name(folder: Path, tmp_path: Path, capsys):
    write_partly_unknown(tmp_path / "style.safetensors")
    generate(folder, tmp_path / "a.png", "--lora", str(tmp_path / "style.safetensors"))
    printed = capsys.readouterr().err
    assert "style.safetensors: 1 of 2 pairs, 1 layer changed" in printed
    assert "style.safetensors: 2 of 4 keys fit nothing in the model" in printed
    assert "first: diffusion_model.blocks.7.self_attn.q.lora_down.weight" in printed


@pytest.mark.parametrize("command", ["generate", "convert"])
def test_an_adapter_of_zeros_is_reported(command: str, original: Path, folder: Path, tmp_path: Path, capsys):
    path = tmp_path / "style.safetensors"
    write_zeros(path)
    if command == "generate":
        assert generate(folder, tmp_path / "a.png", "--lora", str(path)) == 0
    else:
        places = ["--checkpoint-dir", str(original), "--output-dir", str(tmp_path / "out")]
        assert convert_wan.main([*places, "--lora", str(path)]) == 0
    assert "style.safetensors: changes nothing: what it holds for 1 layer is zero" in capsys.readouterr().err


def test_a_plan_refuses_an_adapter_of_zeros_if_strict(folder: Path, tmp_path: Path, capsys):
    path = tmp_path / "style.safetensors"
    write_zeros(path)
    options = ["--plan", "--model-dir", str(folder), "--lora", str(path)]
    assert generate_wan.main(options) == 0
    assert generate_wan.main([*options, "--strict-lora"]) == 1
    assert "changes nothing" in capsys.readouterr().err


def test_one_file_for_both_experts_is_given_once_or_for_each(experts: Path, tmp_path: Path, capsys):
    path = tmp_path / "style.safetensors"
    write_both_halves(path)
    for options in (["--lora", str(path)], ["--lora-high", str(path), "0.5", "--lora-low", str(path), "2"]):
        assert generate(experts, tmp_path / "a.png", *options) == 0
        printed = capsys.readouterr().err
        for half in ("high-noise half", "low-noise half"):
            assert f"style.safetensors, {half}: 1 of 1 pair, 1 layer changed" in printed
        assert "fit nothing" not in printed


@pytest.mark.parametrize("flag", ["--lora-high", "--lora-low"])
def test_a_flag_for_an_expert_is_named_as_typed_where_there_is_none(
    flag: str, original: Path, folder: Path, tmp_path: Path, capsys
):
    write_adapter(tmp_path / "style.safetensors", CONFIG)
    options = (flag, str(tmp_path / "style.safetensors"), "0.5")
    expected = f"error: {flag} {tmp_path / 'style.safetensors'}: this model has one transformer"
    assert generate(folder, tmp_path / "a.png", *options) == 2
    assert capsys.readouterr().err.startswith(expected)
    output = tmp_path / "out"
    assert convert_wan.main(["--checkpoint-dir", str(original), "--output-dir", str(output), *options]) == 2
    assert expected in capsys.readouterr().err
    assert not output.exists()


def test_both_commands_take_adapters_for_each_expert(experts: Path, tmp_path: Path, capsys):
    names = ("shared", "style_high_noise", "style_low_noise")
    shared, high, low = (str(tmp_path / f"{name}.safetensors") for name in names)
    for seed, path in enumerate((shared, high, low)):
        write_adapter(Path(path), CONFIG, seed=seed)
    options = ("--lora", shared, "0.5", "--lora-high", high, "--lora-low", low, "2")
    assert generate(experts, tmp_path / "a.png", *options) == 0
    printed = capsys.readouterr().err
    assert all(f"{name}.safetensors" in printed for name in names)
    folders = ["--checkpoint-dir", str(experts.parent / "original"), "--output-dir", str(tmp_path / "baked")]
    assert convert_wan.main([*folders, *options]) == 0
    printed = capsys.readouterr().err
    assert all(f"{name}.safetensors" in printed for name in names)
    said = json.loads((tmp_path / "baked" / "config.json").read_text())["mlx_video"]
    assert said["loras_low"] == [f"{low} 2"]
