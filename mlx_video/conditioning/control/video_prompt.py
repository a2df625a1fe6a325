"""A reference video as a prompt: what the reference stream of a mixture of transformers reads."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import mlx.core as mx
import numpy as np

from mlx_video.conditioning.clips import ReadFrames, encode_frames
from mlx_video.conditioning.frames import Encoding, FrameEncoder, concat_frames
from mlx_video.conditioning.units import ConditioningUnit, Encoders, Fields, UnitInputs, Work
from mlx_video.media.fit import fit_frame
from mlx_video.media.resize import centre_crop, resize_lanczos, to_unit_range
from mlx_video.models.block_context import CrossAttentionCache, Pass, PromptTokens
from mlx_video.models.control.mot import MoTHook, MoTTransformer
from mlx_video.models.transformer import WanTransformer

VAP_VIDEO = "vap_video"
CLIP_SIDE = 224
"""Pixels of the square that CLIP sees."""


@dataclass(frozen=True, slots=True)
class ReferencePrompts:
    """Captions of the reference video beside the prompts of each pass.

    Attributes:
        context: text features of the caption, [n, text_dim].
        negative_context: those of the negative pass; None where there is no such pass.
    """

    context: mx.array
    negative_context: mx.array | None = None

    def __call__(self, transformer: WanTransformer, one: Pass) -> Pass:
        """The pass with the caption, at the expert's width; what it sees of the video comes later."""
        context = self.negative_context if one.is_negative else self.context
        if context is None:
            raise ValueError("the pass reads a negative prompt, but the reference has no negative caption")
        expert = cast(MoTTransformer, transformer).mot_ref
        caption = PromptTokens(expert.embed_text(context))
        return replace(one, text=replace(one.text, reference=caption))


@dataclass(frozen=True, slots=True)
class ReferenceVideo:
    """A reference video beside each pass, behind its caption.

    Attributes:
        latents: as an image-to-video model's input, [36, T, h, w].
        image_tokens: CLIP features of its first frame, or of its first and last, [K, image_dim].
    """

    latents: mx.array
    image_tokens: mx.array

    def __call__(self, transformer: WanTransformer, one: Pass) -> Pass:
        """The pass with the stream of the reference."""
        network = cast(MoTTransformer, transformer)
        assert one.text.reference is not None  # the captions come first
        image = CrossAttentionCache(network.mot_ref.img_emb(self.image_tokens))
        prompt = replace(one.text.reference, image=image)
        return replace(one, hooks=(*one.hooks, MoTHook(network, self.latents, prompt)))


def clip_view(pixels: np.ndarray, size: int = CLIP_SIDE) -> np.ndarray:
    """What CLIP sees of a picture: the middle square of it, its short side resized first.

    Args:
        pixels: uint8 [H, W, 3].
        size: of the square's side.

    Returns:
        float32 [size, size, 3] in [-1, 1].

    Source: bytedance/Video-As-Prompt diffusers pipeline_wan_i2v_mot.py, encode_image; transformers
    CLIPImageProcessor.
    """
    height, width = pixels.shape[:2]
    short = min(height, width)
    # The long side is cut off, not rounded, as by the processor.
    rows, columns = int(size * height / short), int(size * width / short)
    return to_unit_range(centre_crop(fit_frame(pixels, rows, columns, "stretch"), size, size))


def _encode_captions(inputs: UnitInputs, encoders: Encoders) -> Work[Fields]:
    features = yield from encoders.encode_texts(inputs.reference_prompts)
    return {"captions_add_on": ReferencePrompts(*features)}


REFERENCE_PROMPTS = ConditioningUnit("reference prompts", "text", ("captions_add_on",), _encode_captions)
"""Captions of the reference video; their add-on acts before that of :data:`REFERENCE_VIDEO`."""


def _make_image_tokens(inputs: UnitInputs, encoders: Encoders) -> Work[Fields]:
    yield from ()  # the image encoder reports nothing
    return {"image_tokens": _encode_views(encoders, _given(inputs))}


IMAGE_VIEWS = ConditioningUnit("image views", "image", ("image_tokens",), _make_image_tokens)
"""CLIP features of the images, of which it sees the middle square."""


def _make_given_frames(inputs: UnitInputs, encoders: Encoders) -> Work[Fields]:
    with encoders.open_vae() as encode:
        channels = yield from _encode_given(inputs, encode, _given(inputs))
        mx.eval(channels)
    return {"concat_latents": channels}


SQUASHED_FRAMES = ConditioningUnit("squashed frames", "image", ("concat_latents",), _make_given_frames)
"""Channels of the given frames, squashed into the video's size with Pillow's Lanczos filter."""


def _make_reference(inputs: UnitInputs, encoders: Encoders) -> Work[Fields]:
    read, geometry = inputs.videos[VAP_VIDEO], inputs.geometry
    ends = _ends_of(read, count=len(inputs.images))
    image_tokens = _encode_views(encoders, ends)
    with encoders.open_vae() as encode:
        squashed = (resize_lanczos(frame, geometry.height, geometry.width) for frame in read())
        latents = yield from encode_frames(encode, map(to_unit_range, squashed), geometry)
        channels = yield from _encode_given(inputs, encode, ends)
        latents = mx.concatenate([latents, channels])
        mx.eval(latents)
    return {"reference_video_add_on": ReferenceVideo(latents, image_tokens)}


REFERENCE_VIDEO = ConditioningUnit("reference video", "image", ("reference_video_add_on",), _make_reference)
"""The stream of a reference video: its latents, and its ends as the model is given those of the result."""


def _given(inputs: UnitInputs) -> list[np.ndarray]:
    """First and perhaps last frame, uint8, as the user gave them or cut to the video's shape."""
    return [*inputs.images.values()]


def _ends_of(read: ReadFrames, count: int) -> list[np.ndarray]:
    """First frame of a clip, and its last one where two are asked for, uint8."""
    frames = read()
    first = next(frames)
    return [first, deque(frames, maxlen=1)[0]] if count > 1 else [first]


def _encode_views(encoders: Encoders, pictures: Sequence[np.ndarray]) -> mx.array:
    """Image tokens of what CLIP sees of some pictures."""
    return encoders.encode_images([clip_view(picture) for picture in pictures])


def _encode_given(
    inputs: UnitInputs, encode: FrameEncoder, pictures: Sequence[np.ndarray]
) -> Encoding[mx.array]:
    """Mask and latents [20, T, h, w] of a clip that begins, and perhaps ends, with the pictures."""
    geometry = inputs.geometry
    frames = [
        mx.array(to_unit_range(resize_lanczos(picture, geometry.height, geometry.width)))[None]
        for picture in pictures
    ]
    return (yield from concat_frames(encode, frames, geometry))["concat_latents"]
