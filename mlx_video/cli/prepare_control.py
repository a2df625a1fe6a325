"""The command that makes control videos and masks of ordinary videos."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_video.addresses import expand_home
from mlx_video.cli.arguments import CommandParser, CommonOptions, add_options, reader
from mlx_video.cli.console import run_command
from mlx_video.errors import RequestError
from mlx_video.request.kinds import parse_number, parse_whole_number

if TYPE_CHECKING:
    from mlx_video.events import Event
    from mlx_video.runs.prepare_control import Preparation, Result

# What cv2.Canny is usually called with.
LOW, HIGH = 100.0, 200.0
RADIUS = 8.0

NUMBER, WHOLE, PATH = map(reader, (parse_number, parse_whole_number, expand_home))


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = CommandParser(
        prog="python -m mlx_video.prepare_control",
        description="Make the control video or the mask that a control model takes, from an ordinary video. "
        "Edges of depth and poses need networks of others; the README names tools that make them.",
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    _add_changes(kinds)
    _add_masks(kinds)
    check = _add_kind(kinds, "check", "tell size, length and rate of a video", writes=False)
    check.add_argument(
        "--mask", action="store_true", help="say so where it is all black or all white (default: off)"
    )
    return parser


def _add_changes(kinds: argparse._SubParsersAction[CommandParser]) -> None:
    canny = _add_kind(kinds, "canny", "edges as white lines on black")
    canny.add_argument(
        "--low", type=NUMBER, default=LOW, help=f"change from which on a line goes on (default: {LOW:g})"
    )
    canny.add_argument(
        "--high", type=NUMBER, default=HIGH, help=f"change from which on a line begins (default: {HIGH:g})"
    )
    blur = _add_kind(kinds, "blur", "a blurred video, to be made sharp")
    blur.add_argument("--radius", type=NUMBER, default=RADIUS, help=f"pixels (default: {RADIUS:g})")
    _add_kind(kinds, "grey", "a video without colours, to be coloured")
    still = _add_kind(kinds, "still", "one picture as a video")
    still.set_defaults(num_frames=81)


def _add_masks(kinds: argparse._SubParsersAction[CommandParser]) -> None:
    mask = _add_kind(kinds, "mask", "a mask for a video: white is what a model fills in")
    shape = mask.add_mutually_exclusive_group(required=True)
    shape.add_argument(
        "--box",
        type=reader(parse_box),
        metavar="LEFT,TOP,WIDTH,HEIGHT",
        help="pixels of the video that are white",
    )
    shape.add_argument("--picture", type=PATH, metavar="FILE", help="white where this picture is bright")
    mask.add_argument("--invert", action="store_true", help="exchange black and white (default: off)")
    pad = _add_kind(kinds, "pad", "a video with grey around it, to be filled in")
    for side in ("left", "right", "top", "bottom"):
        pad.add_argument(f"--{side}", type=WHOLE, default=0, help="pixels to add on this side (default: 0)")
    pad.add_argument(
        "--mask-output",
        type=PATH,
        metavar="FILE",
        help="also write the mask of what is added (default: none)",
    )


def _add_kind(
    kinds: argparse._SubParsersAction[CommandParser], name: str, about: str, *, writes: bool = True
) -> argparse.ArgumentParser:
    parser = kinds.add_parser(name, help=about, description=f"Make {about}." if writes else None)
    parser.add_argument("input", help="a video file, a folder of numbered pictures, or a picture")
    if writes:
        parser.add_argument("output", type=PATH, help=".mp4, .gif or .webp; without suffix a folder of PNGs")
        parser.add_argument(
            "--num-frames", type=WHOLE, help="frames to write (default: all; 81 for a still picture)"
        )
        parser.add_argument(
            "--fps",
            type=NUMBER,
            help="frames per second, met by picking frames (default: the video's, else 16)",
        )
    add_options(parser, (CommonOptions,))
    return parser


def parse_box(text: str) -> tuple[int, int, int, int]:
    """Four whole numbers with commas between them.

    Raises:
        ValueError: anything else.
    """
    try:
        left, top, width, height = map(int, text.split(","))
    except ValueError as error:
        raise ValueError(
            f"{text!r} is no box; give left, top, width and height, such as 100,50,320,240"
        ) from error
    return left, top, width, height


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: the arguments; those of the process if None.

    Returns:
        Exit code: 0 done, 1 a known error, 2 a wrong option, 130 interrupted.
    """
    return run_command(_prepare, build_parser().parse_args(argv))


def _prepare(args: argparse.Namespace) -> Iterator[Event]:
    from mlx_video.runs.prepare_control import describe_control, prepare_control

    if args.kind == "check":
        return describe_control(args.input, is_mask=args.mask)
    return prepare_control(_read_preparation(args))


def _read_preparation(args: argparse.Namespace) -> Preparation:
    from mlx_video.runs.prepare_control import Preparation

    if args.num_frames is not None and args.num_frames < 1:
        raise RequestError("num_frames", f"{args.num_frames}: must be at least 1.")
    if args.fps is not None and not 0 < args.fps < float("inf"):
        raise RequestError("fps", f"{args.fps:g}: must be a positive number.")
    return Preparation(
        args.input,
        _read_results(args),
        args.kind,
        num_frames=args.num_frames,
        fps=args.fps,
        repeats=args.kind == "still",
    )


def _read_results(args: argparse.Namespace) -> tuple[Result, ...]:
    from mlx_video.media.control.frames import Blur, BoxMask, Edges, Padding, PictureMask, keep_frame, to_grey
    from mlx_video.media.open_image import open_image
    from mlx_video.runs.prepare_control import Result

    output: Path = args.output
    match args.kind:
        case "canny":
            return (Result(output, Edges(args.low, args.high)),)
        case "blur":
            return (Result(output, Blur(args.radius)),)
        case "grey":
            return (Result(output, to_grey),)
        case "mask" if args.box:
            return (Result(output, BoxMask(args.box, args.invert), is_mask=True),)
        case "mask":
            return (Result(output, PictureMask(open_image(args.picture).pixels, args.invert), is_mask=True),)
        case "pad":
            padding = Padding(args.left, args.right, args.top, args.bottom)
            mask = (Result(args.mask_output, padding.make_mask, is_mask=True),) if args.mask_output else ()
            return (Result(output, padding), *mask)
    return (Result(output, keep_frame),)
