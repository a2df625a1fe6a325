"""Runs jobs of mlx-video-with-audio; that package calls itself mlx_video too, so it needs its own process.

Its converter, networks, text encoding, sampling loop and solvers run as they are published. Replaced are
the `__init__` of the packages above them, which import its other models; the sizes that its config has by
default, by tiny ones; its noise, by ours; the tokenizer that it fetches from the Hub, by a file. It stops
before the VAE.

    python interop_run.py <folder that holds its mlx_video> <jobs.json>
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

BARE_PACKAGES = ("mlx_video", "mlx_video.models", "mlx_video.models.ltx", "mlx_video.models.ltx.video_vae")


class Finished(Exception):
    """The latents are final; what follows is their VAE."""

    def __init__(self, latents: mx.array) -> None:
        super().__init__()
        self.latents = latents


def open_package(place: Path) -> None:
    for name in BARE_PACKAGES:
        package = ModuleType(name)
        package.__path__ = [str(place.joinpath(*name.split(".")))]
        sys.modules[name] = package


def set_defaults(sizes: dict[str, object]) -> None:
    """Other default sizes for their config, which its converter does not read from a checkpoint."""
    from mlx_video.models.wan.config import WanModelConfig

    names, init = list(WanModelConfig.__dataclass_fields__), WanModelConfig.__init__
    init.__defaults__ = tuple(
        sizes.get(name, value) for name, value in zip(names, init.__defaults__, strict=True)
    )


def convert(source: str, output: str, options: dict[str, object], sizes: dict[str, object]) -> None:
    from mlx_video.convert_wan import convert_wan_checkpoint

    set_defaults(sizes)
    convert_wan_checkpoint(source, output, **options)


def read_config(folder: Path):
    """Their config of a folder and its quantization, read as their generate_video reads them."""
    from mlx_video.models.wan.config import WanModelConfig

    data = json.loads((folder / "config.json").read_text())
    known = {key: value for key, value in data.items() if key in WanModelConfig.__dataclass_fields__}
    lists = {key: tuple(value) for key, value in known.items() if isinstance(value, list)}
    return WanModelConfig(**known | lists), data


def inspect(folder: Path) -> dict[str, object]:
    """What of a folder does not fit their networks and config; they load a transformer without asking."""
    from mlx_video.models.wan.loading import load_t5_encoder
    from mlx_video.models.wan.model import WanModel

    from mlx_video.convert_wan import _quantize_predicate

    config, data = read_config(folder)
    model = WanModel(config)
    if quantization := data.get("quantization"):
        nn.quantize(model, **quantization, class_predicate=_quantize_predicate)
    expected = {name: array.shape for name, array in tree_flatten(model.parameters()) if name != "freqs"}
    wrong = {}
    for file in folder.glob("*model.safetensors"):
        found = {name: array.shape for name, array in mx.load(str(file)).items()}
        wrong[file.name] = sorted(found.items() ^ expected.items())
    load_t5_encoder(folder / "t5_encoder.safetensors", config)  # strict of itself
    return {
        "wrong": wrong,
        "missing_keys": sorted(config.to_dict().keys() - data.keys()),
        "other_keys": sorted(data.keys() - config.to_dict().keys()),
    }


def generate(folder: str, tokenizer: str, noise: str, result: str, options: dict[str, object]) -> None:
    """Write the final latents of a run from the noise given."""
    from mlx_video.models.wan import vae22

    from mlx_video import generate_wan

    draw, ours = mx.random.normal, mx.array(np.load(noise))

    def draw_or_take(shape=(), *rest, **named):
        return ours if tuple(shape) == ours.shape else draw(shape, *rest, **named)

    generate_wan.load_vae_decoder = lambda *_: SimpleNamespace(decode=stop_wan21)
    vae22.denormalize_latents = stop_wan22
    sys.modules["transformers"] = SimpleNamespace(
        AutoTokenizer=SimpleNamespace(from_pretrained=lambda _: open_tokenizer(tokenizer))
    )
    mx.random.normal = draw_or_take
    try:
        generate_wan.generate_video(folder, tiling="none", no_compile=True, **options)
    except Finished as finished:
        np.save(result, np.array(finished.latents))
    finally:
        mx.random.normal = draw


def stop_wan21(latents: mx.array) -> None:
    raise Finished(latents[0])


def stop_wan22(latents: mx.array) -> None:
    raise Finished(latents[0].transpose(3, 0, 1, 2))


def open_tokenizer(file: str):
    """A tokenizer file behind the part of transformers' interface that they use."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(file)

    def tokenize(text: str, max_length: int, **_: object) -> dict[str, np.ndarray]:
        tokenizer.enable_truncation(max_length)
        tokenizer.enable_padding(length=max_length)
        encoded = tokenizer.encode(text)
        return {"input_ids": np.array([encoded.ids]), "attention_mask": np.array([encoded.attention_mask])}

    return tokenize


def main(place: str, jobs_file: str) -> None:
    """Convert, look at and run what the file of jobs names; results are written beside it."""
    open_package(Path(place))
    jobs, results = json.loads(Path(jobs_file).read_text()), {}
    for job in jobs["convert"]:
        convert(**job)
    for folder in jobs["inspect"]:
        results[folder] = inspect(Path(folder))
    for job in jobs["generate"]:
        generate(**job)
    Path(jobs_file).with_suffix(".results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
