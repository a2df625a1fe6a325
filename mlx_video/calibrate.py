"""`python -m mlx_video.calibrate`: the command of `mlx_video.cli.calibrate`."""

import sys

from mlx_video.cli.calibrate import build_parser, main

__all__ = ["build_parser", "main"]

if __name__ == "__main__":
    sys.exit(main())
