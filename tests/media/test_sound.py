"""Sounds of every kind become samples of one channel at one rate; an MP4 carries them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mlx_video.errors import MediaError
from mlx_video.media.ffmpeg import run_ffmpeg
from mlx_video.media.sound import SoundTrack, read_sound
from mlx_video.media.video import open_video_writer, read_frames
from tests.fixtures.sounds import rising_tone, write_wav

SECONDS, RATE = 1.5, 16000
# Of what resampling changes, away from the ends, where a filter has no samples on one side.
RESAMPLED = 1e-3
ENDS = 400


@pytest.mark.quick
def test_a_wav_of_the_rate_is_read_bit_for_bit(tmp_path: Path):
    samples = rising_tone(SECONDS, RATE)
    sound = read_sound(write_wav(tmp_path / "a.wav", samples, RATE))
    assert (sound.rate, len(sound.samples), sound.seconds) == (RATE, round(SECONDS * RATE), SECONDS)
    assert np.array_equal(sound.samples, (np.round(samples * 32767) / 32768).astype(np.float32))


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (44100, 2), (48000, 2), (22050, 1)])
def test_other_rates_and_channels_become_the_same_sound(tmp_path: Path, rate: int, channels: int):
    samples = rising_tone(SECONDS, rate)
    if channels == 2:  # whose mean is the tone
        other = 0.2 * np.sin(2 * np.pi * 300 * np.arange(len(samples)) / rate)
        samples = np.stack([samples + other, samples - other], axis=1)
    found = read_sound(write_wav(tmp_path / "a.wav", samples, rate)).samples
    expected = rising_tone(SECONDS, RATE)
    assert abs(len(found) - len(expected)) <= 1
    count = min(len(found), len(expected)) - ENDS
    error = np.abs(found[ENDS:count] - expected[ENDS:count]).max() / np.abs(expected).max()
    assert error < RESAMPLED


def test_what_the_rate_cannot_carry_is_silent(tmp_path: Path):
    times = np.arange(44100) / 44100
    found = read_sound(write_wav(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 9000 * times), 44100)).samples
    assert np.abs(found[ENDS:-ENDS]).max() < RESAMPLED


@pytest.mark.parametrize("suffix", [".flac", ".mp3", ".m4a", ".mp4", ".mkv"])
def test_other_files_and_videos_are_read(tmp_path: Path, suffix: str):
    wav = write_wav(tmp_path / "a.wav", rising_tone(SECONDS, RATE), RATE)
    path = tmp_path / f"b{suffix}"
    video = (
        ["-f", "lavfi", "-i", "testsrc=size=32x32:rate=8:duration=1.5"] if suffix in (".mp4", ".mkv") else []
    )
    run_ffmpeg("-v", "error", *video, "-i", str(wav), str(path))
    found, expected = read_sound(path).samples, read_sound(wav).samples
    assert len(found) >= len(expected) - 2000
    count = min(len(found), len(expected))
    # Codecs that lose something lose no more than this of a plain tone, and delay nothing.
    lost = 0 if suffix == ".flac" else 0.02
    middle = slice(4000, count - 4000)
    assert np.sqrt(np.mean((found[middle] - expected[middle]) ** 2)) <= lost


@pytest.mark.parametrize("case", ["absent", "text", "a silent video"])
def test_what_has_no_sound_is_refused(tmp_path: Path, case: str):
    path = tmp_path / ("a.mp4" if case == "a silent video" else "a.wav")
    if case == "text":
        path.write_text("no sound")
    elif case == "a silent video":
        with open_video_writer(path, 16, 16, 8, {}) as writer:
            writer.write(np.zeros((2, 16, 16, 3), np.uint8))
    with pytest.raises(
        MediaError, match=r"no such file" if case == "absent" else "no sound that ffmpeg can read"
    ):
        read_sound(path)


@pytest.mark.parametrize("seconds", [0.6, 1.0, 3.0])
def test_an_mp4_carries_a_sound_as_long_as_its_frames(tmp_path: Path, seconds: float):
    wav = write_wav(tmp_path / "a.wav", rising_tone(seconds, 44100), 44100)
    frames = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), np.uint8)
    with open_video_writer(
        tmp_path / "a.mp4", 32, 32, 16, {"prompt": "a cat"}, SoundTrack(wav, 1.0)
    ) as writer:
        writer.write(frames)
    assert len(read_frames(tmp_path / "a.mp4")) == 16
    found, expected = read_sound(tmp_path / "a.mp4").samples, read_sound(wav).samples
    assert abs(len(found) / RATE - 1.0) < 0.1
    heard = slice(2000, round(min(seconds, 1.0) * RATE) - 2000)
    assert np.sqrt(np.mean((found[heard] - expected[heard]) ** 2)) < 0.02
    if seconds < 1:
        silent = found[round(seconds * RATE) + 2000 : RATE - 2000]
        assert np.abs(silent).max() < 0.02
