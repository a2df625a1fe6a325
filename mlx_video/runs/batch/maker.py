"""Videos of one model, made one after another in one session: one by one, or as a list."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from mlx_video.conditioning.disk_cache import PromptCache
from mlx_video.conditioning.encoded_prompt import EncodedPrompt
from mlx_video.config import ModelConfig
from mlx_video.convert.local_files import with_local_adapters
from mlx_video.errors import MLXVideoError
from mlx_video.events import Event, FileWritten, Notice, VideoStarted, Work
from mlx_video.layouts.model_folder import ModelFolder
from mlx_video.loading.session import Session
from mlx_video.media.clip import Video
from mlx_video.request import GenerateRequest
from mlx_video.runs.batch.expert_phases import ExpertPhases, swaps_experts
from mlx_video.runs.batch.finished import is_finished, result_paths
from mlx_video.runs.batch.item import BatchItem, BatchResult, failed
from mlx_video.runs.batch.names import refuse_equal_names
from mlx_video.runs.batch.texts import Numbered, encode_all, open_text_store, texts_of
from mlx_video.runs.encode_prompt import with_encoded
from mlx_video.runs.files_read import files_read
from mlx_video.runs.generate import prepare_run
from mlx_video.runs.run import Run
from mlx_video.runs.segments import FrameCollector
from mlx_video.runs.sharing import StepSharing
from mlx_video.runs.uploads import make_anywhere, staged

Making = Generator[Event | BatchResult, None, None]
"""Work that yields what happens, and what became of each video when that is known."""


class Dealing(Protocol):
    """Lets other machines make videos of a list."""

    def deal(
        self,
        items: Sequence[BatchItem],
        settings: Mapping[int, Mapping[str, str]],
        make_here: Callable[[BatchItem], Making],
    ) -> Making:
        """See `runs.cluster.dealer.Dealer`."""


@dataclass(frozen=True, slots=True)
class VideoMaker:
    """Makes videos of one model.

    Attributes:
        model, config: of the model.
        session: keeps its networks.
        collects: whether results hold the frames, or leave them in files alone.
        texts: encoded already.
        encoded: the prompt of every video, where the caller has encoded it.
        sharing: lets other machines take part in the steps of each video.
        dealing: lets other machines make whole videos of a list.
    """

    model: ModelFolder
    config: ModelConfig
    session: Session
    collects: bool = False
    texts: PromptCache | None = None
    encoded: EncodedPrompt | None = None
    sharing: StepSharing | None = None
    dealing: Dealing | None = None

    def prepare(self, request: GenerateRequest) -> Run:
        """A run of a request; raises as `prepare_run` and `with_encoded`."""
        run = prepare_run(request, self.model, self.config, self.session, self.sharing)
        return replace(run, texts=self.texts) if self.encoded is None else with_encoded(run, self.encoded)

    def make(self, item: BatchItem) -> Making:
        """Make one video; whatever fails is reported, and its result says why."""
        yield VideoStarted(item.index, item.total, item.name)
        try:
            video = yield from self._generate(item.request)
        except Exception as error:
            yield from failed(item, error)
        else:
            yield BatchResult(item.index, item.request, video)

    def make_all(self, items: Sequence[BatchItem]) -> Making:
        """Make the videos of a list: texts first, then one after another, or expert after expert.

        A video that fails is reported, and the others are made. Those that an earlier run of the list has
        made are left out where their requests ask to resume.

        Raises:
            RequestError: two videos have one name.
        """
        refuse_equal_names(item.request for item in items)
        if len(items) == 1:
            yield from self.make(items[0])
            return
        with open_text_store(self.model, self.config) as texts:
            yield from replace(self, texts=texts)._make_list(items)

    def _make_list(self, items: Sequence[BatchItem]) -> Making:
        looked = _Looked()
        yield from self._look_at(items, looked)
        if self.dealing is not None:
            yield from self.dealing.deal(looked.dealt, looked.settings, self.make)
            for item in looked.bound:
                yield from self.make(item)
            return
        if looked.texts and looked.first is not None:
            yield from self._encode(looked.first, looked.texts)
        if len(looked.in_turns) > 1 and self.sharing is None:  # other machines take part in a run at a time
            yield from ExpertPhases(self.prepare, collects=self.collects).make(looked.in_turns)
        else:
            looked.whole = sorted([*looked.whole, *looked.in_turns], key=lambda item: item.index)
        for item in looked.whole:
            yield from self.make(item)

    def _look_at(self, items: Sequence[BatchItem], looked: _Looked) -> Making:
        """Prepare every run once, so that what cannot be made is told before hours of work."""
        for item in items:
            try:
                yield from self._look_at_one(item, looked)
            except Exception as error:
                yield from failed(item, error)

    def _look_at_one(self, item: BatchItem, looked: _Looked) -> Making:
        item = replace(item, request=(yield from with_local_adapters(item.request)))
        local, upload = staged(item.request)
        reads, writes = {path for _, path in files_read(local, self.model)}, set(result_paths(local))
        if reads & looked.written:
            looked.bind(item)  # it begins with what an earlier video of the list becomes
        else:
            # Segments find out by themselves where they go on: the state may be of any of them.
            run = self.prepare(local if local.segments == 1 else replace(local, resume=False))
            if local.resume and upload is None and is_finished(run):
                yield Notice(f"{item.name} is made already.")
                yield from map(FileWritten, result_paths(local))
                yield BatchResult(item.index, item.request, was_made_before=True)
            else:
                looked.add(item, run, is_local=upload is None)
        looked.written |= writes

    def _encode(self, request: GenerateRequest, texts: Sequence[Numbered]) -> Work[None]:
        try:
            yield from encode_all(self.prepare(request), texts)
        except MLXVideoError as error:
            yield Notice(f"The texts are encoded one by one instead of together. {error}")

    def generate(self, request: GenerateRequest) -> Work[Video]:
        """Make one video, and return it with its frames; errors are the caller's."""
        request = yield from with_local_adapters(request)
        collector = FrameCollector()
        run, latents = yield from make_anywhere(request, self.prepare, [collector])
        return collector.video(run, latents)

    def _generate(self, request: GenerateRequest) -> Work[Video | None]:
        if self.collects:
            return (yield from self.generate(request))
        request = yield from with_local_adapters(request)
        yield from make_anywhere(request, self.prepare)
        return None


@dataclass(slots=True)
class _Looked:
    """What a look at a list has found.

    Attributes:
        whole: videos that are made one after another.
        bound: those of them that need something of this machine's: an earlier video, a state, an upload.
        dealt: those of all that any machine can make.
        settings: index of a dealt video → everything that makes it, as text.
        in_turns: those of which the experts take turns over the list.
        texts: of all of them.
        written: what the videos so far become.
        first: a request whose run stands for all.
    """

    whole: list[BatchItem] = field(default_factory=list)
    in_turns: list[BatchItem] = field(default_factory=list)
    texts: list[Numbered] = field(default_factory=list)
    written: set[Path] = field(default_factory=set)
    first: GenerateRequest | None = None
    bound: list[BatchItem] = field(default_factory=list)
    dealt: list[BatchItem] = field(default_factory=list)
    settings: dict[int, dict[str, str]] = field(default_factory=dict)

    def bind(self, item: BatchItem) -> None:
        """Note a video that is made here, whole and after those before it."""
        self.whole.append(item)
        self.bound.append(item)

    def _note_dealt(self, item: BatchItem, run: Run, *, is_local: bool) -> None:
        # A clip that goes on from files would tell of them as they are called on the other machine.
        if not is_local or run.state is not None or item.request.segments > 1:
            self.bound.append(item)
            return
        self.dealt.append(replace(item, request=replace(item.request, seed=run.request.seed)))
        self.settings[item.index] = run.settings()

    def add(self, item: BatchItem, run: Run, *, is_local: bool) -> None:
        """Sort a video that can be made."""
        self._note_dealt(item, run, is_local=is_local)
        if texts := texts_of(run):
            self.texts += texts
            self.first = self.first or run.request
        (self.in_turns if is_local and swaps_experts(run) else self.whole).append(item)
