"""Networks that read prompts and images, and their memory."""
