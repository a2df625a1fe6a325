"""What the user gave becomes tensors that the transformer takes; this room knows nothing of sampling."""
