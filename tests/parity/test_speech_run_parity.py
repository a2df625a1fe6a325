"""Speech-to-video from a checkpoint to two clips, by both commands, against the official code in float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlx_video.cli import convert, generate
from tests.fixtures.sounds import rising_tone, write_wav
from tests.fixtures.tiny_variants import tiny_variant, write_tiny_variant
from tests.parity.compare_runs import assert_runs_agree, read_run
from tests.parity.official_speech import run_speech

pytest.importorskip("torch")
pytestmark = [
    pytest.mark.parity,
    pytest.mark.slow,
    pytest.mark.nightly,  # of its networks, features and pictures each is held by a test of its own
    # An interface of the official code that newer torch versions frown upon.
    pytest.mark.filterwarnings("ignore:.torch.cuda.amp.autocast:FutureWarning"),
]


VARIANT = "wan2.2-s2v-14b"
PROMPT, NEGATIVE_PROMPT, SEED, STEPS = "Two cats sing", "blurred", 42, 3
GUIDE_SCALE, SHIFT, INFER_FRAMES = 4.5, 3.0, 8
SECONDS = 0.9  # two clips, the second of which the sound outlasts
IMAGE_SIZE = (60, 50)  # which makes frames of 64x64, and loses a margin
POSE_SIZE, POSE_FRAMES, POSE_FPS = (50, 70), 27, 32.0  # of which every second is read; the last are missing


@pytest.mark.parametrize("case", ["sound alone", "poses, from the reference"])
def test_two_clips_agree_with_the_official_code(case: str, tmp_path: Path, record_property):
    original, model = tmp_path / "original", tmp_path / "model"
    write_tiny_variant(original, VARIANT, seed=3)
    sound = write_wav(tmp_path / "tone.wav", rising_tone(SECONDS, 16000), 16000)
    random = np.random.default_rng(0)
    image = tmp_path / "image.png"
    Image.fromarray(random.integers(0, 256, (*IMAGE_SIZE, 3), np.uint8)).save(image)
    words, options = [], {}
    if case != "sound alone":
        poses = random.integers(0, 256, (POSE_FRAMES, *POSE_SIZE, 3), np.uint8)
        (tmp_path / "poses").mkdir()
        for number, frame in enumerate(poses):
            Image.fromarray(frame).save(tmp_path / "poses" / f"{number}.png")
        words = ["--s2v-pose-video", str(tmp_path / "poses"), "--video-fps", str(POSE_FPS)]
        words += ["--start-from-ref"]
        options = {"pose_video": (poses, POSE_FPS), "init_first_frame": True}
    assert convert.main([
        "--checkpoint-dir", str(original), "--output-dir", str(model), "--dtype", "float32",
    ]) == 0  # fmt: skip
    assert generate.main([
        "--model-dir", str(model), "--prompt", PROMPT, "--negative-prompt", NEGATIVE_PROMPT,
        "--image", str(image), "--input-audio", str(sound), "--infer-frames", str(INFER_FRAMES),
        "--steps", str(STEPS), "--guide-scale", str(GUIDE_SCALE), "--seed", str(SEED),
        "--shift", str(SHIFT), "--scheduler", "unipc", "--output-path", str(tmp_path / "video.gif"),
        "--save-latents", str(tmp_path / "latents.safetensors"), "--save-frames", str(tmp_path / "frames"),
        *words,
    ]) == 0  # fmt: skip
    official = run_speech(
        original, tiny_variant(VARIANT), INFER_FRAMES, input_prompt=PROMPT, ref_image_path=str(image),
        audio_path=sound, n_prompt=NEGATIVE_PROMPT, seed=SEED, sampling_steps=STEPS, shift=SHIFT,
        guide_scale=GUIDE_SCALE, **options,
    )  # fmt: skip
    assert len(official.latents) == 2
    expected = np.concatenate(official.latents, axis=1)
    shown = official.frames[: round(SECONDS * 16 + 0.5)]  # a player stops with the sound
    assert_runs_agree(read_run(tmp_path), (expected, shown), record_property)
