"""Addresses that users paste: of files here and of pages on the Hub, which are read, and all others."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import SplitResult, unquote, urlsplit

# The Hub takes no name with two dots or two hyphens in a row. Source: huggingface_hub
# src/huggingface_hub/utils/_validators.py, validate_repo_id.
REPOSITORY = re.compile(r"(?![^/]*/[^/]*(?:\.\.|--))[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

# A Path has made one slash of two.
_ADDRESS = re.compile(
    r"(?P<scheme>https?|hf|file|ftps?|sftp|ssh|scp|s3|gs|git|data|magnet):(?P<rest>/.*)",
    re.IGNORECASE | re.DOTALL,
)
# Services that fsspec writes to. A Path has made one slash of two.
_REMOTE = re.compile(
    r"(?P<scheme>s3a?|gs|gcs|az|abfss?|adl|oss|oci|r2|hdfs|webdavs?|smb|sftp|ssh|ftp|dropbox|memory):/+(?P<rest>.*)",
    re.IGNORECASE | re.DOTALL,
)
_HUB_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
# First parts of addresses on the Hub that are no owner of models.
_OTHER_PAGES = {
    "api", "blog", "buckets", "chat", "collections", "datasets", "docs", "inference", "kernels", "learn",
    "models", "new", "organizations", "papers", "posts", "pricing", "search", "settings", "spaces", "tasks",
}  # fmt: skip
_DRIVE = re.compile(r"[A-Za-z]:")
# How a Path begins that was made of file://localhost/.
_LOCALHOST = re.compile(r"^/localhost/")
# What stands between a repository and a revision in the address of a file or folder.
_VIEWS = ("tree", "blob", "resolve", "raw")
_REQUESTED = re.compile(r"refs/(pr|convert)/[^/]+")
_NOT_READ = "addresses are not read. Download it first, and give the path of the file."
_NO_FILES = (
    "is no address of a model or its files on the Hub. Give owner/name, or the address of a model's page or "
    "of a file in it; download anything else first, and give its path."
)


class AddressError(ValueError):
    """An address is of nothing that can be opened; the message says what to do."""


@dataclass(frozen=True, slots=True)
class HubPath:
    """What an address on the Hub names.

    Attributes:
        repository: owner/name.
        name: of a file or folder in it, by slashes; "" for the repository itself.
        revision: branch, tag or commit; None where the address names none.
    """

    repository: str
    name: str = ""
    revision: str | None = None

    def __str__(self) -> str:
        """The place as the options take it."""
        return f"{self.repository}/{self.name}" if self.name else self.repository


def local_path(text: str | Path) -> Path:
    """A path from the user, with `~` expanded; the address of a file here becomes its path.

    Raises:
        AddressError: it is the address of anything else, or begins with the `~` of an unknown user.
    """
    address = _split_address(text)
    return expand_home(text) if address is None else _path_of_address(address, str(text))


def expand_home(text: str | Path) -> Path:
    """A path with `~` expanded; whether it exists is checked where it is opened.

    Raises:
        AddressError: it is empty, begins with the `~` of a user that the system does not know, or holds a
            zero byte.
    """
    if not str(text):  # Python would take it for the folder that one is in
        raise AddressError("the path is empty. Write one, or a point for the folder that you are in.")
    _refuse_zero_byte(str(text))
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise AddressError(
            f"{text}: names the home of an unknown user. Write the path from / on, or with a plain ~/."
        ) from error


def remote_address(path: Path | None) -> str | None:
    """The address of a service that takes files, where a path was made of one; None for a path here."""
    found = None if path is None else _REMOTE.fullmatch(str(path).strip())
    return f"{found['scheme'].lower()}://{found['rest']}" if found else None


def local_path_or_page(text: str | Path) -> Path:
    """Path of what may be on the Hub; the address of a page there stays as it is.

    Raises:
        AddressError: it is the address of anything else, or begins with the `~` of an unknown user.
    """
    return local_path(text) if find_page(text) is None else Path(str(text).strip())


def find_page(text: str | Path) -> HubPath | None:
    """Place that the address of a page on the Hub names; None for a path, and for the address of a file here.

    Args:
        text: as pasted, or the path that was made of it.

    Raises:
        AddressError: the address is of another host, or of something else on the Hub.
    """
    address = _split_address(text) or _split_host_alone(text)
    if address is None or address.scheme == "file":
        return None
    if address.scheme == "hf":
        return _place_of_scheme(address, str(text))
    hosts = _hub_hosts()
    if address.scheme not in ("http", "https") or address.netloc.rpartition("@")[2].lower() not in hosts:
        raise AddressError(f"{written_address(text)}: {_NOT_READ}")
    prefix = hosts[address.netloc.rpartition("@")[2].lower()]
    return _place_of_page(address, prefix, str(text))


def is_plain_name(name: str) -> bool:
    """Whether a name with slashes leads nowhere but down, on any system."""
    parts = PurePosixPath(name).parts
    return (
        bool(parts)
        and "/".join(parts) == name
        and ".." not in parts
        and not name.startswith("/")
        and "\\" not in name
        and "\0" not in name
        and _DRIVE.match(name) is None
    )


def _split_address(text: str | Path) -> SplitResult | None:
    found = _ADDRESS.fullmatch(str(text).strip())
    if found is None:
        return None
    scheme, rest = found["scheme"].lower(), found["rest"]
    if scheme != "file":
        rest = f"//{rest.lstrip('/')}"
    elif not rest.startswith("//"):
        rest = f"//{_LOCALHOST.sub('/', rest)}"
    try:
        return urlsplit(f"{scheme}:{rest}")
    except ValueError as error:
        raise AddressError(f"{written_address(text)}: {_NOT_READ}") from error


def _split_host_alone(text: str | Path) -> SplitResult | None:
    """An address of the Hub as browsers show it, without what stands before the host."""
    written = str(text).strip()
    host, slash, _ = written.partition("/")
    if not slash or host.lower() not in _HUB_HOSTS or Path(host).exists():
        return None
    return urlsplit(f"https://{written}")


def _path_of_address(address: SplitResult, text: str) -> Path:
    if address.scheme != "file":
        raise AddressError(f"{written_address(text)}: {_NOT_READ}")
    place = unquote(address.path)
    if address.netloc.lower() not in ("", "localhost"):
        raise AddressError(
            f"{text}: is a file of the host {address.netloc}. Copy it here first, and give its path; the "
            "address of a file here begins with file:///."
        )
    _refuse_zero_byte(place)
    return Path(place)


def _refuse_zero_byte(path: str) -> None:
    if "\0" in path:
        raise AddressError(f"{path!r}: holds a zero byte, which no path can. Give the path itself.")


def _hub_hosts() -> dict[str, str]:
    """Hosts of the Hub with the paths before owner/name; HF_ENDPOINT names one more."""
    from huggingface_hub import constants

    endpoint = urlsplit(constants.ENDPOINT)
    return {**dict.fromkeys(_HUB_HOSTS, ""), endpoint.netloc.lower(): endpoint.path.strip("/")}


def _place_of_page(address: SplitResult, prefix: str, text: str) -> HubPath:
    path = address.path.strip("/").removeprefix(prefix)
    parts = [unquote(part) for part in path.split("/") if part]
    if len(parts) < 2 or parts[0] in _OTHER_PAGES:
        raise AddressError(f"{written_address(text)}: {_NO_FILES}")
    repository, rest = "/".join(parts[:2]).removesuffix(".git"), parts[2:]
    if not rest:
        return _checked(HubPath(repository), text)
    if rest[0] not in _VIEWS or len(rest) < 2:
        raise AddressError(f"{written_address(text)}: {_NO_FILES}")
    return _checked(HubPath(repository, *_split_revision("/".join(rest[1:]), rest[1])), text)


def _place_of_scheme(address: SplitResult, text: str) -> HubPath:
    """What `hf://owner/name@revision/file` names, as huggingface_hub writes it."""
    path = f"{address.netloc}{address.path}".strip("/")
    parts = [unquote(part) for part in path.split("/") if part]
    if len(parts) < 2 or parts[0] in _OTHER_PAGES:
        raise AddressError(f"{written_address(text)}: {_NO_FILES}")
    repository, at, revision = "/".join(parts[:2]).partition("@")
    if not at:
        return _checked(HubPath(repository, "/".join(parts[2:])), text)
    return _checked(HubPath(repository, *_split_revision("/".join([revision, *parts[2:]]), revision)), text)


def _split_revision(path: str, first: str) -> tuple[str, str]:
    """Name and revision of revision/name; of the revisions with slashes, those that the Hub itself makes."""
    found = _REQUESTED.match(path)
    revision = found[0] if found else first
    return path.removeprefix(revision).removeprefix("/"), revision


def _checked(place: HubPath, text: str) -> HubPath:
    are_plain = all(is_plain_name(name) for name in (place.name, place.revision) if name)
    if REPOSITORY.fullmatch(place.repository) is None or not are_plain:
        raise AddressError(f"{written_address(text)}: {_NO_FILES}")
    return place


def written_address(text: str | Path) -> str:
    """The address as it was before a path was made of it."""
    return re.sub(r":/+", "://", str(text).strip(), count=1)
