"""Predicted peaks of the transformer and of both encoders against those that MLX counts, on the CPU backend.

A forward is compared without its weights, whose bytes are known: so that they cannot hide an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten, tree_map

from mlx_video.config import (
    FACE_SIZE,
    AudioEncoderConfig,
    FaceConfig,
    ImageEncoderConfig,
    TextEncoderConfig,
    TransformerConfig,
)
from mlx_video.formats.safetensors import SafetensorsFile
from mlx_video.formats.tensor_source import open_tensors
from mlx_video.geometry import VideoGeometry
from mlx_video.loading.block_stream import load_streamed
from mlx_video.loading.streamed_text_encoder import encode_streamed
from mlx_video.models.animate.animate import AnimateHook, AnimateTransformer
from mlx_video.models.animate.animate_memory import face_peak
from mlx_video.models.animate.motion_encoder import MotionEncoder
from mlx_video.models.block_context import BlockHook, Pass, PromptTokens, attend_plainly
from mlx_video.models.control.mot import MoTHook, MoTTransformer
from mlx_video.models.control.vace import VACEHook, VACETransformer
from mlx_video.models.dispatch import CPU_LIMITS, Limits, use_limits
from mlx_video.models.encoders.audio_encoder import Wav2Vec2Encoder
from mlx_video.models.encoders.image_encoder import CLIPImageEncoder
from mlx_video.models.encoders.image_encoder_memory import image_encoder_peak
from mlx_video.models.encoders.text_encoder import UMT5Encoder
from mlx_video.models.forward import BlockSource
from mlx_video.models.longcat.block_sparse import attend_in_blocks
from mlx_video.models.longcat.transformer import LongCatTransformer
from mlx_video.models.remembered_keys import RememberedKeys
from mlx_video.models.speech.motion_tokens import MOTION_LATENTS
from mlx_video.models.speech.speech_memory import audio_encoder_peak
from mlx_video.models.speech.transformer import SoundHook, SpeechInputs, SpeechTokens, SpeechTransformer
from mlx_video.models.transformer import WanTransformer
from mlx_video.models.transformer_memory import ForwardSize, forward_peak
from mlx_video.models.video_transformer import Part
from mlx_video.planning.stage_peaks import denoise_peak, text_peak, weight_bytes_in_use
from mlx_video.planning.weight_bytes import WeightBytes, weigh
from mlx_video.variants.animate import NETWORK as ANIMATE_NETWORK
from mlx_video.variants.longcat import NETWORK as LONGCAT_NETWORK
from mlx_video.variants.speech import S2V_14B
from mlx_video.variants.vace import NETWORK as VACE_NETWORK
from mlx_video.variants.video_as_prompt import VIDEO_AS_PROMPT
from mlx_video.weights.load import load_module
from mlx_video.weights.network import PLAIN, TransformerNetwork
from mlx_video.weights.quantize import is_quantized_layer
from tests.fixtures.generators import finish
from tests.fixtures.measured_peak import measured
from tests.models.networks import at

pytestmark = pytest.mark.slow

WITHIN = 0.15
# A busy machine may keep MLX from scheduling ahead for once, not every time.
STEPS = 3
# As many blocks as show the most; few channels at the ends, wide enough that tokens outweigh everything else.
NARROW = TransformerConfig(
    256, 1024, 2, num_layers=3, in_dim=4, out_dim=4, text_dim=64, text_len=64, freq_dim=64
)
WITH_IMAGE = replace(NARROW, image_dim=64)
LONGCAT = replace(NARROW, time_dim=32, model_type="longcat")
WITH_VACE = replace(NARROW, vace_layers=(0, 2), vace_in_dim=8)
WITH_REFERENCE = replace(WITH_IMAGE, mot_layers=(0, 2))
WITH_FACE = replace(
    WITH_IMAGE,
    face=FaceConfig(
        (0, 2), (1,) * 8, style_dim=8, num_directions=4, motion_dim=8, hidden_dim=8, num_heads=4, pose_dim=4
    ),
)
WITH_SOUND = replace(NARROW, audio_dim=32, audio_layers=(0, 2), pose_dim=4)
IMAGE_TOKENS = 257
# Cuts attention and feed-forward of so few tokens as the limits of a CPU cut those of a whole video.
CUTTING = replace(CPU_LIMITS, chunk_elements=2**18)
GRID = (1, 20, 24)
LATENT_SHAPE = (4, 1, 40, 48)
TWO_FRAMES = (4, 2, 20, 48)  # of as many tokens
TEXT = TextEncoderConfig(vocab_size=200, dim=256, dim_attn=256, dim_ffn=640, num_heads=4, num_layers=2)
AUDIO = AudioEncoderConfig(width=256, mlp_width=1024, num_heads=4, num_layers=3, conv_width=64)
IMAGE = ImageEncoderConfig(width=320, mlp_width=1280, num_heads=4, num_layers=2)


@dataclass(frozen=True)
class Case:
    """A forward whose peak is predicted."""

    config: TransformerConfig = NARROW
    dtype: mx.Dtype = mx.float32
    bits: int | None = None
    num_passes: int = 2
    streams: bool = False
    limits: Limits = CPU_LIMITS
    windows_at_once: int = 1
    num_frames: int = 1

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        channels, _, height, width = LATENT_SHAPE
        return channels, self.num_frames, height, width

    @property
    def network(self) -> TransformerNetwork:
        if self.config.face:
            # Encoding a face, which takes more than so few tokens, is compared below.
            return replace(ANIMATE_NETWORK, peak=forward_peak)
        if self.config.time_dim:
            return LONGCAT_NETWORK
        if self.config.mot_layers:
            return VIDEO_AS_PROMPT.network
        if self.config.audio_dim:
            return S2V_14B.network
        return VACE_NETWORK if self.config.vace_layers else PLAIN


CASES = {
    "one pass": Case(num_passes=1),
    "guided": Case(),
    "streamed": Case(streams=True),
    "streamed, one pass": Case(streams=True, num_passes=1),
    "streamed, three windows": Case(streams=True, windows_at_once=3),
    "4 bits": Case(bits=4),
    "4 bits, streamed": Case(bits=4, streams=True),
    "8 bits": Case(bits=8, num_passes=1),
    "bfloat16": Case(dtype=mx.bfloat16, num_passes=1),
    "bfloat16, 4 bits": Case(dtype=mx.bfloat16, bits=4, num_passes=1),
    "image": Case(WITH_IMAGE),
    "image, streamed": Case(WITH_IMAGE, streams=True),
    "VACE": Case(WITH_VACE),
    "VACE, streamed": Case(WITH_VACE, streams=True),
    "VACE, streamed, one pass": Case(WITH_VACE, streams=True, num_passes=1),
    "VACE, 4 bits, streamed": Case(WITH_VACE, bits=4, streams=True),
    "VACE, bfloat16": Case(WITH_VACE, dtype=mx.bfloat16, num_passes=1),
    "reference video": Case(WITH_REFERENCE),
    "reference video, streamed": Case(WITH_REFERENCE, streams=True),
    "reference video, 4 bits": Case(WITH_REFERENCE, bits=4, num_passes=1),
    "face": Case(WITH_FACE),
    "face, streamed, one pass": Case(WITH_FACE, streams=True, num_passes=1),
    "face, bfloat16": Case(WITH_FACE, dtype=mx.bfloat16, num_passes=1),
    "sound": Case(WITH_SOUND, num_frames=4),
    "sound, streamed": Case(WITH_SOUND, streams=True, num_frames=4),
    "sound, 4 bits": Case(WITH_SOUND, bits=4, num_passes=1, num_frames=4),
    "in chunks": Case(limits=CUTTING),
    "in chunks, 4 bits, streamed": Case(bits=4, streams=True, limits=CUTTING),
    "LongCat": Case(LONGCAT),
    "LongCat, streamed": Case(LONGCAT, streams=True),
    "LongCat, 4 bits, streamed": Case(LONGCAT, bits=4, streams=True),
    "LongCat, 8 bits": Case(LONGCAT, bits=8, num_passes=1),
    "LongCat, bfloat16": Case(LONGCAT, dtype=mx.bfloat16, num_passes=1),
    "LongCat, in chunks": Case(LONGCAT, limits=CUTTING),
    "wide feed-forward": Case(replace(NARROW, ffn_dim=2048, num_heads=1), num_passes=1),
}


def quantized_layers(network: nn.Module) -> Callable[[str, nn.Module], bool]:
    """Those that we quantize in a transformer, those that others do in a text encoder."""
    if isinstance(network, LongCatTransformer):
        return lambda name, _: LONGCAT_NETWORK.is_quantized(name)
    if isinstance(network, WanTransformer):
        return lambda name, _: is_quantized_layer(name)
    return lambda _, layer: isinstance(layer, nn.Linear)


def random_weights(network: nn.Module, path: Path, dtype: mx.Dtype, bits: int | None = None) -> Path:
    """A file of a network's weights in a type, or quantized."""
    mx.random.seed(0)
    arrays = tree_map(lambda p: (mx.random.normal(p.shape) * 0.02).astype(dtype), network.parameters())
    network.update(arrays)
    if bits:
        nn.quantize(network, bits=bits, class_predicate=quantized_layers(network))
    mx.save_safetensors(str(path), dict(tree_flatten(network.parameters())))
    return path


@contextmanager
def opened(case: Case, source: SafetensorsFile) -> Iterator[tuple[WanTransformer, BlockSource | None]]:
    """A transformer in memory, or one that reads its blocks."""
    transformer = case.network.build(case.config)
    assert isinstance(transformer, WanTransformer)
    order = case.network.block_order(case.config)
    if case.streams:
        with load_streamed(transformer, source, order, resident_blocks=0) as blocks:
            yield transformer, blocks
    else:
        load_module(transformer, source)
        yield transformer, None


def take_steps(case: Case, transformer: WanTransformer, blocks: BlockSource | None) -> None:
    """Some steps as the sampling loop makes them; the first one makes the keys and values of the prompts."""
    config = case.config
    image = mx.zeros((IMAGE_TOKENS, config.image_dim)) if config.image_dim else None
    prompts: list[PromptTokens] = []
    for _ in range(case.num_passes):
        shared = prompts[0].image if prompts else image
        prompts.append(transformer.project_text(mx.zeros((20, config.text_dim)), shared))
    hooks = [()] * case.num_passes
    if isinstance(transformer, VACETransformer):
        context, scales = mx.zeros((config.vace_in_dim, *LATENT_SHAPE[1:])), (1.0,) * len(config.vace_layers)
        hooks = [(VACEHook(transformer, context, scales),) for _ in prompts]
    if isinstance(transformer, MoTTransformer):
        assert image is not None
        expert, video = transformer.mot_ref, mx.zeros((config.in_dim, *LATENT_SHAPE[1:]))
        captions = [expert.project_text(mx.zeros((20, config.text_dim)), image) for _ in prompts]
        hooks = [(MoTHook(transformer, video, caption),) for caption in captions]
    shape = case.latent_shape
    if isinstance(transformer, SpeechTransformer):
        hooks = [speech_hooks(transformer, case) for _ in prompts]
    if isinstance(transformer, AnimateTransformer):
        shape, poses = TWO_FRAMES, mx.zeros((4, 1, *TWO_FRAMES[2:]))
        hooks = [(AnimateHook(transformer, poses, mx.zeros((2, 5, config.dim))),) for _ in prompts]
    passes = [Pass(prompt, own) for prompt, own in zip(prompts, hooks, strict=True)]
    part = Part(mx.zeros(shape), passes)
    for _ in range(STEPS):
        mx.eval(transformer.predict_parts([part] * case.windows_at_once, at(500.0), block_source=blocks))


def speech_hooks(transformer: SpeechTransformer, case: Case) -> tuple[BlockHook, ...]:
    """A clip with everything beside it."""
    channels, frames, *sides = case.latent_shape
    shapes = [(channels, count, *sides) for count in (frames, 1, MOTION_LATENTS)]
    sound = transformer.sound_encoder(mx.ones((25, 4 * frames, case.config.audio_dim)), 73)
    mx.eval(sound.tokens, sound.vectors)
    inputs = SpeechInputs(*map(mx.zeros, shapes))
    return SpeechTokens(transformer, inputs), SoundHook(transformer, sound)


def predicted_bytes(case: Case, weights: WeightBytes) -> int:
    """What is planned for a case, without its weights."""
    size = ForwardSize(
        case.config,
        (case.num_frames + case.network.read_frames(case.config)) * math.prod(GRID),
        weights.number_bytes,
        weights.bits,
        IMAGE_TOKENS if case.config.image_dim else 0,
        case.num_passes,
        on_gpu=False,
        limits=case.limits,
        windows_at_once=case.windows_at_once,
    )
    geometry = VideoGeometry(8 * LATENT_SHAPE[3], 8 * LATENT_SHAPE[2], 1, case.latent_shape, GRID)
    resident = 0 if case.streams else None
    peak = denoise_peak(size, weights, geometry, resident_blocks=resident, network=case.network)
    return peak.usual - weight_bytes_in_use(weights, resident)


NIGHTLY = ("sound", "sound, 4 bits")  # the streamed one holds the same terms


@pytest.mark.sample(6)
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=name, marks=[pytest.mark.nightly] * (name in NIGHTLY))
        for name, case in CASES.items()
    ],
)
def test_prediction_of_a_forward_is_within_fifteen_percent(case: Case, tmp_path: Path):
    path = tmp_path / "model.safetensors"
    random_weights(case.network.build(case.config), path, case.dtype, case.bits)
    with SafetensorsFile(path) as source, use_limits(case.limits), opened(case, source) as network:
        found = measured(lambda: take_steps(case, *network))
        order = case.network.block_order(case.config)
        predicted = predicted_bytes(case, weigh(source.infos.values(), order))
    assert predicted == pytest.approx(found, rel=WITHIN)


@pytest.mark.nightly
def test_prediction_of_encoding_a_face_is_within_fifteen_percent():
    face = FaceConfig()
    encoder = MotionEncoder(face)
    mx.eval(encoder.parameters())
    found = measured(lambda: encoder.encode_video(mx.zeros((FACE_SIZE, FACE_SIZE, 3)) for _ in range(2)))
    assert face_peak(face).usual == pytest.approx(found, rel=WITHIN)


@pytest.mark.parametrize("bits", [None, 4])
def test_prediction_of_attention_to_few_blocks_is_within_fifteen_percent(bits: int | None, tmp_path: Path):
    case, grid, path = Case(LONGCAT, num_passes=1, bits=bits), (8, 8, 16), tmp_path / "model.safetensors"
    latents = mx.zeros((LONGCAT.in_dim, 8, 16, 32))
    random_weights(case.network.build(LONGCAT), path, case.dtype, bits)
    with SafetensorsFile(path) as source, use_limits(case.limits), opened(case, source) as (transformer, _):
        prompt = transformer.project_text(mx.zeros((20, LONGCAT.text_dim)))
        part = Part(latents, [Pass(prompt, attention=attend_in_blocks)])

        def work() -> None:
            for _ in range(STEPS):
                mx.eval(transformer.predict_parts([part], at(500.0)))

        found, weights = measured(work), weigh(source.infos.values(), case.network.block_order(LONGCAT))
    size = ForwardSize(
        LONGCAT, math.prod(grid), weights.number_bytes, weights.bits, 0, 1, on_gpu=False, limits=case.limits,
        sees_blocks=True,
    )  # fmt: skip
    geometry = VideoGeometry(256, 128, 29, latents.shape, grid)
    predicted = denoise_peak(size, weights, geometry, network=LONGCAT_NETWORK).usual
    assert predicted - weight_bytes_in_use(weights, None) == pytest.approx(found, rel=WITHIN)


def test_kept_keys_and_values_are_foreseen_to_the_byte():
    transformer, kept = LongCatTransformer(LONGCAT), RememberedKeys()
    prompt = transformer.project_text(mx.zeros((20, LONGCAT.text_dim)))
    one = Pass(prompt, attention=kept.recording(attend_plainly))
    (velocity,) = transformer.predict(mx.zeros(LATENT_SHAPE), at(0.0), [one])
    mx.eval(velocity)
    size = ForwardSize(LONGCAT, 3 * math.prod(GRID), 4, None, 0, 1, on_gpu=False, limits=CPU_LIMITS)
    plain = LONGCAT_NETWORK.peak(replace(size, num_tokens=2 * math.prod(GRID)))
    with_kept = LONGCAT_NETWORK.peak(replace(size, remembered_tokens=math.prod(GRID)))
    assert with_kept.held - plain.held == kept.nbytes > 0
    assert with_kept.usual - plain.usual >= kept.nbytes  # and keys and values of all tokens, joined


@pytest.mark.parametrize("lengths", [(500, 400), (100, 60)], ids=["longest prompts", "short prompts"])
@pytest.mark.parametrize("bits", [None, 4], ids=["dense", "4 bits"])
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=["float32", "bfloat16"])
def test_prediction_of_the_text_encoder_is_within_fifteen_percent(
    dtype: mx.Dtype, bits: int | None, lengths: tuple[int, ...], tmp_path: Path
):
    path = random_weights(UMT5Encoder(TEXT), tmp_path / "text.safetensors", dtype, bits)
    texts = [[number % TEXT.vocab_size for number in range(length)] for length in lengths]
    with open_tensors(path) as source:
        found = measured(lambda: finish(encode_streamed(source, TEXT, texts)))
        predicted = text_peak(weigh(source.infos.values()), TEXT, lengths, on_gpu=False).usual
    assert predicted == pytest.approx(found, rel=WITHIN)


@pytest.mark.parametrize("num_images", [1, 2])
@pytest.mark.parametrize("dtype", [mx.float32, mx.float16], ids=["float32", "float16"])
def test_prediction_of_the_image_encoder_is_within_fifteen_percent(
    dtype: mx.Dtype, num_images: int, tmp_path: Path
):
    path, encoder = tmp_path / "image.safetensors", CLIPImageEncoder(IMAGE)
    random_weights(encoder, path, dtype)
    pixels = mx.zeros((num_images, IMAGE.image_size, IMAGE.image_size, 3))
    mx.eval(encoder.parameters(), pixels)
    found = measured(lambda: [mx.eval(encoder(pixels)) for _ in range(STEPS)])
    predicted = image_encoder_peak(IMAGE, num_images, number_bytes=dtype.size).usual
    assert predicted == pytest.approx(found, rel=WITHIN)


@pytest.mark.sample(2)
@pytest.mark.parametrize("seconds", [2, 10])
@pytest.mark.parametrize("dtype", [mx.float32, mx.float16], ids=["float32", "float16"])
def test_prediction_of_the_audio_encoder_is_within_fifteen_percent(
    dtype: mx.Dtype, seconds: int, tmp_path: Path
):
    encoder = Wav2Vec2Encoder(AUDIO)
    random_weights(encoder, tmp_path / "audio.safetensors", dtype)
    samples = mx.random.normal((16000 * seconds,))
    mx.eval(encoder.parameters(), samples)

    def encode() -> None:
        for _ in range(STEPS):
            for _ in encoder(samples):
                pass

    found = measured(encode)
    predicted = audio_encoder_peak(AUDIO, len(samples), number_bytes=dtype.size).usual
    assert predicted == pytest.approx(found, rel=WITHIN)


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", ["guided", "in chunks"])
def test_short_of_memory_a_forward_takes_what_it_needs_at_least(name: str, tmp_path: Path):
    """MLX waits for what runs before it allocates more, once its limit is reached."""
    case = CASES[name]
    path = random_weights(WanTransformer(case.config), tmp_path / "model.safetensors", case.dtype)
    size = ForwardSize(case.config, math.prod(GRID), 4, None, 0, 2, on_gpu=False, limits=case.limits)
    with SafetensorsFile(path) as source, use_limits(case.limits), opened(case, source) as network:
        before = mx.set_memory_limit(1)
        try:
            found = measured(lambda: take_steps(case, *network))
        finally:
            mx.set_memory_limit(before)
    peak = forward_peak(size)
    assert found <= 1.15 * peak.needed < peak.usual
