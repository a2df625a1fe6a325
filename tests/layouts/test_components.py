"""Components: the options that take their files, and what their files are told by."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mlx_video.formats.tensor_info import TensorInfo
from mlx_video.layouts.components import COMPONENTS, VAE
from mlx_video.weights.component_kind import find_components


def test_each_has_an_option_of_its_own():
    flags = {component.name: component.flag for component in COMPONENTS}
    assert flags["text_encoder"] == "--text-encoder"
    assert flags["image_encoder"] == "--clip"
    assert len(set(flags.values())) == len(flags)


def test_one_without_an_option_has_no_flag():
    assert replace(VAE, option="").flag == ""


@pytest.mark.parametrize("half", ["decoder", "encoder"])
def test_half_of_a_vae_is_converted_where_its_kernels_have_their_channels_last(half):
    block = f"{half}.middle.0.residual"
    for shape, spelling in (((8, 3, 3, 3, 8), "mlx"), ((8, 8, 3, 3, 3), "original")):
        shapes = {f"{block}.0.gamma": (8, 1, 1, 1), f"{block}.2.weight": shape}
        found = find_components({name: TensorInfo(name, each, "F32") for name, each in shapes.items()})
        is_known = spelling == "mlx" or half == "decoder"  # which every VAE has
        assert [kind.spelling for kind in found] == [spelling] * is_known
    name = f"{block}.layer_0.gamma"
    (kind,) = find_components({name: TensorInfo(name, (8,), "F32")})
    assert (kind.component, kind.spelling) == ("vae", "mlx")
