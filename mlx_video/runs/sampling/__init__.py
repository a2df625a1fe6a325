"""The sampling of a run: what is chosen for it, and the loop around the transformers."""
