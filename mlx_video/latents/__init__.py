"""Frames to latents and back, piece by piece, and latents in files. Knows no prompt and no sampling."""
