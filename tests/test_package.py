"""What a newcomer meets first: the import, the help, the README."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

import mlx_video
from mlx_video import (
    calibrate,
    check_cluster,
    check_device,
    convert_wan,
    generate_wan,
    prepare_control,
    serve,
    train_wan,
)
from mlx_video.device.known_faults import find_faults

ROOT = Path(__file__).parent.parent
COMMANDS = {
    "convert_wan": convert_wan,
    "generate_wan": generate_wan,
    "calibrate": calibrate,
    "check_cluster": check_cluster,
    "check_device": check_device,
    "prepare_control": prepare_control,
    "serve": serve,
    "train_wan": train_wan,
}
HEAVY = (
    "torch",
    "transformers",
    "diffusers",
    "mlx.core",
    "PIL",
    "imageio_ffmpeg",
    "tokenizers",
    "sentencepiece",
    "starlette",
    "uvicorn",
)


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True, cwd=ROOT)


def test_importing_the_package_keeps_float32_products_exact():
    shown = run_python("-c", "import os, mlx_video; print(os.environ['MLX_ENABLE_TF32'])").stdout
    assert shown.strip() == os.environ.get("MLX_ENABLE_TF32", "0")


def test_importing_the_package_loads_nothing_heavy():
    listing = run_python("-c", "import sys, mlx_video; print(*sys.modules)").stdout.split()
    assert not set(HEAVY) & set(listing)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_loads_nothing_heavy(command: str):
    code = (
        f"import sys, contextlib, mlx_video.{command} as c\n"
        "with contextlib.suppress(SystemExit): c.main(['--help'])\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    assert not set(HEAVY) & set(run_python("-c", code).stderr.split())


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [("-c", "import mlx_video"), ("-m", "mlx_video.generate_wan", "--help")]
)
def test_start_up_takes_no_longer_than_a_bare_interpreter_and_half_a_second(arguments: tuple[str, ...]):
    def fastest(*command: str) -> float:
        times = []
        for _ in range(3):
            started = time.perf_counter()
            run_python(*command)
            times.append(time.perf_counter() - started)
        return min(times)

    # Generous: a loaded machine must not decide a test. What is loaded is checked above.
    assert fastest(*arguments) < fastest("-c", "") * 10 + 2.0


def test_every_public_name_can_be_had():
    for name in mlx_video.__all__:
        assert getattr(mlx_video, name) is not None
    assert mlx_video.__all__ == sorted(mlx_video.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'wan'"):
        mlx_video.wan  # noqa: B018


def test_no_module_of_the_package_imports_torch():
    for path in (ROOT / "mlx_video").rglob("*.py"):
        assert not re.search(
            r"^\s*(import|from) (torch|diffusers)\b", path.read_text(encoding="utf-8"), re.MULTILINE
        ), path


def test_macs_get_an_mlx_that_reports_what_its_gpu_gave_up_on():
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "dependencies"
    ]
    (needed,) = (one for one in dependencies if one.startswith("mlx") and "darwin" in one)
    version = needed.partition(">=")[2].partition(";")[0]
    texts = {fault.text for fault in find_faults(version, "applegpu_g13g")}
    assert not [text for text in texts if "leaves zeros" in text]
    assert find_faults("0.32.0", "applegpu_g13g")
    assert tuple(map(int, version.split("."))) >= (0, 32, 4)
