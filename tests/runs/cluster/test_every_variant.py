"""Every variant with all its inputs on two machines: what one machine makes."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest

from mlx_video.latents.latents_file import load_latents
from mlx_video.variants.registry import VARIANTS
from mlx_video.variants.variant import Variant
from tests.distributed.ranks import run_ranks
from tests.runs.cluster.shared_runs import assert_close, assert_equal, refuse_errors
from tests.spec.test_every_variant_walk import LIKENESSES, Walk

pytestmark = [pytest.mark.slow, pytest.mark.nightly]

CHOSEN = [each for each in VARIANTS if each.name not in LIKENESSES]


@pytest.mark.parametrize("variant", CHOSEN, ids=lambda each: each.name)
def test_two_processes_make_the_video_of_one(variant: Variant, tmp_path: Path):
    walk = Walk(variant, tmp_path)
    assert walk.whole.video is not None
    expected = load_latents(walk.latents_file)[0]
    modes = ("guidance", "context") if variant.network.can_be_shared else ("guidance",)
    words = ["-m", "tests.runs.cluster.variant_in_turn", variant.name, str(walk.model), str(tmp_path), *modes]
    refuse_errors(run_ranks(2, words, seconds=300))
    found = {mode: load_latents(tmp_path / f"{mode}.safetensors")[0] for mode in modes}
    assert_equal(found["guidance"], expected)
    if "context" in found:
        assert mx.isfinite(found["context"]).all()
        assert_close(found["context"], expected)
