"""One file ↔ named tensors: safetensors, GGUF, torch archives; knows formats, and no model."""
