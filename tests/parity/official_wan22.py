"""Wan2.2's own pipelines, from noise to frames, around tiny networks on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.fixtures.tiny_variants import TinyVariant
from tests.parity.official import wan_pipeline
from tests.parity.official_run import (
    OfficialRequest,
    OfficialRun,
    Recorded,
    load_transformer,
    load_vae,
    text_encoder,
    to_frames,
)


class RecordedVAE:
    """An official VAE that keeps the latents it decodes."""

    def __init__(self, vae: Any) -> None:
        self.vae, self.model, self.encode = vae, vae.model, vae.encode
        self.latents: Any = None

    def decode(self, latents: list[Any]) -> list[Any]:
        self.latents = latents[0]
        return self.vae.decode(latents)


def run_wan22(folder: Path, variant: TinyVariant, request: OfficialRequest) -> OfficialRun:
    """Let the `generate` of the model's official pipeline make a video, float32 on the CPU.

    Source: Wan2.2 wan/text2video.py, wan/image2video.py, wan/textimage2video.py.
    """
    vae = RecordedVAE(load_vae(folder, variant))
    sizes = variant.sizes
    models = {
        name: Recorded(load_transformer(folder / name, sizes.transformer.text_dim))
        for name in variant.folders
    }
    pipeline = build_pipeline(variant)
    transformers = models if variant.is_dual else {"model": models["."]}
    vars(pipeline).update(
        transformers,
        vae=vae,
        text_encoder=text_encoder(folder, sizes),
        boundary=request.boundary,
        vae_stride=sizes.vae.stride,
        patch_size=sizes.transformer.patch_size,
    )
    video = pipeline.generate(request.prompt, **options(request))
    served = {name: model.timesteps for name, model in models.items()}
    return OfficialRun(vae.latents.numpy(), to_frames(video), served)


def build_pipeline(variant: TinyVariant) -> Any:
    """The official pipeline object without what its constructor loads."""
    import torch

    places = {
        "t2v": ("text2video", "WanT2V"),
        "i2v": ("image2video", "WanI2V"),
        "ti2v": ("textimage2video", "WanTI2V"),
    }
    module, name = places[variant.sizes.transformer.model_type]
    pipeline = object.__new__(getattr(wan_pipeline(module), name))
    vars(pipeline).update(
        device="cpu",
        rank=0,
        sp_size=1,
        t5_cpu=True,
        init_on_cpu=False,
        lightning=False,
        num_train_timesteps=1000,
        param_dtype=torch.bfloat16,  # of CUDA's autocast, which does nothing here
    )
    return pipeline


def options(request: OfficialRequest) -> dict[str, Any]:
    """The request in the words of the official pipelines."""
    common = {
        "frame_num": request.num_frames,
        "shift": request.shift,
        "sample_solver": request.solver,
        "sampling_steps": request.steps,
        "guide_scale": request.guide_scale,
        "n_prompt": request.negative_prompt,
        "seed": request.seed,
        "offload_model": False,
    }
    if not request.images:
        return common | {"size": request.size}
    return common | {"img": request.open_images()[0], "max_area": request.max_area}
