"""Negative prompts that several models share, besides the family's own."""

# Source: bytedance/Video-As-Prompt diffusers pipeline_wan_i2v_mot.py; meituan-longcat/LongCat-Video.
ENGLISH_NEGATIVE_PROMPT = (
    "Bright tones, overexposed, static, blurred details, subtitles, style, works, paintings, images, static, "
    "overall gray, worst quality, low quality, JPEG compression residue, ugly, incomplete, extra fingers, "
    "poorly drawn hands, poorly drawn faces, deformed, disfigured, misshapen limbs, fused fingers, still "
    "picture, messy background, three legs, many people in the background, walking backwards"
)
