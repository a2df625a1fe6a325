"""A training on several machines: each computes the gradients of its examples, rank 0 does all else."""
