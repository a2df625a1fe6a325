"""What each process of a test does that has a variant's run made in several modes.

Arguments: name of the variant, its converted folder, where latents go, and the modes.
"""

from __future__ import annotations

import sys
from pathlib import Path

from mlx_video.distributed.cluster import join_cluster
from mlx_video.loading.components import open_model
from mlx_video.request import GenerateRequest, make_request
from mlx_video.runs.cluster.follower import Follower
from mlx_video.runs.cluster.team import form_team
from mlx_video.runs.generate import prepare_run
from mlx_video.runs.uploads import make_anywhere
from mlx_video.variants.registry import VARIANTS
from tests.spec.test_every_variant_walk import Walk


def main() -> int:
    name, folder, latents, *modes = sys.argv[1:]
    cluster = join_cluster(30)
    assert cluster.channel is not None
    model, config = open_model(Path(folder))
    try:
        if not cluster.leads:
            Follower(cluster, model, config).serve()
            return 0
        walk = Walk(next(each for each in VARIANTS if each.name == name), Path(latents))
        walk.model = Path(folder)  # converted already
        for mode in modes:
            output = {
                "save_latents": Path(latents) / f"{mode}.safetensors",
                "output_path": Path(latents) / f"{mode}.webp",
            }
            request = make_request(GenerateRequest, {**walk.options, **output, "parallel": mode})
            for _ in _make(request, model, config, cluster):
                pass
    finally:
        cluster.channel.end()
    return 0


def _make(request, model, config, cluster):
    sharing = (yield from form_team(cluster, model, config, [request])).sharing
    yield from make_anywhere(request, lambda one: prepare_run(one, model, config, sharing=sharing))


if __name__ == "__main__":
    sys.exit(main())
