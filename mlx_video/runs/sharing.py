"""How a run's steps are shared with other machines, as sampling sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import mlx.core as mx

from mlx_video.conditioning.types import Conditioning
from mlx_video.config import ModelConfig
from mlx_video.events import TilesDecoded
from mlx_video.layouts.model_folder import ModelFolder
from mlx_video.lora.adapter_set import AdapterSet
from mlx_video.models.block_context import Pass, Step
from mlx_video.models.forward import BlockSource
from mlx_video.models.vae.autoencoder import WanVAE
from mlx_video.models.video_transformer import VideoTransformer
from mlx_video.planning.division import Division
from mlx_video.request import LoraMode
from mlx_video.sampling.guidance import Branch, Guidance
from mlx_video.sampling.sampler_state import SamplerState

Predict = Callable[[mx.array, Step, Sequence[Branch]], list[mx.array]]
"""As in `sampling.windowed_predictions`."""


class StepPart(Protocol):
    """What of the predictions of one transformer this process computes."""

    def share_pass(self, one: Pass) -> Pass:
        """The part of a pass that is computed here."""

    def share(self, predict: Predict) -> Predict:
        """Predictions of all machines, of which `predict` makes those of this one."""


class WholePart:
    """The part of a process that computes everything."""

    def share_pass(self, one: Pass) -> Pass:
        """See :class:`StepPart`."""
        return one

    def share(self, predict: Predict) -> Predict:
        """See :class:`StepPart`."""
        return predict


WHOLE = WholePart()


class SharedSteps(Protocol):
    """The steps of one run, in which other machines take part."""

    def open(self, name: str, guidance: Guidance, memory: SamplerState) -> AbstractContextManager[StepPart]:
        """Have a transformer opened by all; the others release it when the context is left.

        Args:
            name: of the transformer.
            guidance: of it.
            memory: of it; holds what step caches on other machines remember, too.
        """


class StoredBlocks(BlockSource, Protocol):
    """Blocks that are not all in memory."""

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""

    def rest(self) -> None:
        """End what is done ahead of the next walk."""


OpenTransformer = tuple[VideoTransformer, StoredBlocks | None]
"""A transformer, and where its blocks come from; None where all are in memory."""


class SharedWeights(Protocol):
    """The weights of a transformer, of which each machine keeps a part."""

    @property
    def mode(self) -> str:
        """Name of the way."""

    def open(
        self,
        model: ModelFolder,
        config: ModelConfig,
        name: str,
        adapters: AdapterSet | None,
        lora_mode: LoraMode,
    ) -> AbstractContextManager[OpenTransformer]:
        """This machine's part of a transformer; arguments as of `loading.components.load_transformer`."""


class StepSharing(Protocol):
    """Lets other machines take part in the steps of runs."""

    @property
    def weights(self) -> SharedWeights | None:
        """How they share the weights of transformers; None where each has all."""

    @property
    def division(self) -> Division:
        """What one of them has in memory of a transformer's work."""

    def begin(self, run: Any, conditioning: Conditioning) -> AbstractContextManager[SharedSteps]:
        """Tell the others what is made; they are done with it when the context is left.

        Args:
            run: a `runs.run.Run`.
            conditioning: of it.

        Raises:
            ClusterError: a machine is lost, or cannot take part.
        """

    def decode(
        self, vae: WanVAE, latents: mx.array, *, tile: int | None, latents_per_push: int, parts: Sequence[int]
    ) -> Iterator[mx.array | TilesDecoded]:
        """Decode latents [C, T, H, W] with the help of the others; as `latents.decode.decode_chunks`."""
