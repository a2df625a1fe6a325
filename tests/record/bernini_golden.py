"""Runs the authors' own sampling of Bernini-R, and prints what `tests/parity/test_bernini_golden.py` expects.

Needs a clone of github.com/bytedance/Bernini, torch, einops, and diffusers 0.35.2, whose noise levels are the
official ones, as those of later releases are not:

    python -m tests.record.bernini_golden CLONE
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from tests.models.networks import transformer_arrays
from tests.parity.bernini_cases import CASES, CONFIG, NEGATIVE_PROMPT, PROMPT, STEPS, Case
from tests.parity.diffusers_transformer import diffusers_name
from tests.parity.golden import sample


def import_sampling(clone: Path) -> Any:
    """The authors' module of sampling, without what their packages import besides."""
    for name, folder in (("bernini", "bernini"), ("bernini.models", "bernini/models")):
        package = ModuleType(name)
        package.__path__ = [str(clone / folder)]
        sys.modules[name] = package
    return importlib.import_module("bernini.models.wan_diffusion")


def build_expert(module: Any, sign: float) -> Any:
    """Their transformer with the weights of the test; `sign` multiplies every modulation table."""
    import torch

    model = module.WanTransformer3DModel(
        num_attention_heads=CONFIG.num_heads, attention_head_dim=CONFIG.head_dim, text_dim=CONFIG.text_dim,
        ffn_dim=CONFIG.ffn_dim, num_layers=CONFIG.num_layers, use_src_id_rotary_emb=True,
    )  # fmt: skip
    weights = {
        diffusers_name(name): torch.tensor(sign * values if name.endswith("modulation") else values)
        for name, values in transformer_arrays(CONFIG).items()
    }
    model.load_state_dict(weights)
    return model.eval()


def run(module: Any, case: Case) -> np.ndarray:
    """Final latents [C, T, H, W] of a case, with the authors' defaults of the command line."""
    import torch
    from diffusers import UniPCMultistepScheduler

    sampler = module.GEN_Wanx22.__new__(module.GEN_Wanx22)
    torch.nn.Module.__init__(sampler)
    sampler.config = SimpleNamespace(interpolate_src_id=True, max_trained_src_id=5)
    sampler.switch_dit_boundary = 0.875 if case.is_dual else 0
    sampler.transformer = build_expert(module, 1.0)
    sampler.transformer_2 = build_expert(module, -1.0) if case.is_dual else None
    sampler.use_unipc = True
    sampler.scheduler = UniPCMultistepScheduler(
        num_train_timesteps=1000, prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0
    )
    sampler.vae_scale_factor_temporal, sampler.vae_scale_factor_spatial = 4, 8
    module.randn_tensor = lambda shape, **options: torch.tensor(case.noise)[None].reshape(shape)

    def embeds(text: np.ndarray) -> Any:
        return torch.nn.functional.pad(torch.tensor(text), (0, 0, 0, 512 - len(text)))[None]

    _, frames, rows, columns = case.shape
    latents = sampler.sample(
        prompt_embeds=embeds(PROMPT),
        uncond_prompt_embeds=embeds(NEGATIVE_PROMPT),
        num_frames=4 * (frames - 1) + 1,
        width=8 * columns,
        height=8 * rows,
        multi_video_vae_latents=None if case.video is None else [torch.tensor(case.video)[None]],
        multi_image_vae_latents=[torch.tensor(each)[None] for each in case.pictures] or None,
        num_inference_steps=STEPS,
        guidance_mode=case.mode,
        omega_vid=1.25,
        omega_img=4.5,
        omega_txt=4.0,
        omega_scale=0.8,
        device="cpu",
        eta=0.5,
        norm_threshold=(50.0, 50.0, 50.0),
        momentum=0.0,
    )
    return latents[0].numpy()


def main() -> None:
    """Print a record for each case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clone", type=Path)
    module = import_sampling(parser.parse_args().clone)
    for name, case in CASES.items():
        found = sample(run(module, case))
        numbers = [f"{value:.8g}" for value in (found.mean, found.mean_abs, *found.values)]
        sys.stdout.write(
            f'    "{name}": Golden({found.size}, {numbers[0]}, {numbers[1]}, (\n'
            f"        {', '.join(numbers[2:])},\n    )),\n"
        )


if __name__ == "__main__":
    main()
