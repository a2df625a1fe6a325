"""What both commands share at the terminal: argument types, progress, error text. Knows no model."""
