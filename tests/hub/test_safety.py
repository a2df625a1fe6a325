"""What a server says is checked before it is believed, and nothing is written outside the cache."""

import hashlib
import os
from contextlib import closing
from pathlib import Path

import pytest

from mlx_video.errors import CheckpointError, RequestError
from mlx_video.events import BytesChecked, BytesDownloaded
from mlx_video.files.hub_cache import storage_folder
from mlx_video.hub import download as hub_download
from mlx_video.hub.fetch import fetch_folder, fetch_part, fetch_repository
from tests.fixtures.hub_server import Repository, go_online, serve_hub

pytestmark = pytest.mark.slow

NAME = "Wan-AI/Wan2.1-T2V-1.3B"
WEIGHTS = "diffusion_pytorch_model.safetensors"
T5 = "models_t5_umt5-xxl-enc-bf16.pth"
FILES = {WEIGHTS: bytes(range(256)) * 300, T5: b"text" * 500, "config.json": b"{}"}
# What stands in place of hexadecimal digits.
CLIMBING = ("/tmp/evil", "../../../../evil", "..", "a/../../../evil", "..\\evil", "C:evil", "", None, 7)


@pytest.fixture(scope="module")
def server():
    with serve_hub() as running:
        yield running


@pytest.fixture
def repository(server, tmp_path, monkeypatch):
    """A repository online, with an empty cache deep inside a folder that is looked through afterwards."""
    served = tmp_path / "served"
    served.mkdir()
    for name, content in FILES.items():
        (served / name).write_bytes(content)
    monkeypatch.chdir(served)
    go_online(monkeypatch, server, tmp_path / "home" / "deep" / "cache")
    server.requests.clear()
    server.repositories = {NAME: Repository(served)}
    yield server.repositories[NAME]
    made = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    expected = {"served", "home", "home/deep", "home/deep/cache", *(f"served/{name}" for name in FILES)}
    assert {name for name in made if not name.startswith("home/deep/cache/")} <= expected
    assert not {name for name in made if "evil" in name}
    assert not Path("/tmp/evil").exists()


def fetch(revision=None):
    """The events of a download, and the folder at its end."""
    events, work = [], fetch_folder(Path(NAME), revision, "convert")
    while True:
        try:
            events.append(next(work))
        except StopIteration as end:
            return events, end.value


def blob(content):
    return storage_folder(NAME) / "blobs" / hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("commit", CLIMBING)
def test_a_commit_that_is_none_is_refused(repository, server, commit):
    repository.stated_commit = commit
    with pytest.raises(CheckpointError, match=rf"{NAME}: the Hub gives .* for the commit of main, which is"):
        fetch()
    assert server.downloads() == []


@pytest.mark.parametrize("checksum", CLIMBING)
def test_a_sha256_that_is_none_is_refused_before_anything_of_it_is_asked_for(repository, server, checksum):
    repository.stated = {WEIGHTS: {"lfs": {"sha256": checksum, "size": 9, "pointerSize": 1}}}
    with pytest.raises(CheckpointError, match=rf"{NAME}: '{WEIGHTS}' .* has the checksum .*HF_ENDPOINT"):
        fetch()
    assert server.downloads() == ["config.json"]


@pytest.mark.parametrize("checksum", CLIMBING)
def test_a_git_checksum_that_is_none_is_refused(repository, server, checksum):
    repository.stated = {"config.json": {"blobId": checksum}}
    with pytest.raises(CheckpointError, match=rf"{NAME}: 'config\.json' .* has the checksum .*HF_ENDPOINT"):
        fetch()
    assert server.downloads() == []


@pytest.mark.parametrize("size", [-1, None, "9"])
def test_a_size_that_is_none_is_refused(repository, size):
    repository.stated = {"config.json": {"size": size}}
    with pytest.raises(CheckpointError, match=rf"{NAME}: 'config\.json' .* has the size"):
        fetch()


@pytest.mark.parametrize(
    "name",
    [
        f"transformer/../../../../../../{WEIGHTS}",
        f"/tmp/evil/../{WEIGHTS}",
        f"C:\\{WEIGHTS}",
        f"C:/x/{WEIGHTS}",
        f"a\\..\\{WEIGHTS}",
        f"a//{WEIGHTS}",
        f"./{WEIGHTS}",
    ],
)
def test_a_name_that_leads_out_of_the_repository_is_refused(repository, server, name):
    entry = {"size": 9, "lfs": {"sha256": "0" * 64, "size": 9, "pointerSize": 1}}
    repository.stated = {name: entry}
    with pytest.raises(CheckpointError, match=r"list of files leads out of the repository.*HF_ENDPOINT"):
        list(fetch_repository(NAME, None, lambda names, read_json: [name]))
    assert server.downloads() == []


@pytest.mark.parametrize("revision", ["../../../evil", "/tmp/evil", "a/../../../../evil", "a\\b"])
def test_a_revision_that_climbs_is_refused(repository, server, revision):
    repository.branches = ("main", revision)
    with pytest.raises(RequestError, match="is no branch, tag or commit"):
        fetch(revision)
    assert server.requests == []


@pytest.mark.parametrize(
    "headers",
    [
        {"ETag": '"../../../../evil"', "X-Linked-Etag": '"../../../../evil"'},
        {"ETag": '"/tmp/evil"', "X-Linked-Etag": '"/tmp/evil"'},
        {"X-Repo-Commit": "../../../../evil"},
        {"X-Repo-Commit": "/tmp/evil"},
    ],
)
def test_climbing_headers_of_files_have_no_effect(repository, headers):
    repository.headers = headers
    _, found = fetch()
    assert {name: (found / name).read_bytes() for name in FILES} == FILES


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Linked-Etag": '"../../../../evil"'},
        {"X-Linked-Etag": '"/tmp/evil"'},
        {"X-Repo-Commit": "../../../../evil"},
    ],
)
def test_the_way_for_the_largest_files_is_not_taken_with_climbing_headers(repository, monkeypatch, headers):
    monkeypatch.setattr(hub_download, "_is_plain_download", lambda file: file.kind == "git")
    repository.headers = headers
    with pytest.raises(CheckpointError, match=rf"{NAME}: .* by its address, but .* by the list of files"):
        fetch()


def test_the_largest_files_come_by_the_library_and_are_checked(repository, monkeypatch):
    monkeypatch.setattr(hub_download, "_is_plain_download", lambda file: file.kind == "git")
    repository.bodies = {WEIGHTS: bytes(len(FILES[WEIGHTS]))}
    with pytest.raises(CheckpointError, match=rf"{NAME}: {WEIGHTS} came in damaged \(sha256 .*removed"):
        fetch()
    repository.bodies = {}
    _, found = fetch()
    assert {name: (found / name).read_bytes() for name in FILES} == FILES
    assert fetch() == ([], found)


@pytest.mark.parametrize("target", ["file:///etc/hostname", "/../../etc/hostname", "http://127.0.0.1:9/x"])
def test_a_file_that_is_sent_for_to_nowhere_is_an_error(repository, monkeypatch, target):
    monkeypatch.setattr(hub_download, "_RETRY_SECONDS", 0)
    repository.headers = {"Location": target}
    with pytest.raises(CheckpointError, match=rf"{NAME}: "):
        fetch()
    assert not (storage_folder(NAME) / "snapshots" / repository.commit / WEIGHTS).exists()


@pytest.mark.parametrize("name", FILES)
def test_changed_numbers_of_the_right_size_are_removed_and_named(repository, name):
    repository.bodies = {name: bytes(len(FILES[name]))}
    what = "git checksum" if name == "config.json" else "sha256"
    told = rf"^{NAME}: {name} came in damaged \({what} \w{{8}}\.\.\., .* stated\) and was removed\. Run the"
    with pytest.raises(CheckpointError, match=f"{told} same command again; .*HF_ENDPOINT"):
        fetch()
    snapshot = storage_folder(NAME) / "snapshots" / repository.commit
    assert not (snapshot / name).exists()
    digest = repository.etag(name)
    assert [place for place in storage_folder(NAME).rglob(f"*{digest}*") if "blobs" in place.parts] == []
    repository.bodies = {}
    _, found = fetch()
    assert {name: (found / name).read_bytes() for name in FILES} == FILES


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (lambda content: content[:-1], "bytes, .* stated"),
        (lambda content: content + b"x", "more than the .* bytes stated"),
        (lambda content: b"", "0 bytes, .* stated"),
    ],
)
@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_another_size_is_removed_and_named(repository, name, change, difference):
    repository.bodies = {name: change(FILES[name])}
    with pytest.raises(CheckpointError, match=rf"^{NAME}: {name} came in damaged \(.*{difference}\) and was"):
        fetch()
    repository.bodies = {}
    assert (fetch()[1] / name).read_bytes() == FILES[name]


def test_a_damaged_adapter_is_removed_and_named(repository, server, tmp_path):
    repository.bodies = {WEIGHTS: bytes(len(FILES[WEIGHTS]))}
    with pytest.raises(CheckpointError, match=rf"{WEIGHTS} came in damaged"):
        list(fetch_part(Path(NAME, WEIGHTS), "adapter"))


def test_nothing_is_hashed_a_second_time(repository, monkeypatch):
    _, found = fetch()
    monkeypatch.setattr(hub_download._Download, "_check", None)
    assert fetch() == ([], found)


def test_the_check_is_told_until_all_is_checked(repository, monkeypatch):
    monkeypatch.setattr(hub_download, "_CHUNK_BYTES", 4096)
    monkeypatch.setattr(hub_download, "_POLL_SECONDS", 0.01)
    begin = hub_download._begin_digest

    class Slow:
        def __init__(self, file):
            self.digest = begin(file)

        def update(self, piece):
            hub_download.threading.Event().wait(0.01)
            self.digest.update(piece)

        def hexdigest(self):
            return self.digest.hexdigest()

    monkeypatch.setattr(hub_download, "_begin_digest", Slow)
    events, _ = fetch()
    checked = [event.done for event in events if isinstance(event, BytesChecked)]
    total = len(FILES[WEIGHTS]) + len(FILES[T5])
    assert checked == sorted(checked)
    assert checked[-1] == total
    assert any(0 < done < total for done in checked)
    assert events.index(BytesDownloaded(total, total)) < events.index(BytesChecked(total, total))


def test_an_interrupted_check_keeps_what_came_and_is_done_again(repository, server, monkeypatch):
    started, check = [], hub_download._Download._check

    def wait_until_stopped(self, file, path):
        if file.name == WEIGHTS:
            started.append(path)
            self.stopped.wait(5)
        check(self, file, path)

    monkeypatch.setattr(hub_download._Download, "_check", wait_until_stopped)
    with closing(fetch_folder(Path(NAME), None, "convert")) as work:
        next(event for event in work if isinstance(event, BytesChecked))
    partial = blob(FILES[WEIGHTS]).with_name(f"{blob(FILES[WEIGHTS]).name}.incomplete")
    assert started == [partial]
    assert partial.read_bytes() == FILES[WEIGHTS]
    monkeypatch.setattr(hub_download._Download, "_check", check)
    server.requests.clear()
    assert (fetch()[1] / WEIGHTS).read_bytes() == FILES[WEIGHTS]
    assert server.downloads() == []


@pytest.mark.parametrize("content", [b"", b"short", FILES[WEIGHTS] + b"more"])
def test_a_cached_file_of_another_size_is_fetched_again(repository, content):
    _, found = fetch()
    blob(FILES[WEIGHTS]).write_bytes(content)
    (notice, *_), again = fetch()
    assert notice.text.startswith("Downloading 1 file of")
    assert again == found
    assert (found / WEIGHTS).read_bytes() == FILES[WEIGHTS]


def test_a_cached_link_to_nothing_is_fetched_again(repository):
    _, found = fetch()
    blob(FILES[WEIGHTS]).unlink()
    assert (fetch()[1] / WEIGHTS).read_bytes() == FILES[WEIGHTS]
    assert (found / WEIGHTS).is_symlink()


def test_content_that_another_commit_has_is_linked_and_not_fetched(repository, server):
    _, found = fetch()
    (found / WEIGHTS).unlink()
    server.requests.clear()
    assert (fetch()[1] / WEIGHTS).read_bytes() == FILES[WEIGHTS]
    assert server.downloads() == []


@pytest.mark.parametrize("is_refused", [False, True])
def test_without_links_the_files_lie_in_the_snapshot_itself(repository, monkeypatch, is_refused):
    if is_refused:  # as on a disk that Windows shares

        def refuse(self, target):
            raise OSError(1, "Operation not permitted")

        monkeypatch.setattr(Path, "symlink_to", refuse)
    else:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_SYMLINKS", True)
    _, found = fetch()
    assert not (found / WEIGHTS).is_symlink()
    assert {name: (found / name).read_bytes() for name in FILES} == FILES
    assert fetch() == ([], found)


def test_the_cache_is_one_that_huggingface_hub_reads(repository, monkeypatch, tmp_path):
    from huggingface_hub import hf_hub_download, snapshot_download, try_to_load_from_cache

    _, found = fetch()
    assert os.readlink(found / WEIGHTS) == f"../../blobs/{blob(FILES[WEIGHTS]).name}"
    go_online(monkeypatch, None, tmp_path / "home" / "deep" / "cache")
    assert try_to_load_from_cache(NAME, WEIGHTS) == str(found / WEIGHTS)
    assert hf_hub_download(NAME, "config.json") == str(found / "config.json")
    assert snapshot_download(NAME) == str(found)
