"""The stage that decodes latents, and hands the frames to every output as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Protocol

import mlx.core as mx
import numpy as np

from mlx_video.events import Event, FramesDecoded, TilesDecoded, Work
from mlx_video.geometry import pixel_frames
from mlx_video.latents.decode import choose_pace, decode_chunks, to_uint8, to_uint8_rounded
from mlx_video.latents.tiny_decode import decode_tiny
from mlx_video.media.frame_writer import FrameWriter
from mlx_video.media.image import FrameFolderWriter
from mlx_video.media.sound import SoundTrack
from mlx_video.media.video import open_video_writer
from mlx_video.models.elementwise import on_gpu
from mlx_video.models.vae.autoencoder import WanVAE
from mlx_video.runs.continuation import NewFrames, count_all_frames
from mlx_video.runs.networks import use_tiny_decoder, use_vae
from mlx_video.runs.run import Run
from mlx_video.runs.stages.stage import Stage
from mlx_video.runs.state.kept_segments import ExactFrames, open_kept


class FrameSink(Protocol):
    """Takes frames as they are decoded."""

    def write(self, frames: np.ndarray) -> None:
        """Take uint8 frames [f, H, W, 3]."""


def decode_video(
    run: Run, latents: mx.array, before: mx.array | None, sinks: Sequence[FrameSink]
) -> Work[None]:
    """Decode latents into sinks and the files that the request names.

    Args:
        run: what is being made.
        latents: [C, T, H, W].
        before: that the decoder sees first, and of which nothing is shown, [C, n, H, W]; None for none.
        sinks: get the frames besides those files.
    """
    with ExitStack() as stack:
        joined = stack.enter_context(open_all_sinks(run, sinks))
        kept = run.kept_frames
        own = [stack.enter_context(open_kept(run, kept, latents))] if kept else []
        # Entered last, whole first: a segment counts as finished when its own file is there.
        exact = stack.enter_context(ExactFrames(run, kept)) if kept and keeps_exact(run) else None
        decoded = latents if before is None else mx.concatenate([before, latents], axis=1)
        chunks = stack.enter_context(open_decoder(run))(decoded)
        pass_earlier(joined, run)
        total = pixel_frames(decoded.shape[1], run.config.vae.stride[0])
        yield from pass_frames(chunks, [*joined, *own], run, total, exact)


def keeps_exact(run: Run) -> bool:
    """Whether the next part reads frames of this one as they leave the decoder."""
    way = run.variant.continuation
    return way is not None and way.is_exact and run.plan.geometry.output_scale == 1


@contextmanager
def open_decoder(run: Run) -> Iterator[Callable[[mx.array], Iterable[mx.array | TilesDecoded]]]:
    """What turns latents [C, T, H, W] into chunks of frames: the VAE, or the tiny decoder."""
    if run.request.decoder == "tiny":
        with use_tiny_decoder(run) as tiny:
            yield partial(decode_tiny, tiny)
    else:
        with use_vae(run, "decoder") as vae:
            yield partial(_decode_whole_or_tiled, run, vae)


def _decode_whole_or_tiled(run: Run, vae: WanVAE, latents: mx.array) -> Iterator[mx.array | TilesDecoded]:
    tile = run.plan.memory.decode_tile
    _, _, height, width = latents.shape
    pace = choose_pace(height, width, tile, run.limits if on_gpu() else None)
    decode = run.sharing.decode if run.sharing else decode_chunks
    return decode(vae, latents, tile=tile, latents_per_push=pace.latents_per_push, parts=pace.parts)


def pass_earlier(sinks: Sequence[FrameSink], run: Run) -> None:
    """Give the frames of the video that a run goes on from to every sink."""
    if run.earlier:
        for frame in run.earlier.frames(run.plan.geometry):
            for sink in sinks:
                sink.write(frame[None])


def pass_frames(
    chunks: Iterable[mx.array | Event],
    sinks: Sequence[FrameSink],
    run: Run,
    total: int,
    exact: ExactFrames | None = None,
) -> Iterator[Event]:
    """Give the new ones of each chunk of frames to every sink, and to `exact` as they are.

    Args:
        chunks: [f, H, W, 3] in [-1, 1], and events on their way.
        sinks: in their order.
        run: what is being made.
        total: frames of all chunks.
        exact: takes frames as they leave the decoder; None for nothing.

    Yields:
        The events, and one for each chunk.
    """
    done = 0
    new_frames = NewFrames(run, total)
    to_bytes = to_uint8_rounded if total == 1 else to_uint8  # a single frame is a picture, not a video
    for chunk in chunks:
        if not isinstance(chunk, mx.array):
            yield chunk
            continue
        frames, new = to_bytes(chunk), new_frames.take(len(chunk))
        fresh = new_frames.match(frames, new)
        for sink in sinks:
            sink.write(fresh)
        if exact:
            exact.write(np.array(chunk[new], np.float32))
        done += len(frames)
        yield FramesDecoded(done, total)


def find_sound_track(run: Run) -> SoundTrack | None:
    """What is heard in the video; None for nothing."""
    path = run.request.input_audio
    return None if path is None else SoundTrack(path, count_all_frames(run) / run.plan.fps)


@contextmanager
def open_all_sinks(run: Run, sinks: Sequence[FrameSink]) -> Iterator[list[FrameSink]]:
    """These sinks and the files that the request names; an error discards what is in these."""
    with ExitStack() as stack:
        yield [*sinks, *(stack.enter_context(sink) for sink in open_sinks(run))]


def open_sinks(run: Run) -> Iterator[FrameWriter]:
    """The files that the request names, opened for writing."""
    request, settings = run.request, run.settings()
    width, height = run.plan.geometry.output_size
    if request.video_path:
        yield open_video_writer(
            request.video_path, width, height, run.plan.fps, settings, find_sound_track(run)
        )
    if request.frames_path:
        yield FrameFolderWriter(request.frames_path, width, height, settings)


DECODE = Stage(
    "decode",
    decode_video,
    takes=("latents", "latents_before", "sinks"),
    is_needed=lambda run, latents, before, sinks: run.request.output_type != "latent",
)
