"""The routes: OpenAI's video endpoints, the page, what the page needs besides, and events."""

from __future__ import annotations

import base64
import binascii
import json
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from mlx_video.errors import MLXVideoError, RequestError
from mlx_video.server.asked import RESULT, UPLOADS, Asked, Form, read_form, save_files
from mlx_video.server.clean_text import CleanTexts
from mlx_video.server.hub import Hub
from mlx_video.server.planner import plan_apart
from mlx_video.server.shelf import ModelShelf
from mlx_video.server.store import StoredVideo, VideoStore, new_id
from mlx_video.server.thumbnail import THUMBNAIL, make_thumbnail
from mlx_video.server.wire import card_object, error_response, page_object, video_object
from mlx_video.server.worker import Worker

PAGE_FILES = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
_MOST_LISTED = 100
_LONGEST_TEXT = 1 << 20

Answer = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Service:
    """What the routes work with.

    Attributes:
        store: holds the queue.
        shelf: holds the models.
        folder: of the videos' own folders.
        hub: passes events on.
        worker: makes the videos.
        texts: words errors.
        memory_limit: of every run, in GB; None for what the machine has.
        planning: held while a plan is made, so that many of them take no more memory than one.
    """

    store: VideoStore
    shelf: ModelShelf
    folder: Path
    hub: Hub
    worker: Worker
    texts: CleanTexts
    memory_limit: float | None = None
    planning: Lock = field(default_factory=Lock)

    def video(self, request: Request) -> StoredVideo:
        """The video that a request names.

        Raises:
            HTTPException: there is none.
        """
        return self.named_video(request.path_params["id"])

    def named_video(self, video_id: str) -> StoredVideo:
        """The video of an id; raises as `video`."""
        video = self.store.find(video_id)
        if video is None:
            raise HTTPException(404, "There is no video of this id.")
        return video

    def folder_of(self, video: StoredVideo) -> Path:
        """Where a video's files lie."""
        return self.folder / video.id

    def add(
        self, asked: Asked, inputs: dict[str, str], video_id: str, remixed: str | None = None
    ) -> StoredVideo:
        """Put a video whose files are written into the queue."""
        video = self.store.add(
            video_id,
            asked.model.name,
            asked.settings,
            inputs,
            size=asked.size,
            seconds=asked.seconds,
            remixed_from=remixed,
        )
        self.changed(video.id)
        return video

    def changed(self, video_id: str) -> None:
        """Tell worker and listeners that the queue is another."""
        self.worker.wake()
        self.hub.tell("changed", {"id": video_id})


def build_app(service: Service) -> Starlette:
    """The application, not guarded yet."""
    routes = {
        ("GET", "/"): _show_page,
        ("GET", "/page/{name}"): _show_page_file,
        ("GET", "/events"): _listen,
        ("GET", "/v1/models"): _list_model_names,
        ("POST", "/v1/videos"): _create,
        ("GET", "/v1/videos"): _list,
        ("GET", "/v1/videos/{id}"): _retrieve,
        ("DELETE", "/v1/videos/{id}"): _delete,
        ("GET", "/v1/videos/{id}/content"): _send_content,
        ("POST", "/v1/videos/{id}/remix"): _remix,
        ("POST", "/v1/videos/{id}"): _refuse_unknown,
        ("GET", "/api/models"): _list_models,
        ("GET", "/api/videos"): _list_for_page,
        ("POST", "/api/plan"): _plan,
        ("POST", "/api/videos/{id}/cancel"): _cancel,
        ("POST", "/api/videos/{id}/retry"): _retry,
        ("POST", "/api/videos/{id}/move"): _move,
    }
    return Starlette(
        routes=[
            Route(path, partial(answer, service), methods=[method])
            for (method, path), answer in routes.items()
        ],
        exception_handlers={
            HTTPException: _tell_refusal,
            RequestError: partial(_tell_wrong_value, service),
            MLXVideoError: partial(_tell_error, service),
            Exception: _tell_unexpected,
        },
    )


async def _tell_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 413: "too_large"}.get(error.status_code)
    return error_response(error.status_code, error.detail, code)


async def _tell_wrong_value(service: Service, request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    code = "model_not_found" if error.field == "model" else "invalid_value"
    return error_response(400, service.texts.describe(error), code, error.field)


async def _tell_error(service: Service, request: Request, error: Exception) -> Response:
    return error_response(400, service.texts.describe(error), "invalid_value")


async def _tell_unexpected(request: Request, error: Exception) -> Response:
    return error_response(500, "An unexpected error. The server's log has it.")


async def _show_page(service: Service, request: Request) -> Response:
    return _page_file("index.html", "text/html")


async def _show_page_file(service: Service, request: Request) -> Response:
    name = request.path_params["name"]
    if name not in PAGE_FILES:
        raise HTTPException(404, "There is no such file.")
    return _page_file(name, PAGE_FILES[name])


def _page_file(name: str, kind: str) -> Response:
    content = files("mlx_video.server").joinpath("page", name).read_bytes()
    return Response(content, media_type=kind, headers={"cache-control": "no-cache"})


async def _listen(service: Service, request: Request) -> Response:
    headers = {"cache-control": "no-store"}
    return StreamingResponse(service.hub.listen(), media_type="text/event-stream", headers=headers)


async def _list_model_names(service: Service, request: Request) -> Response:
    cards = await run_in_threadpool(service.shelf.cards)
    listed = [{"id": card.name, "object": "model", "created": 0, "owned_by": "mlx-video"} for card in cards]
    return JSONResponse({"object": "list", "data": listed})


async def _list_models(service: Service, request: Request) -> Response:
    cards = await run_in_threadpool(service.shelf.cards)
    return JSONResponse({"models": [card_object(card) for card in cards]})


async def _create(service: Service, request: Request) -> Response:
    form = await _read_form(request)
    return JSONResponse(video_object(await run_in_threadpool(_create_now, service, form)))


def _create_now(service: Service, form: Form) -> StoredVideo:
    asked, video_id = read_form(form, service.shelf), new_id()
    return service.add(asked, save_files(form.files, service.folder / video_id), video_id)


async def _plan(service: Service, request: Request) -> Response:
    form = await _read_form(request)
    return JSONResponse(await run_in_threadpool(_plan_now, service, form))


def _plan_now(service: Service, form: Form) -> dict[str, Any]:
    asked = read_form(form, service.shelf)
    place = service.shelf.place(asked.model.name)
    assert place is not None  # its card was found
    with service.planning, TemporaryDirectory() as name:
        inputs = save_files(form.files, Path(name))
        describe = service.texts.describe
        plan = plan_apart(place, asked.settings, inputs, Path(name), service.memory_limit, describe)
    return {"model": asked.model.name, "size": asked.size, "seconds": asked.seconds, **plan}


async def _list(service: Service, request: Request) -> Response:
    query = request.query_params
    limit, order = query.get("limit", "20"), query.get("order", "desc")
    if not limit.isdecimal() or not 0 < int(limit) <= _MOST_LISTED:
        raise RequestError("limit", f"must be a whole number between 1 and {_MOST_LISTED}.")
    if order not in ("asc", "desc"):
        raise RequestError("order", "must be asc or desc.")
    after = query.get("after")
    if after is not None:
        service.named_video(after)
    found = service.store.page(after=after, limit=int(limit) + 1, newest_first=order == "desc")
    shown = [video_object(video) for video in found[: int(limit)]]
    first, last = (shown[0]["id"], shown[-1]["id"]) if shown else (None, None)
    has_more = len(found) > int(limit)
    return JSONResponse(
        {"object": "list", "data": shown, "first_id": first, "last_id": last, "has_more": has_more}
    )


async def _list_for_page(service: Service, request: Request) -> Response:
    lists = service.store.overview(_MOST_LISTED)
    return JSONResponse({name: [page_object(each) for each in videos] for name, videos in lists.items()})


async def _retrieve(service: Service, request: Request) -> Response:
    return JSONResponse(video_object(service.video(request)))


async def _delete(service: Service, request: Request) -> Response:
    video = service.video(request)
    service.store.delete(video.id)
    # What is being made just now writes into its folder; the worker removes that.
    if not service.worker.stop_video(video.id):
        await run_in_threadpool(partial(shutil.rmtree, service.folder_of(video), ignore_errors=True))
    service.changed(video.id)
    return JSONResponse({"id": video.id, "object": "video.deleted", "deleted": True})


async def _send_content(service: Service, request: Request) -> Response:
    video, variant = service.video(request), request.query_params.get("variant", "video")
    if variant not in ("video", "thumbnail"):
        raise RequestError("variant", f"{variant!r}: must be video or thumbnail.")
    if video.status != "completed":
        raise HTTPException(404, f"The video is not finished: {video.status.replace('_', ' ')}.")
    path = service.folder_of(video) / RESULT
    if not path.is_file():
        raise HTTPException(404, "The video's file is not here any more.")
    if variant == "thumbnail":
        picture = await run_in_threadpool(make_thumbnail, path)
        return FileResponse(
            picture, media_type="image/png", filename=THUMBNAIL, content_disposition_type="inline"
        )
    name = f"{video.id}.mp4"
    return FileResponse(path, media_type="video/mp4", filename=name, content_disposition_type="inline")


async def _remix(service: Service, request: Request) -> Response:
    """The same video with another prompt: its seed, settings and files stay."""
    video, form = service.video(request), await _read_form(request)
    if form.files or form.fields.keys() - {"prompt"}:
        raise RequestError("prompt", "is all that a remix takes.")
    return JSONResponse(video_object(await run_in_threadpool(_remix_now, service, video, form)))


def _remix_now(service: Service, video: StoredVideo, form: Form) -> StoredVideo:
    contents = {name: (service.folder_of(video) / file).read_bytes() for name, file in video.inputs.items()}
    fields = {**video.settings, **form.fields, "model": video.model}
    asked, video_id = read_form(Form(fields, contents), service.shelf), new_id()
    inputs = save_files(contents, service.folder / video_id)
    return service.add(asked, inputs, video_id, remixed=video.id)


async def _refuse_unknown(service: Service, request: Request) -> Response:
    what = {"edits": "Edits", "extensions": "Extensions", "characters": "Characters"}
    if request.path_params["id"] not in what:
        raise HTTPException(405, "A video is created at /v1/videos.")
    text = f"{what[request.path_params['id']]} are not made by this server."
    return error_response(501, text, "not_implemented")


async def _cancel(service: Service, request: Request) -> Response:
    video = service.video(request)
    if not service.store.cancel_queued(video.id) and not service.worker.stop_video(video.id):
        raise HTTPException(409, "The video is neither waiting nor being made.")
    service.changed(video.id)
    return JSONResponse(page_object(service.video(request)))


async def _retry(service: Service, request: Request) -> Response:
    """Put a video back that failed or was cancelled: it goes on from what is kept of it."""
    video = service.video(request)
    if video.status not in ("failed", "cancelled"):
        raise HTTPException(409, "The video neither failed nor was it cancelled.")
    service.store.put_back(video.id)
    service.changed(video.id)
    return JSONResponse(page_object(service.video(request)))


async def _move(service: Service, request: Request) -> Response:
    video, form = service.video(request), await _read_form(request)
    if video.status != "queued":
        raise HTTPException(409, "The video does not wait any more.")
    before = form.fields.get("before")
    service.store.move(video.id, None if before is None else service.named_video(str(before)).id)
    service.changed(video.id)
    return JSONResponse({"queue": [each.id for each in service.store.queue()]})


async def _read_form(request: Request) -> Form:
    """Texts and files of a request, as a form or as JSON.

    Raises:
        HTTPException: it is neither.
        RequestError: a file is given for what takes none.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in ("multipart/form-data", "application/x-www-form-urlencoded"):
        return await _read_parts(request)
    if kind != "application/json":
        raise HTTPException(415, "Send a form (multipart/form-data) or JSON (application/json).")
    try:
        given = json.loads(await request.body() or b"{}")
    except ValueError as error:
        raise HTTPException(400, "The body is no JSON.") from error
    if not isinstance(given, dict):
        raise HTTPException(400, "The body must be an object.")
    form, reference = Form(given), given.pop("input_reference", None)
    if reference is not None:
        form.files["image"] = _read_reference(reference)
    return form


async def _read_parts(request: Request) -> Form:
    form = Form()
    async with request.form(max_files=len(UPLOADS), max_part_size=_LONGEST_TEXT) as parts:
        for key, value in parts.multi_items():
            name = "image" if key == "input_reference" else key
            if name in form.fields or name in form.files:
                raise RequestError(key, "is given twice.")
            if isinstance(value, UploadFile):
                if name not in UPLOADS:
                    raise RequestError(key, "takes no file.")
                form.files[name] = await value.read()
            elif key == "input_reference[image_url]":
                form.files["image"] = _read_reference({"image_url": value})
            elif value != "":
                form.fields[name] = value
    return form


def _read_reference(reference: Any) -> bytes:
    """The picture of OpenAI's reference object, as data in its address; no other address is opened."""
    address = reference.get("image_url") if isinstance(reference, dict) else reference
    head, comma, data = str(address).partition(",")
    if not (comma and head.startswith("data:") and head.endswith(";base64")):
        raise RequestError(
            "input_reference", "must be an uploaded file, or an image_url that begins with data:, in base64."
        )
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise RequestError("input_reference", "its data are no base64.") from error
