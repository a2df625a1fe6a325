"""Spacings of the noise levels. One file for each family; `table.py` names them."""
