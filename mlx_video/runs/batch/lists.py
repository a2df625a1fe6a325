"""Lists of videos from what somebody wrote: prompts with options, several seeds, and a pattern of names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_video.errors import RequestError
from mlx_video.request import RANDOM_SEED, GenerateRequest, draw_seed
from mlx_video.request.choices import MAX_SEED
from mlx_video.request.prompt_lines import PromptLine
from mlx_video.runs.batch.item import BatchItem
from mlx_video.runs.batch.names import fill_pattern, find_seed, is_pattern, with_default_pattern
from mlx_video.runs.result_names import OUTPUTS


@dataclass(frozen=True, slots=True)
class Seeds:
    """How many videos a prompt becomes.

    Attributes:
        count: videos of each prompt, with seeds that follow on each other.
        listed: the seeds, in place of a count; () for none.
    """

    count: int = 1
    listed: tuple[int, ...] = ()

    @property
    def per_prompt(self) -> int:
        """Videos of each prompt."""
        return len(self.listed) or self.count


def list_videos(
    shared: Mapping[str, Any],
    lines: Sequence[PromptLine],
    seeds: Seeds | None = None,
    *,
    first_number: int = 1,
    is_several: bool = False,
) -> list[BatchItem]:
    """The videos that lines of prompts ask for.

    Args:
        shared: options of all of them, which a line's own options replace.
        lines: one for each prompt.
        seeds: how many videos each becomes; None for one.
        first_number: the first video's `{i}`.
        is_several: whether more follow, so that one name does not do.

    Raises:
        RequestError: an option has a wrong value, or contradicts another; the message names the line.
    """
    seeds = seeds or Seeds()
    total = len(lines) * seeds.per_prompt
    items: list[BatchItem] = []
    for line in lines:
        # A name of its own stays as it is, unless the line becomes several videos.
        is_named = "output_path" in line.options
        shares_name = seeds.per_prompt > 1 or ((is_several or total > 1) and not is_named)
        try:
            for options in _with_seeds({**shared, **line.options}, seeds):
                number = first_number + len(items)
                request = _request_of(options, number, is_several=shares_name, is_listed=total > 1)
                items.append(BatchItem(len(items), total, request))
        except RequestError as error:
            raise line.told(error) from error
    return items


def _with_seeds(options: Mapping[str, Any], seeds: Seeds) -> Iterator[Mapping[str, Any]]:
    if seeds.listed and options.get("seed") not in (None, RANDOM_SEED):
        raise RequestError("seed", f"{options['seed']}: beside --seeds. Give the seeds in one place.")
    if seeds.listed and seeds.count > 1:
        raise RequestError("count", f"{seeds.count}: beside --seeds, each of which is a video. Give one.")
    if seeds.per_prompt > 1 and options.get("decode_only") is not None:
        raise RequestError("decode_only", "makes one video of its latents, whatever the seed. Ask for one.")
    seed = options.get("seed")
    for index in range(seeds.per_prompt):
        if seeds.listed:
            yield {**options, "seed": seeds.listed[index]}
        elif seed is None or seed == RANDOM_SEED:
            yield {**options, "seed": RANDOM_SEED}
        else:
            # The first as it is given, so that one out of range is refused.
            yield {**options, "seed": (int(seed) + index) % (MAX_SEED + 1) if index else seed}


def _request_of(
    options: Mapping[str, Any], number: int, *, is_several: bool, is_listed: bool
) -> GenerateRequest:
    if "prompt" not in options and options.get("decode_only") is None:
        raise RequestError("prompt", 'missing: say what the video should show, or give "" for no prompt.')
    options = {**options, "prompt": options.get("prompt") or ""}
    named = {name: Path(path) for name in OUTPUTS if isinstance(path := options.get(name), str | Path)}
    if is_several and "output_path" in named:
        named["output_path"] = with_default_pattern(named["output_path"])
    patterns = {name: path for name, path in named.items() if name == "output_path" or is_pattern(path)}
    if not patterns:
        return GenerateRequest(**options)
    seed = _settle_seed(options, patterns, number, is_listed=is_listed)
    values = {"seed": seed % 2**64, "number": number, "prompt": options["prompt"]}
    filled = {name: fill_pattern(path, **values) for name, path in patterns.items()}
    return GenerateRequest(**{**options, "seed": seed, **filled})


def _settle_seed(
    options: Mapping[str, Any], patterns: Mapping[str, Path], number: int, *, is_listed: bool
) -> int:
    """The seed of a video, drawn where names hold it; a list that goes on takes those that it drew."""
    seed: int = options["seed"]
    path, goes_on = patterns.get("output_path"), bool(options.get("resume"))
    is_needed = any(map(is_pattern, patterns.values())) or (is_listed and goes_on)
    if seed != RANDOM_SEED or not is_needed:
        return seed
    known = find_seed(path, number=number, prompt=options["prompt"]) if path and goes_on else None
    return draw_seed() if known is None else known
