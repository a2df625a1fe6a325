"""Bytes that each stage needs, what the machine has, and the choice among what fits."""
