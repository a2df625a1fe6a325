"""A wrong option or value ends in one line that names it, not in the whole list of options."""

from __future__ import annotations

import pytest

from mlx_video import (
    calibrate,
    check_cluster,
    check_device,
    convert_wan,
    generate_wan,
    prepare_control,
    train_wan,
)

CASES = [
    (generate_wan, ["--steps", "many"], "argument --steps: 'many' is no whole number, such as 4"),
    (generate_wan, ["--steps", "4.5"], "argument --steps: '4.5' is no whole number"),
    (generate_wan, ["--width", ""], "argument --width: '' is no whole number"),
    (generate_wan, ["--shift", "5,0"], "argument --shift: '5,0' is no number, such as 0.5"),
    (generate_wan, ["--memory-limit", "16GB"], "argument --memory-limit: '16GB' is no number"),
    (generate_wan, ["--guide-scale", "x"], "argument --guide-scale: 'x' is neither a number nor two"),
    (generate_wan, ["--scheduler", "ddim"], "argument --scheduler: invalid choice: 'ddim'"),
    (generate_wan, ["--lora", "a", "strong"], "argument --lora: the strength of a, 'strong', is no number"),
    (generate_wan, ["--prompt"], "argument --prompt: expected one argument"),
    (generate_wan, ["--stepps", "4"], "unrecognized arguments: --stepps 4"),
    (
        generate_wan,
        ["--negative-prompt", "a", "--no-negative-prompt"],
        "argument --no-negative-prompt: not allowed with argument --negative-prompt",
    ),
    (convert_wan, ["--bits", "four"], "argument --bits: 'four' is no whole number"),
    (convert_wan, ["--bits", "5"], "argument --bits: invalid choice: 5"),
    (convert_wan, ["--group-size", "6 4"], "argument --group-size: '6 4' is no whole number"),
    (convert_wan, ["model"], "unrecognized arguments: model"),
    (check_device, ["--quick", "--full"], "argument --full: not allowed with argument --quick"),
    (check_device, ["--steps", "4"], "unrecognized arguments: --steps 4"),
    (prepare_control, [], "the following arguments are required: KIND"),
    (prepare_control, ["depth", "a", "b"], "argument KIND: invalid choice: 'depth'"),
    (prepare_control, ["blur", "a", "b", "--radius", "x"], "argument --radius: 'x' is no number"),
    (prepare_control, ["mask", "a", "b"], "one of the arguments --box --picture is required"),
]


@pytest.mark.parametrize(("command", "options", "text"), CASES)
def test_a_wrong_option_or_value_prints_one_line(command, options: list[str], text: str, capsys):
    with pytest.raises(SystemExit) as caught:
        command.main(options)
    assert caught.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith(f"error: {text}")
    assert line.endswith("--help lists all options.")


@pytest.mark.parametrize(
    "command",
    [generate_wan, convert_wan, check_cluster, check_device, calibrate, prepare_control, train_wan],
)
def test_help_still_shows_usage_and_all_options(command, capsys):
    with pytest.raises(SystemExit) as caught:
        command.main(["--help"])
    assert caught.value.code == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("usage: python -m mlx_video.")
    assert printed.err == ""


@pytest.mark.parametrize("value", ["12", "-1", "+3", " 4 "])
def test_whole_numbers_are_read_as_before(value: str):
    assert generate_wan.build_parser().parse_args(["--seed", value]).seed == int(value)


@pytest.mark.parametrize("value", ["3", "2.5", "1e1", "-1"])
def test_numbers_are_read_as_before(value: str):
    assert generate_wan.build_parser().parse_args(["--shift", value]).shift == float(value)
