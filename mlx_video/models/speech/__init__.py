"""Networks of speech-to-video: what hears, and what brings sound, poses and earlier frames to the blocks."""
