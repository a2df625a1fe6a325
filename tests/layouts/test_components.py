"""Components and the options that take their files."""

from __future__ import annotations

from mlx_video.layouts.components import COMPONENTS


def test_a_component_without_an_option_has_no_flag():
    flags = {component.name: component.flag for component in COMPONENTS}
    assert flags["text_encoder"] == "--text-encoder"
    assert {name for name, flag in flags.items() if not flag} == {
        component.name for component in COMPONENTS if not component.option
    }
    assert not any(flag == "--" for flag in flags.values())
