"""Previews of a run: what a step takes for the clean latents, as small frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import mlx.core as mx

from mlx_video.errors import MLXVideoError
from mlx_video.events import Notice, PreviewMade
from mlx_video.latents.colours import LatentColours
from mlx_video.latents.decode import to_uint8
from mlx_video.latents.tiny_decode import decode_tiny
from mlx_video.layouts.components import TINY_VAE
from mlx_video.media.preview_file import write_preview
from mlx_video.models.vae.tiny import PREVIEW, TinyDecoder
from mlx_video.runs.networks import use_tiny_decoder
from mlx_video.runs.run import Run

Show = Callable[[mx.array], mx.array]
"""Clean latents [C, T, H, W] → frames [T, h, w, 3] in [-1, 1]."""


@dataclass(frozen=True, slots=True)
class Previews:
    """Previews of one run.

    Attributes:
        run: what is being made.
        show: makes the frames; None where none are asked for.
    """

    run: Run
    show: Show | None

    def is_due(self, index: int) -> bool:
        """Whether there is a preview after a step, counted from 0."""
        done = index + 1
        is_turn = done == self.run.plan.steps or done % self.run.request.preview_every == 0
        return self.show is not None and is_turn

    def report(self, index: int, clean: mx.array) -> Iterator[PreviewMade | Notice]:
        """Show clean latents [C, T, H, W] after a step. What goes wrong with it does not end the run."""
        assert self.show is not None  # else none is due
        plan, preview = self.run.plan, self.run.request.preview
        path = preview if isinstance(preview, Path) else None
        try:
            frames = to_uint8(self.show(clean))
            fps = plan.fps / self.run.config.vae.stride[0]
            if path:
                write_preview(path, frames, fps, self.run.settings())
        except MLXVideoError as error:
            yield Notice(f"No preview of step {index + 1}. {error}")
        else:
            yield PreviewMade(index, plan.steps, frames, fps, path)


def takes_tiny_decoder(run: Run) -> bool:
    """Whether previews come from the tiny decoder: where the model has one."""
    return run.request.preview is not None and TINY_VAE.name in run.model.parts


@contextmanager
def open_previews(run: Run, colours: LatentColours | None) -> Iterator[Previews]:
    """The previews of a run; a tiny decoder is in memory as long as the context is open.

    Args:
        run: what is being made.
        colours: of its latents; None where no preview is asked for, or the tiny decoder makes them.
    """
    if not takes_tiny_decoder(run):
        yield Previews(run, colours)
        return
    with use_tiny_decoder(run) as decoder:
        yield Previews(run, partial(_decode_small, decoder))


def _decode_small(decoder: TinyDecoder, latents: mx.array) -> mx.array:
    return mx.concatenate(list(decode_tiny(decoder, latents, PREVIEW)))
