"""Metal kernels, each beside the operations of MLX that it stands for; none is used before it was tried."""
