"""The networks of a run: what tells each from those of other runs, how it is opened, and whether it stays."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

from mlx_video.config import ModelConfig
from mlx_video.formats.fingerprint import stamp_files
from mlx_video.layouts.components import TINY_VAE
from mlx_video.layouts.model_folder import ModelFolder
from mlx_video.loading.components import (
    load_audio_encoder,
    load_image_encoder,
    load_motion_controller,
    load_text_encoder,
    load_tiny_decoder,
    load_transformer,
)
from mlx_video.loading.residency import Module, count_bytes, resident
from mlx_video.loading.session import Network, NetworkKey
from mlx_video.loading.streamed_transformer import open_streamed_transformer
from mlx_video.loading.vae_halves import Half, load_vae_decoder, load_vae_encoder
from mlx_video.models.control.motion_controller import MotionController
from mlx_video.models.encoders.audio_encoder import Wav2Vec2Encoder
from mlx_video.models.encoders.image_encoder import CLIPImageEncoder
from mlx_video.models.encoders.text_encoder import UMT5Encoder
from mlx_video.models.vae.autoencoder import WanVAE
from mlx_video.models.vae.tiny import TinyDecoder
from mlx_video.planning.choices import (
    AUDIO_ENCODER,
    IMAGE_ENCODER,
    MOTION_CONTROLLER,
    TEXT_ENCODER,
    VAE_DECODER,
    VAE_ENCODER,
)
from mlx_video.request import GenerateRequest, LoraMode
from mlx_video.request.option import is_given
from mlx_video.runs.run import Run
from mlx_video.runs.sharing import OpenTransformer
from mlx_video.weights.component_networks import find_network

Load = Callable[[ModelFolder, ModelConfig], Module]


def network_key(run: Run, name: str) -> NetworkKey:
    """What tells a network from that of a run with other files, adapters or streaming.

    Args:
        run: fitted to this machine.
        name: of the network in the memory plan.
    """
    model, config = run.model, run.config
    if name in model.transformers:
        adapters = run.adapters.get(name)
        changes: Hashable = (adapters.identity, find_lora_mode(run, name)) if adapters else None
        streaming = run.weights.mode if run.weights else run.plan.memory.resident_blocks
        files: tuple[Path | None, ...] = (model.transformers[name],)
        sizes: Hashable = (config.transformer, config.quantization, changes, streaming)
    elif name in model.parts:
        files, sizes = (model.parts[name],), (config.text_encoder, config.transformer)
    else:
        files, sizes = (model.vae, model.vae_encoder), config.vae
    return NetworkKey(name, (*(stamp_files(path) for path in files if path), sizes))


def find_lora_mode(run: Run, name: str) -> LoraMode:
    """How a transformer takes its adapters: beside its layers where their strength changes."""
    adapters = run.adapters.get(name)
    return "side" if adapters and adapters.varies else run.request.lora_mode


def is_called(request: GenerateRequest, name: str) -> bool:
    """Whether a run of a request uses a component that works only where an option calls for it."""
    option = find_network(name).called_by
    return not option or is_given(getattr(request, option))


def is_kept(run: Run, name: str) -> bool:
    """Whether a network stays in memory when the run has used it."""
    return name in run.plan.memory.kept


def make_room(run: Run) -> None:
    """Release what earlier runs left in memory, but for what the plan of this one lets stay."""
    kept = run.plan.memory.kept
    own = {network_key(run, name) for name in kept if isinstance(name, str)}
    run.session.release_others(own | kept)


@contextmanager
def use_transformer(run: Run, name: str) -> Iterator[OpenTransformer]:
    """A transformer of the model with its adapters, streamed as planned, for the length of a `with` block."""
    adapters = run.adapters.get(name)

    def weigh(opened: OpenTransformer) -> int:
        transformer, blocks = opened
        # A stream also holds the adapters, of which it changes each block at its turn.
        streamed = blocks.nbytes + (adapters.nbytes if adapters else 0) if blocks else 0
        return count_bytes(transformer) + streamed

    with _lend(run, name, partial(load_or_stream, run, name), weigh) as (transformer, blocks):
        try:
            yield transformer, blocks
        finally:
            # What this run has left in it: nothing that the next one would need.
            transformer.forget_layouts()
            if blocks:
                blocks.rest()


@contextmanager
def load_or_stream(run: Run, name: str) -> Iterator[OpenTransformer]:
    """Load a transformer, whole or but for the blocks that are streamed; all is released at the end."""
    adapters, mode = run.adapters.get(name), find_lora_mode(run, name)
    resident_blocks = run.plan.memory.resident_blocks
    if run.weights is not None:
        with run.weights.open(run.model, run.config, name, adapters, mode) as shared:
            yield shared
    elif resident_blocks is None:
        with resident(lambda: load_transformer(run.model, run.config, name, adapters, mode)) as transformer:
            yield transformer, None
    else:
        with open_streamed_transformer(
            run.model, run.config, name, resident_blocks, adapters, mode
        ) as streamed:
            yield streamed


def use_text_encoder(run: Run) -> AbstractContextManager[UMT5Encoder]:
    """The text encoder as a whole, for the length of a `with` block."""
    return _use(run, TEXT_ENCODER, load_text_encoder)


def use_image_encoder(run: Run) -> AbstractContextManager[CLIPImageEncoder]:
    """The image encoder, for the length of a `with` block."""
    return _use(run, IMAGE_ENCODER, load_image_encoder)


def use_audio_encoder(run: Run) -> AbstractContextManager[Wav2Vec2Encoder]:
    """The audio encoder, for the length of a `with` block."""
    return _use(run, AUDIO_ENCODER, load_audio_encoder)


def use_motion_controller(run: Run) -> AbstractContextManager[MotionController]:
    """The motion controller, for the length of a `with` block."""
    return _use(run, MOTION_CONTROLLER, load_motion_controller)


def use_vae(run: Run, half: Half) -> AbstractContextManager[WanVAE]:
    """Half of the VAE, for the length of a `with` block."""
    if half == "encoder":
        return _use(run, VAE_ENCODER, load_vae_encoder)
    return _use(run, VAE_DECODER, load_vae_decoder)


def use_tiny_decoder(run: Run) -> AbstractContextManager[TinyDecoder]:
    """The tiny decoder, for the length of a `with` block."""
    return _use(run, TINY_VAE.name, load_tiny_decoder)


def _use(run: Run, name: str, load: Load[Module]) -> AbstractContextManager[Module]:
    return _lend(run, name, lambda: resident(partial(load, run.model, run.config)), count_bytes)


def _lend(
    run: Run,
    name: str,
    open_network: Callable[[], AbstractContextManager[Network]],
    weigh: Callable[[Network], int],
) -> AbstractContextManager[Network]:
    return run.session.lend(network_key(run, name), open_network, weigh=weigh, keep=is_kept(run, name))
