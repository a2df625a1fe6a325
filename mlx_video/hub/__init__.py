"""A repository on the Hub ↔ the same, through the cache of huggingface_hub."""
