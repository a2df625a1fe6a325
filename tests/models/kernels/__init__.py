"""Kernels in Metal's language, run as C++, against the operations of MLX in whose place they stand."""
