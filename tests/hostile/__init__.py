"""Hostile and damaged inputs: each must end in one clean message, or in a right result.

`python -m tests.hostile` runs them all; a part of them belongs to the suite.
"""
