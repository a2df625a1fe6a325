"""What each process of the tests of memory does: guided steps in each mode, against what is planned."""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten

from mlx_video.config import TransformerConfig
from mlx_video.distributed.cluster import join_cluster
from mlx_video.distributed.collectives import Collectives
from mlx_video.distributed.context_parallel import ContextParallel
from mlx_video.distributed.sharded_blocks import load_sharded
from mlx_video.distributed.shared_decode import decode_shared
from mlx_video.distributed.tensor_parallel import TensorParallel
from mlx_video.formats.tensor_source import TensorSource, open_tensors
from mlx_video.geometry import VideoGeometry
from mlx_video.models.block_context import Pass
from mlx_video.models.block_order import MAIN, BlockName
from mlx_video.models.dispatch import CPU_LIMITS
from mlx_video.models.forward import BlockSource
from mlx_video.models.transformer import WanTransformer
from mlx_video.models.transformer_memory import ForwardSize
from mlx_video.planning.division import Division
from mlx_video.planning.stage_peaks import denoise_peak
from mlx_video.planning.vae_memory import decode_peak_bytes
from mlx_video.planning.weight_bytes import weigh
from mlx_video.weights.load import load_module
from tests.fixtures.measured_peak import measured
from tests.models.networks import at
from tests.planning.test_vae_memory import NARROW22, random_vae

CONFIG = TransformerConfig(
    256, 1024, 4, num_layers=8, in_dim=4, out_dim=4, text_dim=64, text_len=64, freq_dim=64
)
GRID = (1, 21, 25)
LATENT_SHAPE = (4, 1, 42, 50)
MODES = ("context", "tensor", "sharded")
STEPS = 2


@contextmanager
def opened(
    mode: str, source: TensorSource, collectives: Collectives
) -> Iterator[tuple[WanTransformer, Pass, BlockSource | None]]:
    """The transformer of this process, a pass without a prompt, and where its blocks come from."""
    transformer = WanTransformer(CONFIG)
    context, tensor = ContextParallel(collectives), TensorParallel(collectives)
    blocks = None
    if mode == "sharded":
        order = [BlockName(MAIN, index) for index in range(CONFIG.num_layers)]
        blocks = load_sharded(transformer, source, order, collectives)
    else:
        load_module(transformer, tensor.split(transformer, source) if mode == "tensor" else source)
        mx.eval(transformer.parameters())
    one = Pass(transformer.project_text(mx.zeros((20, CONFIG.text_dim))))
    yield transformer, (tensor if mode == "tensor" else context).share(one), blocks


def measured_bytes(mode: str, path: Path, collectives: Collectives) -> int:
    """Of a mode, weights included."""

    def work() -> None:
        with (
            open_tensors(path) as source,
            opened(mode, source, collectives) as (transformer, one, blocks),
        ):
            mx.reset_peak_memory()  # not of loading
            other = replace(one, text=transformer.project_text(mx.ones((20, CONFIG.text_dim))))
            for _ in range(STEPS):
                mx.eval(
                    transformer.predict(mx.zeros(LATENT_SHAPE), at(500.0), [one, other], block_source=blocks)
                )

    return measured(work)


def planned_bytes(mode: str, path: Path, count: int) -> int:
    """Of a mode, weights included."""
    division = Division(mode, count)
    with open_tensors(path) as source:
        weights = weigh(division.share_tensors(source.infos.values(), CONFIG))
    size = ForwardSize(CONFIG, math.prod(GRID), 4, None, 0, 2, on_gpu=False, limits=CPU_LIMITS)
    geometry = VideoGeometry(8 * LATENT_SHAPE[3], 8 * LATENT_SHAPE[2], 1, LATENT_SHAPE, GRID)
    return denoise_peak(size, weights, geometry, division=division).usual


def decoded_bytes(size: tuple[int, int], tile: int | None, collectives: Collectives) -> dict[str, int]:
    """Of decoding a clip together."""
    vae = random_vae(replace(NARROW22, encoder_dim=None))
    latents = mx.random.normal((48, 3, *size))
    mx.eval(latents)

    def work() -> None:
        for chunk in decode_shared(vae, latents, collectives, tile=tile):
            del chunk

    found = measured(work)
    planned = decode_peak_bytes(vae.config, *size, tile=tile, processes=collectives.size)
    return {"planned": planned, "found": found}


def main() -> None:
    """Write what was planned and what was found."""
    cluster = join_cluster()
    assert cluster.group is not None
    collectives = Collectives(cluster.group)
    network = WanTransformer(CONFIG)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        mx.save_safetensors(str(path), dict(tree_flatten(network.parameters())))
        del network
        for mode in MODES:
            mx.clear_cache()
            found[mode] = {
                "planned": planned_bytes(mode, path, cluster.size),
                "found": measured_bytes(mode, path, collectives),
            }
    found["decode in strips"] = decoded_bytes((4, 8), None, collectives)
    found["decode in tiles"] = decoded_bytes((1, 30), 3, collectives)
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
