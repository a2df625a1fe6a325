"""Rank 0 of machines that make the steps of a video together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field

import mlx.core as mx

from mlx_video.conditioning.types import Conditioning
from mlx_video.distributed.arrays import ArrayExchange, kinds_of
from mlx_video.distributed.channel import Channel
from mlx_video.distributed.cluster import Cluster
from mlx_video.distributed.collectives import Collectives
from mlx_video.distributed.shared_decode import decode_shared
from mlx_video.errors import ClusterError, RequestError
from mlx_video.events import TilesDecoded
from mlx_video.latents.decode import decode_chunks
from mlx_video.models.block_context import Pass, Step
from mlx_video.models.vae.autoencoder import WanVAE
from mlx_video.planning.division import Division
from mlx_video.runs.cluster.step_split import StepSplit
from mlx_video.runs.cluster.travelling_run import pack_run
from mlx_video.runs.run import Run
from mlx_video.runs.sharing import Predict, SharedWeights
from mlx_video.sampling.guidance import Branch, Guidance
from mlx_video.sampling.sampler_state import SamplerState


@dataclass(frozen=True, slots=True)
class StepLeader:
    """Lets all other machines take part in the steps of runs. A `runs.sharing.StepSharing`.

    Attributes:
        cluster: of at least two.
        split: who computes what.
        exchange: of arrays.
    """

    cluster: Cluster
    split: StepSplit
    exchange: ArrayExchange
    _tiles: list[int | None] = field(default_factory=list)
    """Tiles of the VAE that fit in the memory of each other machine, once a run was begun."""

    @property
    def weights(self) -> SharedWeights | None:
        """See `runs.sharing.StepSharing`."""
        return self.split.weights

    @property
    def division(self) -> Division:
        """See `runs.sharing.StepSharing`."""
        return self.split.division

    @property
    def channel(self) -> Channel:
        """To the others."""
        assert self.cluster.channel is not None
        return self.cluster.channel

    @contextmanager
    def begin(self, run: Run, conditioning: Conditioning) -> Iterator[LedSteps]:
        """See `runs.sharing.StepSharing`."""
        self._check_tokens(run)
        packed, arrays = pack_run(run, conditioning, is_joint=self.split.is_joint)
        self.channel.send_all("run", run=packed, kinds=kinds_of(arrays))
        self.exchange.spread(arrays)
        ready = self.channel.receive_all()  # or one has failed
        self._tiles[:] = [message.values["tile"] for message in ready.values()]
        try:
            yield LedSteps(self)
        finally:
            with suppress(ClusterError):
                self.channel.send_all("run ended")

    @contextmanager
    def jointly(self) -> Iterator[None]:
        """Work that machines do together: none goes on with it without the others.

        Raises:
            ClusterError: a machine is lost.
        """
        with self.channel.jointly() if self.split.is_joint else nullcontext():
            yield

    def decode(
        self, vae: WanVAE, latents: mx.array, *, tile: int | None, latents_per_push: int, parts: Sequence[int]
    ) -> Iterator[mx.array | TilesDecoded]:
        """See `runs.sharing.StepSharing`; where passes alone are shared, rank 0 decodes alone."""
        if not (self.split.is_joint and self._tiles):
            yield from decode_chunks(vae, latents, tile=tile, latents_per_push=latents_per_push, parts=parts)
            return
        tile = min((each for each in (tile, *self._tiles) if each is not None), default=None)
        how = {"tile": tile, "latents_per_push": latents_per_push, "parts": [*parts]}
        mx.eval(latents)
        self.channel.send_all("decode", kinds=kinds_of([latents]), how=how)
        self.exchange.spread([latents])
        chunks = decode_shared(
            vae,
            latents,
            Collectives(self.exchange.group, self.exchange.traffic),
            tile=tile,
            latents_per_push=latents_per_push,
            parts=parts,
        )
        try:
            while (chunk := self._next_chunk(chunks)) is not None:
                yield chunk
        except GeneratorExit:
            # The others are in the midst of it.
            while self._next_chunk(chunks) is not None:
                pass
            raise

    def _next_chunk(self, chunks: Iterator[mx.array | TilesDecoded]) -> mx.array | TilesDecoded | None:
        with self.jointly():
            return next(chunks, None)

    def _check_tokens(self, run: Run) -> None:
        tokens = math.prod(run.plan.geometry.grid)
        together = self.split.size // self.split.groups
        if tokens < together:
            raise RequestError(
                "parallel", f"{tokens} tokens cannot be shared out over {together} machines. Start fewer."
            )


@dataclass(frozen=True, slots=True)
class LedSteps:
    """The steps of one run. A `runs.sharing.SharedSteps`."""

    leader: StepLeader

    @contextmanager
    def open(self, name: str, guidance: Guidance, memory: SamplerState) -> Iterator[LedPart]:
        """See `runs.sharing.SharedSteps`."""
        part = LedPart(self.leader, name, tuple(branch.name for branch in guidance.all_branches))
        part.send_state(memory)
        memory.add_elsewhere(part)
        try:
            yield part
        finally:
            with suppress(ClusterError):
                self.leader.channel.send_all("close", name=name)


@dataclass(slots=True)
class LedPart:
    """What rank 0 computes of one transformer's predictions. A `runs.sharing.StepPart`.

    Attributes:
        leader: knows the others.
        name: of the transformer.
        names: of all branches that a step may ask for.
    """

    leader: StepLeader
    name: str
    names: tuple[str, ...]
    _are_open: bool = field(default=False)

    def share_pass(self, one: Pass) -> Pass:
        """See `runs.sharing.StepPart`."""
        return self.leader.split.share_pass(one)

    def share(self, predict: Predict) -> Predict:
        """See `runs.sharing.StepPart`."""

        def predict_together(latents: mx.array, step: Step, branches: Sequence[Branch]) -> list[mx.array]:
            return self._predict(predict, latents, step, branches)

        return predict_together

    def send_state(self, memory: SamplerState) -> None:
        """Have the others open the transformer, with what step caches there remembered of an earlier run."""
        split, channel = self.leader.split, self.leader.channel
        elsewhere = [name for name in self.names if name not in split.branches_of(0, self.names)]
        theirs = memory.hand_over(lambda key: is_of_branches(key, elsewhere))
        both = memory.peek(lambda key: split.is_joint and is_of_branches(key, self.names))
        arrays = {**theirs, **both}
        mx.eval(arrays)
        kinds = kinds_of([*arrays.values()])
        channel.send_all("open", name=self.name, arrays=[*arrays], kinds=kinds)
        if arrays:
            self.leader.exchange.spread([*arrays.values()])

    def state(self) -> dict[str, mx.array]:
        """What step caches on other machines remember, by names as if they were here."""
        split = self.leader.split
        if not self._are_open:
            self._wait_until_open()
        self.leader.channel.send_all("state", name=self.name)
        if split.bearer is None:
            return {}
        told = self.leader.channel.receive(split.bearer)
        arrays = self.leader.exchange.receive(told.values["kinds"], split.bearer)
        return dict(zip(told.values["arrays"], arrays, strict=True))

    def _predict(
        self, predict: Predict, latents: mx.array, step: Step, branches: Sequence[Branch]
    ) -> list[mx.array]:
        """Velocities of all branches, in their order; all machines that have any to compute begin at once."""
        split, asked = self.leader.split, [branch.name for branch in branches]
        work = {rank: self._of(rank, asked) for rank in range(split.size)}
        last = max((rank for rank, names in work.items() if names), default=0)
        if last:
            self._begin(latents, step, work, last)
        own = [branch for branch in branches if branch.name in work[0]]
        with self.leader.jointly():
            velocities = predict(latents, step, own) if own else []
            mx.eval(velocities)
        found = dict(zip(work[0], velocities, strict=True))
        if split.bearer is not None and (theirs := work[split.bearer]):
            kinds = kinds_of([latents]) * len(theirs)
            found |= zip(theirs, self.leader.exchange.receive(kinds, split.bearer), strict=True)
        return [found[name] for name in asked]

    def _of(self, rank: int, asked: Sequence[str]) -> list[str]:
        own = self.leader.split.branches_of(rank, self.names)
        return [name for name in asked if name in own]

    def _begin(self, latents: mx.array, step: Step, work: dict[int, list[str]], last: int) -> None:
        if not self._are_open:
            self._wait_until_open()
        latents = latents.astype(mx.float32)
        mx.eval(latents)
        for rank in range(1, last + 1):
            self.leader.channel.send(
                rank,
                "predict",
                name=self.name,
                step=asdict(step),
                branches=work[rank],
                kinds=kinds_of([latents]),
                last=last,
            )
        self.leader.exchange.send([latents], 1)

    def _wait_until_open(self) -> None:
        self.leader.channel.receive_all()
        self._are_open = True


def is_of_branches(key: str, names: Sequence[str]) -> bool:
    """Whether the name of an array in a transformer's memory is of a step cache of some branches."""
    return any(f"cache.{name}." in f".{key}" for name in names)
