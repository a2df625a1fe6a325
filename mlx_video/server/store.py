"""The queue on disk: one row a video, in a SQLite file that outlives the server."""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import RLock
from typing import Any, Literal

Status = Literal["queued", "in_progress", "completed", "failed", "cancelled"]

FILE_NAME = "queue.sqlite3"
_ID_BYTES = 16

_TABLE = """
CREATE TABLE IF NOT EXISTS videos (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    status TEXT NOT NULL,
    model TEXT NOT NULL,
    settings TEXT NOT NULL,
    inputs TEXT NOT NULL,
    size TEXT NOT NULL,
    seconds TEXT NOT NULL,
    made TEXT NOT NULL DEFAULT '{}',
    progress INTEGER NOT NULL DEFAULT 0,
    error TEXT NOT NULL DEFAULT '',
    remixed_from TEXT,
    created INTEGER NOT NULL,
    started INTEGER,
    completed INTEGER,
    position REAL NOT NULL
)
"""
_JSON = ("settings", "inputs", "made")
# In the order of the queue; the next to be made comes first.
_QUEUE = "SELECT * FROM videos WHERE status = 'queued' ORDER BY position, number"


@dataclass(frozen=True, slots=True)
class StoredVideo:
    """A video that was asked for.

    Attributes:
        id: names it to clients; nobody can guess it. Its files lie in a folder of this name.
        model: name on the shelf of models.
        settings: options of the request, as JSON has them.
        inputs: options that are files → their names in the video's folder.
        size, seconds: as OpenAI's interface tells them: "832x480", "5".
        made: settings that the finished file holds.
        progress: percent.
        error: why it failed; "" for nothing.
        created, started, completed: seconds since 1970; None for not yet.
        position: smaller ones are made first.
    """

    number: int
    id: str
    status: Status
    model: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]
    size: str
    seconds: str
    made: Mapping[str, str] = field(default_factory=dict)
    progress: int = 0
    error: str = ""
    remixed_from: str | None = None
    created: int = 0
    started: int | None = None
    completed: int | None = None
    position: float = 0.0


def new_id() -> str:
    """An id that nobody can guess."""
    return f"video_{secrets.token_hex(_ID_BYTES)}"


class VideoStore:
    """The table of videos; every change is on disk when its method returns.

    Args:
        folder: of the server's files, where the table lies or will lie.
    """

    def __init__(self, folder: Path) -> None:
        self._lock = RLock()
        self._base = sqlite3.connect(folder / FILE_NAME, check_same_thread=False, isolation_level=None)
        self._base.row_factory = sqlite3.Row
        self._base.execute("PRAGMA journal_mode=WAL")
        self._base.execute(_TABLE)

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._base.close()

    def add(
        self,
        video_id: str,
        model: str,
        settings: Mapping[str, Any],
        inputs: Mapping[str, str],
        *,
        size: str,
        seconds: str,
        remixed_from: str | None = None,
    ) -> StoredVideo:
        """Put a video at the end of the queue."""
        self._execute(
            "INSERT INTO videos (id, status, model, settings, inputs, size, seconds, remixed_from, created, "
            "position) VALUES (?, 'queued', ?, ?, ?, ?, ?, ?, ?, "
            "(SELECT COALESCE(MAX(position), 0) + 1 FROM videos))",
            (
                video_id,
                model,
                json.dumps(settings),
                json.dumps(inputs),
                size,
                seconds,
                remixed_from,
                int(time.time()),
            ),
        )
        video = self.find(video_id)
        assert video is not None
        return video

    def find(self, video_id: str) -> StoredVideo | None:
        """The video of an id; None where there is none."""
        return next(iter(self._select("SELECT * FROM videos WHERE id = ?", (video_id,))), None)

    def page(self, *, after: str | None, limit: int, newest_first: bool) -> list[StoredVideo]:
        """Some videos in the order in which they were asked for, behind one of them."""
        compare, order = ("<", "DESC") if newest_first else (">", "ASC")
        where, values = "", [limit]
        if after is not None:
            where = f"WHERE number {compare} (SELECT number FROM videos WHERE id = ?)"
            return self._select(
                f"SELECT * FROM videos {where} ORDER BY number {order} LIMIT ?", (after, *values)
            )
        return self._select(f"SELECT * FROM videos ORDER BY number {order} LIMIT ?", values)

    def queue(self) -> list[StoredVideo]:
        """The videos that wait, the next one first."""
        return self._select(_QUEUE)

    def overview(self, limit: int) -> dict[str, list[StoredVideo]]:
        """What is being made, what waits, and the newest of what ended, all at one moment."""
        with self._lock:
            return {
                "current": self._select("SELECT * FROM videos WHERE status = 'in_progress'"),
                "queue": self.queue(),
                "ended": self._select(
                    "SELECT * FROM videos WHERE status IN ('completed', 'failed', 'cancelled') "
                    "ORDER BY completed DESC, number DESC LIMIT ?",
                    (limit,),
                ),
            }

    def claim(self) -> StoredVideo | None:
        """Take the next video out of the queue, to be made now; None where none waits."""
        with self._lock:
            waiting = self.queue()
            if not waiting:
                return None
            self.update(waiting[0].id, status="in_progress", started=int(time.time()), error="")
            return self.find(waiting[0].id)

    def update(self, video_id: str, **values: Any) -> bool:
        """Change columns of a video, and tell whether it is still there."""
        names = ", ".join(f"{name} = ?" for name in values)
        encoded = [json.dumps(value) if name in _JSON else value for name, value in values.items()]
        return self._execute(f"UPDATE videos SET {names} WHERE id = ?", (*encoded, video_id)) > 0

    def cancel_queued(self, video_id: str) -> bool:
        """Cancel a video that waits; false where it does not wait any more."""
        changed = self._execute(
            "UPDATE videos SET status = 'cancelled', completed = ? WHERE id = ? AND status = 'queued'",
            (int(time.time()), video_id),
        )
        return changed > 0

    def put_back(self, video_id: str) -> None:
        """Put a video that failed or was cancelled at the end of the queue."""
        self._execute(
            "UPDATE videos SET status = 'queued', error = '', completed = NULL, "
            "position = (SELECT MAX(position) + 1 FROM videos) WHERE id = ?",
            (video_id,),
        )

    def put_back_interrupted(self) -> int:
        """Put what was being made when the server ended at the head of the queue; how many that were."""
        return self._execute(
            "UPDATE videos SET status = 'queued', position = "
            "(SELECT MIN(position) - 1 FROM videos) WHERE status = 'in_progress'"
        )

    def move(self, video_id: str, before: str | None) -> None:
        """Move a video that waits before another one; before None, to the end."""
        with self._lock:
            waiting = [video.id for video in self.queue() if video.id != video_id]
            place = waiting.index(before) if before in waiting else len(waiting)
            waiting.insert(place, video_id)
            lowest = self._base.execute("SELECT MIN(position) FROM videos").fetchone()[0] or 0
            self._base.execute("BEGIN")
            self._base.executemany(
                "UPDATE videos SET position = ? WHERE id = ? AND status = 'queued'",
                [(lowest + index, each) for index, each in enumerate(waiting)],
            )
            self._base.execute("COMMIT")

    def delete(self, video_id: str) -> bool:
        """Forget a video; false where there is none."""
        return self._execute("DELETE FROM videos WHERE id = ?", (video_id,)) > 0

    def _execute(self, sql: str, values: Any = ()) -> int:
        with self._lock:
            return self._base.execute(sql, values).rowcount

    def _select(self, sql: str, values: Any = ()) -> list[StoredVideo]:
        with self._lock:
            rows = self._base.execute(sql, values).fetchall()
        return [_read(row) for row in rows]


def _read(row: sqlite3.Row) -> StoredVideo:
    values = {name: row[name] for name in row.keys()}  # noqa: SIM118  (a row is no mapping)
    return StoredVideo(**values | {name: json.loads(values[name]) for name in _JSON})
