"""Options that are chosen from a list, and the bounds of seeds and steps."""

from __future__ import annotations

from typing import Literal

DTypeName = Literal["bfloat16", "float16", "float32"]
ModelVersion = Literal["auto", "2.1", "2.2"]
SchedulerName = Literal[
    "unipc",
    "dpm++",
    "euler",
    "lcm",
    "euler_ancestral",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "dpmpp_2m_sde_heun",
    "dpmpp_sde",
    "res_multistep",
    "res_multistep_ancestral",
    "heun",
]
RecipeName = Literal[
    "official",
    "fastwan",
    "fastmetal",
    "lightning",
    "meanflow",
    "causvid",
    "self-forcing",
    "lightx2v",
    "krea",
    "longcat",
    "longcat-distilled",
    "longcat-refine",
    "bernini",
    "direct-distill",
]
NoiseLevelsName = Literal[
    "official",
    "simple",
    "sgm_uniform",
    "normal",
    "ddim_uniform",
    "beta",
    "karras",
    "exponential",
    "linear_quadratic",
    "kl_optimal",
]
StepCacheName = Literal["off", "magcache", "teacache", "easycache", "first-block"]
TeaCacheMode = Literal["ret", "non-ret"]
GuidanceSkipMode = Literal["early", "late", "early_late", "middle", "alternate"]
SkipLayerMode = Literal["original", "uncond"]
PromptChoice = Literal["negative", "positive"]
ContextSchedule = Literal["static", "uniform", "looped"]
ContextWeights = Literal["pyramid", "relative", "linear"]
Switch = Literal["on", "off"]
DecoderName = Literal["vae", "tiny"]
NoiseKind = Literal["torch", "mlx"]
ExpertMode = Literal["relay", "parallel"]
TilingMode = Literal["auto", "none", "default", "aggressive", "conservative", "spatial", "temporal"]
LoraMode = Literal["auto", "merge", "side"]
FitMode = Literal["cover", "letterbox", "stretch"]
VACERegion = Literal["generate", "repaint"]
OutputType = Literal["video", "latent", "both", "images"]
StreamMode = Literal["auto", "on", "off"]
ParallelMode = Literal["auto", "data", "guidance", "context", "tensor", "sharded"]
QuantizationBits = Literal[4, 8]
QuantizationGroup = Literal[32, 64, 128]

InputKind = Literal[
    "text",
    "image",
    "pictures",
    "video",
    "whole video",
    "all frames",
    "footage",
    "tail",
    "mask",
    "audio",
    "number",
    "camera",
]
"""What an input is by which a model is conditioned; of a "tail" the last frames count."""
CameraDirection = Literal[
    "Left", "Right", "Up", "Down", "LeftUp", "LeftDown", "RightUp", "RightDown", "In", "Out"
]
Affects = Literal["latents", "video", "run"]
"""What of a run an option decides: the latents, the video made of them, or only how they are made."""

MAX_STEPS = 1000
# What torch.Generator.manual_seed takes; numbers below zero count from 2**64.
MIN_SEED, MAX_SEED = -(2**63), 2**64 - 1
RANDOM_SEED = -1
