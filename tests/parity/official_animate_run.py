"""Wan2.2's own Animate pipeline, from files to frames, around tiny networks in float32 on the CPU."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.fixtures.tiny_variants import TinyVariant
from tests.parity.official import wan_module, wan_pipeline
from tests.parity.official_animate import animate_modules, build_official
from tests.parity.official_run import load_vae, read_transformer, text_encoder, to_frames
from tests.parity.official_wan21_image import encode_clip

POSES, FACE, BACKGROUND, MASK = "src_pose.mp4", "src_face.mp4", "src_bg.mp4", "src_mask.mp4"
CHARACTER = "src_ref.png"


@dataclass(frozen=True)
class AnimateRequest:
    """What the official code is asked for; `relighting` is what the adapter adds to each layer's weight."""

    prompt: str
    negative_prompt: str
    seed: int
    steps: int
    shift: float
    guide_scale: float
    segment_frames: int
    shared_frames: int
    is_replacement: bool
    relighting: Mapping[str, np.ndarray] = field(default_factory=dict)


class FrameFolder:
    """Stands for decord's VideoReader: a folder of pictures whose name is that of a video."""

    def __init__(self, path: str) -> None:
        self._paths = sorted(Path(path).iterdir())

    def __len__(self) -> int:
        return len(self._paths)

    def get_batch(self, numbers: list[int]) -> Any:
        frames = np.stack([np.asarray(Image.open(self._paths[n]).convert("RGB")) for n in numbers])
        return SimpleNamespace(asnumpy=lambda: frames)


def resize_bilinear(pixels: np.ndarray, size: tuple[int, int], interpolation: object) -> np.ndarray:
    """cv2.resize with INTER_LINEAR: half-pixel centres, no averaging, uint8 [H, W, 3]."""
    import torch

    columns, rows = size
    values = torch.tensor(pixels.copy()).permute(2, 0, 1)[None].float()
    resized = torch.nn.functional.interpolate(values, size=(rows, columns), mode="bilinear")
    return resized[0].permute(1, 2, 0).round().to(torch.uint8).numpy()


def animate_pipeline() -> Any:
    """`wan.animate` without OpenCV, decord and what works on several GPUs."""
    animate_modules()
    names = (
        "cv2",
        "decord",
        "wan.distributed.fsdp",
        "wan.distributed.sequence_parallel",
        "wan.distributed.util",
    )
    stand_ins = {name: ModuleType(name) for name in names}
    vars(stand_ins["cv2"]).update(
        INTER_LINEAR=1,
        imread=lambda path: np.asarray(Image.open(path).convert("RGB"))[..., ::-1],
        resize=resize_bilinear,
    )
    stand_ins["decord"].VideoReader = FrameFolder
    stand_ins["wan.distributed.fsdp"].shard_model = None
    stand_ins["wan.distributed.sequence_parallel"].sp_attn_forward = None
    stand_ins["wan.distributed.sequence_parallel"].sp_dit_forward = None
    stand_ins["wan.distributed.util"].get_world_size = None
    namespace = sys.modules["wan.modules.animate"]
    namespace.WanAnimateModel = namespace.CLIPModel = None
    with pytest.MonkeyPatch.context() as patch:
        for name, module in stand_ins.items():
            patch.setitem(sys.modules, name, module)
        return wan_pipeline("animate")


class FloatTorch:
    """PyTorch in which 16-bit floats are 32-bit ones, and autocast does nothing."""

    def __init__(self) -> None:
        self._torch = importlib.import_module("torch")
        self.bfloat16 = self._torch.float32
        self.autocast = lambda **_: nullcontext()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._torch, name)


class RecordedVAE:
    """An official VAE that keeps the latents of each segment."""

    def __init__(self, vae: Any) -> None:
        self._vae = vae
        self.latents: list[Any] = []

    def encode(self, videos: Any) -> list[Any]:
        return self._vae.encode([*videos])

    def decode(self, latents: list[Any]) -> list[Any]:
        self.latents.append(latents[0])
        return self._vae.decode(latents)


class Clip:
    """The official CLIP with the folder's weights, behind the interface of its pipeline."""

    def __init__(self, folder: Path, variant: TinyVariant) -> None:
        self._folder, self._variant = folder, variant

    def visual(self, videos: list[Any]) -> Any:
        return encode_clip(self._folder, self._variant, [video[:, 0] for video in videos])


def run_animate(
    folder: Path, variant: TinyVariant, inputs: Path, request: AnimateRequest
) -> tuple[list[np.ndarray], np.ndarray]:
    """Let the official `generate` make a video.

    Args:
        folder: of the checkpoint.
        variant: in it; its face encoder has the official widths.
        inputs: the folder with the character and the videos.
        request: what is asked for.

    Returns:
        Latents [C, T, h, w] of each segment, and all frames, uint8 [F, H, W, 3].
    """
    module = animate_pipeline()
    vae = RecordedVAE(load_vae(folder, variant))
    pipeline = object.__new__(module.WanAnimate)
    arrays = {name: tensor.numpy() for name, tensor in read_transformer(folder).items()}
    arrays |= {f"{layer}.weight": arrays[f"{layer}.weight"] + d for layer, d in request.relighting.items()}
    model = build_official(variant.sizes.transformer, arrays)

    def predict(latents: Any, t: Any, **inputs: Any) -> Any:
        return model([*latents], t=t, **inputs)

    vars(pipeline).update(
        device="cpu", rank=0, sp_size=1, t5_cpu=True, num_train_timesteps=1000, vae=vae,
        noise_model=predict, text_encoder=text_encoder(folder, variant.sizes), clip=Clip(folder, variant),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "torch", FloatTorch())
        video = pipeline.generate(
            str(inputs),
            replace_flag=request.is_replacement,
            clip_len=request.segment_frames,
            refert_num=request.shared_frames,
            shift=request.shift,
            sample_solver="unipc",
            sampling_steps=request.steps,
            guide_scale=request.guide_scale,
            input_prompt=request.prompt,
            n_prompt=request.negative_prompt,
            seed=request.seed,
            offload_model=False,
        )
    wan_module("model")
    return [latents.numpy() for latents in vae.latents], to_frames(video)
