"""Files on one side, arrays of pixels on the other; knows nothing of models, latents or prompts' meaning."""
