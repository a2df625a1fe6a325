"""A run that ends early goes on: its state, whose it is, and how to go on."""
