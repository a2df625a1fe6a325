"""The rooms in order: convert a checkpoint, make a video. Yields events; prints nothing, knows no flags."""
