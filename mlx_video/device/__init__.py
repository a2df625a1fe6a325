"""Whether this machine computes what the networks need, and how fast. Knows operations, no runs."""
