"""krea-realtime: text-to-video in few steps, whole or block by block, with the tensors of Wan2.1 T2V."""

from __future__ import annotations

from mlx_video.config import SamplingDefaults
from mlx_video.sampling.blocks import BlockMethod
from mlx_video.sampling.recipes.krea import KREA as RECIPE
from mlx_video.variants.t2v import LATENTS, T2V_1_3B
from mlx_video.variants.variant import CheckpointFacts, Evidence, Traits, Variant

# Source: krea-ai/realtime-video utils/wan_wrapper.py, WanDiffusionWrapper, whose `model` the tensors are of.
WRAPPER, OTHER_WRAPPER = "model.", "model.diffusion_model."
CLASS_NAME = "CausalWanModel"


def _is_causal(facts: CheckpointFacts, evidence: Evidence) -> bool:
    """Whether a transformer was trained to make videos block by block; the 1.3B ones are of other authors."""
    stored = tuple(evidence.stored)
    is_wrapped = bool(stored) and all(
        name.startswith(WRAPPER) and not name.startswith(OTHER_WRAPPER) for name in stored
    )
    return (is_wrapped or evidence.class_name == CLASS_NAME) and not T2V_1_3B.traits.fit(facts)


KREA = Variant(
    name="krea-realtime-14b",
    title="krea-realtime 14B",
    model_version="2.1",
    model_type="t2v",
    traits=Traits(LATENTS),
    # Source: modelscope/DiffSynth-Studio examples/wanvideo/model_inference/krea-realtime-video.py.
    sampling=SamplingDefaults(
        recipe=RECIPE.name, steps=6, shift=RECIPE.shifts["t2v"], guide_scale=(1.0, 1.0)
    ),
    names=RECIPE.names,
    is_marked=_is_causal,
    # Source: krea-ai/realtime-video release_server.py, GenerateParams; wan/modules/causal_model.py,
    # CausalWanSelfAttention.max_attention_size, which are 21 latent frames.
    blocks=BlockMethod(frames=3, most_seen=21, steps=5, shift=5.0),
    remark="Its licence is CC BY-NC-SA 4.0: no commercial use.",
)
