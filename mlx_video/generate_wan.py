"""`python -m mlx_video.generate_wan`: the command of `mlx_video.cli.generate`; and `generate_video`."""

import sys

from mlx_video.cli.compat import generate_video
from mlx_video.cli.generate import build_parser, build_request, main

__all__ = ["build_parser", "build_request", "generate_video", "main"]

if __name__ == "__main__":
    sys.exit(main())
