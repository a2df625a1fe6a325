"""Frames to latents and back, whole or piece by piece, and latents in files. Knows no prompt and no sampling."""
