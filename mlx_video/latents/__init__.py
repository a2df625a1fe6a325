"""Frames to latents and back, chunk by chunk, and latents in files. Knows no prompt and no sampling."""
