"""What stays in memory, and when. Knows modules as things to load and release, not what they compute."""
