"""Forms that guidance takes besides the official one. One file for each; each wraps what there is."""
