"""Sound as a speech-to-video model hears it: features of every layer of the audio encoder for each frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import mlx.core as mx
import numpy as np

from mlx_video.errors import MediaError, RequestError
from mlx_video.latents.array_file import read_arrays
from mlx_video.media.sound import SPEECH_RATE, Sound
from mlx_video.models.block_context import Pass
from mlx_video.models.encoders.audio_encoder import Wav2Vec2Encoder
from mlx_video.models.speech.sound_features import NUM_LAYERS
from mlx_video.models.speech.transformer import SoundHook, SpeechTransformer
from mlx_video.models.video_transformer import VideoTransformer

HEARD_RATE = 30
"""Features a second that frames are picked from; a whole number of those that the encoder gives."""
ENCODER_RATE = 50.0
FRAME_RATE = 16
"""Frames a second of the models."""
MOTION_FRAMES = 73
"""Frames before a clip that the models read."""
_VARIANCE_EPS = 1e-7


def count_heard(num_features: int) -> int:
    """Features at the rate that frames are picked from."""
    return int(num_features / ENCODER_RATE * HEARD_RATE)


def count_clips(num_heard: int, clip_frames: int) -> int:
    """Clips of a sound: one more where it ends with a clip, which is silent then.

    Source: Wan2.2 wan/modules/s2v/audio_encoder.py, AudioEncoder.get_audio_embed_bucket_fps.
    """
    return int(num_heard / (clip_frames * HEARD_RATE / FRAME_RATE)) + 1


def normalize_sound(samples: np.ndarray) -> mx.array:
    """Samples of mean 0 and variance 1.

    Source: transformers src/transformers/models/wav2vec2/feature_extraction_wav2vec2.py,
    Wav2Vec2FeatureExtractor.zero_mean_unit_var_norm.
    """
    return mx.array((samples - samples.mean()) / np.sqrt(samples.var() + np.float32(_VARIANCE_EPS)))


def encode_sound(encoder: Wav2Vec2Encoder, sound: Sound, first_frame: int, num_frames: int) -> mx.array:
    """Features of the frames of a clip.

    Args:
        encoder: loaded.
        sound: of the whole video, 16000 samples a second.
        first_frame: of the clip in the video.
        num_frames: of the clip.

    Returns:
        [layers, num_frames, width], float32, evaluated; zeros where the sound is over.

    Source: Wan2.2 wan/modules/s2v/audio_encoder.py, AudioEncoder, with a neighbourhood of 0.
    """
    assert sound.rate == SPEECH_RATE
    numbers = np.arange(first_frame, first_frame + num_frames)
    heard = np.round(numbers / FRAME_RATE * HEARD_RATE).astype(int)
    layers = [_pick(features, heard) for features in encoder(normalize_sound(sound.samples))]
    found = mx.stack(layers)
    mx.eval(found)
    return found


def _pick(features: mx.array, heard: np.ndarray) -> mx.array:
    """Features [T, width] at some moments of the rate that frames are picked from, between two each.

    Source: PyTorch aten/src/ATen/native/UpSample.h, area_pixel_compute_scale with align_corners.
    """
    count, total = count_heard(len(features)), len(features)
    is_there = heard < count
    step = np.float32(total - 1) / np.float32(count - 1) if count > 1 else np.float32(0)
    places = step * np.where(is_there, heard, 0).astype(np.float32)
    left = np.minimum(places.astype(int), total - 1)
    right, share = np.minimum(left + 1, total - 1), (places - left).astype(np.float32)[:, None]
    mixed = features[mx.array(left)] * mx.array(1 - share) + features[mx.array(right)] * mx.array(share)
    mixed = mixed * mx.array(is_there[:, None].astype(np.float32))
    mx.eval(mixed)
    return mixed


def check_sound(sound: Sound, reach: int) -> None:
    """Refuse a sound too short to hear anything.

    Raises:
        RequestError: it is shorter than what one feature is made of.
    """
    if len(sound.samples) < reach:
        raise RequestError(
            "input_audio",
            f"{sound.name} lasts {sound.seconds * 1000:.3g} ms; {reach / SPEECH_RATE * 1000:.3g} ms are "
            "heard at once. Give a longer sound.",
        )


def read_sound_features(path: Path, width: int) -> mx.array:
    """Read features that were made before.

    Args:
        path: a .npy file, or a .safetensors file with one array: [25, width, F], or [1, 25, width, F].
        width: of the features that the transformer takes.

    Returns:
        [25, F, width], float32.

    Raises:
        MediaError: the file is damaged, or holds something else.
    """
    array = np.asarray(_read_array(path))
    array = array[0] if array.ndim == 4 and len(array) == 1 else array
    if array.ndim != 3 or array.shape[:2] != (NUM_LAYERS, width) or not array.shape[2]:
        raise MediaError(
            f"{path}: an array of {list(array.shape)}, expected [1, {NUM_LAYERS}, {width}, frames]: the "
            "layers of wav2vec 2.0, their channels, 16 frames a second."
        )
    return mx.array(array.astype(np.float32).swapaxes(1, 2))


def _read_array(path: Path) -> np.ndarray:
    if path.suffix.lower() == ".npy":
        try:
            return cast(np.ndarray, np.load(path, allow_pickle=False))
        except (OSError, ValueError, EOFError) as error:
            raise MediaError(f"{path}: no array that NumPy reads ({error}). Make the file again.") from error
    arrays, _ = read_arrays(path)
    if len(arrays) != 1:
        raise MediaError(f"{path}: holds {len(arrays)} arrays, one is expected. Make the file again.")
    return np.array(next(iter(arrays.values())).astype(mx.float32))


def take_clip(features: mx.array, first_frame: int, num_frames: int) -> mx.array:
    """Features of a clip, [layers, num_frames, width], of those of a video; zeros behind their end."""
    found = features[:, first_frame : first_frame + num_frames]
    return mx.pad(found, [(0, 0), (0, num_frames - found.shape[1]), (0, 0)])


@dataclass(frozen=True, slots=True)
class SoundAddOn:
    """Sound in every pass of a transformer; under the negative prompt it is nothing.

    Attributes:
        layers: [25, F, width], float32, of each frame of the clip.
        frames: the latent frames that a forward sees; None for all.
    """

    layers: mx.array
    frames: tuple[int, ...] | None = None

    def take_frames(self, frames: Sequence[int]) -> SoundAddOn:
        """See `types.FrameAddOn`."""
        return replace(self, frames=tuple(frames))

    def __call__(self, transformer: VideoTransformer, one: Pass) -> Pass:
        """The pass with what its blocks hear; encoded once for all steps."""
        network = cast(SpeechTransformer, transformer)
        # Silence for the encoder's layers is not silence for the ear: it goes through the same convolutions.
        layers = mx.zeros_like(self.layers) if one.is_negative else self.layers
        sound = network.sound_encoder(layers, MOTION_FRAMES)
        if self.frames is not None:
            sound = sound.take_frames(mx.array(self.frames))
        mx.eval(sound.tokens, sound.vectors)
        return replace(one, hooks=(*one.hooks, SoundHook(network, sound)))
