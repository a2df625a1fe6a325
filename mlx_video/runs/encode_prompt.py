"""A run that only encodes a prompt, and what tells whether another run may use it."""

from __future__ import annotations

from dataclasses import replace

from mlx_video.conditioning.disk_cache import identify_encoder
from mlx_video.conditioning.encoded_prompt import EncodedPrompt
from mlx_video.config import ModelConfig
from mlx_video.errors import RequestError
from mlx_video.events import Work
from mlx_video.geometry import measure, size_multiple
from mlx_video.layouts.model_folder import ModelFolder
from mlx_video.loading.session import Session
from mlx_video.planning.turns import turn
from mlx_video.request import GenerateRequest
from mlx_video.runs.decode_only import plan_decoding
from mlx_video.runs.device_check import with_safe_limits
from mlx_video.runs.generate import within_limits
from mlx_video.runs.inputs import (
    caches_of,
    number_texts,
    open_tokenizer,
    recall_or_encode,
    report_cut_texts,
    unit_inputs,
    with_tokenizer,
)
from mlx_video.runs.memory import with_text_plan
from mlx_video.runs.networks import make_room
from mlx_video.runs.run import Run
from mlx_video.runs.stages.stage import timed
from mlx_video.variants.registry import find_variant


@turn()
def prepare_encoding(
    request: GenerateRequest, model: ModelFolder, config: ModelConfig, session: Session
) -> Run:
    """A run of which only the stage of the texts is done; it needs no other input of the model.

    Raises:
        CheckpointError: the folder has no tokenizer, or a file is damaged.
        MemoryBudgetError: the text encoder needs more than there is.
        DeviceError: an operation of the device gives wrong numbers, and there is no other way.
    """
    vae, patch_size = config.vae, config.transformer.patch_size
    width, height = size_multiple(vae.stride, patch_size)
    # The smallest video: no text depends on its size.
    geometry = measure(width, height, 1, z_dim=vae.z_dim, stride=vae.stride, patch_size=patch_size)
    asked = request.negative_prompt
    negative = config.sampling.negative_prompt if asked is None else asked
    plan = replace(plan_decoding(geometry, config), negative_prompt=negative)
    run = Run(model, config, find_variant(config), request, plan, session=session)
    return with_text_plan(with_safe_limits(with_tokenizer(run)))


def encode_prompt(run: Run) -> Work[EncodedPrompt]:
    """Encode the prompt and the negative prompt of a run from :func:`prepare_encoding`."""
    yield from run.plan.notices
    return (yield from within_limits(run, timed("text", _encode(run))))


def _encode(run: Run) -> Work[EncodedPrompt]:
    make_room(run)
    tokenizer, texts = open_tokenizer(run), unit_inputs(run).prompts
    yield from report_cut_texts(run.request, tokenizer, run.config.transformer.text_len)
    numbered = number_texts(run, tokenizer, texts)
    features = yield from recall_or_encode(run, numbered, caches_of(run))
    return EncodedPrompt(
        prompt=run.request.prompt,
        negative_prompt=run.request.negative_prompt,
        texts=texts,
        features=dict(zip(map(tuple, numbered), features, strict=True)),
        encoder=identify_encoder(run.model.text_encoder, run.config.text_encoder),
        model=run.model.path,
    )


def with_encoded(run: Run, encoded: EncodedPrompt) -> Run:
    """A run that takes its texts from an encoded prompt, and so loads no text encoder.

    Raises:
        RequestError: it was made by another text encoder or tokenizer, or without the run's negative prompt.
    """
    if run.finished_latents is not None:
        return run
    again = f"Encode it with this model: pipe.encode({encoded.prompt!r})."
    if encoded.encoder != identify_encoder(run.model.text_encoder, run.config.text_encoder):
        raise RequestError(
            "prompt",
            f"was encoded by the text encoder of {encoded.model}; that of {run.model.path} is another. "
            f"{again}",
        )
    texts = unit_inputs(run).prompts
    for text, numbers in zip(texts, number_texts(run, open_tokenizer(run), texts), strict=True):
        if text not in encoded.texts:
            raise RequestError(
                "negative_prompt",
                f"{text!r} is not among the texts that were encoded, {', '.join(map(repr, encoded.texts))}. "
                "Give it to pipe.encode as negative_prompt too.",
            )
        if encoded.load(numbers) is None:
            raise RequestError(
                "prompt",
                f"was encoded with the tokenizer of {encoded.model}, for which {text!r} is other tokens than "
                f"for that of {run.model.path}. {again}",
            )
    return replace(run, texts=encoded)
