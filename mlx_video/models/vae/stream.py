"""Frames of a clip sent through causal layers chunk by chunk, and what the layers keep in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import mlx.core as mx
import mlx.nn as nn

from mlx_video.models.vae.convolutions import split_frames

# Frames taken at a time by each of the four resolutions, in the order they are met.
FRAME_BY_FRAME = (1, 1, 1, 1)


class StreamState:
    """State that the layers of one network keep of the frames of one clip.

    Every clip, batch and tile gets a fresh one; a network holds no state itself. Kept frames cost the same
    for a clip of any length. Layers are told apart by identity, so the network must outlive its states.
    """

    def __init__(self) -> None:
        self._kept: dict[int, list[mx.array]] = {}
        self._size: tuple[int, ...] | None = None

    def admit(self, x: mx.array) -> None:
        """Refuse frames that cannot continue this stream.

        Args:
            x: [B, T, H, W, C], as pushed.

        Raises:
            ValueError: batch, height, width or channels differ from the first push.
        """
        size = (x.shape[0], *x.shape[2:])
        if self._size not in (None, size):
            raise ValueError(
                f"frames [B, H, W, C] = {list(size)} pushed into a stream of {list(self._size or ())}. "
                "Start a new StreamState for every clip."
            )
        self._size = size

    def has_seen(self, layer: nn.Module) -> bool:
        """Whether the layer kept anything of this stream, be it no frame."""
        return id(layer) in self._kept

    def recall(self, layer: nn.Module) -> list[mx.array]:
        """Frames [B, 1, H, W, C] that the layer kept, oldest first."""
        return self._kept.get(id(layer), [])

    def keep(self, layer: nn.Module, frames: Sequence[mx.array]) -> None:
        """Replace what the layer keeps."""
        # contiguous: a view of one frame would hold the memory of all frames it was cut from.
        self._kept[id(layer)] = [mx.contiguous(frame) for frame in frames]

    def evaluate(self, x: mx.array | None) -> None:
        """Compute `x` and all kept frames now, so that the graph does not grow with the clip."""
        mx.eval(x, list(self._kept.values()))

    def nbytes(self) -> int:
        """Bytes of all kept frames."""
        return sum(frame.nbytes for frames in self._kept.values() for frame in frames)


Layer = Callable[[mx.array, StreamState], mx.array | None]
Crop = tuple[slice, slice]  # rows, columns


def run_layers(layers: Sequence[Layer], x: mx.array, state: StreamState) -> mx.array | None:
    """Run layers one after another, each computed before the next begins.

    Args:
        layers: take [B, T, H, W, C] and the state; give frames, or None while they wait for more.
        x: [B, T, H, W, C].
        state: of this stream.

    Returns:
        What the last layer gave.
    """
    result: mx.array | None = x
    del x  # else the input would live as long as the layers run
    for layer in layers:
        if result is None:
            break
        result = layer(result, state)
        state.evaluate(result)
    return result


def run_stages(
    stages: Sequence[Sequence[Layer]], x: mx.array, parts: Sequence[int], state: StreamState
) -> Iterator[mx.array]:
    """Send frames through all stages part by part, each part to the end before the next begins.

    All layers are causal, so the order changes no value; large frames are held a part at a time.

    Args:
        stages: each a row of layers; the last ones may work at the highest resolution, or the first.
        x: [B, T, H, W, C].
        parts: for each stage, how many frames of its input to take at a time.
        state: of this stream.

    Yields:
        Output [B, T, H, W, C] in order of time.
    """
    if not stages:
        yield x
        return
    for part in split_frames(x, parts[0]):
        y = run_layers(stages[0], part, state)
        if y is not None:
            yield from run_stages(stages[1:], y, parts[1:], state)


def crop_stages(stages: Sequence[Sequence[Layer]], crops: Sequence[Crop]) -> list[Sequence[Layer]]:
    """Let each stage end with cutting out a part of the frames it gives.

    Args:
        stages: for :func:`run_stages`.
        crops: rows and columns for each stage; empty to leave the stages as they are.
    """
    if not crops:
        return list(stages)
    return [[*layers, _cropping(crop)] for layers, crop in zip(stages, crops, strict=True)]


def _cropping(crop: Crop) -> Layer:
    rows, columns = crop
    # contiguous: what is cut off would stay in memory with the view.
    return lambda x, state: mx.contiguous(x[:, :, rows, columns])
