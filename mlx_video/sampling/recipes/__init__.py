"""Recipes of sampling. One file for each family; `table.py` names them, `settle.py` applies them."""
