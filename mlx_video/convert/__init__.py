"""A checkpoint becomes a converted folder, component by component."""
