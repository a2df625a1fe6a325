"""The stage that makes a video block by block: each is denoised, decoded and handed to every output."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial

import mlx.core as mx

from mlx_video.conditioning.units import Fields, build_conditioning
from mlx_video.events import Event, StepFinished, Work, with_events
from mlx_video.latents.block_file import BlockFile
from mlx_video.latents.colours import LatentColours
from mlx_video.latents.decode import FrameStream
from mlx_video.latents.encode import encode_video
from mlx_video.models.forward import BlockSource, ResidentBlocks
from mlx_video.runs.networks import use_transformer, use_vae
from mlx_video.runs.run import Run
from mlx_video.runs.sampling.block_velocity import BlockVelocity
from mlx_video.runs.sampling.guided_transformer import project_prompts
from mlx_video.runs.sampling.previews import Previews, open_previews
from mlx_video.runs.sampling.sample import describe_latents
from mlx_video.runs.stages.decode import FrameSink, open_all_sinks, pass_frames
from mlx_video.runs.stages.stage import Stage
from mlx_video.runs.state.kept_blocks import keep_block_step, keep_whole, open_blocks
from mlx_video.sampling.blocks import BlockPlan
from mlx_video.sampling.denoise import denoise
from mlx_video.sampling.noise import NoiseSource, open_noise
from mlx_video.sampling.sampler_state import SamplerState
from mlx_video.sampling.solvers.table import build_solver

Encode = Callable[[mx.array], mx.array]
"""One frame [1, H, W, 3] in [-1, 1] → latents [C, 1, h, w]."""


def make_blocks(
    run: Run, conditioning: Fields, colours: LatentColours | None, sinks: list[FrameSink]
) -> Work[mx.array]:
    """Make the video, frames leaving as they come.

    Memory is the same for any number of blocks. Blocks that an earlier run has finished are decoded again, so
    that the files have them and the decoder knows them.

    Returns:
        All latents [C, T, H, W], which wait in a file until the transformer is gone.
    """
    with open_blocks(run) as finished:
        yield from _make_frames(run, conditioning, colours, sinks, finished)
        latents = finished.read_all()
        yield from keep_whole(run, latents)
    return latents


def _make_frames(
    run: Run,
    conditioning: Fields,
    colours: LatentColours | None,
    sinks: list[FrameSink],
    finished: BlockFile,
) -> Work[None]:
    with ExitStack() as stack:
        joined = stack.enter_context(open_all_sinks(run, sinks))
        previews = stack.enter_context(open_previews(run, colours))
        decoder = stack.enter_context(use_vae(run, "decoder"))
        encode = stack.enter_context(_open_encoder(run))
        velocity = stack.enter_context(_open_velocity(run, conditioning))
        sampler = BlockSampler(run, velocity, previews, finished)
        chunks = _decoded_blocks(sampler, FrameStream(decoder), encode)
        yield from pass_frames(chunks, joined, run, run.plan.geometry.num_frames)


@contextmanager
def _open_encoder(run: Run) -> Iterator[Encode]:
    """What encodes a frame that a block begins with; the VAE's encoder is not loaded where none does."""
    assert run.plan.blocks is not None
    with use_vae(run, "encoder") if run.plan.blocks.encodes else nullcontext() as vae:

        def encode(frame: mx.array) -> mx.array:
            assert vae is not None
            return encode_video(vae, frame)

        yield encode


@contextmanager
def _open_velocity(run: Run, conditioning: Fields) -> Iterator[BlockVelocity]:
    assert run.plan.blocks is not None
    with use_transformer(run, "model") as (transformer, streamed):
        blocks: BlockSource | None = streamed
        if run.profile:
            blocks = run.profile.watch(blocks or ResidentBlocks(transformer))
        prompts = project_prompts(transformer, build_conditioning(conditioning), ["positive"])
        yield BlockVelocity(transformer, prompts["positive"], run.plan.blocks.frames, blocks)


def _decoded_blocks(sampler: BlockSampler, stream: FrameStream, encode: Encode) -> Iterator[mx.array | Event]:
    """Chunks of frames [f, H, W, 3] in [-1, 1], and what happens on the way."""
    recent = RecentFrames(sampler.plan, encode)
    for index in range(sampler.plan.count):
        latents = yield from sampler.make(index, recent)
        recent.add(latents)
        for chunk in stream.decode(latents):
            recent.show(chunk)
            yield chunk


class RecentFrames:
    """The finished frames that a block may see.

    Args:
        plan: of the video.
        encode: of the VAE.
    """

    def __init__(self, plan: BlockPlan, encode: Encode) -> None:
        self._plan = plan
        self._encode = encode
        self._first: mx.array | None = None
        self._latents: deque[mx.array] = deque(maxlen=plan.context)
        self._shown: deque[mx.array] = deque(maxlen=plan.context)

    def add(self, latents: mx.array) -> None:
        """Take the next finished latents [C, T, H, W]."""
        # contiguous: a view of one frame would hold the memory of all.
        frames = [mx.contiguous(frame) for frame in mx.split(latents, latents.shape[1], axis=1)]
        mx.eval(frames)
        self._first = frames[0] if self._first is None else self._first
        self._latents.extend(frames)

    def show(self, frames: mx.array) -> None:
        """Take what the next latent frame shows, [f, H, W, 3]; the last of it may be seen again."""
        last = mx.contiguous(frames[-1:])
        mx.eval(last)
        self._shown.append(last)

    def before(self, index: int) -> mx.array | None:
        """What block `index` sees, [C, T, H, W]; None for the first block.

        Source: krea-ai/realtime-video release_server.py, GenerationSession.get_clean_context_frames.
        """
        if self._first is None:
            return None
        first = self._encode(self._shown[0]) if self._plan.begins_anew(index) else self._first
        return mx.concatenate([first, *[*self._latents][1:]], axis=1)


class BlockSampler:
    """Walks the noise of one block after the other down to latents.

    Noise of all blocks is drawn first and that of their steps behind it, as if that of the whole video lay in
    memory; two sources at two places of the same numbers make up for that.

    Args:
        run: what is being made.
        velocity: of the transformer.
        previews: of the run.
        finished: blocks that are there, to which the others are added.
    """

    def __init__(self, run: Run, velocity: BlockVelocity, previews: Previews, finished: BlockFile) -> None:
        assert run.plan.blocks is not None
        assert run.plan.recipe is not None
        self.plan = run.plan.blocks
        self._run = run
        self._schedule, self._solver = run.plan.recipe.schedule, run.plan.recipe.solver
        self._velocity = velocity
        self._previews = previews
        self._finished = finished
        # What an earlier run did not begin has its start drawn anew, from where that run was.
        self._memory = SamplerState(run.state.sampler if run.state else None)
        self._start = open_noise(run.request.noise, run.request.seed)
        self._fresh = open_noise(run.request.noise, run.request.seed)
        if run.state is None:
            self._fresh.skip(self._noise_shape, self.plan.count)
        self._memory.add("start_noise", self._start)
        self._memory.add("noise", self._fresh)

    def make(self, index: int, recent: RecentFrames) -> Work[mx.array]:
        """The latents [C, T, H, W] of block `index`, made or found."""
        if index < self._finished.count:
            return self._finished.read(index)
        first, state = 0, self._run.state
        if state and divmod(state.next_step, self._schedule.steps)[0] == index:
            first = state.next_step % self._schedule.steps
        latents = state.latents if state and first else self._draw(self._start)
        self._velocity.see(recent.before(index))
        before = index * self._schedule.steps
        steps = denoise(
            latents,
            self._schedule,
            build_solver(self._solver, self._schedule, partial(self._draw, self._fresh)),
            self._velocity,
            start=first,
            estimates_clean=lambda step: self._previews.is_due(before + step),
        )
        del latents
        result = yield from with_events(steps, partial(self._report, before))
        self._velocity.see(None)  # what the VAE does now has that memory
        return result

    @property
    def _noise_shape(self) -> tuple[int, int, int, int]:
        """Of a block, frames before channels."""
        channels, frames, height, width = self._run.plan.step_shape
        return frames, channels, height, width

    def _draw(self, source: NoiseSource) -> mx.array:
        """The next noise of a block, [C, T, H, W]."""
        return source.draw(self._noise_shape).swapaxes(0, 1)

    def _report(self, before: int, event: StepFinished) -> Iterator[Event]:
        """A step of the block behind `before` steps of others, and what is kept and told of it."""
        run, clean = self._run, event.clean
        is_last = event.index + 1 == event.total
        event = replace(event, index=before + event.index, total=run.plan.steps, clean=None)
        if is_last:
            self._finished.append(event.latents)
        yield from keep_block_step(run, event, self._memory, is_last=is_last)
        yield event
        if run.request.debug_latents:
            yield describe_latents(event)
        if clean is not None:
            yield from self._previews.report(event.index, clean)


BLOCKS = Stage("denoise", make_blocks, takes=("conditioning", "colours", "sinks"), gives="latents")
