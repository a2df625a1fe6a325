"""The input stages: what the user gave becomes conditioning, each encoder in memory only for its part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import mlx.core as mx

from mlx_video.checkpoint.model_folder import ModelFolder
from mlx_video.conditioning.frames import cut_images
from mlx_video.conditioning.image_tokens import encode_images
from mlx_video.conditioning.text import PromptTokenizer, count_tokens, encode_prompt, load_tokenizer
from mlx_video.conditioning.types import Conditioning
from mlx_video.errors import CheckpointError
from mlx_video.events import Notice
from mlx_video.latents.encode import encode_video
from mlx_video.media.resize import to_unit_range
from mlx_video.memory.residency import resident
from mlx_video.pipeline.components import load_image_encoder, load_text_encoder, load_vae_encoder
from mlx_video.pipeline.run import Run, Work
from mlx_video.request import GenerateRequest


def encode_texts(run: Run) -> Work[Conditioning]:
    """Encode the prompt and, where guidance needs it, the negative prompt."""
    tokenizer = load_tokenizer(require_tokenizer(run.model), run.config.text_encoder.vocab_size)
    text_len = run.config.transformer.text_len
    yield from report_cut_texts(run.request, tokenizer, text_len)
    with resident(lambda: load_text_encoder(run.model, run.config)) as encoder:
        context = encode_prompt(encoder, tokenizer, run.request.prompt, text_len)
        negative = None
        if run.plan.negative_prompt is not None:
            negative = encode_prompt(encoder, tokenizer, run.plan.negative_prompt, text_len)
        mx.eval(context, negative)
    return Conditioning(context, negative)


def report_cut_texts(
    request: GenerateRequest, tokenizer: PromptTokenizer, max_tokens: int
) -> Iterator[Notice]:
    """Say so where the end of a text that the user wrote will not be read."""
    for name, text in (("prompt", request.prompt), ("negative prompt", request.negative_prompt)):
        count = count_tokens(tokenizer, text or "")
        if count > max_tokens:
            yield Notice(f"The {name} has {count} tokens, the model reads {max_tokens}: its end is left out.")


def require_tokenizer(model: ModelFolder) -> Path:
    """The folder's tokenizer.

    Raises:
        CheckpointError: it has none, as some folders of other tools.
    """
    if model.tokenizer is None:
        raise CheckpointError(
            f"{model.path}: has no tokenizer.json or spiece.model. Copy the files of google/umt5-xxl "
            f"from the original checkpoint into {model.path / 'tokenizer'}."
        )
    return model.tokenizer


def encode_frames(run: Run, conditioning: Conditioning) -> Work[Conditioning]:
    """Add what the transformer is told of the user's images."""
    yield from ()
    images = cut_images(run.images, run.plan.geometry, to_video=run.plan.crops_images)
    if run.config.transformer.image_dim is not None:
        with resident(lambda: load_image_encoder(run.model, run.config)) as encoder:
            tokens = encode_images(encoder, [to_unit_range(image) for image in images])
        conditioning = replace(conditioning, image_tokens=tokens)
    if run.variant.image_use is None:
        return conditioning
    with resident(lambda: load_vae_encoder(run.model, run.config)) as vae:
        frames = run.variant.image_use.condition(partial(encode_video, vae), images, run.plan.geometry)
        mx.eval(frames.concat_latents, frames.first_frame)
    return replace(conditioning, concat_latents=frames.concat_latents, first_frame=frames.first_frame)
