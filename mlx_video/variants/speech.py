"""Speech-to-video: a person in an image who says or sings what is heard, for as long as it lasts."""

from __future__ import annotations

import math

from mlx_video.conditioning.continuation.speech_clips import SPEECH_CLIPS
from mlx_video.conditioning.speech.units import SOUND, SPEECH
from mlx_video.conditioning.units import PROMPTS
from mlx_video.config import SamplingDefaults
from mlx_video.models.speech.audio_block import order_audio_blocks
from mlx_video.models.speech.speech_memory import count_read_frames, speech_peak
from mlx_video.models.speech.transformer import SpeechTransformer
from mlx_video.variants.variant import Inputs, Traits, Variant
from mlx_video.weights.names.speech_names import AUDIO_ANCHOR, POSE_ANCHOR, SPEECH_RULES, speech_tensors
from mlx_video.weights.network import TransformerNetwork

PARTS = ("casual_audio_encoder.", "audio_injector.", "frame_packer.", "trainable_cond_mask.", "cond_encoder.")
ANCHORS = (
    AUDIO_ANCHOR, "audio_injector.injector.0.q.weight", "frame_packer.proj.weight",
    "trainable_cond_mask.weight", POSE_ANCHOR,
)  # fmt: skip
"""A tensor of each part."""
NEGATIVE_PROMPT = (
    "画面模糊，最差质量，画面模糊，细节模糊不清，情绪激动剧烈，手快速抖动，字幕，丑陋的，残缺的，多余的手指，"
    "画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
)
SIZE_STEP = 64
_TRIES = 100


def size_within_area(image_height: int, image_width: int, max_area: int) -> tuple[int, int]:
    """The largest size in the shape of an image within an area, its sides rounded up to multiples of 64.

    An image that is small enough keeps its size.

    Args:
        image_height: pixels.
        image_width: pixels.
        max_area: pixels of a frame, at most.

    Returns:
        (width, height) in pixels.

    Source: Wan2.2 wan/speech2video.py, WanS2V.get_size_less_than_area.
    """
    area = image_height * image_width
    smallest, largest = 0.1, 1.0
    if area > max_area:
        b, c = (SIZE_STEP - 1) * (image_height + image_width), (SIZE_STEP - 1) ** 2 - max_area
        smallest = (-b + math.sqrt(b**2 - 2 * area * c)) / (2 * area)  # twice, as the official code has it
        largest = math.sqrt(max_area / area)
    for attempt in range(_TRIES):
        scale = largest - (largest - smallest) * attempt / _TRIES
        height, width = (
            math.ceil(int(side * scale) / SIZE_STEP) * SIZE_STEP for side in (image_height, image_width)
        )
        if height * width <= max_area:
            return width, height
    ratio = image_width / image_height
    width, height = (int((max_area * each) ** 0.5 // SIZE_STEP * SIZE_STEP) for each in (ratio, 1 / ratio))
    if width >= image_width or height >= image_height:
        width, height = (side // SIZE_STEP * SIZE_STEP for side in (image_width, image_height))
    return width, height


# Source: Wan2.2 wan/configs/wan_s2v_14B.py; generate.py, the default size.
S2V_14B = Variant(
    name="wan2.2-s2v-14b",
    title="Wan2.2 S2V 14B",
    model_version="2.2",
    model_type="s2v",
    traits=Traits((16, 16), PARTS),
    network=TransformerNetwork(
        build=SpeechTransformer,
        extra_tensors=speech_tensors,
        extra_rules=SPEECH_RULES,
        peak=speech_peak,
        read_frames=count_read_frames,
        further_blocks=order_audio_blocks,
    ),
    sampling=SamplingDefaults(
        steps=40,
        shift=3.0,
        guide_scale=(4.5, 4.5),
        num_frames=77,
        negative_prompt=NEGATIVE_PROMPT,
        max_area=1280 * 720,
        width=1280,
        height=720,
    ),
    inputs=Inputs(
        required=("prompt", "image"),
        optional=("s2v_pose_video", "motion_video"),
        alternatives=("input_audio", "audio_embeds"),
    ),
    units=(PROMPTS, SOUND, SPEECH),
    continuation=SPEECH_CLIPS,
    choose_size=size_within_area,
)
