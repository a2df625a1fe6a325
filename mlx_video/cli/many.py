"""The videos that options of the generate command ask for: one or a list, perhaps as an earlier one."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_video.cli import arguments
from mlx_video.cli.named_model import open_model_of
from mlx_video.errors import BatchError, MediaError, RequestError
from mlx_video.events import Notice, TextResult
from mlx_video.request import GenerateRequest, LoraChoice, options_of
from mlx_video.request.many import ManyOptions
from mlx_video.request.prompt_lines import PromptLine, read_lines

if TYPE_CHECKING:
    from mlx_video.distributed.cluster import Cluster
    from mlx_video.events import Event, Work
    from mlx_video.runs.batch.item import BatchItem, BatchResult
    from mlx_video.runs.batch.maker import VideoMaker

STDIN = Path("-")


def read_many(args: argparse.Namespace) -> ManyOptions:
    """The options that say how many videos are made.

    Raises:
        RequestError: one has a wrong value, or contradicts another.
    """
    many = arguments.request_from(ManyOptions, args)
    pairs = [("count", "seeds"), ("interactive", "prompt_file")]
    pairs += [("interactive", "plan"), ("interactive", "count"), ("interactive", "seeds")]
    for name, other in pairs:
        if all(getattr(args, each) not in (None, False) for each in (name, other)):
            raise RequestError(name, f"beside --{other.replace('_', '-')}: both say what is made. Give one.")
    if many.seeds is not None and "seed" in args.given:
        raise RequestError("seeds", "beside --seed: both say which seeds. Give one.")
    return many


def shared_options(args: argparse.Namespace) -> tuple[dict[str, Any], list[Notice]]:
    """Options of every video: of the command line, else of an earlier video, else the defaults; and notices.

    Raises:
        MediaError: the earlier video cannot be read.
    """
    values = {name: getattr(args, name) for name in options_of(GenerateRequest)}
    if values["prompt"] is None:
        del values["prompt"]
    if args.from_video is None:
        return values, []
    from mlx_video.runs.batch.earlier_settings import read_earlier

    earlier = read_earlier(args.from_video)
    # Seeds that are listed stand in for one.
    own = args.given | ({"seed"} if args.seeds is not None else set())
    replaced = {name: value for name, value in earlier.options.items() if name not in own}
    return {**values, **replaced}, earlier.notices


def print_settings(args: argparse.Namespace) -> Iterator[Event]:
    """Show the options that are given, on the command line or by an earlier video, as one line of JSON."""
    values, notices = shared_options(args)
    yield from notices
    known = options_of(GenerateRequest)
    shown = {
        name: _as_json(value)
        for name, value in values.items()
        if name in args.given or value not in (known[name].command_value, known[name].default)
    }
    yield TextResult(json.dumps(shown, ensure_ascii=False))


def _as_json(value: Any) -> Any:
    if isinstance(value, LoraChoice):
        return [value.named, value.strength if value.by_step is None else value.strength_text]
    if isinstance(value, tuple):
        return [_as_json(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def list_items(args: argparse.Namespace, many: ManyOptions, shared: Mapping[str, Any]) -> list[BatchItem]:
    """The videos to make.

    Raises:
        RequestError: an option is wrong or the prompt is missing; the message names file and line.
        MediaError: the file of prompts cannot be read.
    """
    from mlx_video.runs.batch.lists import Seeds, list_videos

    if many.prompt_file is None:
        lines = [PromptLine("", {})]
    else:
        name = "stdin" if many.prompt_file == STDIN else str(many.prompt_file)
        lines = list(read_lines(_read_file(many.prompt_file), name))
        if not lines:
            raise RequestError("prompt_file", f"{name}: holds no prompt. Write one a line.")
    return list_videos(shared, lines, Seeds(many.count or 1, tuple(many.seeds or ())))


def _read_file(path: Path) -> str:
    try:
        return sys.stdin.read() if path == STDIN else path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise MediaError(f"{path}: is no text in UTF-8. Save it as such.") from error
    except OSError as error:
        raise MediaError(f"{path}: cannot be read ({error.strerror}). Check the path.") from error


def open_maker(args: argparse.Namespace, inputs: Collection[str]) -> Work[VideoMaker]:
    """Open the model that options name, as a maker of videos that bring these inputs."""
    from mlx_video.loading.session import Session
    from mlx_video.runs.batch.maker import VideoMaker

    model, config = yield from open_model_of(args, inputs)
    return VideoMaker(model, config, Session(keeps=True))


def with_team(
    maker: VideoMaker, cluster: Cluster, items: list[BatchItem]
) -> Work[tuple[VideoMaker, list[BatchItem]]]:
    """A maker of a list whom the other machines help, and the list as each of them is asked for it.

    Raises:
        RequestError: they cannot share the work as it is asked for.
        ClusterError: a machine differs from the others, or is lost.
    """
    from mlx_video.runs.cluster.team import form_team

    team = yield from form_team(cluster, maker.model, maker.config, [item.request for item in items])
    own = [replace(item, request=replace(item.request, parallel="auto")) for item in items]
    return replace(maker, sharing=team.sharing, dealing=team.dealing), own


def make_list(maker: VideoMaker, items: list[BatchItem]) -> Iterator[Event]:
    """Make the videos of a list.

    Raises:
        BatchError: some failed; the others are made.
    """
    from mlx_video.runs.batch.item import BatchResult

    results: list[BatchResult] = []
    with closing(maker.make_all(items)) as making:
        for told in making:
            if isinstance(told, BatchResult):
                results.append(told)
            else:
                yield told
    refuse_failures(items, results)


def refuse_failures(items: list[BatchItem], results: list[BatchResult]) -> None:
    """Raise an error where some videos failed.

    Raises:
        BatchError: it names them.
    """
    wrong = sorted((each for each in results if each.error is not None), key=lambda each: each.index)
    if wrong:
        names = ", ".join(f"{each.index + 1} ({items[each.index].name})" for each in wrong)
        raise BatchError(
            f"{len(wrong)} of {len(items)} videos are not made: {names}. What is wrong with each stands "
            "above; the same command with --resume makes those that are left."
        ) from wrong[0].error
