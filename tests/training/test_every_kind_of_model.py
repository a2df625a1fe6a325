"""Each kind of model is trained by the command, from clips to an adapter that a run of it takes."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest

from mlx_video import train_wan
from mlx_video.config import ModelConfig, TransformerConfig
from mlx_video.errors import RequestError
from mlx_video.layouts.model_folder import ModelFolder
from mlx_video.request.train import TrainRequest
from mlx_video.training.log import read_log
from mlx_video.training.plan import plan_training
from mlx_video.variants.registry import VARIANTS
from mlx_video.variants.variant import Variant
from tests.training.data.clip_files import draw_frames, write_picture, write_video
from tests.training.data.tiny_learners import convert_tiny

pytestmark = pytest.mark.slow

NO_WORDS: list[str] = []
KINDS = {
    "wan2.1-i2v-14b": NO_WORDS,
    "wan2.1-flf2v-14b": NO_WORDS,
    "wan2.2-ti2v-5b": NO_WORDS,
    "wan2.2-i2v-a14b": ["--expert", "high_noise"],
    "wan2.1-vace-1.3b": NO_WORDS,
    "wan2.1-fun-control": NO_WORDS,
    "wan2.1-fun-v1.1-control-camera": NO_WORDS,
}
OTHERS = {"bernini-r-1.3b", "krea-realtime-14b", "longcat-video", "wan2.1-video-as-prompt-14b"}
COLUMNS = {
    "wan2.1-vace-1.3b": ("vace_video", "b.mp4"),
    "wan2.1-fun-control": ("control_video", "b.mp4"),
    "wan2.1-fun-v1.1-control-camera": ("camera_control_direction", "Left"),
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    for seed, name in enumerate("ab"):
        write_video(folder / f"{name}.mp4", draw_frames(5, 32, 32, seed))
    for name, (column, value) in COLUMNS.items():
        (folder / f"{name}.csv").write_text(f"video,prompt,{column}\na.mp4,a cat,{value}\n")
    (folder / "plain.csv").write_text("video,prompt\na.mp4,a cat\nb.mp4,a dog\n")
    return folder


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", KINDS)
def test_a_kind_of_model_learns_from_a_list(name: str, clips: Path, tmp_path: Path):
    model, _ = convert_tiny(tmp_path, name)
    listed = clips / (f"{name}.csv" if name in COLUMNS else "plain.csv")
    words = ["--model-dir", str(model.path), "--dataset-config", str(listed), "--num-frames", "5"]
    words += ["--output-dir", str(tmp_path / "out"), "--rank", "2", "--learning-rate", "0.01", *KINDS[name]]
    assert train_wan.main([*words, "--cache-directory", str(tmp_path / "cache"), "--steps", "3"]) == 0
    assert len(read_log(tmp_path / "out")) == 3
    (file,) = (tmp_path / "out").glob("trained*.safetensors")
    ups = {key: value for key, value in mx.load(str(file)).items() if key.endswith("lora_B.weight")}
    assert all(mx.any(value) for value in ups.values())


def test_one_frame_among_controls_is_learned(tmp_path: Path):
    model, _ = convert_tiny(tmp_path, "wan2.1-i2v-14b")
    folder = tmp_path / "pictures"
    write_picture(folder / "a.png", draw_frames(1, 32, 32)[0], "a cat")
    write_picture(tmp_path / "controls" / "a.png", draw_frames(1, 32, 32, 5)[0])
    config = tmp_path / "data.toml"
    config.write_text(
        '[general]\nresolution = [32, 32]\ncaption_extension = ".txt"\n[[datasets]]\n'
        f'image_directory = "{folder}"\ncontrol_directory = "{tmp_path / "controls"}"\n'
        f'cache_directory = "{tmp_path / "cache"}"\nfp_1f_clean_indices = [0]\nfp_1f_target_index = 9\n'
    )
    words = ["--model-dir", str(model.path), "--dataset-config", str(config), "--rank", "2"]
    assert train_wan.main([*words, "--output-dir", str(tmp_path / "out"), "--steps", "2"]) == 0
    assert [record.loss > 0 for record in read_log(tmp_path / "out")] == [True, True]


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.name in OTHERS], ids=lambda v: v.name)
def test_a_model_of_another_kind_is_refused(variant: Variant, tmp_path: Path):
    sizes = TransformerConfig(64, 96, 2, 2, model_type=variant.model_type)
    config = ModelConfig(variant.name, variant.model_version, sizes)
    folder = ModelFolder(tmp_path, {}, {"model": tmp_path}, {}, None)
    with pytest.raises(RequestError, match=f"{variant.title} cannot be trained here"):
        plan_training(TrainRequest(output_dir=tmp_path), folder, config)


def test_there_are_models_of_another_kind():
    assert {variant.name for variant in VARIANTS} >= OTHERS
