"""From a request to a video: the stages one after another, each released before the next."""
