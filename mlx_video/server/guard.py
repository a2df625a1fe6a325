"""Who may speak with the server: hosts, origins, token and sizes, checked before anything is read."""

from __future__ import annotations

import ipaddress
import secrets
import socket
from collections.abc import Collection
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlx_video.server.wire import error_response

COOKIE = "mlx_video_token"
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self'; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


def known_hosts(bound: str, allowed: Collection[str] = ()) -> frozenset[str]:
    """Names by which clients may call the server.

    Args:
        bound: the address at which it listens.
        allowed: further names.
    """
    own = {socket.gethostname(), f"{socket.gethostname().removesuffix('.local')}.local", bound}
    return frozenset(name.lower() for name in {*LOOPBACK, *allowed, *(() if bound in LOOPBACK else own)})


class Guard:
    """Refuses requests that a page of another site could have sent, or that have no token, or are too large.

    Args:
        app: what is guarded.
        hosts: names of the server.
        takes_addresses: whether numbers are taken for its name too; a page of another site has a name.
        token: that every request has to bring; "" for none.
        most_bytes: of a request.
    """

    def __init__(
        self, app: ASGIApp, hosts: Collection[str], takes_addresses: bool, token: str, most_bytes: int
    ) -> None:
        self._app = app
        self._hosts = hosts
        self._takes_addresses = takes_addresses
        self._token = token
        self._most_bytes = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":  # there is nothing else here
            await self._serve(scope, receive, _with_headers(send))

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        if scope["method"] == "GET" and scope["path"] == "/" and scope["query_string"]:
            answer = self._enter(scope["query_string"].decode("latin-1"), headers)
            if answer is not None:
                await answer(scope, receive, send)
                return
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            status, text, code = refusal
            await error_response(status, text, code)(scope, receive, send)
            return
        await self._app(scope, self._limited(receive), send)

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[int, str, str] | None:
        if not self._knows(headers):
            return 403, "The server does not go by this name. See --allow-host.", "unknown_host"
        if not _is_own_page(headers, is_visit=scope["method"] == "GET" and scope["path"] == "/"):
            return 403, "Pages of other sites may not ask this server.", "foreign_origin"
        if self._token and not self._is_token(_given_token(headers)):
            return 401, "A token is needed. Open the address that the server printed.", "invalid_api_key"
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self._most_bytes:
            return 413, self._too_large, "too_large"
        return None

    @property
    def _too_large(self) -> str:
        return f"More than {self._most_bytes / 1e6:g} MB, which the server takes at most."

    def _knows(self, headers: Headers) -> bool:
        name = _host_name(headers.get("host", ""))
        return name in self._hosts or (self._takes_addresses and _is_address(name))

    def _is_token(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(), self._token.encode())

    def _enter(self, query: str, headers: Headers) -> RedirectResponse | None:
        """Turn the token of the printed address into a cookie, so that it does not stay in the address."""
        given = parse_qs(query).get("token", [""])[0]
        if not (self._token and self._knows(headers) and self._is_token(given)):
            return None
        answer = RedirectResponse("/", 303)
        answer.set_cookie(COOKIE, given, httponly=True, samesite="strict", max_age=30 * 24 * 3600)
        return answer

    def _limited(self, receive: Receive) -> Receive:
        """Receive no more than may come, also where a request does not say how much will."""
        taken = 0

        async def receive_some() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._most_bytes:
                raise HTTPException(413, self._too_large)
            return message

        return receive_some


def _with_headers(send: Send) -> Send:
    async def send_guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(_HEADERS)
        await send(message)

    return send_guarded


def _host_name(host: str) -> str:
    """The name in a Host header, without its port and the brackets of an address."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_own_page(headers: Headers, *, is_visit: bool) -> bool:
    """Whether a request comes from the server's own page, or from no page at all."""
    origin, own = headers.get("origin"), headers.get("host", "").lower()
    if origin is not None and origin.lower() not in (f"http://{own}", f"https://{own}"):
        return False
    return is_visit or headers.get("sec-fetch-site", "none") in ("none", "same-origin")


def _given_token(headers: Headers) -> str:
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return given.strip()
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return morsel.value if morsel else ""
