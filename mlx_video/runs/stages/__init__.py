"""The stages of a run, one file each: what it takes, what it gives, and the work between."""
