import json
import os
import subprocess
import sys

import pytest

from mlx_video.convert import convert as convert_module
from mlx_video.convert_wan import build_parser, main
from tests.fixtures.tiny_checkpoint import write_tiny_checkpoint


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "Wan2.1-T2V").path


def run_python(code, *args):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment)


def test_stdout_holds_the_path_and_nothing_else(tiny, tmp_path, capsys):
    output = tmp_path / "out"
    assert main(["--checkpoint-dir", str(tiny), "--output-dir", str(output)]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{output}\n"
    assert "transformer" in printed.err


def test_flags_reach_the_result(tiny, tmp_path):
    flags = [
        "--dtype",
        "float16",
        "--quantize",
        "--bits",
        "8",
        "--group-size",
        "32",
        "--model-version",
        "2.1",
    ]
    assert main(["--checkpoint-dir", str(tiny), "--output-dir", str(tmp_path / "out"), *flags]) == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["quantization"] == {"group_size": 32, "bits": 8}


def test_a_converted_folder_is_quantized_with_one_flag(tiny, tmp_path):
    assert main(["--checkpoint-dir", str(tiny), "--output-dir", str(tmp_path / "a")]) == 0
    assert (
        main(
            ["--checkpoint-dir", str(tmp_path / "a"), "--output-dir", str(tmp_path / "b"), "--quantize-only"]
        )
        == 0
    )
    assert json.loads((tmp_path / "b" / "config.json").read_text())["quantization"]["bits"] == 4


def test_defaults_are_those_of_the_documentation():
    args = build_parser().parse_args(["--checkpoint-dir", "x"])
    assert str(args.output_dir) == "wan_mlx_model"
    assert (args.dtype, args.model_version, args.bits, args.group_size) == ("bfloat16", "auto", 4, 64)
    assert [args.quantize, args.quantize_only, args.debug] == [False, False, False]


def test_a_wrong_folder_ends_with_one_and_a_message_without_traceback(tmp_path, capsys):
    assert main(["--checkpoint-dir", str(tmp_path / "none"), "--output-dir", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "none: no such folder" in printed.err
    assert "Traceback" not in printed.err


def test_debug_shows_the_traceback(tmp_path, capsys):
    arguments = ["--checkpoint-dir", str(tmp_path / "none"), "--output-dir", str(tmp_path / "out"), "--debug"]
    assert main(arguments) == 1
    assert "Traceback" in capsys.readouterr().err


def test_wrong_options_end_with_two_and_name_the_flag(tiny, tmp_path, capsys):
    assert main(["--checkpoint-dir", str(tiny), "--output-dir", str(tiny)]) == 2
    assert "--output-dir" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main(["--checkpoint-dir", str(tiny), "--bits", "3"])
    assert caught.value.code == 2
    assert "--bits" in capsys.readouterr().err


def test_ctrl_c_ends_with_130_and_leaves_nothing(tiny, tmp_path, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(convert_module, "write_tensors", interrupted)
    assert main(["--checkpoint-dir", str(tiny), "--output-dir", str(tmp_path / "out")]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_help_loads_neither_mlx_nor_numpy():
    code = (
        "import sys\n"
        "from mlx_video.convert_wan import build_parser\n"
        "assert '--quantize-only' in build_parser().format_help()\n"
        "print([name for name in ('mlx', 'mlx.core', 'numpy', 'torch', 'tqdm') if name in sys.modules])\n"
    )
    assert run_python(code).stdout == "[]\n"


def test_conversion_runs_without_torch_and_transformers(tiny, tmp_path):
    code = (
        "import sys\n"
        "from mlx_video.convert_wan import main\n"
        "assert main(['--checkpoint-dir', sys.argv[1], '--output-dir', sys.argv[2], '--quiet']) == 0\n"
        "unwanted = ('torch', 'transformers', 'diffusers', 'safetensors')\n"
        "print([name for name in unwanted if name in sys.modules], file=sys.stderr)\n"
    )
    assert run_python(code, tiny, tmp_path / "out").stderr == "[]\n"


def test_every_option_says_what_it_does():
    assert all(action.help for action in build_parser()._actions)
