"""Solvers: velocity → next latents. One file for each family; `table.py` names them."""
