"""The README's model table says what the tensor shapes say."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from mlx_video.config import QuantizationConfig
from mlx_video.variants.registry import VARIANTS
from mlx_video.weights.network import TransformerNetwork
from mlx_video.weights.quantize import quantized_infos
from tests.fixtures.published_sizes import ALL_TRANSFORMERS, PUBLISHED_OWN_TRANSFORMERS

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
TITLES = {variant.name: variant.title for variant in VARIANTS}
NETWORKS = {variant.name: variant.network for variant in VARIANTS}
# Source: the parameter counts of the published checkpoints.
PARAMETERS = {
    "wan2.1-t2v-1.3b": 1_418_996_800,
    "wan2.1-t2v-14b": 14_288_491_584,
    "krea-realtime-14b": 14_288_491_584,
    "bernini-r-a14b": 14_288_491_584,
    "bernini-r-1.3b": 1_418_996_800,
    "wan2.1-i2v-14b": 16_394_878_784,
    "wan2.1-flf2v-14b": 16_395_536_704,
    "wan2.2-t2v-a14b": 14_288_491_584,
    "wan2.2-i2v-a14b": 14_288_901_184,
    "wan2.1-fun-1.3b-inp": 1_564_428_608,
    "wan2.1-fun-control": 16_395_124_544,
    "wan2.1-fun-v1.1-control": 16_395_457_344,
    "wan2.1-fun-v1.1-control-camera": 16_898_128_704,
    "wan2.2-fun-a14b-control-camera": 14_792_233_024,
    "wan2.2-fun-a14b-control": 14_289_561_664,
    "wan2.1-video-as-prompt-14b": 20_674_265_664,
    "wan2.1-vace-1.3b": 2_153_972_032,
    "wan2.1-vace-14b": 17_337_592_896,
    "wan2.2-vace-fun-a14b": 17_337_592_896,
    "wan2.2-animate-14b": 17_274_816_884,
    "wan2.2-ti2v-5b": 4_999_787_712,
    "longcat-video": 13_581_071_424,
}
SIZES = ALL_TRANSFORMERS | PUBLISHED_OWN_TRANSFORMERS


def network_of(name: str) -> TransformerNetwork:
    return next(variant.network for variant in VARIANTS if variant.name == name)


def file_gb(name: str, bits: int) -> float:
    shapes = network_of(name).parameters(SIZES[name])
    total = 0
    for tensor, shape in shapes.items():
        layer = tensor.removesuffix(".weight")
        if bits < 16 and tensor.endswith(".weight") and network_of(name).is_quantized(layer):
            packed = quantized_infos(layer, shape, "BF16", QuantizationConfig(bits, 64))
            total += sum(info.nbytes for info in packed)
        else:
            total += 2 * math.prod(shape)
    return total / 1e9


@pytest.mark.parametrize("name", SIZES)
def test_a_published_transformer_has_its_published_number_of_parameters(name: str):
    shapes = network_of(name).tensors(SIZES[name])
    assert sum(math.prod(shape) for shape in shapes.values()) == PARAMETERS[name]


@pytest.mark.parametrize("name", SIZES)
def test_the_table_states_the_files_sizes(name: str):
    row = next(line for line in README.splitlines() if line.startswith(f"| {TITLES[name]} "))
    stated = [float(number) for number in re.findall(r"([\d.]+) GB", row)]
    assert stated == [round(file_gb(name, bits), 1) for bits in (16, 8, 4)]
