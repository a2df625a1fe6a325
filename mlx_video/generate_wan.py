"""`python -m mlx_video.generate_wan`: the command of `mlx_video.cli.generate`; and `generate_video`."""

import sys

from mlx_video.cli.generate import build_parser, build_request, main
from mlx_video.compat import generate_video

__all__ = ["build_parser", "build_request", "generate_video", "main"]

if __name__ == "__main__":
    sys.exit(main())
