"""The Python interface: open a model folder, call it with a prompt, get a video."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from mlx_video.config import ModelConfig
from mlx_video.convert.convert import convert
from mlx_video.convert.demo_model import demo_model_folder
from mlx_video.convert.local_files import with_local_adapters
from mlx_video.errors import RequestError
from mlx_video.events import Event, FileWritten
from mlx_video.files.hub_cache import nothing_downloaded
from mlx_video.hub.fetch import fetch_folder
from mlx_video.layouts.model_folder import ModelFolder
from mlx_video.loading.components import open_model
from mlx_video.loading.model_parts import ModelParts, find_parts
from mlx_video.loading.session import Session
from mlx_video.media.clip import Video
from mlx_video.planning.memory_plan import MemoryPlan
from mlx_video.request import (
    COMPONENT_FIELDS,
    LORA_FIELDS,
    ConvertRequest,
    GenerateRequest,
    LoraChoice,
    advise_two_strengths,
    named_place,
)
from mlx_video.runs.generate import generate, plan_generation, prepare_run
from mlx_video.runs.memory import ANY_PROMPT
from mlx_video.runs.run import finish

EventHandler = Callable[[Event], None]


def _ignore(event: Event) -> None:
    """Show nothing."""


class FrameCollector:
    """Keeps the frames of a run in memory."""

    def __init__(self) -> None:
        self.pieces: list[np.ndarray] = []

    def write(self, frames: np.ndarray) -> None:
        """Take uint8 frames [f, H, W, 3]."""
        self.pieces.append(frames)

    def frames(self) -> np.ndarray:
        """All frames so far, uint8 [F, H, W, 3]."""
        return np.concatenate(self.pieces)


class WanPipeline:
    """A converted model, ready to make videos.

    Networks are loaded when they are first needed. Those that fit in memory beside the work of all stages
    stay there for the next video; the others are released as soon as each has done its part. `release` gives
    all memory back; so does the end of a `with` block, after which no video is made any more.

    Args:
        folder: the model's files.
        config: what its config.json says.
        keep_networks: whether any network stays in memory between videos.
    """

    def __init__(self, folder: ModelFolder, config: ModelConfig, *, keep_networks: bool = True) -> None:
        self.folder = folder
        self.config = config
        self._session = Session(keeps=keep_networks)
        self._is_closed = False
        weakref.finalize(self, self._session.close)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path | None = None,
        *,
        revision: str | None = None,
        text_encoder: str | Path | None = None,
        vae: str | Path | None = None,
        tokenizer: str | Path | None = None,
        keep_networks: bool = True,
        on_event: EventHandler = _ignore,
    ) -> WanPipeline:
        """Open a converted model, or a folder of FastVideo's for MLX.

        Args:
            folder: where it is, or owner/name of a repository on the Hub or the address of its page, to be
                downloaded; None for the demo model that ships with the package.
            revision: branch, tag or commit of the repository; None for its main branch.
            text_encoder: UMT5 in place of the folder's own: a file, or a folder that holds it, converted or
                of any Wan checkpoint, here or as owner/name/file on the Hub.
            vae: the VAE, likewise.
            tokenizer: a folder with tokenizer.json or spiece.model.
            keep_networks: whether networks stay in memory between videos where they fit; False loads each
                anew for every video, and needs the least memory.
            on_event: called with every event of a download.

        Raises:
            CheckpointError: the folder is missing or incomplete, or the repository cannot be had.
            ConfigError: its config.json cannot be used.
            RequestError: a revision is given for a folder, or a component is something else.
        """
        place = demo_model_folder() if folder is None else named_place(folder)
        given = {"text_encoder": text_encoder, "vae": vae, "tokenizer": tokenizer}
        named = ModelParts(**{name: named_place(part) for name, part in given.items() if part is not None})
        path = finish(fetch_folder(place, revision, "run", named.given), on_event)
        model, config = open_model(path, finish(find_parts(named), on_event))
        return cls(model, config, keep_networks=keep_networks)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def release(self) -> None:
        """Give back the memory of all networks; the next video loads them anew."""
        self._session.release()

    def close(self) -> None:
        """Give back the memory of all networks, for good."""
        self._session.close()
        self._is_closed = True

    def _open_session(self) -> Session:
        if self._is_closed:
            raise ValueError("the pipeline is closed. Open another with WanPipeline.from_pretrained.")
        return self._session

    def __call__(self, prompt: str, *, on_event: EventHandler = _ignore, **options: Any) -> Video:
        """Make a video.

        Args:
            prompt: what the video shows; "" for nothing in particular.
            on_event: called with every event of the run (see `mlx_video.events`).
            **options: the other fields of `mlx_video.request.GenerateRequest`: width, height (pixels),
                num_frames, steps, guide_scale, shift, seed, scheduler, output_path and so on. `image` and
                `end_image` may be paths, Pillow images or arrays; `loras`, `loras_high` and `loras_low`
                lists of paths, of (path, strength) or of `LoraChoice`, a path being also owner/name/file on
                the Hub.

        Returns:
            The video: `frames` uint8 [F, H, W, 3], `latents` float32 [C, T, H, W].

        Raises:
            RequestError: an option is unknown or does not fit the model.
            AdapterError: an adapter is damaged or does not fit the model.
            MemoryBudgetError: a stage needs more memory than there is, whatever stays in it.
        """
        request = finish(with_local_adapters(build_request(prompt, options)), on_event)
        run = prepare_run(request, self.folder, self.config, self._open_session())
        collector = FrameCollector()
        latents = finish(generate(run, extra_sinks=[collector]), on_event)
        return Video(collector.frames(), run.plan.fps, latents, run.settings())

    def plan(self, prompt: str | None = None, **options: Any) -> MemoryPlan:
        """What a video would keep in memory; no weight is read, and nothing is downloaded or written.

        Args:
            prompt: what the video shows; None for the longest that the model reads.
            **options: those of a call.

        Returns:
            The plan; `print` shows it as a table, below what was adjusted for the user, such as a size.

        Raises:
            RequestError: an option is unknown or does not fit the model.
            MemoryBudgetError: a stage needs more than there is, whatever stays in memory.
            CheckpointError: an adapter is on the Hub and was not downloaded yet.
        """
        prompt = ANY_PROMPT if prompt is None else prompt
        with nothing_downloaded():
            request = finish(with_local_adapters(build_request(prompt, options)), _ignore)
        return plan_generation(request, self.folder, self.config, self._open_session())

    def decode(self, file: str | Path, *, on_event: EventHandler = _ignore, **options: Any) -> Video:
        """Make the video from latents that an earlier run kept; only the VAE is loaded.

        Args:
            file: what `save_latents` wrote, or the state of a run that took all its steps.
            on_event: called with every event.
            **options: output_path, save_frames, trim_first_frames and the options of memory.

        Raises:
            RequestError: the run has steps left, or the latents are of another model's VAE.
            MediaError: the file holds no latents.
        """
        return self("", on_event=on_event, decode_only=file, **options)


def build_request(prompt: str, options: dict[str, Any]) -> GenerateRequest:
    """A request from keyword arguments; strings become paths where a path is meant.

    Raises:
        RequestError: an option is unknown or has a wrong value.
    """
    _check_known(options, GenerateRequest)
    for name in ("output_path", "save_frames", "save_latents", "decode_only"):
        if options.get(name) is not None:
            options[name] = Path(options[name]).expanduser()
    for name in ("image", "end_image"):
        if isinstance(options.get(name), str | Path):  # the others are pictures themselves
            options[name] = Path(options[name]).expanduser()
    return GenerateRequest(prompt, **_with_adapters(options))


def _check_known(options: Iterable[str], request: type[GenerateRequest | ConvertRequest]) -> None:
    known = {field.name for field in fields(request)}
    for name in options:
        if name not in known:
            raise RequestError(name, f"unknown option. Known: {', '.join(sorted(known))}.")


def _with_adapters(options: dict[str, Any]) -> dict[str, Any]:
    """Options whose adapters are tuples of LoraChoice, however they were written."""
    chosen = {name: read_adapter_choices(name, options[name]) for name in LORA_FIELDS if name in options}
    return options | chosen


def read_adapter_choices(field_name: str, value: Any) -> tuple[LoraChoice, ...]:
    """The adapters that a caller names.

    Args:
        field_name: of the request, for messages.
        value: a list of paths, of (path, strength) or of LoraChoice, or one of these alone; None for no
            adapter.

    Raises:
        RequestError: something else is among them, or a strength is no number.
    """
    if value is None:
        return ()
    items = [value] if isinstance(value, str | Path | LoraChoice) else value
    if not isinstance(items, Iterable):
        raise RequestError(field_name, f"{value!r}: must be a list of paths or of (path, strength).")
    return tuple(_read_adapter_choice(field_name, item) for item in items)


def _read_adapter_choice(field_name: str, item: object) -> LoraChoice:
    match item:
        case LoraChoice():
            return item
        case str() | Path():
            return LoraChoice(named_place(item), named=str(item))
        case [str() | Path() as path, float() | int() as strength]:
            try:
                return LoraChoice(named_place(path), strength, str(path))
            except RequestError as error:
                raise RequestError(field_name, error.message) from error
        case [str() | Path() as path, strength] if cure := advise_two_strengths(path, strength):
            raise RequestError(field_name, f"{path} {strength!r}: the strength must be a number. {cure}.")
    raise RequestError(
        field_name, f"{item!r}: must be a path or (path, strength), in a list: [('style.safetensors', 0.8)]."
    )


def convert_checkpoint(
    checkpoint_dir: str | Path | None = None,
    output_dir: str | Path = "wan_mlx_model",
    *,
    on_event: EventHandler = _ignore,
    **options: Any,
) -> Path:
    """Convert a PyTorch checkpoint into a model folder for this package.

    Args:
        checkpoint_dir: the folder as its authors publish it, or owner/name of a repository on the Hub or the
            address of its page, to be downloaded; None where all components are given.
        output_dir: the folder to make.
        on_event: called with every event of the conversion.
        **options: the other fields of `mlx_video.request.ConvertRequest`: dtype, model_version, quantize,
            bits, group_size, quantize_only, and loras, loras_high, loras_low, strict_lora, whose adapters are
            written as for a :class:`WanPipeline`; and transformer or high_noise and low_noise, text_encoder,
            vae, clip, tokenizer: files and folders in place of the checkpoint's, also as owner/name/file on
            the Hub or as the address of its page; and revision, of `checkpoint_dir`.

    Returns:
        The converted folder.

    Raises:
        CheckpointError: the checkpoint is incomplete, damaged or of an unknown kind.
        ConfigError: its config.json contradicts its tensors.
        RequestError: an option has a wrong value.
        AdapterError: an adapter is damaged or does not fit the model.
    """
    _check_known(options, ConvertRequest)
    for name in COMPONENT_FIELDS:
        if isinstance(options.get(name), str | Path):
            options[name] = named_place(options[name])
    request = ConvertRequest(
        None if checkpoint_dir is None else named_place(checkpoint_dir),
        Path(output_dir).expanduser(),
        **_with_adapters(options),
    )
    written = request.output_dir
    for event in convert(request):
        if isinstance(event, FileWritten):
            written = event.path
        on_event(event)
    return written
