"""Makers of recorded fixtures."""
