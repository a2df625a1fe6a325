"""A folder ↔ the components in it, by names and headers; knows no tensor of a model."""
