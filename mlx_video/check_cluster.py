"""`python -m mlx_video.check_cluster`: the command of `mlx_video.cli.check_cluster`."""

import sys

from mlx_video.cli.check_cluster import build_parser, main

__all__ = ["build_parser", "main"]

if __name__ == "__main__":
    sys.exit(main())
