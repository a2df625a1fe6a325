"""The most that is taken of a file or a request; more is refused before it takes memory or disk."""

from __future__ import annotations

LARGEST_HEADER_BYTES = 100_000_000
"""Of a weight file's header, and of the description inside a torch archive."""
MOST_TENSORS = 100_000
"""In one weight file; the largest published one holds less than 4,000."""
MOST_AXES = 16
"""Of a tensor; MLX copies arrays of more than ten."""
MOST_SHARDS = 10_000
"""Of one component."""
LARGEST_TEXT_BYTES = 64_000_000
"""Of a JSON file, a tokenizer, a file of prompts or of poses."""
MOST_BLOCKS = 1000
"""Of a network; the largest has 48."""
WIDEST = 2**20
"""Channels of a layer."""
MOST_STEPS = 10_000
"""Of a run."""
MOST_FRAMES = 1_000_000
"""Of a video that is made: eleven hours at 24 frames a second."""
MOST_PIXELS = 100_000_000
"""Of a picture that is opened, and of a frame that is made."""
LONGEST_WAIT_SECONDS = 300
"""That the Hub may ask for between two requests; it counts them by five minutes."""
LONGEST_WORD = 400
"""Characters without a blank that a message quotes; the middle of a longer one is left out."""
LONGEST_LINE, LONGEST_MESSAGE = 1900, 20_000
"""Characters of a message's line, and of all; the middle of a longer one is left out."""
LARGEST_CAPTION_BYTES = 1_000_000
"""Of a clip's description; the longest that a model reads has some 2,000."""
MOST_CLIPS = 1_000_000
"""Of a dataset, and of the stretches that are taken of one clip; repeats of a clip count too."""
