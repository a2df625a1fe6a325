"""Step caches: work of earlier steps used again. One file for each; `table.py` names them."""
