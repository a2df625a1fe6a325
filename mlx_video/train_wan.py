"""`python -m mlx_video.train_wan`: the command of `mlx_video.cli.train`."""

import sys

from mlx_video.cli.train import build_parser, main

__all__ = ["build_parser", "main"]

if __name__ == "__main__":
    sys.exit(main())
