"""Wan2.2's own speech-to-video pipeline around tiny networks on the CPU."""

from __future__ import annotations

import importlib
import sys
import wave
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.fixtures.tiny_checkpoint import AUDIO_ENCODER_FILE
from tests.fixtures.tiny_variants import TinyVariant
from tests.parity.official import speech_module, to_tensor, wan_module
from tests.parity.official_run import load_vae, read_transformer, text_encoder, to_frames


@dataclass(frozen=True)
class OfficialSpeech:
    """What the official pipeline makes.

    Attributes:
        latents: of each clip, [C, T, H, W].
        frames: uint8 [F, H, W, 3], of all clips.
    """

    latents: list[np.ndarray]
    frames: np.ndarray


class RecordedDecoder:
    """An official VAE that keeps the latents of each clip that it decodes, without those before it."""

    dtype, device = None, "cpu"

    def __init__(self, vae: Any, clip_latents: int) -> None:
        import torch

        self.vae, self.encode, self.dtype = vae, vae.encode, torch.float32
        self.clip_latents, self.latents = clip_latents, []

    def decode(self, latents: Any) -> Any:
        self.latents.append(latents[0][:, -self.clip_latents :].numpy())
        return self.vae.decode(latents)


def run_speech(folder: Path, variant: TinyVariant, infer_frames: int, **options: Any) -> OfficialSpeech:
    """Let the official `generate` make a video, float32 on the CPU.

    Args:
        folder: of the checkpoint.
        variant: that it was written from.
        infer_frames: of a clip.
        options: of `generate`.

    Source: Wan2.2 wan/speech2video.py, WanS2V.generate.
    """
    import torch

    with reading_pictures() as module:
        pipeline = object.__new__(module.WanS2V)
        vae = RecordedDecoder(load_vae(folder, variant), infer_frames // 4)
        vars(pipeline).update(
            noise_model=load_speech_transformer(folder, variant),
            audio_encoder=load_listener(folder, variant),
            vae=vae,
            text_encoder=text_encoder(folder, variant.sizes),
            device="cpu",
            rank=0,
            t5_cpu=True,
            init_on_cpu=False,
            num_train_timesteps=1000,
            param_dtype=torch.float32,
            motion_frames=73,
            drop_first_motion=True,
            fps=16,
            audio_sample_m=0,
            sample_neg_prompt="",
        )
        video = pipeline.generate(
            enable_tts=False, tts_prompt_audio=None, tts_prompt_text=None, tts_text=None, num_repeat=None,
            infer_frames=infer_frames, offload_model=False, **options,
        )  # fmt: skip
    return OfficialSpeech(vae.latents, to_frames(video))


def load_speech_transformer(folder: Path, variant: TinyVariant) -> Any:
    """The official transformer with the folder's weights, every one of them."""
    import json

    config = json.loads((folder / "config.json").read_text())
    settings = {name: value for name, value in config.items() if not name.startswith("_")}
    model = speech_module("model_s2v").WanModel_S2V(text_dim=variant.sizes.transformer.text_dim, **settings)
    model.load_state_dict(read_transformer(folder))
    return model.eval().requires_grad_(False)


def load_listener(folder: Path, variant: TinyVariant) -> Any:
    """The official audio encoder, whose last hidden state is what older releases of transformers gave."""
    from safetensors.torch import load_file
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

    sizes = variant.sizes.audio_encoder
    model = Wav2Vec2ForCTC(
        Wav2Vec2Config(
            vocab_size=33, hidden_size=sizes.width, num_hidden_layers=sizes.num_layers,
            num_attention_heads=sizes.num_heads, intermediate_size=sizes.mlp_width,
            conv_dim=[sizes.conv_width] * 7, conv_bias=True, feat_extract_norm="layer",
            do_stable_layer_norm=True, num_conv_pos_embeddings=sizes.position_kernel,
            num_conv_pos_embedding_groups=sizes.position_groups,
        )
    ).eval().requires_grad_(False)  # fmt: skip
    newer = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
    weights = load_file(folder / AUDIO_ENCODER_FILE)
    for name in [name for name in weights if name.endswith(tuple(newer))]:
        path, _, part = name.rpartition(".")
        weights[f"{path}.{newer[part]}"] = weights.pop(name)
    model.load_state_dict(weights)

    def listen(samples: Any, output_hidden_states: bool) -> Any:
        result = model.wav2vec2(samples, output_hidden_states=output_hidden_states)
        return SimpleNamespace(hidden_states=(*result.hidden_states[:-1], result.last_hidden_state))

    listen.device = "cpu"
    listener = object.__new__(listener_module().AudioEncoder)
    listener.processor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=False)
    listener.model, listener.video_rate = listen, 30
    return listener


def load_sound(path: Path, sr: int) -> tuple[np.ndarray, int]:
    """Stands for librosa's `load`; it reads files that need no resampling."""
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnchannels()) == (sr, 1)
        numbers = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    return numbers.astype(np.float32) / 32768, sr


def listener_module() -> ModuleType:
    """Import the official audio encoder, which asks for librosa."""
    speech_module("model_s2v")  # finds the package
    librosa = ModuleType("librosa")
    librosa.load = load_sound
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "librosa", librosa)
        return importlib.import_module("wan.modules.s2v.audio_encoder")


class Resize:
    """Stands for torchvision's of this name."""

    def __init__(self, shorter: int) -> None:
        self.shorter = shorter

    def __call__(self, picture: Any) -> Any:
        is_picture = isinstance(picture, Image.Image)
        width, height = picture.size if is_picture else picture.shape[:-3:-1]
        longer = int(self.shorter * max(width, height) / min(width, height))
        width, height = (self.shorter, longer) if width <= height else (longer, self.shorter)
        if is_picture:
            return picture.resize((width, height), Image.Resampling.BILINEAR)
        import torch

        return torch.nn.functional.interpolate(
            picture, (height, width), mode="bilinear", align_corners=False, antialias=True
        )


class CenterCrop:
    """Stands for torchvision's of this name.

    Source: torchvision torchvision/transforms/functional.py, center_crop.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self.height, self.width = size

    def __call__(self, picture: Any) -> Any:
        is_picture = isinstance(picture, Image.Image)
        width, height = picture.size if is_picture else picture.shape[:-3:-1]
        across, down = max(0, self.width - width), max(0, self.height - height)
        if across or down:
            margins = (across // 2, down // 2, (across + 1) // 2, (down + 1) // 2)
            picture = self._with_margins(picture, margins)
            width, height = width + across, height + down
        top, left = round((height - self.height) / 2), round((width - self.width) / 2)
        if is_picture:
            return picture.crop((left, top, left + self.width, top + self.height))
        return picture[..., top : top + self.height, left : left + self.width]

    def _with_margins(self, picture: Any, margins: tuple[int, int, int, int]) -> Any:
        """The picture with zeros at the left, the top, the right and the bottom."""
        if isinstance(picture, Image.Image):
            return ImageOps.expand(picture, margins, 0)
        import torch

        left, top, right, bottom = margins
        return torch.nn.functional.pad(picture, (left, right, top, bottom))


def official_fitting(size: tuple[int, int]) -> tuple[Resize, CenterCrop]:
    """What the official pipeline brings pictures and poses to a size (height, width) with."""
    return Resize(min(size)), CenterCrop(size)


@contextmanager
def reading_pictures():
    """The official module, with stand-ins for the packages that read videos, sounds and resize pictures."""
    import torch

    class VideoReader:
        """Stands for decord's; it gets frames and their rate in place of a file."""

        def __init__(self, video: tuple[np.ndarray, float]) -> None:
            self.frames, self.fps = video

        def __len__(self) -> int:
            return len(self.frames)

        def get_avg_fps(self) -> float:
            return self.fps

        def get_batch(self, numbers: list[int]) -> Any:
            return SimpleNamespace(asnumpy=lambda: self.frames[numbers])

    transforms = ModuleType("torchvision.transforms")
    transforms.Resize, transforms.CenterCrop, transforms.ToTensor = Resize, CenterCrop, lambda: to_tensor
    stand_ins = {
        name: ModuleType(name) for name in ("torchvision", "torchvision.transforms.functional", "decord")
    }
    stand_ins["torchvision"].transforms = stand_ins["torchvision.transforms"] = transforms
    transforms.functional = stand_ins["torchvision.transforms.functional"]
    stand_ins["decord"].VideoReader = VideoReader
    import transformers  # noqa: F401  (before what it would find in place of packages)

    for name in ("model", "t5", "vae2_1"):
        wan_module(name)
    speech_module("model_s2v")
    listener_module()
    with pytest.MonkeyPatch.context() as patch:
        for name, stand_in in stand_ins.items():
            patch.setitem(sys.modules, name, stand_in)
        module = importlib.import_module("wan.speech2video")
        patch.setattr(module, "tqdm", iter)
        patch.setattr(torch.amp, "autocast", lambda *_, **__: torch.no_grad())
        yield module
