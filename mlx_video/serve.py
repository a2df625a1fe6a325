"""`python -m mlx_video.serve`: the command of `mlx_video.cli.serve`."""

import sys

from mlx_video.cli.serve import build_parser, main

__all__ = ["build_parser", "main"]

if __name__ == "__main__":
    sys.exit(main())
