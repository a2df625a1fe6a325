"""Foreign tensor names and layouts → our parameters. Knows names and shapes, not what layers compute."""
