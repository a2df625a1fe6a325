"""A Hub that lies: about sizes, names, checksums and ends; by redirects, and by saying nothing."""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from tests.fixtures.hub_server import Answer, HubServer, Repository
from tests.hostile.campaign import Case
from tests.hostile.world import World

Change = Callable[[Repository], None]
WEIGHTS = "diffusion_pytorch_model.safetensors"
CONFIG = "config.json"
SECONDS = 60.0
"""That the server goes on with an answer without end."""


def answer(status: int, body: bytes = b"", **headers: str) -> Answer:
    """An answer with a right length; names of headers have _ for -."""
    return lambda handler: _write(handler, status, body, {"Content_Length": str(len(body))} | headers)


def _write(handler: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str]) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)
    handler.wfile.flush()


def listed(value: object) -> Answer:
    return answer(200, json.dumps(value).encode())


def endless(status: int = 200, piece: bytes = b" " * 65536, pause: float = 0.0, **headers: str) -> Answer:
    """A body that comes piece by piece, and does not end."""

    def write(handler: BaseHTTPRequestHandler) -> None:
        _write(handler, status, b"", headers)
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            handler.wfile.write(piece)
            handler.wfile.flush()
            time.sleep(pause)

    return write


def stops(status: int = 200, begin: bytes = b"{", **headers: str) -> Answer:
    """A body of which only the beginning comes."""

    def write(handler: BaseHTTPRequestHandler) -> None:
        _write(handler, status, begin, {"Content_Length": "100000"} | headers)
        handler.connection.settimeout(SECONDS)
        handler.rfile.read(1)  # until the client goes

    return write


def raw(content: bytes) -> Answer:
    """Bytes in place of an answer."""
    return lambda handler: handler.wfile.write(content)


def endless_headers(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    for number in range(10**7):
        handler.wfile.write(b"X-%d: %s\r\n" % (number, b"x" * 1000))


def says_nothing(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.settimeout(SECONDS)
    handler.rfile.read(1)


@cache
def bomb() -> bytes:
    """Two megabytes that unpack to two gigabytes; their checksum at the end is never read."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    begin = packer.compress(b"") + packer.flush(zlib.Z_FULL_FLUSH)
    return begin + 128 * (packer.compress(b" " * (1 << 24)) + packer.flush(zlib.Z_FULL_FLUSH))


HTML = b"<!DOCTYPE html><html><head><title>Sign in</title></head></html>"


def common() -> dict[str, Answer]:
    """Answers to whatever is asked."""
    return {
        "nothing": answer(200),
        "a page to sign in": answer(200, HTML, Content_Type="text/html"),
        "no content (204)": lambda handler: _write(handler, 204, b"", {}),
        "status 500": answer(500),
        "status 502 with a page": answer(502, HTML, Content_Type="text/html"),
        "status 503": answer(503),
        "status 404": answer(404),
        "status 401": answer(401),
        "status 403": answer(403),
        "status 418": answer(418),
        "status 416": answer(416),
        "status 599": answer(599),
        "status 429 for 10^9 seconds": answer(429, Retry_After="1000000000"),
        "status 429 for 10^5000 seconds": answer(429, Retry_After="9" * 5000),
        "status 429 by another header": answer(429, RateLimit='"api";r=0;t=99999999'),
        "status 429 without end": answer(429),
        "an error of control codes": answer(500, b'{"error": "\\u001b[2J\\u0007owned"}'),
        "an error header of control codes": raw(b"HTTP/1.1 500 x\r\nX-Error-Message: \x1b[2J\x07\r\nContent-Length: 0\r\n\r\n"),
        "an error that is a list": answer(400, b"[1, 2]"),
        "an error nested 100,000 deep": answer(400, b"[" * 100_000),
        "an error without end": endless(500),
        "an error that drips": endless(404, b" ", 0.2),
        "an error that stops": stops(403),
        "a redirect to a file": answer(302, Location="file:///etc/hostname"),
        "a redirect to itself": lambda handler: _write(handler, 302, b"", {"Location": handler.path, "Content_Length": "0"}),
        "a redirect to nowhere": answer(302, Location="http://127.0.0.1:9/x"),
        "a redirect without a place": answer(302),
        "a redirect to a megabyte": answer(302, Location="/" + "x" * 1_000_000),
        "a redirect that climbs": answer(302, Location="/../../../../etc/hostname"),
        "a redirect to control codes": raw(b"HTTP/1.1 302 x\r\nLocation: http://\x1b[2J/\r\nContent-Length: 0\r\n\r\n"),
        "no answer": says_nothing,
        "a closed connection": lambda handler: None,
        "no HTTP": raw(b"\x00\xff" * 100),
        "headers without end": endless_headers,
        "a length below zero": raw(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}"),
        "two lengths": raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}"),
        "broken chunks": raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}"),
        "broken packing": answer(200, b"\x1f\x8b junk", Content_Encoding="gzip"),
        "a body that is cut": raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"),
        "a body that stops": stops(),
        "a body without end": endless(),
        "a bomb": lambda handler: answer(200, bomb(), Content_Encoding="gzip")(handler),
    }  # fmt: skip


def listings() -> dict[str, Answer]:
    """Lists of files that are none."""
    commit = "0" * 40

    def files(*entries: object, **others: object) -> Answer:
        return listed({"id": "evil/x", "sha": commit, "siblings": list(entries)} | others)

    def weights(name: str = WEIGHTS, size: object = 9, **large: object) -> dict[str, Any]:
        return {
            "rfilename": name,
            "size": size,
            "blobId": commit,
            "lfs": {"sha256": "0" * 64, "size": size} | large,
        }

    return {
        "a list": listed([]),
        "null": listed(None),
        "nested 100,000 deep": answer(200, b"[" * 100_000),
        "a number of 5,000 digits": answer(200, b'{"sha": ' + b"9" * 5000 + b"}"),
        "a drip": endless(200, b" ", 0.2),
        "no files": files(),
        "files that are a number": files(siblings=7),
        "files that are a text": files(siblings="evil"),
        "files that are texts": files("evil"),
        "files that are null": files(None),
        "a file without a name": files({"size": 9}),
        "a file whose name is a list": files({"rfilename": ["x"]}),
        "a million files": files(*({"rfilename": f"{number}"} for number in range(300_000))),
        "a name that climbs": files(weights(f"../../../../{WEIGHTS}")),
        "a folder that climbs": files(weights(f"transformer/../../../../{WEIGHTS}")),
        "an absolute name": files(weights(f"/tmp/{WEIGHTS}")),
        "a name with a null byte": files(weights(f"a\x00{WEIGHTS}")),
        "a name of control codes": files(weights(f"\x1b[2J\x07{WEIGHTS}")),
        "a name of a megabyte": files(weights("x" * 1_000_000 + WEIGHTS)),
        "a folder named like the weights": files(weights(f"{WEIGHTS}/x.safetensors")),
        "a size below zero": files(weights(size=-1)),
        "a size of 10^18": files(weights(size=10**18)),
        "a size of 401 digits": files(weights(size=int("9" * 401))),
        "a size that is a text": files(weights(size="9")),
        "a size that is true": files(weights(size=True)),
        "a size that is infinite": answer(200, json.dumps({"sha": commit, "siblings": [weights(size=1.0)]}).replace("1.0", "1e999").encode()),
        "no size": files({"rfilename": WEIGHTS}),
        "a checksum that climbs": files(weights(sha256="../../../../evil")),
        "a checksum that is absolute": files(weights(sha256="/tmp/evil")),
        "a checksum of another length": files(weights(sha256="0" * 63)),
        "a checksum that is a list": files(weights(sha256=[])),
        "large files that are a text": files({"rfilename": WEIGHTS, "size": 9, "lfs": "evil"}),
        "a commit that climbs": files(weights(), sha="../../../../evil"),
        "a commit that is a number": files(weights(), sha=7),
        "no commit": files(weights(), sha=None),
        "one shard of 10^9": files(weights("diffusion_pytorch_model-00001-of-1000000000.safetensors")),
        "a pickle that is all there is": files(weights("evil.pkl")),
    }  # fmt: skip


def bodies() -> dict[str, Change]:
    """Files that are not what the list says; some have nothing wrong with them."""

    def body(name: str, change: Callable[[bytes], bytes]) -> Change:
        return lambda repository: repository.bodies.update({name: change(repository.files[name])})

    def stated(name: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Change:
        return lambda repository: repository.stated.update({name: change(repository.describe(name))})

    def sized(size: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
        return lambda entry: {"size": size, "lfs": entry["lfs"] | {"size": size}}

    def fields(**changes: Any) -> Change:
        def change(repository: Repository) -> None:
            for name, value in changes.items():
                setattr(repository, name, value)

        return change

    return {
        "weights a byte short": body(WEIGHTS, lambda content: content[:-1]),
        "weights a byte long": body(WEIGHTS, lambda content: content + b"x"),
        "other weights of the size": body(WEIGHTS, lambda content: bytes(len(content))),
        "no weights": body(WEIGHTS, lambda content: b""),
        "another config.json of the size": body(CONFIG, lambda content: content.replace(b"1", b"2")),
        "a config.json a byte long": body(CONFIG, lambda content: content + b" "),
        "a smaller size in the list": stated(WEIGHTS, sized(10)),
        "a larger size in the list": stated(WEIGHTS, sized(10**7)),
        "a size of nothing": stated(WEIGHTS, sized(0)),
        "the checksum of nothing": stated(WEIGHTS, lambda entry: {"lfs": entry["lfs"] | {"sha256": "0" * 64}}),
        "a connection that brings nothing": fields(cut_always={WEIGHTS: 0}),
        "ranges that are not kept, and a cut": fields(cut_always={WEIGHTS: 9000}, ignores_ranges=True),
    }  # fmt: skip


def sound() -> dict[str, Change]:
    """What is odd, and does no harm."""

    def headers(**values: str) -> Change:
        return lambda repository: repository.headers.update(
            {name.replace("_", "-"): value for name, value in values.items()}
        )

    return {
        "nothing wrong": lambda repository: None,
        "wrong etags": headers(ETag='"0"', X_Linked_Etag='"1"'),
        "etags that climb": headers(ETag='"../../../../evil"', X_Linked_Etag='"/tmp/evil"'),
        "another commit in the headers": headers(X_Repo_Commit="../../../../evil"),
        "another size in the headers": headers(X_Linked_Size="99999999999"),
        "one cut": lambda repository: repository.cut.update({WEIGHTS: 5000}),
        "a connection that is cut again and again": lambda repository: repository.cut_always.update({WEIGHTS: 900_000}),
        "one cut, and ranges that are not kept": lambda repository: (repository.cut.update({WEIGHTS: 5000}), setattr(repository, "ignores_ranges", True)),
        "a file more that climbs": lambda repository: repository.stated.update({"../../evil.txt": {"size": 9}}),
        "warnings of control codes": headers(X_HF_Warning="a; \x1b[2J\x07"),
    }  # type: ignore[dict-item] # fmt: skip


def build(world: World) -> dict[str, tuple[str, Repository, bool]]:
    """Name of a repository → what is wrong with it, what is served, and whether it must do."""
    found: dict[str, tuple[str, Repository, bool]] = {}

    def add(what: str, change: Change, *, is_sound: bool = False) -> None:
        repository = Repository(world.checkpoint.path)
        change(repository)
        found[f"evil/r{len(found)}"] = (what, repository, is_sound)

    def instead(place: str, one: Answer) -> Change:
        return lambda repository: repository.answers.update({place: one})

    for name, one in (common() | listings()).items():
        add(f"{name} for the list", instead("listing", one))
    for name, one in common().items():
        add(f"{name} for the weights", instead(WEIGHTS, one))
    for name in ("nothing", "an error without end", "a body without end", "a bomb", "a body that stops"):
        add(f"{name} for config.json", instead(CONFIG, common()[name]))
    for name, change in bodies().items():
        add(name, change)
    for name, change in sound().items():
        add(name, change, is_sound=True)
    return found


def serve(repositories: dict[str, Repository]) -> str:
    """Serve repositories from a process of its own until this one ends; returns the address."""
    server, parent = HubServer(), os.getpid()
    if not os.fork():
        server.repositories = repositories
        server.request_queue_size = 64
        server.timeout = 1
        while os.getppid() == parent:
            server.handle_request()
        os._exit(0)
    server.socket.close()
    return server.url


def on_the_hub(address: str) -> dict[str, str]:
    """Variables by which a command finds the server, and has a cache in its own folder."""
    return {
        "HF_ENDPOINT": address,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_CACHE": "cache/hub",
        "HF_HOME": "cache/home",
        "HF_HUB_DOWNLOAD_TIMEOUT": "1",
        "HF_TOKEN": "hf_secret",
        "no_proxy": "*",
    }


def cases(world: World) -> Iterator[Case]:
    """Conversions of a repository, which is downloaded first."""
    served = build(world)
    address = serve({name: repository for name, (_, repository, _) in served.items()})
    for name, (what, _, is_sound) in served.items():
        yield Case(
            "hub",
            what,
            lambda folder, one=name: world.convert(Path(one)),
            is_sound=is_sound,
            says="" if is_sound else name.partition("/")[2],
            environment=on_the_hub(address),
        )
