"""Sound comes in: of sound files and of videos, as samples of one channel at the rate that is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlx_video.errors import MediaError
from mlx_video.files.unusable_paths import explain_missing
from mlx_video.media.ffmpeg import run_ffmpeg

SPEECH_RATE = 16000
"""Samples a second that audio encoders hear."""

# Files that hold the sound themselves; playlists would have ffmpeg open others.
_CONTAINERS = (
    "wav,w64,aiff,caf,au,flac,mp3,aac,ogg,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,avi,mpegts,mpeg,flv,asf,mxf"
)
SOUND_INPUT = ["-protocol_whitelist", "file", "-format_whitelist", _CONTAINERS]
# A long filter: sounds below 7 kHz pass within 0.1 %, those that the rate cannot carry are gone.
_RESAMPLE = "aresample={rate}:filter_size=128:cutoff=0.97:phase_shift=10:linear_interp=0:exact_rational=1"
NUMBER_BYTES = 4


@dataclass(frozen=True, slots=True, eq=False)
class Sound:
    """A sound in memory.

    Attributes:
        name: for messages.
        samples: [S], float32, in [-1, 1].
        rate: samples a second.
    """

    name: str
    samples: np.ndarray
    rate: int = SPEECH_RATE

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return len(self.samples) / self.rate


@dataclass(frozen=True, slots=True)
class SoundTrack:
    """What is heard in a video.

    Attributes:
        path: of a file with the sound, from which it begins with the first frame.
        seconds: that the video lasts: a longer sound is cut, silence follows a shorter one.
    """

    path: Path
    seconds: float


def read_sound(path: Path, rate: int = SPEECH_RATE) -> Sound:
    """Decode a sound; channels are averaged.

    Args:
        path: a WAV, FLAC, MP3, M4A or Ogg file, or a video with a sound track.
        rate: samples a second of the result.

    Raises:
        MediaError: there is no such file, it has no sound, or there is no ffmpeg.
    """
    if not path.is_file():
        raise MediaError(f"{path}: {explain_missing(path, 'no such file. Check the path.')}")
    command = ["-v", "error", "-nostdin", *SOUND_INPUT, "-i", str(path.absolute()), "-map", "0:a:0"]
    command += ["-af", f"aformat=channel_layouts=mono,{_RESAMPLE.format(rate=rate)}"]
    try:
        data = run_ffmpeg(*command, "-f", "f32le", "pipe:1")
    except MediaError as error:
        raise MediaError(
            f"{path}: no sound that ffmpeg can read ({error}). Use a WAV, FLAC, MP3 or M4A file, or a video "
            "with a sound track."
        ) from error
    samples = np.frombuffer(data[: len(data) // NUMBER_BYTES * NUMBER_BYTES], np.float32)
    if not len(samples):
        raise MediaError(f"{path}: holds a sound without samples. Use a file that is complete.")
    return Sound(str(path), samples, rate)
