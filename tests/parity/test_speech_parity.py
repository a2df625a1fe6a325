"""The networks of speech-to-video agree with the official code, wav2vec 2.0 with transformers.

Tolerance 1e-5 of the largest value: float32 rounds at 6e-8, and errors grow through the layers.
"""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.conditioning.speech.pictures import fit_footage, fit_reference
from mlx_video.conditioning.speech.sound import count_clips, count_heard, encode_sound
from mlx_video.config import AudioEncoderConfig
from mlx_video.media.sound import Sound
from mlx_video.models.block_context import Pass
from mlx_video.models.encoders.audio_encoder import Wav2Vec2Encoder
from mlx_video.models.rope import build_rotary_table
from mlx_video.models.speech.motion_tokens import motion_segments
from mlx_video.models.speech.sound_features import SoundFeatures
from mlx_video.models.speech.transformer import (
    SoundHook,
    SpeechInputs,
    SpeechTokens,
    SpeechTransformer,
)
from mlx_video.models.token_layout import TokenLayout
from mlx_video.weights.names import audio_encoder_names
from mlx_video.weights.names.speech_names import SPEECH_RULES, speech_tensors
from mlx_video.weights.names.transformer_names import WAN_RULES, transformer_tensors
from mlx_video.weights.rules import apply_rules
from tests.models.networks import CONTEXT, TRANSFORMER, at, load, relative_error
from tests.parity.golden import fill, fill_weights
from tests.parity.official import speech_module
from tests.parity.official_speech import listener_module, official_fitting

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.parity,
    # An interface of the official code that newer torch versions frown upon.
    pytest.mark.filterwarnings("ignore:.torch.cuda.amp.autocast:FutureWarning"),
]

TOLERANCE = 1e-5
CONFIG = replace(
    TRANSFORMER, num_layers=3, text_len=16, model_type="s2v", audio_dim=24, audio_layers=(0, 2), pose_dim=16
)
FRAMES = 3
SIZES = [(16, 24), (12, 20)]  # of latents, in cells; the second is no multiple of the coarsest patches
WAV2VEC2 = AudioEncoderConfig(
    width=128, mlp_width=96, num_heads=2, num_layers=3, conv_width=32, position_kernel=16, position_groups=4
)


@pytest.fixture(scope="module")
def arrays():
    return fill_weights(transformer_tensors(CONFIG) | speech_tensors(CONFIG))


@pytest.fixture(scope="module")
def theirs(arrays):
    model = speech_module("model_s2v").WanModel_S2V(
        cond_dim=CONFIG.pose_dim, audio_dim=CONFIG.audio_dim, num_audio_token=4, enable_adain=True,
        audio_inject_layers=list(CONFIG.audio_layers), zero_timestep=True, enable_motioner=False,
        enable_framepack=True, framepack_drop_mode="padd", text_len=CONFIG.text_len, dim=CONFIG.dim,
        ffn_dim=CONFIG.ffn_dim, freq_dim=CONFIG.freq_dim, text_dim=CONFIG.text_dim,
        num_heads=CONFIG.num_heads, num_layers=CONFIG.num_layers,
    )  # fmt: skip
    # Strict: neither side has a tensor that the other lacks.
    model.load_state_dict({name: torch.tensor(values) for name, values in arrays.items()})
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def ours(arrays):
    return load(SpeechTransformer(CONFIG), arrays, (*SPEECH_RULES, *WAN_RULES), mx.float32)


@pytest.mark.parametrize("num_before", [73, 17, 0])
def test_the_sound_encoder_agrees(theirs, ours, num_before: int):
    layers = fill((25, 4 * FRAMES, CONFIG.audio_dim), 1)
    columns = torch.tensor(layers).permute(0, 2, 1)[None]
    before = columns[..., :1].repeat(1, 1, 1, num_before)
    vectors, tokens = theirs.casual_audio_encoder(torch.cat([before, columns], -1))
    skipped = (num_before + 3) // 4
    found = ours.sound_encoder(mx.array(layers), num_before)
    assert found.tokens.shape == (FRAMES, 5, CONFIG.dim)
    assert relative_error(found.tokens, tokens[0, skipped:]) <= TOLERANCE
    assert relative_error(found.vectors, vectors[0, skipped:, 0]) <= TOLERANCE


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("frames", [19, 5])
def test_motion_tokens_and_their_positions_agree(theirs, ours, size: tuple[int, int], frames: int):
    motion = fill((16, frames, *size), 2)
    (tokens,), (angles,) = theirs.frame_packer([torch.tensor(motion)], 2)
    assert relative_error(ours.frame_packer(mx.array(motion)), tokens[0]) <= TOLERANCE
    table = build_rotary_table(TokenLayout(tuple(motion_segments(*size))), CONFIG.head_dim)
    assert relative_error(table.cos[:, 0], angles[0, :, 0].real.float()) <= TOLERANCE
    assert relative_error(table.sin[:, 0], angles[0, :, 0].imag.float()) <= TOLERANCE


@pytest.mark.parametrize("number", [0, 1])
def test_an_audio_block_agrees(theirs, ours, number: int):
    tokens, vectors = fill((FRAMES, 5, CONFIG.dim), 3), fill((FRAMES, CONFIG.dim), 4)
    video = fill((FRAMES * 6, CONFIG.dim), 5)
    theirs.merged_audio_emb = torch.tensor(tokens)[None]
    theirs.audio_emb_global = torch.tensor(vectors)[None, :, None]
    theirs.original_seq_len = len(video)
    layer = CONFIG.audio_layers[number]
    expected = theirs.after_transformer_block(layer, torch.tensor(video)[None].clone())[0] - torch.tensor(
        video
    )
    sound = SoundFeatures(mx.array(tokens), mx.array(vectors))
    found = ours.audio_blocks[number](mx.array(video), None, sound)
    assert relative_error(found, expected) <= TOLERANCE


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("reads_motion", [True, False])
def test_the_whole_transformer_agrees(theirs, ours, size: tuple[int, int], reads_motion: bool):
    latents, pose = fill((16, FRAMES, *size), 6, 1.7), fill((16, FRAMES, *size), 7)
    reference, motion = fill((16, 1, *size), 8), fill((16, 19, *size), 9)
    layers = fill((25, 4 * FRAMES, CONFIG.audio_dim), 10)
    (expected,) = theirs(
        [torch.tensor(latents)],
        t=torch.tensor([937]),
        context=[torch.tensor(CONTEXT)],
        seq_len=0,
        ref_latents=[torch.tensor(reference)],
        motion_latents=[torch.tensor(motion)],
        cond_states=[torch.tensor(pose)],
        audio_input=torch.tensor(layers).permute(0, 2, 1)[None],
        motion_frames=[73, 19],
        drop_motion_frames=not reads_motion,
    )
    inputs = SpeechInputs(*map(mx.array, (pose, reference)), mx.array(motion) if reads_motion else None)
    hooks = (SpeechTokens(ours, inputs), SoundHook(ours, ours.sound_encoder(mx.array(layers), 73)))
    one = Pass(ours.project_text(mx.array(CONTEXT)), hooks)
    (found,) = ours.predict(mx.array(latents), at(937.0), [one])
    assert relative_error(found, expected) <= TOLERANCE


@pytest.fixture(scope="module")
def listeners():
    """The transformers package's encoder, and ours with its weights."""
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    torch.manual_seed(0)
    model = Wav2Vec2Model(
        Wav2Vec2Config(
            hidden_size=WAV2VEC2.width, num_hidden_layers=WAV2VEC2.num_layers,
            num_attention_heads=WAV2VEC2.num_heads, intermediate_size=WAV2VEC2.mlp_width,
            conv_dim=[WAV2VEC2.conv_width] * 7, conv_bias=True, feat_extract_norm="layer",
            do_stable_layer_norm=True, num_conv_pos_embeddings=WAV2VEC2.position_kernel,
            num_conv_pos_embedding_groups=WAV2VEC2.position_groups,
        )
    ).eval().requires_grad_(False)  # fmt: skip
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=1.5 / parameter[0].numel() ** 0.5)
        else:
            parameter.add_(0.1 * torch.randn_like(parameter))
    arrays = {
        target: values.numpy()
        for name, values in model.state_dict().items()
        if (target := apply_rules(name, audio_encoder_names.HF_RULES)[0]) is not None
    }
    assert {name: values.shape for name, values in arrays.items()} == (
        audio_encoder_names.audio_encoder_tensors(WAV2VEC2)
    )
    return model, load(Wav2Vec2Encoder(WAV2VEC2), arrays, audio_encoder_names.WAN_RULES, mx.float32)


@pytest.mark.parametrize("num_samples", [400, 8000, 16001])
def test_wav2vec2_agrees(listeners, num_samples: int):
    theirs, ours = listeners
    samples = np.random.default_rng(0).normal(size=num_samples).astype(np.float32)
    result = theirs(torch.tensor(samples)[None], output_hidden_states=True)
    # What older releases gave as the last hidden state, and the model was trained with: behind the norm.
    expected = [*result.hidden_states[:-1], result.last_hidden_state]
    found = [*ours(mx.array(samples))]
    assert len(found) == WAV2VEC2.num_layers + 1
    for layer, (ours_of, theirs_of) in enumerate(zip(found, expected, strict=True)):
        assert relative_error(ours_of, theirs_of[0]) <= TOLERANCE, layer


@pytest.mark.parametrize(("num_samples", "clip_frames"), [(16000, 8), (24000, 12), (48000, 80)])
def test_features_of_frames_agree(listeners, num_samples: int, clip_frames: int):
    theirs, ours = listeners
    samples = np.random.default_rng(1).normal(0.1, 0.3, num_samples).astype(np.float32)
    code = listener_module()
    normalized = torch.tensor((samples - samples.mean()) / np.sqrt(samples.var() + 1e-7))
    result = theirs(normalized[None], output_hidden_states=True)
    layers = torch.cat([*result.hidden_states[:-1], result.last_hidden_state])
    listener = object.__new__(code.AudioEncoder)
    listener.video_rate = 30
    heard = code.linear_interpolation(layers, input_fps=50, output_fps=30)
    expected, clips = listener.get_audio_embed_bucket_fps(heard, fps=16, batch_frames=clip_frames, m=0)
    assert count_clips(count_heard(layers.shape[1]), clip_frames) == clips
    sound = Sound("noise", samples)
    for clip in range(clips):
        frames = slice(clip * clip_frames, (clip + 1) * clip_frames)
        found = encode_sound(ours, sound, frames.start, clip_frames)
        assert (
            relative_error(found.swapaxes(0, 1), expected[frames]) <= TOLERANCE or not expected[frames].any()
        )
        assert bool(mx.any(found != 0)) == bool(expected[frames].any())


@pytest.mark.parametrize("size", [(64, 64), (64, 128), (192, 128)])
@pytest.mark.parametrize("given", [(50, 70), (70, 50), (200, 90)])
def test_pictures_and_poses_are_fitted_alike(size: tuple[int, int], given: tuple[int, int]):
    from PIL import Image

    pixels = np.random.default_rng(2).integers(0, 256, (*given, 3), np.uint8)
    resize, crop = official_fitting(size)
    picture = np.asarray(crop(resize(Image.fromarray(pixels)))).astype(np.float32) / 255 * 2 - 1
    assert np.abs(fit_reference(pixels, *size) - picture).max() <= 1e-6
    frame = crop(resize(torch.tensor(pixels).permute(2, 0, 1)[None] / 255.0 * 2 - 1))[0].permute(1, 2, 0)
    # Torch has its filter in float32, Pillow in float64: they differ by less than 1/150 of a level.
    assert np.abs(fit_footage(pixels, *size) - frame.numpy()).max() <= 5e-5
