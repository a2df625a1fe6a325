"""`python -m mlx_video.check_device`: the command of `mlx_video.cli.check_device`."""

import sys

from mlx_video.cli.check_device import build_parser, main

__all__ = ["build_parser", "main"]

if __name__ == "__main__":
    sys.exit(main())
