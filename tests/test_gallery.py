"""The gallery's page is what its script writes, and its commands and pictures are there."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlx_video import generate_wan

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def make_gallery():
    """The script that makes the gallery, as a module."""
    spec = importlib.util.spec_from_file_location("make_gallery", ROOT / "examples" / "make_gallery.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_the_page_is_what_the_script_writes(make_gallery):
    assert make_gallery.PAGE.read_text(encoding="utf-8") == make_gallery.write_page()


def test_every_command_parses_and_names_adapters_that_are_there(make_gallery):
    for entry in make_gallery.ENTRIES:
        for line in entry.commands:
            words = shlex.split(line)
            if words[1] == "examples/demo_model/draw_outline.py":
                assert (ROOT / words[1]).is_file()
                continue
            start, arguments = words[:3], words[3:]
            assert start == ["python", "-m", "mlx_video.generate_wan"]
            args = generate_wan.build_parser().parse_args(arguments)
            assert all((ROOT / choice.path).exists() for choice in args.loras)


def test_every_picture_has_a_row_for_each_command(make_gallery):
    for entry in make_gallery.ENTRIES:
        clips = [np.zeros((17, 64, 64, 3), np.uint8) for _ in entry.commands]
        with Image.open(make_gallery.PICTURES / f"{entry.name}.png") as picture:
            assert picture.size == make_gallery.draw_strip(clips).size


def test_a_strip_shows_the_first_frame_the_last_and_those_between(make_gallery):
    clip = np.arange(17, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    strip = np.asarray(make_gallery.draw_strip([clip, clip]))
    step = 2 * make_gallery.ZOOM + make_gallery.GAP
    assert strip[0, ::step, 0].tolist() == [0, 3, 6, 10, 13, 16]
    assert strip.shape == (2 * step - make_gallery.GAP, 6 * step - make_gallery.GAP, 3)
