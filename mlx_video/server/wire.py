"""Videos and errors as OpenAI's interface spells them, and as the page needs them."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse

from mlx_video.progress.json_lines import to_json
from mlx_video.server.shelf import ModelCard
from mlx_video.server.store import StoredVideo


def video_object(video: StoredVideo) -> dict[str, Any]:
    """A video as OpenAI's interface has it, which knows no cancelled ones: they count as failed."""
    error = None
    if video.status == "failed":
        error = {"code": "generation_failed", "message": video.error}
    elif video.status == "cancelled":
        error = {"code": "cancelled", "message": "The video was cancelled."}
    return {
        "id": video.id,
        "object": "video",
        "model": video.model,
        "status": "failed" if video.status == "cancelled" else video.status,
        "progress": video.progress,
        "prompt": video.settings.get("prompt", ""),
        "size": video.size,
        "seconds": video.seconds,
        "created_at": video.created,
        "completed_at": video.completed if video.status == "completed" else None,
        "expires_at": None,
        "error": error,
        "remixed_from_video_id": video.remixed_from,
    }


def page_object(video: StoredVideo) -> dict[str, Any]:
    """A video as the page shows it."""
    return {
        **video_object(video),
        "status": video.status,
        "settings": dict(video.settings),
        "inputs": sorted(video.inputs),
        "made": dict(video.made),
        "started_at": video.started,
        "ended_at": video.completed,
    }


def card_object(card: ModelCard) -> dict[str, Any]:
    """A model as the page knows it."""
    shown: dict[str, Any] = to_json(card)
    return shown


def error_response(
    status: int, message: str, code: str | None = None, param: str | None = None
) -> JSONResponse:
    """An error in OpenAI's form."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    error = {"message": message, "type": kind, "param": param, "code": code}
    return JSONResponse({"error": error}, status)
