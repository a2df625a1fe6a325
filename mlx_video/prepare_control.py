"""Make control videos and masks: `python -m mlx_video.prepare_control`."""

from __future__ import annotations

import sys

from mlx_video.cli.prepare_control import build_parser, main

__all__ = ["build_parser", "main"]

if __name__ == "__main__":
    sys.exit(main())
