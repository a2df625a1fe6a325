"""Adapters: files of small changes to a transformer's weights. Knows tensors and layers, no runs."""
