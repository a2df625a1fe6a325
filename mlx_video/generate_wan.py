"""Make a video from a prompt: `python -m mlx_video.generate_wan`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from mlx_video.addresses import local_path
from mlx_video.cli.arguments import (
    CommandParser,
    add_common_options,
    add_lora_options,
    add_revision_option,
    folder_path,
    parse_guide_scale,
    place_or_repository,
)
from mlx_video.cli.console import Console, run_command
from mlx_video.errors import RequestError
from mlx_video.events import TextResult
from mlx_video.request import (
    RANDOM_SEED,
    ExpertMode,
    GenerateRequest,
    LoraMode,
    NoiseKind,
    SchedulerName,
    StreamMode,
    TilingMode,
)

if TYPE_CHECKING:
    from mlx_video.events import Event
    from mlx_video.request import ImageSource

MODEL_DEFAULT = "default: the model's"


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = CommandParser(prog="python -m mlx_video.generate_wan", description=__doc__)
    model = parser.add_argument_group("model and text")
    model.add_argument(
        "--model-dir",
        type=place_or_repository,
        help="converted model folder, or owner/name of one on the Hub, to be downloaded (default: the demo "
        "model)",
    )
    add_revision_option(model)
    model.add_argument(
        "--prompt",
        help='what the video shows; "" for no prompt (default with the demo model: its example)',
    )
    negative = model.add_mutually_exclusive_group()
    negative.add_argument("--negative-prompt", help=f"what it should not show ({MODEL_DEFAULT})")
    negative.add_argument(
        "--no-negative-prompt", action="store_true", help="guide against the empty prompt (default: off)"
    )
    _add_part_options(parser.add_argument_group("components from elsewhere"))
    _add_image_options(parser.add_argument_group("images"))
    _add_size_options(parser.add_argument_group("size"))
    _add_sampling_options(parser.add_argument_group("sampling"))
    _add_adapter_options(parser.add_argument_group("adapters"))
    _add_memory_options(parser.add_argument_group("memory"))
    _add_output_options(parser.add_argument_group("output"))
    _add_state_options(parser.add_argument_group("interrupted runs"))
    add_common_options(parser)
    return parser


def _add_part_options(group: argparse._ArgumentGroup) -> None:
    for flag, what in (("--text-encoder", "UMT5"), ("--vae", "the VAE")):
        group.add_argument(
            flag,
            type=place_or_repository,
            metavar="FILE",
            help=f"{what} in place of the model's: a file or a folder that holds it, converted or of any "
            f"Wan checkpoint, here or as owner/name/file on the Hub ({MODEL_DEFAULT})",
        )
    group.add_argument(
        "--tokenizer",
        type=place_or_repository,
        metavar="DIR",
        help=f"folder or repository with tokenizer.json or spiece.model ({MODEL_DEFAULT})",
    )


def _add_image_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--image",
        type=folder_path,
        metavar="FILE",
        help="first frame, for image-to-video models; the video takes its shape unless --width or --height "
        "is given (default: none)",
    )
    group.add_argument(
        "--end-image",
        type=folder_path,
        metavar="FILE",
        help="last frame, for first-and-last-frame models (default: none)",
    )


def _add_size_options(group: argparse._ArgumentGroup) -> None:
    multiple = f"pixels, rounded to a multiple of 16, TI2V: 32 ({MODEL_DEFAULT}, or the image's shape)"
    group.add_argument("--width", type=int, help=multiple)
    group.add_argument("--height", type=int, help=multiple)
    group.add_argument("--num-frames", type=int, help=f"frames, 4n+1: 17, 49, 81 ... ({MODEL_DEFAULT})")


def _add_sampling_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--steps", type=int, help=f"sampling steps, 1 to 1000 ({MODEL_DEFAULT})")
    group.add_argument(
        "--guide-scale",
        type=parse_guide_scale,
        help=f"how strongly the prompt steers, or low,high; 1 skips the negative pass ({MODEL_DEFAULT})",
    )
    group.add_argument("--shift", type=float, help=f"moves steps towards high noise ({MODEL_DEFAULT})")
    group.add_argument(
        "--boundary",
        type=float,
        help=f"0 to 1: noise level at which two experts swap; Wan2.2 A14B only ({MODEL_DEFAULT})",
    )
    group.add_argument(
        "--experts",
        choices=get_args(ExpertMode),
        default="relay",
        help="relay: one expert in memory at a time; parallel: both (default: relay)",
    )
    group.add_argument(
        "--seed",
        type=int,
        default=RANDOM_SEED,
        help="0 to 2**64-1, or -2 to -2**63 as torch takes them; -1 for a random one (default: -1)",
    )
    group.add_argument(
        "--scheduler", choices=get_args(SchedulerName), default="unipc", help="solver (default: unipc)"
    )
    group.add_argument(
        "--noise",
        choices=get_args(NoiseKind),
        default="torch",
        help="torch: the numbers PyTorch draws on a CPU; mlx: MLX's own (default: torch)",
    )


def _add_adapter_options(group: argparse._ArgumentGroup) -> None:
    add_lora_options(group)
    group.add_argument(
        "--lora-mode",
        choices=get_args(LoraMode),
        default="auto",
        help="merge: into the weights, quantized ones packed again; side: beside the layers, whose weights "
        "stay as they are; auto: side for quantized layers, merge for the others (default: auto)",
    )


def _add_memory_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--memory-limit",
        type=float,
        metavar="GB",
        help="the most that a run may hold, in GB of 10^9 bytes (default: what the machine has)",
    )
    group.add_argument(
        "--stream",
        choices=get_args(StreamMode),
        default="auto",
        help="read transformer blocks from the file in every step: auto: as few as must be; on: all; off: "
        "none (default: auto)",
    )
    group.add_argument(
        "--tiling",
        choices=get_args(TilingMode),
        default="auto",
        help="tiles in which the VAE works; every choice gives the same video. auto: only where whole frames "
        "do not fit; none, temporal: none; conservative: 768, default, spatial: 512, aggressive: 256 pixels "
        "(default: auto)",
    )
    group.add_argument(
        "--plan",
        action="store_true",
        help="print what a run would keep in memory; downloads and makes nothing, needs no prompt (default: "
        "off)",
    )


def _add_output_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--output-path",
        type=folder_path,
        default=Path("output.mp4"),
        help=".mp4, .gif or .webp file; for one frame also .png or .jpg (default: output.mp4)",
    )
    group.add_argument(
        "--save-frames", type=folder_path, metavar="DIR", help="also write lossless PNGs (default: off)"
    )
    group.add_argument(
        "--save-latents",
        type=folder_path,
        metavar="FILE",
        help="also write the final latents, safetensors (default: off)",
    )
    group.add_argument(
        "--no-compile", action="store_true", help="do not fuse operations with mx.compile (default: off)"
    )
    group.add_argument(
        "--no-device-check",
        action="store_true",
        help="trust the device: do not check its operations before the first run with an MLX version "
        "(default: off)",
    )
    group.add_argument(
        "--no-prompt-cache",
        action="store_true",
        help="encode prompts anew, and keep nothing of them on disk (default: off)",
    )
    group.add_argument(
        "--trim-first-frames",
        type=int,
        default=0,
        metavar="N",
        help="drop N frames at the start (default: 0)",
    )
    group.add_argument(
        "--debug-latents", action="store_true", help="print statistics after each step (default: off)"
    )


def _add_state_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--checkpoint-every",
        type=int,
        default=1,
        metavar="N",
        help="write the run's state beside the video after every N steps; 0: only when all are taken "
        "(default: 1)",
    )
    group.add_argument(
        "--resume",
        action="store_true",
        help="go on from the state beside the video; without one, begin at the first step (default: off)",
    )
    group.add_argument(
        "--keep-state",
        action="store_true",
        help="leave the state there when the video is finished (default: off)",
    )
    group.add_argument(
        "--decode-only",
        type=folder_path,
        metavar="FILE",
        help="make the video from the state of a run that took all its steps, or from --save-latents; needs "
        "no prompt (default: none)",
    )


def build_request(args: argparse.Namespace) -> GenerateRequest:
    """The request that the parsed options describe.

    Raises:
        RequestError: a value is out of range, or the prompt is missing.
    """
    prompt = args.prompt
    if prompt is None and args.model_dir is None:
        from mlx_video.convert.demo_model import DEMO_PROMPT

        prompt = DEMO_PROMPT
    if prompt is None and args.plan:
        from mlx_video.runs.memory import ANY_PROMPT

        prompt = ANY_PROMPT
    if prompt is None and args.decode_only is None:
        raise RequestError("prompt", 'missing: say what the video should show, or give "" for no prompt.')
    same_name = (
        "image end_image width height num_frames steps guide_scale shift boundary experts seed scheduler "
        "loras loras_high loras_low lora_mode strict_lora checkpoint_every resume keep_state decode_only "
        "noise tiling stream memory_limit trim_first_frames output_path save_frames save_latents "
        "debug_latents"
    ).split()
    return GenerateRequest(
        prompt or "",
        negative_prompt="" if args.no_negative_prompt else args.negative_prompt,
        compile=not args.no_compile,
        prompt_cache=not args.no_prompt_cache,
        device_check=not args.no_device_check,
        **{name: getattr(args, name) for name in same_name},
    )


def run_events(args: argparse.Namespace) -> Iterator[Event]:
    """Open the model, then make the video."""
    request = build_request(args)
    if args.plan:
        yield from plan_events(args, request)
        return
    from mlx_video.convert.demo_model import convert_demo_model, demo_model_path
    from mlx_video.convert.local_files import with_local_adapters
    from mlx_video.hub.fetch import fetch_folder
    from mlx_video.loading.components import open_model
    from mlx_video.loading.model_parts import ModelParts, find_parts
    from mlx_video.runs.generate import generate, prepare_run

    takes_image = request.image is not None
    if args.model_dir is None:
        yield from convert_demo_model(takes_image=takes_image)
    place = args.model_dir or demo_model_path(takes_image=takes_image)
    named = ModelParts(args.text_encoder, args.vae, args.tokenizer)
    path = yield from fetch_folder(place, args.revision, "run", named.given)
    model, config = open_model(path, (yield from find_parts(named)))
    request = yield from with_local_adapters(request)
    yield from generate(prepare_run(request, model, config))


def plan_events(args: argparse.Namespace, request: GenerateRequest) -> Iterator[Event]:
    """Open the model and say what a run would keep in memory; nothing is downloaded or left on disk."""
    from mlx_video.convert.demo_model import passing_demo_model, report_demo_model
    from mlx_video.convert.local_files import with_local_adapters
    from mlx_video.files.hub_cache import nothing_downloaded
    from mlx_video.hub.fetch import fetch_folder
    from mlx_video.loading.components import open_model
    from mlx_video.runs.generate import plan_generation
    from mlx_video.runs.run import finish

    takes_image = request.image is not None
    events: list[Event] = []
    with ExitStack() as stack:
        stack.enter_context(nothing_downloaded())
        place = args.model_dir
        if place is None:
            events.append(report_demo_model(takes_image=takes_image))
            place = stack.enter_context(passing_demo_model(takes_image=takes_image))
        model, config = open_model(finish(fetch_folder(place, args.revision, "run"), events.append))
        request = finish(with_local_adapters(request), events.append)
        plan = plan_generation(request, model, config)
    yield from events
    yield TextResult(str(plan))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 done, 1 a known error, 2 a wrong option, 130 interrupted.
    """
    return run_command(run_events, build_parser().parse_args(argv))


def generate_video(
    model_dir: str | Path,
    prompt: str,
    *,
    negative_prompt: str | None = None,
    image: ImageSource | str | None = None,
    width: int | None = None,
    height: int | None = None,
    num_frames: int | None = None,
    steps: int | None = None,
    guide_scale: float | tuple[float, float] | str | None = None,
    shift: float | None = None,
    seed: int = RANDOM_SEED,
    output_path: str | Path = "output.mp4",
    scheduler: SchedulerName = "unipc",
    loras: Sequence[tuple[str | Path, float]] | None = None,
    loras_high: Sequence[tuple[str | Path, float]] | None = None,
    loras_low: Sequence[tuple[str | Path, float]] | None = None,
    tiling: TilingMode = "auto",
    no_compile: bool = False,
    trim_first_frames: int = 0,
    debug_latents: bool = False,
) -> Path:
    """Make a video and write it to a file, with progress on stderr.

    Takes the keyword arguments of the function of this name in mlx-video, for programs that call it; new code
    reads better with `mlx_video.WanPipeline`.

    Returns:
        The file written.

    Raises:
        RequestError: an option does not fit the model.
        CheckpointError: the model folder is missing or damaged.
        AdapterError: a LoRA file is damaged or does not fit the model.
    """
    from mlx_video.api import WanPipeline

    with Console() as console:
        WanPipeline.from_pretrained(model_dir, keep_networks=False, on_event=console.show_progress)(
            prompt,
            on_event=console.show_progress,
            negative_prompt=negative_prompt,
            image=image,
            width=width,
            height=height,
            num_frames=num_frames,
            steps=steps,
            guide_scale=_read_guide_scale(guide_scale),
            shift=shift,
            seed=seed,
            output_path=output_path,
            scheduler=scheduler,
            loras=loras,
            loras_high=loras_high,
            loras_low=loras_low,
            tiling=tiling,
            compile=not no_compile,
            trim_first_frames=trim_first_frames,
            debug_latents=debug_latents,
        )
        console.summarize()
    return local_path(output_path)


def _read_guide_scale(value: float | tuple[float, float] | str | None) -> float | tuple[float, float] | None:
    """A guide scale as programs pass it: also as text, "3" or "3,4"."""
    if not isinstance(value, str):
        return value
    try:
        return parse_guide_scale(value)
    except argparse.ArgumentTypeError as error:
        raise RequestError("guide_scale", f"{error}.") from error


if __name__ == "__main__":
    sys.exit(main())
