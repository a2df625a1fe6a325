"""The commands, and what they share at the terminal: options, progress, error text. Knows no model."""
