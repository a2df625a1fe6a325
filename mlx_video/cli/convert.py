"""python -m mlx_video.convert_wan: an original Wan checkpoint folder into one that MLX reads."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

from mlx_video.cli.arguments import (
    CommandParser,
    add_common_options,
    add_lora_options,
    add_revision_option,
    folder_path,
    place_or_repository,
)
from mlx_video.cli.console import run_command
from mlx_video.errors import RequestError
from mlx_video.events import Event
from mlx_video.request import COMPONENT_FIELDS, ConvertRequest, DTypeName, ModelVersion


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = CommandParser(
        prog="python -m mlx_video.convert_wan",
        description="Convert a Wan2.1 or Wan2.2 checkpoint for MLX, in a few hundred megabytes of memory. "
        "The output folder appears when it is complete.",
    )
    parser.add_argument(
        "--checkpoint-dir",
        type=place_or_repository,
        help="folder of the Wan checkpoint: original, Diffusers, ComfyUI or LightX2V; or owner/name of a "
        "repository on the Hub, to be downloaded (default: none, then the components are given)",
    )
    add_revision_option(parser)
    parser.add_argument(
        "--output-dir",
        type=folder_path,
        default=Path("wan_mlx_model"),
        help="folder to make (default: wan_mlx_model)",
    )
    parser.add_argument(
        "--dtype",
        choices=get_args(DTypeName),
        default="bfloat16",
        help="of transformer and text encoder; the VAE is always float32 (default: bfloat16)",
    )
    parser.add_argument(
        "--model-version",
        choices=get_args(ModelVersion),
        default="auto",
        help="Wan generation; auto tells it from the tensors (default: auto)",
    )
    _add_quantization_options(parser)
    _add_inspection_options(parser.add_argument_group("what is it? (writes nothing)"))
    _add_component_options(parser.add_argument_group("components, in place of the checkpoint's"))
    add_lora_options(parser.add_argument_group("adapters, merged before rounding and quantizing"))
    add_common_options(parser)
    return parser


def _add_quantization_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--quantize", action="store_true", help="pack the transformer blocks' linear layers (default: off)"
    )
    parser.add_argument(
        "--bits", type=int, choices=(4, 8), default=4, help="bits of a quantized weight (default: 4)"
    )
    parser.add_argument(
        "--group-size",
        type=int,
        choices=(32, 64, 128),
        default=64,
        help="weights that share one scale (default: 64)",
    )
    parser.add_argument(
        "--quantize-only",
        action="store_true",
        help="--checkpoint-dir is a folder converted earlier; quantize it, keeping its dtype (default: off)",
    )


def _add_inspection_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--inspect",
        type=folder_path,
        metavar="PATH",
        help="say what a file or folder is, what it lacks and which command takes it; exit code 1 if "
        "something in it is damaged, ambiguous or unknown (default: off)",
    )
    group.add_argument("--json", action="store_true", help="with --inspect: as JSON (default: off)")


def _add_component_options(group: argparse._ArgumentGroup) -> None:
    for flag, what in (
        ("--transformer", "the transformer"),
        ("--high-noise", "Wan2.2's high-noise expert"),
        ("--low-noise", "Wan2.2's low-noise expert"),
        ("--text-encoder", "UMT5"),
        ("--vae", "the VAE"),
        ("--clip", "the image encoder of Wan2.1 image-to-video models"),
    ):
        group.add_argument(
            flag,
            type=place_or_repository,
            metavar="FILE",
            help=f"file of {what}, or the folder of its shards, here or as owner/name/file on the Hub "
            "(default: the checkpoint's)",
        )
    group.add_argument(
        "--tokenizer",
        type=place_or_repository,
        metavar="DIR",
        help="folder or repository with tokenizer.json or spiece.model (default: the checkpoint's, or that "
        "in the text encoder's file)",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: the arguments; those of the process if None.

    Returns:
        Exit code: 0 done, 1 a known error, 2 a wrong option, 130 interrupted.
    """
    return run_command(_convert, build_parser().parse_args(argv))


def _convert(args: argparse.Namespace) -> Iterator[Event]:
    if args.inspect is not None:
        _refuse_idle_options(args)
        from mlx_video.inspect.path import report

        return report(args.inspect, as_json=args.json)
    if args.json:
        raise RequestError("json", "counts only with --inspect PATH. Add it, or leave this option out.")
    from mlx_video.convert.convert import convert

    return convert(
        ConvertRequest(
            checkpoint_dir=args.checkpoint_dir,
            revision=args.revision,
            output_dir=args.output_dir,
            dtype=args.dtype,
            model_version=args.model_version,
            quantize=args.quantize or args.quantize_only,
            bits=args.bits,
            group_size=args.group_size,
            quantize_only=args.quantize_only,
            loras=args.loras,
            loras_high=args.loras_high,
            loras_low=args.loras_low,
            strict_lora=args.strict_lora,
            **{name: getattr(args, name) for name in COMPONENT_FIELDS},
        )
    )


def _refuse_idle_options(args: argparse.Namespace) -> None:
    """Refuse what says how to convert where nothing is converted."""
    for name, default in vars(build_parser().parse_args([])).items():
        if name not in ("inspect", "json", "debug", "quiet") and getattr(args, name) != default:
            raise RequestError(name, "does not count with --inspect PATH, which converts nothing. Drop it.")
