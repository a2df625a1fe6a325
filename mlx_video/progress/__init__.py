"""How events are shown: bars, lines, JSON, a notebook's area; and the time left. Knows no command."""
