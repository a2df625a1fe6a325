"""Bytes on disk to named tensors and back; which file of a folder is which. Knows formats, knows no model."""
