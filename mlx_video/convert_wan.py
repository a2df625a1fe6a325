"""`python -m mlx_video.convert_wan`: the command of `mlx_video.cli.convert`."""

import sys

from mlx_video.cli.convert import build_parser, main

__all__ = ["build_parser", "main"]

if __name__ == "__main__":
    sys.exit(main())
