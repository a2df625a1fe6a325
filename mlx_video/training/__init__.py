"""Examples in, a trained file out: losses, trainable networks, the loop and its state; knows no command."""
