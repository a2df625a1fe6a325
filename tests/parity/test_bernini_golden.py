"""Bernini-R's sampling reproduces recorded results of its authors' code, without torch.

The latents of sources and the features of prompts are arrays that anyone can make again; what is left is the
transformer with its source numbers, guidance by what is given, the schedule, the solver and the experts.
Recorded by `tests/record/bernini_golden.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.conditioning.sources import (
    SourcesAddOn,
    begin_prompt,
    number_frames,
    number_sources,
    size_within,
)
from mlx_video.conditioning.types import Conditioning
from mlx_video.models.token_layout import video_layout
from mlx_video.models.transformer import WanTransformer, token_grid
from mlx_video.runs.sampling.guided_transformer import GuidedTransformer
from mlx_video.sampling.denoise import denoise
from mlx_video.sampling.experts import ExpertRelay
from mlx_video.sampling.guidance import Velocity
from mlx_video.sampling.recipe import ModelSampling, Recipe, SamplingChoices
from mlx_video.sampling.recipes.bernini import BERNINI, SOURCE_PICTURES, SOURCE_VIDEO
from mlx_video.sampling.recipes.settle import settle_recipe
from mlx_video.sampling.solvers.table import build_solver
from mlx_video.sampling.source_guidance import PICTURES, VIDEO
from mlx_video.variants.bernini import BERNINI_1_3B, BERNINI_A14B
from tests.models.networks import build_transformer
from tests.parity.bernini_cases import CASES, CONFIG, NEGATIVE_PROMPT, PROMPT, STEPS, Case
from tests.parity.golden import Golden, assert_golden

pytestmark = pytest.mark.slow

# Guidance multiplies rounding by up to nine, and it grows over six steps.
TOLERANCE = 1e-4

EXPECTED = {
    "t2v": Golden(
        10240,
        0.00069362239,
        1.0680743,
        (
            2.0220776,
            0.97071612,
            0.2016739,
            -0.59021449,
            -0.38055134,
            -0.83671373,
        ),
    ),
    "t2i": Golden(
        5120,
        0.0029775967,
        1.1023005,
        (
            1.1666696,
            1.2848682,
            0.95271075,
            0.66018814,
            -0.54837722,
            -0.22097522,
        ),
    ),
    "v2v": Golden(
        10240,
        -0.00043839556,
        1.06873,
        (
            2.0716717,
            0.91161829,
            0.20745571,
            -0.59326726,
            -0.32275838,
            -0.8659026,
        ),
    ),
    "i2i": Golden(
        5120,
        0.0026904857,
        1.1021408,
        (
            1.0529109,
            1.2439675,
            0.93118125,
            0.64809179,
            -0.5243277,
            -0.1702947,
        ),
    ),
    "r2v": Golden(
        10240,
        -0.0011120505,
        1.0672578,
        (
            2.0243111,
            0.97836834,
            0.22747146,
            -0.63064849,
            -0.26647872,
            -0.84286833,
        ),
    ),
    "r2v of seven": Golden(
        10240,
        -0.0013547371,
        1.0675778,
        (
            2.0052273,
            0.97899169,
            0.27997142,
            -0.54075837,
            -0.15053403,
            -0.89345753,
        ),
    ),
    "rv2v": Golden(
        10240,
        -0.0013277069,
        1.0679111,
        (
            2.0607309,
            0.92577469,
            0.21547712,
            -0.60695946,
            -0.25765204,
            -0.87530136,
        ),
    ),
    "rv2v of five": Golden(
        10240,
        -0.00071663423,
        1.0680282,
        (
            2.0343766,
            0.94823277,
            0.2213773,
            -0.56557524,
            -0.21863967,
            -0.88095254,
        ),
    ),
    "v2v, one expert": Golden(
        10240,
        -0.077965265,
        1.0754957,
        (
            1.3797621,
            0.13065419,
            -0.51566422,
            -1.183187,
            -0.78737295,
            -1.7437232,
        ),
    ),
    "rv2v, one expert": Golden(
        10240,
        -0.079735797,
        1.0753461,
        (
            1.3791862,
            0.12622368,
            -0.51728535,
            -1.2326692,
            -0.78298557,
            -1.7384895,
        ),
    ),
}


def settle(case: Case) -> Recipe:
    """What the models' own defaults make of what is given."""
    variant = BERNINI_A14B if case.is_dual else BERNINI_1_3B
    given = {SOURCE_VIDEO: case.has_video, SOURCE_PICTURES: case.num_pictures > 0}
    model = ModelSampling(
        "t2v",
        case.is_dual,
        replace(variant.sampling, steps=STEPS),
        inputs=frozenset(name for name, is_there in given.items() if is_there),
        is_picture=case.frames == 1,
    )
    return settle_recipe(BERNINI, SamplingChoices(), model)


def build_expert(name: str) -> WanTransformer:
    """The low-noise expert has the weights of the other with every modulation table negated."""
    transformer = build_transformer(CONFIG)
    if name == "low_noise":
        for part in (*transformer.blocks, transformer.head):
            part.modulation = -part.modulation
    return transformer


def run(case: Case) -> np.ndarray:
    """Final latents of a case."""
    recipe = settle(case)
    video = None if case.video is None else mx.array(case.video)
    sources = SourcesAddOn(video, tuple(map(mx.array, case.pictures)))
    conditioning = Conditioning(mx.array(PROMPT), mx.array(NEGATIVE_PROMPT), add_ons=(sources,))
    layout = video_layout(token_grid(case.shape[1:], CONFIG.patch_size))

    @contextmanager
    def open_expert(name: str) -> Iterator[Velocity]:
        guidance = recipe.guidance[name]
        yield GuidedTransformer(build_expert(name), guidance, conditioning, layout)

    solver = build_solver(recipe.solver, recipe.schedule)
    if recipe.expert_split is None:
        with open_expert("model") as velocity:
            *_, last = denoise(mx.array(case.noise), recipe.schedule, solver, velocity)
        return np.array(last.latents)
    with ExpertRelay(open_expert, recipe.expert_split) as velocity:
        *_, last = denoise(mx.array(case.noise), recipe.schedule, solver, velocity)
    return np.array(last.latents)


@pytest.mark.parametrize("name", CASES)
def test_final_latents_are_those_of_the_authors(name: str):
    assert_golden(run(CASES[name]), EXPECTED[name], TOLERANCE)


def test_sources_have_whole_numbers_up_to_five_and_even_ones_between_them():
    assert number_sources(3) == [1, 2, 3]
    assert number_sources(9) == [1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5]


# Height and width of a source, and of what its authors' MaxLongEdgeMinShortEdgeResize makes of it at 848.
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((480, 848), (480, 848)),
        ((720, 1280), (480, 848)),
        ((1080, 1920), (480, 848)),
        ((1000, 1000), (848, 848)),
        ((333, 500), (336, 496)),
        ((1920, 1080), (848, 480)),
    ],
)
def test_a_source_keeps_its_shape_within_848_pixels(given: tuple[int, int], expected: tuple[int, int]):
    assert size_within(*given) == expected


def test_frames_of_a_video_are_picked_as_the_authors_do():
    assert number_frames(90, 16, 16) == [*range(89)]
    assert number_frames(8, 16, 16) == [*range(8), 7]
    # round(linspace(0, 119, 81)), halves to even
    assert number_frames(120, 24, 16)[:8] == [0, 1, 3, 4, 6, 7, 9, 10]
    assert (len(number_frames(120, 24, 16)), number_frames(120, 24, 16)[-1]) == (81, 119)


def test_the_prompt_begins_with_the_task():
    video, pictures = frozenset({VIDEO}), frozenset({PICTURES})
    found = {
        begin_prompt(kinds, is_picture=is_picture).removeprefix("You are a helpful assistant specialized in ")
        for kinds, is_picture in (
            (frozenset[str](), False), (frozenset[str](), True), (video, False), (video, True),
            (pictures, False), (video | pictures, False),
        )
    }  # fmt: skip
    assert found == {
        "text-to-video generation.", "text-to-image generation.", "video editing.", "image editing.",
        "subject-to-video generation.", "video editing with reference.",
    }  # fmt: skip
