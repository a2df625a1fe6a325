"""The one thread that makes videos, one at a time, and goes on with what an earlier server left."""

from __future__ import annotations

import base64
import logging
import shutil
import time
from contextlib import closing, suppress
from pathlib import Path
from threading import Event as Flag
from threading import Lock, Thread
from typing import Any

from mlx_video.errors import MLXVideoError
from mlx_video.events import (
    Event,
    FramesDecoded,
    PreviewMade,
    StageStarted,
    StepFinished,
    TilesDecoded,
)
from mlx_video.loading.session import Session
from mlx_video.media.preview_file import encode_png, make_strip
from mlx_video.media.video import read_video_metadata
from mlx_video.progress.tally import Tally
from mlx_video.progress.wording import count_of, describe_count
from mlx_video.runs.batch.item import BatchItem, BatchResult
from mlx_video.runs.batch.maker import VideoMaker
from mlx_video.server.asked import RESULT, request_of
from mlx_video.server.clean_text import CleanTexts
from mlx_video.server.hub import Hub
from mlx_video.server.shelf import ModelShelf
from mlx_video.server.store import StoredVideo, VideoStore

STEPS_PERCENT = 90
"""Of the work of a video are its steps; the rest is decoding."""

SECONDS_AFTER_TROUBLE = 5.0

log = logging.getLogger(__name__)


class _Stopped(Exception):
    """The video that is being made is to be left as it is."""


class Worker(Thread):
    """Makes the videos of the queue.

    Args:
        store: holds the queue.
        shelf: holds the models.
        folder: of the videos' own folders.
        hub: is told what happens.
        texts: words errors.
        memory_limit: of every run, in GB; None for what the machine has.
    """

    def __init__(
        self,
        store: VideoStore,
        shelf: ModelShelf,
        folder: Path,
        hub: Hub,
        texts: CleanTexts,
        memory_limit: float | None = None,
    ) -> None:
        super().__init__(name="video-worker", daemon=True)
        self._store = store
        self._shelf = shelf
        self._folder = folder
        self._hub = hub
        self._texts = texts
        self._memory_limit = memory_limit
        self._wakes = Flag()
        self._ends = Flag()
        self._lock = Lock()
        self._current = ""
        self._is_stopped = False
        self._maker: tuple[str, VideoMaker] | None = None

    def wake(self) -> None:
        """Have a look at the queue: there is something new."""
        self._wakes.set()

    def end(self) -> None:
        """End after the work in hand; what is unfinished goes on when the next server starts."""
        self._ends.set()
        self._wakes.set()

    def stop_video(self, video_id: str) -> bool:
        """Stop making a video after the work in hand; false where another or none is being made."""
        with self._lock:
            self._is_stopped = self._is_stopped or self._current == video_id
            return self._current == video_id

    def run(self) -> None:
        """Make videos until the end."""
        while not self._is_at_end():
            try:
                self._make_next()
            except Exception:
                # The table cannot be written, on a full disk for example: what is unfinished goes on later.
                log.exception("the queue cannot be used; trying again")
                self._ends.wait(SECONDS_AFTER_TROUBLE)
                with suppress(Exception):
                    self._store.put_back_interrupted()
        self._close_maker()

    def _is_at_end(self) -> bool:
        """Whether to end; whoever calls after this is heard."""
        self._wakes.clear()
        return self._ends.is_set()

    def _make_next(self) -> None:
        """Make the next video, or wait for one."""
        video = self._claim()
        if video is None:
            self._wakes.wait()
        else:
            self._make(video)

    def _claim(self) -> StoredVideo | None:
        with self._lock:
            video = self._store.claim()
            self._current, self._is_stopped = video.id if video else "", False
            return video

    def _make(self, video: StoredVideo) -> None:
        self._hub.tell("changed", {"id": video.id})
        try:
            self._generate(video)
            self._finish(video)
        except _Stopped:
            self._leave(video)
        except Exception as error:
            if not isinstance(error, MLXVideoError):
                log.exception("%s: an unexpected error", video.id)
            self._settle(video, status="failed", error=self._texts.describe(error))
        with self._lock:
            self._current = ""
        self._hub.forget("progress", "preview")
        self._hub.tell("changed", {"id": video.id})

    def _generate(self, video: StoredVideo) -> None:
        request = request_of(video, self._folder / video.id, self._memory_limit)
        maker, tally = self._maker_of(video.model), Tally()
        with closing(maker.make(BatchItem(0, 1, request))) as making:
            for told in making:
                if isinstance(told, BatchResult):
                    if told.error is not None:
                        raise told.error
                    return
                tally.observe(told)
                self._report(video, told, tally)
                if self._ends.is_set() or self._is_stopped:
                    raise _Stopped

    def _maker_of(self, model: str) -> VideoMaker:
        """The maker of a model; that of another one gives its memory back."""
        if self._maker is None or self._maker[0] != model:
            self._close_maker()
            self._maker = model, VideoMaker(*self._shelf.open(model), Session(keeps=True))
        return self._maker[1]

    def _close_maker(self) -> None:
        if self._maker is not None:
            self._maker[1].session.close()
            self._maker = None

    def _report(self, video: StoredVideo, event: Event, tally: Tally) -> None:
        if isinstance(event, PreviewMade):
            picture = base64.b64encode(encode_png(make_strip(event.frames))).decode()
            self._hub.tell(
                "preview", {"id": video.id, "image": f"data:image/png;base64,{picture}"}, is_kept=True
            )
        percent = percent_of(event)
        if percent is not None:
            self._store.update(video.id, progress=percent)
        count = count_of(event)
        if count or isinstance(event, StageStarted):
            left = tally.timing().left
            told: dict[str, Any] = {"id": video.id, "stage": _stage_of(event, tally)}
            told |= {"text": describe_count(count) if count else "", "left": left.seconds if left else None}
            told |= {"progress": percent} if percent is not None else {}
            self._hub.tell("progress", told, is_kept=True)

    def _finish(self, video: StoredVideo) -> None:
        made = read_video_metadata(self._folder / video.id / RESULT)
        told = {name: self._texts.clean(value) for name, value in made.items()}
        size = made.get("output_size") or f"{made['width']}x{made['height']}"
        seconds = f"{int(made['num_frames']) / float(made['fps']):g}"
        self._settle(video, status="completed", progress=100, made=told, size=size, seconds=seconds)

    def _settle(self, video: StoredVideo, **values: Any) -> None:
        """Note what became of a video; of one that was deleted meanwhile nothing stays."""
        if not self._store.update(video.id, completed=int(time.time()), **values):
            self._remove(video)

    def _leave(self, video: StoredVideo) -> None:
        """Leave a video as it is: for good where a client wants that, else for the next server."""
        if self._is_stopped:
            self._settle(video, status="cancelled")

    def _remove(self, video: StoredVideo) -> None:
        with suppress(OSError):
            shutil.rmtree(self._folder / video.id)


def _stage_of(event: Event, tally: Tally) -> str:
    if isinstance(event, StageStarted):
        return event.stage
    return "denoise" if tally.takes_steps else ""


def percent_of(event: Event) -> int | None:
    """How much of a video is made, by what happened; None where that says nothing."""
    match event:
        case StepFinished(index, total):
            return STEPS_PERCENT * (index + 1) // total
        case FramesDecoded(done, total) | TilesDecoded(done, total):
            return STEPS_PERCENT + (99 - STEPS_PERCENT) * done // total
    return None
