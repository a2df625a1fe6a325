"""Runs of several machines: rank 0 makes the video, and the others serve it until it has no more to do."""
