"""The Python interface: open a model folder, call it with a prompt, get a video."""

from __future__ import annotations

import weakref
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mlx_video.conditioning.encoded_prompt import EncodedPrompt
from mlx_video.config import ModelConfig
from mlx_video.convert.convert import convert
from mlx_video.convert.demo_model import demo_model_folder
from mlx_video.convert.local_files import with_local_adapters
from mlx_video.errors import RequestError
from mlx_video.events import Event, FileWritten, Work, finish, with_events
from mlx_video.files.hub_cache import nothing_downloaded
from mlx_video.inspect.opened_model import OpenedModel, describe_opened
from mlx_video.layouts.model_folder import ModelFolder
from mlx_video.loading.components import open_named_model
from mlx_video.loading.model_parts import parts_named
from mlx_video.loading.session import Session
from mlx_video.media.clip import Video, VideoMade
from mlx_video.planning.memory_plan import MemoryPlan
from mlx_video.planning.turns import end_in_turn
from mlx_video.progress.python_call import Cancel, EventHandler, events_shown
from mlx_video.request import ConvertRequest, GenerateRequest, ModelRequest, make_request, options_of
from mlx_video.request.describe import takes_options
from mlx_video.request.prompt_lines import PromptLine, read_values
from mlx_video.runs.batch.item import BatchItem, BatchResult
from mlx_video.runs.batch.lists import Seeds, list_videos
from mlx_video.runs.batch.maker import VideoMaker
from mlx_video.runs.batch.names import refuse_equal_names
from mlx_video.runs.encode_prompt import encode_prompt, prepare_encoding
from mlx_video.runs.generate import plan_generation
from mlx_video.runs.memory import ANY_PROMPT

_DECODING = tuple(name for name, declared in options_of(GenerateRequest).items() if declared.decodes)

_ENCODING = (
    "prompt", "negative_prompt", "memory_limit", "compile", "kernels", "device_check", "prompt_cache"
)  # fmt: skip

_SHARED = tuple(name for name in options_of(GenerateRequest) if name != "prompt")


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
        weakref.finalize(self, end_in_turn, self._session.close)

    @classmethod
    @takes_options(ModelRequest)
    def from_pretrained(
        cls,
        folder: str | Path | None = None,
        *,
        keep_networks: bool = True,
        on_event: EventHandler | None = None,
        progress: bool | None = None,
        **options: Any,
    ) -> WanPipeline:
        """Open a converted model, or a folder of FastVideo's for MLX.

        Args:
            keep_networks: whether networks stay in memory between videos where they fit; False loads each
                anew for every video, and needs the least memory.
            **options: listed here in its place.
            on_event: called with every event of a download.
            progress: whether to show what happens; None for yes, unless `on_event` takes the events.

        Raises:
            CheckpointError: the folder is missing or incomplete, or the repository cannot be had.
            ConfigError: its config.json cannot be used.
            RequestError: a revision is given for a folder, or a component is something else.
        """
        request = make_request(ModelRequest, {"folder": folder, **options})
        place = demo_model_folder() if request.folder is None else request.folder
        named = parts_named(request)
        with events_shown(on_event, progress) as handle:
            model, config = finish(open_named_model(place, request.revision, named), handle)
        return cls(model, config, keep_networks=keep_networks)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._is_closed:
            return f"WanPipeline({self.folder.path}, closed)"
        return f"WanPipeline({self._opened().summary()})"

    def __str__(self) -> str:
        """A table of what the model is, for `print`."""
        return str(self._opened())

    def _repr_html_(self) -> str:
        return self._opened()._repr_html_()

    def _opened(self) -> OpenedModel:
        networks = self._session.idle() | self._session.lent()
        held = {key.name: nbytes for key, nbytes in networks.items()}
        return describe_opened(self.folder, self.config, held)

    def release(self) -> None:
        """Give back the memory of all networks; the next video loads them anew."""
        end_in_turn(self._session.release)

    def close(self) -> None:
        """Give back the memory of all networks, for good."""
        self._is_closed = True
        end_in_turn(self._session.close)

    def _open_session(self) -> Session:
        if self._is_closed:
            raise ValueError("the pipeline is closed. Open another with WanPipeline.from_pretrained.")
        return self._session

    @takes_options(GenerateRequest)
    def __call__(
        self,
        prompt: str | EncodedPrompt,
        *,
        on_event: EventHandler | None = None,
        progress: bool | None = None,
        cancel: Cancel | None = None,
        **options: Any,
    ) -> Video:
        """Make a video.

        Args:
            **options: listed here in its place.
            on_event: called with every event of the run (see `mlx_video.events`).
            progress: whether to show what happens; None for yes, unless `on_event` takes the events.
            cancel: a `threading.Event`, or what has its `is_set`: once it is set, from any thread, the call
                ends at its next event with `Cancelled`, whose message says how to go on.

        Returns:
            The video: `frames` uint8 [F, H, W, 3], `latents` float32 [C, T, H, W].

        Raises:
            RequestError: an option is unknown or does not fit the model.
            AdapterError: an adapter is damaged or does not fit the model.
            MemoryBudgetError: a stage needs more memory than there is, whatever stays in it.
            Cancelled: `cancel` was set.
        """
        work = self._make(prompt, options)
        with events_shown(on_event, progress, cancel) as handle:
            return finish(work, handle)

    @takes_options(GenerateRequest)
    def stream(
        self, prompt: str | EncodedPrompt, *, cancel: Cancel | None = None, **options: Any
    ) -> Generator[Event | VideoMade, None, None]:
        """Make a video as a generator of its events, for programs that do other work between them.

        Nothing is computed but while the next event is awaited, and nothing is shown. `close()` between two
        events ends the run; with `output_path` its state is kept, and `resume=True` goes on from it.

        Args:
            **options: listed here in its place.
            cancel: a `threading.Event`, or what has its `is_set`: once it is set, from any thread, the next
                event is `Cancelled`, an error whose message says how to go on.

        Returns:
            A generator of every event of the run (see `mlx_video.events`); the last one is `VideoMade`, which
            holds the `video`.

        Raises:
            RequestError: at once: an option is unknown or has a wrong value. All other errors of a call come
                with the event at which they occur.
        """
        return _streamed(self._make(prompt, options), cancel)

    @takes_options(GenerateRequest, _ENCODING)
    def encode(
        self,
        prompt: str,
        *,
        on_event: EventHandler | None = None,
        progress: bool | None = None,
        cancel: Cancel | None = None,
        **options: Any,
    ) -> EncodedPrompt:
        """Encode a prompt and its negative prompt once for any number of calls, which take it as `prompt`.

        The calls make the videos that they make of the text, bit for bit, and load no text encoder. Models
        with the same text encoder and tokenizer may share it; any other refuses it.

        Args:
            **options: listed here in its place.
            on_event: called with every event.
            progress: whether to show what happens; None for yes, unless `on_event` takes the events.
            cancel: a `threading.Event`, or what has its `is_set`: once it is set, from any thread, the call
                ends at its next event with `Cancelled`, whose message says how to go on.

        Raises:
            RequestError: an option is unknown or has a wrong value.
            MemoryBudgetError: the text encoder needs more than there is, one block at a time.
            Cancelled: `cancel` was set.
        """
        request, session = build_request(prompt, options), self._open_session()
        with events_shown(on_event, progress, cancel) as handle:
            return finish(encode_prompt(prepare_encoding(request, self.folder, self.config, session)), handle)

    def _make(self, prompt: str | EncodedPrompt, options: Mapping[str, Any]) -> Work[Video]:
        """Work of which nothing is done yet, but that the options are checked."""
        request = build_request(prompt, options)
        encoded = prompt if isinstance(prompt, EncodedPrompt) else None
        return VideoMaker(self.folder, self.config, self._open_session(), encoded=encoded).generate(request)

    @takes_options(GenerateRequest, _SHARED)
    def batch(
        self,
        prompts: Iterable[str | Mapping[str, Any]],
        *,
        count: int = 1,
        seeds: Sequence[int] | None = None,
        on_event: EventHandler | None = None,
        progress: bool | None = None,
        cancel: Cancel | None = None,
        **options: Any,
    ) -> Iterator[BatchResult]:
        """Make several videos with the least loading: texts first, experts in turn, networks kept that fit.

        A video that cannot be made ends no other: its result holds the error. With `resume` those that an
        earlier call has written are left out.

        Args:
            prompts: texts, or dictionaries of options, which replace those of all videos.
            count: videos of each prompt, with seeds that follow on each other.
            seeds: a video of each prompt for each of these, in place of `count`.
            **options: listed here in its place.
            on_event: called with every event.
            progress: whether to show what happens; None for yes, unless `on_event` takes the events.
            cancel: a `threading.Event`, or what has its `is_set`: once it is set, from any thread, the list
                ends at its next event with `Cancelled`, whose message says how to go on.

        Returns:
            A result for each video as soon as it is known, in the order in which they are done; `index` is
            its place in the list. `output_path` may hold `{seed}`, `{i}` and `{prompt}`.

        Raises:
            RequestError: at once: an option is unknown or has a wrong value, or two videos have one name.
        """
        if isinstance(prompts, str):
            raise RequestError("prompts", f"{prompts!r}: must be a list of texts or dictionaries.")
        if count < 1:
            raise RequestError("count", f"{count}: must be at least 1.")
        lines = [_line_of(number, each) for number, each in enumerate(prompts, start=1)]
        shared = {name: value for name, value in read_values(options).items() if value is not None}
        items = list_videos(shared, lines, Seeds(count, tuple(seeds or ())))
        refuse_equal_names(item.request for item in items)
        maker = VideoMaker(self.folder, self.config, self._open_session(), collects=True)
        return _results(maker, items, events_shown(on_event, progress, cancel))

    @takes_options(GenerateRequest)
    def plan(self, prompt: str | EncodedPrompt | None = None, **options: Any) -> MemoryPlan:
        """What a video would keep in memory; no weight is read, and nothing is downloaded or written.

        Without a prompt it is planned for the longest that the model reads.

        Args:
            **options: listed here in its place.

        Returns:
            The plan; `print` shows it as a table, below what was adjusted for the user, such as a size.

        Raises:
            RequestError: an option is unknown or does not fit the model.
            MemoryBudgetError: a stage needs more than there is, whatever stays in memory.
            CheckpointError: an adapter is on the Hub and was not downloaded yet.
        """
        prompt = ANY_PROMPT if prompt is None else prompt
        with nothing_downloaded():
            request = finish(with_local_adapters(build_request(prompt, options)), lambda event: None)
        return plan_generation(request, self.folder, self.config, self._open_session())

    @takes_options(GenerateRequest, _DECODING)
    def decode(
        self,
        file: str | Path,
        *,
        on_event: EventHandler | None = None,
        progress: bool | None = None,
        cancel: Cancel | None = None,
        **options: Any,
    ) -> Video:
        """Make the video from latents that an earlier run kept; only the VAE is loaded.

        Args:
            file: what `save_latents` wrote, or the state of a run that took all its steps.
            **options: listed here in its place.
            on_event: called with every event.
            progress: whether to show what happens; None for yes, unless `on_event` takes the events.
            cancel: a `threading.Event`, or what has its `is_set`: once it is set, from any thread, the call
                ends at its next event with `Cancelled`, whose message says how to go on.

        Raises:
            RequestError: `file` is no path, the run has steps left, or the latents are of another VAE.
            MediaError: the file holds no latents.
        """
        if file is None:
            raise RequestError("decode_only", "None: must be a path.")
        return self("", on_event=on_event, progress=progress, cancel=cancel, decode_only=file, **options)


def _line_of(number: int, given: str | Mapping[str, Any]) -> PromptLine:
    place = f"video {number} of the list"
    if isinstance(given, EncodedPrompt):
        raise RequestError(
            "prompts", f"{place} is an encoded prompt: a list encodes its texts together. Give the text."
        )
    if isinstance(given, str):
        return PromptLine(place, {"prompt": given})
    try:
        return PromptLine(place, read_values(given))
    except RequestError as error:
        raise PromptLine(place, {}).told(error) from error


def _results(
    maker: VideoMaker, items: Sequence[BatchItem], shown: AbstractContextManager[EventHandler]
) -> Iterator[BatchResult]:
    """What becomes of each video of a list; its events are shown, or go to the handler."""
    with shown as handle, closing(maker.make_all(items)) as making:
        for told in making:
            if isinstance(told, BatchResult):
                yield told
            else:
                handle(told)


def _streamed(work: Work[Video], cancel: Cancel | None) -> Generator[Event | VideoMade, None, None]:
    with events_shown(None, False, cancel) as handle:

        def pass_on(event: Event) -> tuple[Event]:
            handle(event)
            return (event,)

        video = yield from with_events(work, pass_on)
    yield VideoMade(video)


def build_request(prompt: str | EncodedPrompt, options: Mapping[str, Any]) -> GenerateRequest:
    """A request from keyword arguments; texts become paths where a path is meant.

    Of an encoded prompt it has the texts; the negative one unless another is given.

    Raises:
        RequestError: an option is unknown or has a wrong value.
    """
    if isinstance(prompt, EncodedPrompt):
        texts = {"prompt": prompt.prompt, "negative_prompt": prompt.negative_prompt}
        return make_request(GenerateRequest, {**texts, **options})
    return make_request(GenerateRequest, {"prompt": prompt, **options})


@takes_options(ConvertRequest)
def convert_checkpoint(
    checkpoint_dir: str | Path | None = None,
    output_dir: str | Path = "wan_mlx_model",
    *,
    on_event: EventHandler | None = None,
    progress: bool | None = None,
    cancel: Cancel | None = None,
    **options: Any,
) -> Path:
    """Convert a PyTorch checkpoint into a model folder for this package.

    Args:
        **options: listed here in its place.
        on_event: called with every event of the conversion.
        progress: whether to show what happens; None for yes, unless `on_event` takes the events.
        cancel: a `threading.Event`, or what has its `is_set`: once it is set, from any thread, the conversion
            ends at its next event with `Cancelled`.

    Returns:
        The converted folder.

    Raises:
        CheckpointError: the checkpoint is incomplete, damaged or of an unknown kind.
        ConfigError: its config.json contradicts its tensors.
        RequestError: an option has a wrong value.
        AdapterError: an adapter is damaged or does not fit the model.
    """
    places = {"checkpoint_dir": checkpoint_dir, "output_dir": output_dir}
    request = make_request(ConvertRequest, places | options)
    written = request.output_dir
    with events_shown(on_event, progress, cancel) as handle, closing(convert(request)) as work:
        for event in work:
            if isinstance(event, FileWritten):
                written = event.path
            handle(event)
    return written
