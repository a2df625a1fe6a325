"""Frames of control videos and masks, made of ordinary ones."""
