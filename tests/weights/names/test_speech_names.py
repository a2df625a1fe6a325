"""The tensors of speech-to-video are those of the published files: names, shapes, counts and digests."""

from __future__ import annotations

import math

import pytest

from mlx_video.config import AudioEncoderConfig, TransformerConfig
from mlx_video.errors import CheckpointError, ConfigError
from mlx_video.formats.tensor_info import TensorInfo
from mlx_video.variants.other_models import PUBLISHED, digest_shapes
from mlx_video.weights.names.audio_encoder_names import (
    audio_encoder_tensors,
    read_audio_encoder_config,
    read_converted_audio_encoder_config,
)
from mlx_video.weights.names.speech_names import AUDIO_LAYERS, read_audio_layers, speech_tensors
from mlx_video.weights.names.transformer_names import transformer_tensors
from mlx_video.weights.rules import target_shapes
from tests.fixtures.tiny_checkpoint import audio_encoder_file_tensors

pytestmark = pytest.mark.quick

S2V = TransformerConfig(
    5120, 13824, 40, 40, model_type="s2v", audio_dim=1024, audio_layers=AUDIO_LAYERS, pose_dim=16
)


def test_the_transformer_has_the_published_tensors_and_no_other():
    own, all_tensors = speech_tensors(S2V), transformer_tensors(S2V) | speech_tensors(S2V)
    assert (len(own), len(all_tensors)) == (165, 1260)
    assert sum(map(math.prod, all_tensors.values())) == 16_295_755_609
    assert PUBLISHED[digest_shapes(all_tensors)] == "Wan2.2 S2V 14B"


def test_the_audio_encoder_has_the_published_tensors_and_no_other():
    tensors = audio_encoder_file_tensors(AudioEncoderConfig())
    assert len(tensors) == 424
    assert PUBLISHED[digest_shapes(tensors)] == "wav2vec 2.0 of Wan2.2 S2V 14B"


def test_sizes_of_the_audio_encoder_are_read_before_and_after_conversion():
    from mlx_video.weights.names.audio_encoder_names import WAN_RULES

    config = AudioEncoderConfig(128, 96, 2, 3, conv_width=32, position_kernel=16, position_groups=4)
    for tensors, read in (
        (audio_encoder_tensors(config), read_audio_encoder_config),
        (target_shapes(audio_encoder_tensors(config), WAN_RULES), read_converted_audio_encoder_config),
    ):
        infos = {name: TensorInfo(name, shape, "F32") for name, shape in tensors.items()}
        assert read(infos, label="a file") == config
        del infos[next(name for name in infos if "feature_projection" in name and "weight" in name)]
        with pytest.raises(CheckpointError, match=r"a file: .* no wav2vec 2.0 encoder of Wan\. Fetch"):
            read(
                {name: info for name, info in infos.items() if "feature_projection" not in name},
                label="a file",
            )


def test_a_feature_is_made_of_25_ms_every_20_ms():
    config = AudioEncoderConfig()
    assert (config.reach, config.hop) == (400, 320)
    assert [config.count_features(count) for count in (399, 400, 719, 720, 16000)] == [0, 1, 1, 2, 49]


@pytest.mark.parametrize(
    ("count", "layers", "stated", "expected"),
    [(12, 40, None, AUDIO_LAYERS), (0, 40, None, ()), (2, 4, [1, 3], (1, 3)), (2, 4, None, (0, 2))],
)
def test_audio_layers_are_those_of_the_config_or_the_published_ones(count, layers, stated, expected):
    config = {} if stated is None else {"audio_inject_layers": stated}
    assert read_audio_layers(count, layers, config) == expected


def test_audio_layers_of_another_number_than_the_blocks_are_refused():
    with pytest.raises(ConfigError, match=r"says audio_inject_layers \[0\], but the transformer has 3"):
        read_audio_layers(3, 40, {"audio_inject_layers": [0]})
