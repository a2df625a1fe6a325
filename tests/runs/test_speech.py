"""Speech to video: what sound, poses, image and earlier frames do; clips, their joints and where they end."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import MediaError, RequestError, WanPipeline, convert_checkpoint
from mlx_video.conditioning.speech.sound import count_clips, count_heard, encode_sound
from mlx_video.events import Notice, StepFinished
from mlx_video.latents.latents_file import load_latents
from mlx_video.loading.components import load_audio_encoder
from mlx_video.media.sound import Sound, read_sound
from mlx_video.media.video import read_frames
from mlx_video.variants.speech import size_within_area
from tests.fixtures.interruptions import interrupt_in_part
from tests.fixtures.sounds import rising_tone, write_wav
from tests.fixtures.tiny_variants import write_tiny_variant

CLIP, RATE = 8, 16000  # frames of a clip; the first shows 3 less
RANDOM = np.random.default_rng(0)
IMAGE, OTHER_IMAGE = (RANDOM.integers(0, 256, (40, 36, 3), np.uint8) for _ in range(2))
POSES = RANDOM.integers(0, 256, (30, 40, 36, 3), np.uint8)
MOTION = RANDOM.integers(0, 256, (73, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> WanPipeline:
    root = tmp_path_factory.mktemp("model")
    write_tiny_variant(root / "original", "wan2.2-s2v-14b")
    return WanPipeline.from_pretrained(convert_checkpoint(root / "original", root / "m", dtype="float32"))


@pytest.fixture
def tone(tmp_path: Path) -> Callable[..., Path]:
    def write(seconds: float, first: float = 150.0, rate: int = RATE) -> Path:
        path = tmp_path / f"{seconds}-{first}-{rate}.wav"
        return path if path.exists() else write_wav(path, rising_tone(seconds, rate, first), rate)

    return write


def options(sound: Path, **others: object) -> dict[str, object]:
    small = {"width": 32, "height": 32, "infer_frames": CLIP, "steps": 2, "guide_scale": 2.0, "seed": 1}
    return {"prompt": "a cat sings", "image": IMAGE, "input_audio": sound, **small, **others}


@pytest.mark.slow
def test_every_input_changes_the_video_and_silence_is_no_speech(pipeline, tone, tmp_path: Path):
    def latents(**changes: object) -> np.ndarray:
        found = pipeline(**options(tone(0.4), **changes), output_type="latent").latents
        assert mx.isfinite(found).all()
        return np.array(found)

    silence = write_wav(tmp_path / "silence.wav", np.zeros(6400), RATE)
    whole = latents()
    assert np.array_equal(latents(), whole)
    changed = {
        "another sound": latents(input_audio=tone(0.4, 900.0)),
        "silence": latents(input_audio=silence),
        "another image": latents(image=OTHER_IMAGE),
        "poses": latents(s2v_pose_video=POSES, video_fps=16),
        "other poses": latents(s2v_pose_video=POSES[::-1], video_fps=16),
        "earlier frames": latents(motion_video=MOTION),
        "other earlier frames": latents(motion_video=MOTION[::-1]),
        "the reference before it": latents(start_from_ref=True),
    }
    for name, found in changed.items():
        assert np.abs(found - whole).max() > 1e-3, name
    assert np.abs(changed["poses"] - changed["other poses"]).max() > 1e-3
    assert np.abs(changed["earlier frames"] - changed["other earlier frames"]).max() > 1e-3


@pytest.mark.sample(2)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("seconds", "changes", "frames"),
    [
        (0.2, {}, 4),  # shorter than what a clip shows
        pytest.param(1.2, {}, 20, marks=pytest.mark.nightly),  # of the 21 that three clips show
        (1.2, {"num_clips": 1}, 5),
        (0.75, {}, 12),  # cut within the second clip
        (0.75, {"start_from_ref": True}, 12),
    ],
)
def test_a_video_ends_with_the_sound_or_the_last_clip_that_is_wanted(
    pipeline, tone, tmp_path: Path, seconds: float, changes: dict, frames: int
):
    sound, path = tone(seconds, rate=44100), tmp_path / "a.mp4"
    video = pipeline(**options(sound, **changes), output_path=path)
    assert len(video.frames) == len(read_frames(path)) == frames
    assert abs(read_sound(path).seconds - frames / 16) < 0.1
    loud = np.abs(read_sound(path).samples[: int(RATE * min(seconds, frames / 16))])
    assert loud.max() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    "where", [(1, 1), *(pytest.param(at, marks=pytest.mark.nightly) for at in ((2, 0), (2, 1)))]
)
def test_an_interrupted_song_goes_on_bit_for_bit(pipeline, tone, tmp_path: Path, where: tuple[int, int]):
    given = options(tone(0.75), s2v_pose_video=POSES, video_fps=16)
    whole = pipeline(**given, save_latents=tmp_path / "whole")
    path, latents = tmp_path / "a.webp", tmp_path / "latents"
    with pytest.raises(KeyboardInterrupt):
        pipeline(**given, output_path=path, save_latents=latents, on_event=interrupt_in_part(*where))
    told: list[object] = []
    resumed = pipeline(**given, output_path=path, save_latents=latents, resume=True, on_event=told.append)
    assert any(isinstance(event, Notice) and "Going on" in event.text for event in told)
    assert np.array_equal(resumed.frames, whole.frames)
    found, expected = load_latents(latents)[0], load_latents(tmp_path / "whole")[0]
    assert found.shape[1] == 2 * CLIP // 4
    assert mx.array_equal(found, expected)


@pytest.mark.slow
def test_a_state_of_another_sound_is_refused(pipeline, tone, tmp_path: Path):
    def interrupt(event: object) -> None:
        if isinstance(event, StepFinished):
            raise KeyboardInterrupt

    path = tmp_path / "a.webp"
    with pytest.raises(KeyboardInterrupt):
        pipeline(**options(tone(0.3)), output_path=path, on_event=interrupt)
    with pytest.raises(RequestError, match="--input-audio"):
        pipeline(**options(tone(0.3, 400.0)), output_path=path, resume=True)


def test_sounds_make_as_many_clips_as_the_official_code_counts():
    # Features of half a minute, of exactly one clip, and of one more.
    assert count_heard(1499) == 899
    assert [count_clips(heard, 80) for heard in (0, 149, 150, 151, 899)] == [1, 1, 2, 2, 6]


@pytest.mark.parametrize(
    ("image", "area", "expected"),
    [
        ((720, 1280), 1024 * 704, (640, 1088)),
        ((720, 1280), 1280 * 720, (704, 1280)),
        ((720, 1280), 832 * 480, (448, 832)),
        ((480, 832), 1280 * 720, (512, 832)),
        ((3000, 2000), 1280 * 720, (1152, 768)),
        ((100, 100), 1280 * 720, (128, 128)),
    ],
)
def test_sizes_are_those_of_the_official_code(image: tuple[int, int], area: int, expected: tuple[int, int]):
    assert size_within_area(*image, area) == expected[::-1]


def test_behind_its_end_a_sound_is_nothing(pipeline, tone):
    encoder = load_audio_encoder(pipeline.folder, pipeline.config)
    sound = read_sound(tone(0.5))
    found = encode_sound(encoder, sound, 0, 16)
    assert found.shape == (25, 16, 64)
    heard = mx.abs(found).max(axis=(0, 2))
    assert mx.all(heard[:7] > 0)
    assert mx.all(heard[8:] == 0)
    assert mx.array_equal(encode_sound(encoder, sound, 4, 8), found[:, 4:12])


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"infer_frames": 10}, "infer_frames", "10: must be a multiple of 4, .* Nearest: 8 or 12"),
        ({"num_frames": 9}, "infer_frames", "8: beside --num-frames 9 it says another length"),
        ({"segments": 3}, "segments", "3: .* lasts 0.30 s, which makes 1 parts"),
        ({"motion_video": MOTION[:20]}, "motion_video", "has 20 frames; exactly 73 are read"),
        (
            {"input_audio": None},
            "input_audio",
            "missing: Wan2.2 S2V 14B needs --input-audio or --audio-embeds",
        ),
        ({"image": None}, "image", "missing: Wan2.2 S2V 14B needs it"),
        ({"continue_from": POSES}, "continue_from", "begins with the sound, .* as --motion-video"),
        ({"decode_only": Path("a")}, "decode_only", "decodes each clip behind the frames before it"),
    ],
)
def test_what_does_not_go_together_is_refused(pipeline, tone, changes: dict, field: str, message: str):
    with pytest.raises(RequestError, match=message) as caught:
        pipeline(**options(tone(0.3), **changes))
    assert caught.value.field == field


def test_a_sound_that_is_too_short_or_no_sound_is_refused(pipeline, tmp_path: Path):
    short = write_wav(tmp_path / "short.wav", np.ones(300), RATE)
    with pytest.raises(RequestError, match=r"lasts 18.8 ms; 25 ms are heard at once"):
        pipeline(**options(short))
    (tmp_path / "text.wav").write_text("la la la")
    with pytest.raises(MediaError, match="no sound that ffmpeg can read"):
        pipeline(**options(tmp_path / "text.wav"))


@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
def test_features_may_stand_for_a_sound(pipeline, tone, tmp_path: Path, suffix: str):
    encoder = load_audio_encoder(pipeline.folder, pipeline.config)
    layers = np.array(encode_sound(encoder, read_sound(tone(0.4)), 0, CLIP)).swapaxes(1, 2)[None]
    path = tmp_path / f"features{suffix}"
    if suffix == ".npy":
        np.save(path, layers)
    else:
        mx.save_safetensors(str(path), {"audio": mx.array(layers)})
    by_sound = pipeline(**options(tone(0.4)), output_type="latent").latents
    by_features = pipeline(**options(None, audio_embeds=path), output_type="latent").latents
    assert mx.allclose(by_features, by_sound, atol=1e-5)
    np.save(tmp_path / "wrong.npy", layers[:, :3])
    with pytest.raises(MediaError, match=re.escape("[3, 64, 8], expected [1, 25, 64, frames]")):
        pipeline(**options(None, audio_embeds=tmp_path / "wrong.npy"))


def test_a_sound_is_normalized_whole():
    from mlx_video.conditioning.speech.sound import normalize_sound

    samples = (3 + 2 * np.sin(np.arange(4000))).astype(np.float32)
    found = np.array(normalize_sound(Sound("a", samples).samples))
    assert abs(found.mean()) < 1e-5
    assert abs(found.std() - 1) < 1e-4
    assert not np.array(normalize_sound(np.zeros(500, np.float32))).any()
