"""Forms in which files store tensors that are not plain: scaled, folded, stacked, or several components."""
