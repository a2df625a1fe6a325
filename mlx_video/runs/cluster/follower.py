"""A machine that serves rank 0: it opens the same model, and computes what it is asked for."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlx.core as mx

from mlx_video.conditioning.types import Conditioning
from mlx_video.config import ModelConfig
from mlx_video.distributed.arrays import ArrayExchange, kinds_of
from mlx_video.distributed.channel import Channel, EndOfWork
from mlx_video.distributed.cluster import Cluster
from mlx_video.distributed.collectives import Collectives
from mlx_video.distributed.shared_decode import decode_shared
from mlx_video.distributed.wire import Message
from mlx_video.events import Event, finish
from mlx_video.layouts.model_folder import ModelFolder
from mlx_video.loading.session import Session
from mlx_video.lora.adapter_set import AdapterSet
from mlx_video.models.block_context import Pass, Step
from mlx_video.request import GenerateRequest
from mlx_video.runs.cluster.leader import is_of_branches
from mlx_video.runs.cluster.machine_facts import answer_facts, measure_together
from mlx_video.runs.cluster.modes import make_split
from mlx_video.runs.cluster.step_split import StepSplit
from mlx_video.runs.cluster.travelling_run import unpack_run
from mlx_video.runs.cluster.travelling_video import read_results, unpack_request
from mlx_video.runs.generate import prepare_run, within_limits
from mlx_video.runs.networks import use_vae
from mlx_video.runs.run import Run
from mlx_video.runs.sampling.guided_transformer import GuidedTransformer
from mlx_video.runs.sampling.sample import open_guided_transformer
from mlx_video.runs.sharing import Predict
from mlx_video.runs.uploads import make_anywhere
from mlx_video.sampling.sampler_state import SamplerState


@dataclass(frozen=True, slots=True)
class FollowerPart:
    """What a follower computes of one transformer's predictions. A `runs.sharing.StepPart`."""

    split: StepSplit

    def share_pass(self, one: Pass) -> Pass:
        """See `runs.sharing.StepPart`."""
        return self.split.share_pass(one)

    def share(self, predict: Predict) -> Predict:
        """See `runs.sharing.StepPart`."""
        return predict


@dataclass(slots=True)
class _Open:
    """A transformer in use.

    Attributes:
        velocity: predicts.
        adapters: of it, whose strengths may change.
        memory: of its step caches.
        names: of the branches that this machine computes.
        prefix: of the names of arrays in `memory`.
        stack: releases it.
    """

    velocity: GuidedTransformer
    adapters: AdapterSet | None
    memory: SamplerState
    names: list[str]
    prefix: str
    stack: ExitStack

    def predict(self, latents: mx.array, step: Step, names: list[str]) -> list[mx.array]:
        """Velocities of branches, evaluated."""
        if self.adapters is not None and self.adapters.varies:
            self.adapters.go_to_step(step.index, step.count)
            self.velocity.renew()
        velocities = self.velocity.predict(latents, step, names)
        mx.eval(velocities)
        return velocities


@dataclass(slots=True)
class Follower:
    """One machine of the others.

    Attributes:
        cluster: of at least two; this is not its rank 0.
        model, config: of the model that rank 0 uses, too.
        session: opens the networks.
    """

    cluster: Cluster
    model: ModelFolder
    config: ModelConfig
    session: Session = field(default_factory=lambda: Session(keeps=True))

    def serve(self) -> None:
        """Do what rank 0 asks for, until it has no more to do.

        Raises:
            MLXVideoError: this machine cannot go on; rank 0 is to be told.
        """
        exchange, split = ArrayExchange(self.cluster), StepSplit(self.cluster.size, 1)
        served: _ServedRun | None = None
        try:
            while True:
                message = self._channel.receive(0)
                match message.do:
                    case "facts":
                        answer_facts(self.cluster, self.model, message)
                    case "measure":
                        measure_together(self.cluster)
                    case "mode":
                        mode = message.values["mode"]
                        split = split if mode == "data" else make_split(mode, self.cluster, exchange.traffic)
                    case "make":
                        self._make(message)
                    case "run":
                        served = _ServedRun(self, exchange, split)
                        served.serve(message)
                    case "decode":
                        assert served is not None  # rank 0 begins a run first
                        served.decode(message)
        except EndOfWork:
            pass

    def _make(self, message: Message) -> None:
        """Make a video and send its results; what is wrong with it is told, and ends nothing."""
        told = message.values
        try:
            with TemporaryDirectory(prefix="mlx-video-") as folder:
                _, local = unpack_request(told["request"], told["files"], message.blobs, Path(folder))
                prepare = partial(self._prepare, settings=told["settings"])
                finish(make_anywhere(local, prepare), lambda event: None)
                files, blobs = read_results(local)
        except Exception as error:
            self._channel.send(0, "not made", text=str(error))
        else:
            self._channel.send(0, "made", blobs, files=[each.as_json() for each in files])

    def _prepare(self, request: GenerateRequest, settings: Mapping[str, str]) -> Run:
        run = prepare_run(request, self.model, self.config, self.session)
        return replace(run, whole_video=settings)

    @property
    def _channel(self) -> Channel:
        assert self.cluster.channel is not None
        return self.cluster.channel


@dataclass(slots=True)
class _ServedRun:
    """The steps of one run, as a follower takes part in them."""

    follower: Follower
    exchange: ArrayExchange
    split: StepSplit
    opened: dict[str, _Open] = field(default_factory=dict)
    run: Run | None = None

    def serve(self, message: Message) -> None:
        """Take part in a run until rank 0 is done with its steps."""
        own, channel = self.follower, self.follower._channel
        arrays = self.exchange.take_spread(message.values["kinds"])
        run, conditioning = unpack_run(
            message.values["run"], arrays, own.model, own.config, own.session, self.split
        )
        del arrays
        channel.send(0, "ready", tile=run.plan.memory.decode_tile)
        self.run = run
        finish(within_limits(run, self._take_part(run, conditioning)), lambda event: None)

    def decode(self, message: Message) -> None:
        """Decode this machine's tiles of the run's video; the frames are rank 0's."""
        assert self.run is not None
        (latents,) = self.exchange.take_spread(message.values["kinds"])
        work = self._decode(self.run, latents, **message.values["how"])
        finish(within_limits(self.run, work), lambda event: None)

    def _decode(
        self, run: Run, latents: mx.array, *, tile: int | None, latents_per_push: int, parts: list[int]
    ) -> Generator[Event, None, None]:
        yield from ()
        collectives = Collectives(self.exchange.group, self.exchange.traffic)
        with use_vae(run, "decoder") as vae, self.follower._channel.collective():
            for _ in decode_shared(
                vae, latents, collectives, tile=tile, latents_per_push=latents_per_push, parts=parts
            ):
                pass

    def _take_part(self, run: Run, conditioning: Conditioning) -> Generator[Event, None, None]:
        """Work without events, which goes on under the limits of the run."""
        yield from ()
        with ExitStack() as stack:
            stack.callback(self._close_all)
            while (message := self.follower._channel.receive(0)).do != "run ended":
                name = message.values["name"]
                match message.do:
                    case "open":
                        self.opened[name] = self._open(run, conditioning, name, message.values)
                        self.follower._channel.send(0, "open")
                    case "predict":
                        self._predict(self.opened[name], message.values)
                    case "state":
                        self._tell_state(self.opened[name])
                    case "close":
                        self.opened.pop(name).stack.close()

    def _open(self, run: Run, conditioning: Conditioning, name: str, told: Any) -> _Open:
        recipe = run.plan.recipe
        assert recipe is not None  # rank 0 asks for steps
        arrays = self.exchange.take_spread(told["kinds"]) if told["kinds"] else []
        left = {f"{name}.{key}": array for key, array in zip(told["arrays"], arrays, strict=True)}
        memory, part = SamplerState(left), FollowerPart(self.split)
        names = [branch.name for branch in recipe.guidance[name].all_branches]
        own = self.split.branches_of(self.follower.cluster.rank, names)
        stack = ExitStack()
        velocity = stack.enter_context(open_guided_transformer(run, recipe, conditioning, name, memory, part))
        return _Open(velocity, run.adapters.get(name), memory, own, f"{name}.", stack)

    def _predict(self, opened: _Open, told: Any) -> None:
        rank, channel = self.follower.cluster.rank, self.follower._channel
        latents = self.exchange.receive(told["kinds"], rank - 1)
        if rank < told["last"]:
            self.exchange.send(latents, rank + 1)
        with channel.collective() if self.split.is_joint else nullcontext():
            velocities = opened.predict(latents[0], Step(**told["step"]), told["branches"])
        if rank == self.split.bearer:
            self.exchange.send([each.astype(mx.float32) for each in velocities], 0)

    def _tell_state(self, opened: _Open) -> None:
        with self.follower._channel.collective():
            arrays = opened.memory.arrays()
            mx.eval(arrays)
        if self.follower.cluster.rank != self.split.bearer:
            return
        own = {
            name.removeprefix(opened.prefix): each
            for name, each in arrays.items()
            if is_of_branches(name, opened.names)
        }
        self.follower._channel.send(0, "state", arrays=[*own], kinds=kinds_of([*own.values()]))
        self.exchange.send([*own.values()], 0)

    def _close_all(self) -> None:
        for opened in self.opened.values():
            opened.stack.close()
        self.opened.clear()
