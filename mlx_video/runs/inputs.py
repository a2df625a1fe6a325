"""The input stages: what the user gave becomes conditioning, each encoder in memory only for its part."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import repeat
from pathlib import Path
from types import MappingProxyType

import mlx.core as mx
import numpy as np

from mlx_video.conditioning.clips import ReadMasks
from mlx_video.conditioning.continuation.part import WHOLE as AT_ONCE
from mlx_video.conditioning.continuation.part import Part
from mlx_video.conditioning.control.units import COMMON_UNITS
from mlx_video.conditioning.disk_cache import TextStore, open_prompt_cache
from mlx_video.conditioning.frames import Encoding, FrameEncoder, cut_images
from mlx_video.conditioning.image_tokens import encode_images
from mlx_video.conditioning.longcat import TAIL_FRAMES
from mlx_video.conditioning.sources import SOURCE_VIDEO, check_source
from mlx_video.conditioning.speech.sound import encode_sound
from mlx_video.conditioning.text import PromptTokenizer, count_tokens, load_tokenizer, number_prompt
from mlx_video.conditioning.units import ConditioningUnit, UnitInputs
from mlx_video.errors import CheckpointError, MediaError, RequestError
from mlx_video.events import BlocksRead, Event, FramesEncoded, Notice, Work, finish, with_events
from mlx_video.geometry import VideoGeometry, latent_frames
from mlx_video.hub.fetch import TOKENIZER_REPOSITORY, fetch_tokenizer
from mlx_video.latents.encode import encode_chunks
from mlx_video.layouts.model_folder import ModelFolder
from mlx_video.loading.open_parts import open_text_encoder
from mlx_video.loading.streamed_text_encoder import encode_resident, encode_streamed
from mlx_video.media.control.mask_check import check_masks
from mlx_video.media.fit import fit_frame, fit_mask
from mlx_video.media.sources.last_frames import read_last_frames
from mlx_video.media.sources.pick_frames import Picking, pick_frames
from mlx_video.media.sources.source_video import SourceVideo
from mlx_video.models.vae.autoencoder import WanVAE
from mlx_video.planning.choices import TEXT_ENCODER
from mlx_video.request import FRAME_INPUTS, INPUTS, GenerateRequest, flag_of, options_of
from mlx_video.request.choices import InputKind
from mlx_video.runs.networks import (
    is_kept,
    use_audio_encoder,
    use_image_encoder,
    use_motion_controller,
    use_text_encoder,
    use_vae,
)
from mlx_video.runs.run import Run
from mlx_video.runs.settings import RunPlan
from mlx_video.variants.variant import Variant

Texts = Sequence[Sequence[int]]
WHOLE: InputKind = "whole video"
"""Kind of input of which all is used, however long it is."""


def unit_inputs(run: Run) -> UnitInputs:
    """What a run gives its conditioning units."""
    negative = run.plan.negative_prompt
    images = {name: run.images[name] for name in FRAME_INPUTS if name in run.images}
    geometry, fit = run.plan.geometry, run.request.fit
    cut = cut_images([*images.values()], geometry, to_video=run.plan.crops_images, fit=fit) if images else ()
    return UnitInputs(
        (run.request.prompt,) if negative is None else (run.request.prompt, negative),
        geometry,
        run.config,
        dict(zip(images, cut, strict=True)),
        originals=run.images,
        videos={
            name: partial(_READERS.get(INPUTS[name], _fit_frames), run, name)
            for name in _find_videos_that_count(run)
        },
        masks={name: partial(_fit_masks, run, name) for name in run.videos if INPUTS[name] == "mask"},
        pictures=run.pictures,
        footage={name: video for name, video in run.videos.items() if INPUTS[name] == "footage"},
        options={name: getattr(run.request, name) for name in options_of(type(run.request))},
        reference_prompts=_reference_prompts(run),
        part=run.part,
    )


def _reference_prompts(run: Run) -> tuple[str, ...]:
    """What the user says that a reference video shows, and what the negative pass says of it."""
    request, negative = run.request, run.plan.negative_prompt
    if request.vap_prompt is None:
        return ()
    own = request.negative_vap_prompt
    return (request.vap_prompt, *(() if negative is None else (negative if own is None else own,)))


def needed_units(run: Run) -> tuple[ConditioningUnit, ...]:
    """The conditioning units that work in a run."""
    inputs = unit_inputs(run)
    return tuple(unit for unit in (*run.variant.units, *COMMON_UNITS) if unit.is_needed(inputs))


def encodes_frames(run: Run) -> bool:
    """Whether the VAE's encoder works in a run; control models read what it makes of absent inputs too."""
    blocks = run.plan.blocks
    return (blocks is not None and blocks.encodes) or encodes_inputs(run)


def encodes_inputs(run: Run) -> bool:
    """Whether the VAE's encoder works before the first step."""
    return any(unit.stage == "image" for unit in needed_units(run))


def _find_videos_that_count(run: Run) -> Iterator[str]:
    """Names of the given videos, without one that is begun with and of which nothing would stay."""
    for name in run.videos:
        if INPUTS[name] not in ("mask", "footage") and (
            name != "input_video" or run.request.denoising_strength < 1
        ):
            yield name


def find_picking(request: GenerateRequest, plan: RunPlan, name: str, part: Part = AT_ONCE) -> Picking:
    """Which frames of a given video a run takes, from where its part lies."""
    return Picking(
        name,
        plan.geometry.num_frames,
        plan.fps,
        request.video_fps,
        INPUTS[name] == WHOLE,
        part.first_frame,
        part.turns_back_at,
    )


def _pick_whole(run: Run, name: str) -> Iterator[np.ndarray]:
    """Frames of a given video at even distances from its first to its last, as they are, uint8 [H, W, 3]."""
    yield from pick_frames(run.videos[name], find_picking(run.request, run.plan, name))


def _fit_frames(run: Run, name: str) -> Iterator[np.ndarray]:
    """Frames of a given video at the rate and size of the video that is made, uint8 [H, W, 3]."""
    width, height = size_of_input(run.variant, run.plan.geometry, name)
    for frame in pick_frames(run.videos[name], find_picking(run.request, run.plan, name, run.part)):
        yield fit_frame(frame, height, width, run.request.fit)


def size_of_input(variant: Variant, geometry: VideoGeometry, name: str) -> tuple[int, int]:
    """Width and height that the frames of a given video are brought to."""
    return variant.inputs.own_sizes.get(name, (geometry.width, geometry.height))


def _cut_tail(run: Run, name: str) -> Iterator[np.ndarray]:
    """Last frames of a given video at the rate of the video that is made, cut to what it shows."""
    request, plan = run.request, run.plan
    frames = _read_tail(request, plan, run.videos[name])
    to_video = bool(request.width or request.height)
    return iter(cut_images(frames, plan.geometry, to_video=to_video, fit=request.fit))


def _read_tail(request: GenerateRequest, plan: RunPlan, video: SourceVideo) -> tuple[np.ndarray, ...]:
    stride = plan.geometry.frames_of_latent
    return read_last_frames(
        video, request.continue_frames or TAIL_FRAMES, stride, plan.fps, request.video_fps
    )


def check_tail(request: GenerateRequest, plan: RunPlan, name: str, video: SourceVideo) -> RunPlan:
    """Read a video whose last frames are taken; gives the plan with their number.

    Raises:
        RequestError: the video to be made has no frame besides these.
        MediaError: it cannot be read.
    """
    taken, wanted = len(_read_tail(request, plan, video)), plan.geometry.num_frames
    if taken >= wanted:
        raise RequestError(
            "num_frames",
            f"{wanted}: the last {taken} frames of {flag_of(name)} leave none to make. Ask for more.",
        )
    notice = Notice(f"{video.name}: the video begins with its last {taken} frames.")
    given = latent_frames(taken, plan.geometry.frames_of_latent)
    return replace(plan, notices=(*plan.notices, notice), tail_frames=given)


def check_footage(request: GenerateRequest, plan: RunPlan, name: str, video: SourceVideo) -> None:
    """Refuse a video to edit that is too short; raises as `sources.check_source`."""
    if name == SOURCE_VIDEO:
        check_source(video, plan.geometry.num_frames, request.video_fps, plan.fps)


def _read_all(run: Run, name: str) -> Iterator[np.ndarray]:
    """All frames of a given video one by one, as they are, uint8 [H, W, 3]."""
    return (frame for frame, _ in run.videos[name].read())


_READERS: Mapping[InputKind, Callable[[Run, str], Iterator[np.ndarray]]] = MappingProxyType(
    {WHOLE: _pick_whole, "tail": _cut_tail, "all frames": _read_all}
)
"""Kind of input → how its frames are read, where that is in a way of its own."""


def _fit_masks(run: Run, name: str) -> Iterator[np.ndarray]:
    """Frames of a given mask likewise, bool [H, W]; one picture serves all frames."""
    geometry = run.plan.geometry
    video, picking = run.videos[name], find_picking(run.request, run.plan, name, run.part)
    frames = pick_frames(video, picking)
    if video.is_still:
        ((picture, _),) = video.read()
        frames = repeat(picture, geometry.num_frames)
    for frame in frames:
        yield fit_mask(frame, geometry.height, geometry.width, run.request.fit)


def check_given_masks(masks: Mapping[str, ReadMasks]) -> Iterator[Event]:
    """Say which masks are of one colour throughout; each is read up to the first frame that tells.

    Args:
        masks: name of the input → its frames.
    """
    for name, read in masks.items():
        yield from check_masks(flag_of(name), read())


class ModelEncoders:
    """The `conditioning.units.Encoders` of a run: each is in memory while it works, or longer if planned."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def encode_texts(self, texts: Sequence[str]) -> Work[list[mx.array]]:
        """Encode texts, or take them from the cache of encoded prompts, to features [n, text_dim]."""
        run = self._run
        tokenizer = open_tokenizer(run)
        yield from report_cut_texts(run.request, tokenizer, run.config.transformer.text_len)
        return (yield from recall_or_encode(run, number_texts(run, tokenizer, texts), caches_of(run)))

    def encode_images(self, images: Sequence[np.ndarray]) -> mx.array:
        """Encode images, float32 [H, W, 3] in [-1, 1], to image tokens [K, image_dim]."""
        with use_image_encoder(self._run) as encoder:
            return encode_images(encoder, images)

    def encode_motion(self, motion_bucket_id: float) -> mx.array:
        """Encode how much moves to an addition to the modulation, [6, dim], evaluated."""
        with use_motion_controller(self._run) as controller:
            added = controller(motion_bucket_id)
            mx.eval(added)
        return added

    def encode_sound(self, first_frame: int, num_frames: int) -> mx.array:
        """Encode the sound of some frames to features [layers, num_frames, width], evaluated."""
        assert self._run.sound is not None  # the unit that asks for it needs one
        with use_audio_encoder(self._run) as encoder:
            return encode_sound(encoder, self._run.sound, first_frame, num_frames)

    @contextmanager
    def open_vae(self) -> Iterator[FrameEncoder]:
        """Open the VAE's encoder for the length of a `with` block."""
        with use_vae(self._run, "encoder") as vae:
            yield partial(encode_clip, vae, self._run.plan.memory.encode_tile)


def open_tokenizer(run: Run) -> PromptTokenizer:
    """The tokenizer of a run's model; raises as `load_tokenizer`."""
    return load_tokenizer(require_tokenizer(run.model), run.config.text_encoder.vocab_size)


def number_texts(run: Run, tokenizer: PromptTokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Texts as token numbers, as long as the model reads them."""
    return [number_prompt(tokenizer, text, run.config.transformer.text_len) for text in texts]


def caches_of(run: Run) -> list[TextStore]:
    """Where the encoded texts of a run may be found, and are kept."""
    own: list[TextStore] = [] if run.texts is None else [run.texts]
    if not run.request.prompt_cache:
        return own
    return [*own, open_prompt_cache(run.model.text_encoder, run.config.text_encoder)]


def recall_or_encode(run: Run, texts: Texts, caches: Sequence[TextStore]) -> Work[list[mx.array]]:
    """Take texts from the first cache that has them; encode those that none has, and keep them in each."""
    known = [recall(text, caches) for text in texts]
    missing = [text for text, found in zip(texts, known, strict=True) if found is None]
    fresh = (yield from run_text_encoder(run, missing)) if missing else []
    yield from keep_texts(missing, fresh, caches)
    encoded = iter(fresh)
    return [next(encoded) if found is None else found for found in known]


def recall(text: Sequence[int], caches: Sequence[TextStore]) -> mx.array | None:
    """Features of a text in the first cache that has them; None where none does."""
    return next((found for cache in caches if (found := cache.load(text)) is not None), None)


def keep_texts(texts: Texts, features: Sequence[mx.array], caches: Sequence[TextStore]) -> Iterator[Notice]:
    """Keep encoded texts in every cache; one that takes nothing is reported, and ends no run."""
    for cache in caches:
        try:
            for text, encoded in zip(texts, features, strict=True):
                cache.store(text, encoded)
        except MediaError as error:
            yield Notice(f"The encoded prompt is not kept for later runs. {error}")


def run_text_encoder(run: Run, texts: Texts) -> Work[list[mx.array]]:
    """Encode texts given as token numbers to features [n, text_dim] each, evaluated.

    The encoder is in memory as a whole only where it stays there for the next run.
    """
    config = run.config.text_encoder

    def report_block(done: int) -> Iterator[BlocksRead]:
        yield BlocksRead(done, config.num_layers)

    if is_kept(run, TEXT_ENCODER):
        with use_text_encoder(run) as encoder:
            return (yield from with_events(encode_resident(encoder, texts), report_block))
    with open_text_encoder(run.model.text_encoder) as source:
        # It reads ahead on a thread, which has ended before the file is closed.
        return (yield from with_events(encode_streamed(source, config, texts), report_block))


def report_cut_texts(
    request: GenerateRequest, tokenizer: PromptTokenizer, max_tokens: int
) -> Iterator[Notice]:
    """Say so where the end of a text that the user wrote will not be read."""
    texts = {
        "prompt": request.prompt,
        "negative prompt": request.negative_prompt,
        "text of --vap-prompt": request.vap_prompt,
        "text of --negative-vap-prompt": request.negative_vap_prompt,
    }
    for name, text in texts.items():
        count = count_tokens(tokenizer, text or "")
        if count > max_tokens:
            yield Notice(f"The {name} has {count} tokens, the model reads {max_tokens}: its end is left out.")


def require_tokenizer(model: ModelFolder) -> Path:
    """The folder's tokenizer.

    Raises:
        CheckpointError: it has none, as some folders of other tools.
    """
    if model.tokenizer is None:
        raise CheckpointError(_describe_lack(model))
    return model.tokenizer


def with_tokenizer(run: Run) -> Run:
    """The run with a tokenizer: its model's, or the one of all Wan models, downloaded the first time.

    Raises:
        CheckpointError: the model has none, and none can be downloaded.
    """
    model = run.model
    if model.tokenizer is not None:
        return run
    reported: list[Event] = []
    try:
        tokenizer = finish(fetch_tokenizer(), reported.append)
    except CheckpointError as error:
        raise CheckpointError(f"{_describe_lack(model)} Downloading them failed. {error}") from error
    notices = tuple(event for event in reported if isinstance(event, Notice))
    if notices:
        taken = Notice(f"{model.path} has no tokenizer; took that of {TOKENIZER_REPOSITORY}.")
        notices = (taken, *notices)
    plan = replace(run.plan, notices=(*notices, *run.plan.notices))
    return replace(run, model=replace(model, tokenizer=tokenizer), plan=plan)


def report_missing_tokenizer(model: ModelFolder) -> Iterator[Notice]:
    """Say what a run will do about a tokenizer that the folder lacks."""
    if model.tokenizer is None:
        yield Notice(
            f"{model.path} has no tokenizer; a run takes that of {TOKENIZER_REPOSITORY}, downloaded the "
            "first time."
        )


def _describe_lack(model: ModelFolder) -> str:
    return (
        f"{model.path}: has no tokenizer.json or spiece.model, and --tokenizer names none. Copy the "
        f"files of {TOKENIZER_REPOSITORY} from the original checkpoint into {model.path / 'tokenizer'}."
    )


def encode_clip(
    vae: WanVAE, tile: int | None, frames: Iterable[mx.array], num_frames: int
) -> Encoding[mx.array]:
    """Encode chunks [f, H, W, 3] of a clip to [C, T, h, w]."""
    work = encode_chunks(vae, frames, tile=tile)
    return (yield from with_events(work, lambda done: [FramesEncoded(done, num_frames)]))
