"""A repository on the Hub in place of a folder, against a server on this machine."""

import errno
import hashlib
import shutil
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from filelock import FileLock

from mlx_video.errors import CheckpointError, RequestError
from mlx_video.events import BytesChecked, BytesDownloaded, Notice
from mlx_video.files.hub_cache import storage_folder
from mlx_video.hub import download as hub_download
from mlx_video.hub.fetch import fetch_folder, fetch_tokenizer, is_repository
from mlx_video.request import path_or_repository
from tests.fixtures.hub_server import STALL_BYTES, Repository, go_online, serve_hub
from tests.fixtures.tiny_checkpoint import write_tokenizer

NAME = "Wan-AI/Wan2.1-T2V-1.3B"
WEIGHTS = "diffusion_pytorch_model.safetensors"
LARGE = 200_000
NEEDED = {
    WEIGHTS: LARGE, "models_t5_umt5-xxl-enc-bf16.pth": 5000, "Wan2.1_VAE.pth": 4000,
    "google/umt5-xxl/tokenizer.json": 300, "config.json": 2,
}  # fmt: skip
NOT_NEEDED = {"README.md": 100, "assets/video.mp4": 90_000}


@pytest.fixture(scope="module")
def server():
    with serve_hub() as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A repository's files: no tensors, which nothing here reads."""
    root = tmp_path_factory.mktemp("served")
    for name, size in (NEEDED | NOT_NEEDED).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        content = b"{}" if name == "config.json" else bytes(n * 37 % 251 for n in range(size))
        (root / name).write_bytes(content)
    return root


@pytest.fixture
def repository(server, folder, tmp_path, monkeypatch):
    """The repository as the server has it, online and with an empty cache."""
    monkeypatch.chdir(tmp_path)
    go_online(monkeypatch, server, tmp_path / "cache")
    server.requests.clear()
    server.repositories = {NAME: Repository(folder)}
    return server.repositories[NAME]


def fetch(place=NAME, revision=None, use="convert"):
    """The events of a download, and the folder at its end."""
    events, work = [], fetch_folder(path_or_repository(place), revision, use)
    while True:
        try:
            events.append(next(work))
        except StopIteration as end:
            return events, end.value


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def expected(folder):
    return {name: content for name, content in contents(folder).items() if name in NEEDED}


def test_what_is_needed_comes_into_the_cache_with_its_size_and_progress(repository, server, folder, tmp_path):
    (notice, *events), found = fetch()
    progress = [event for event in events if isinstance(event, BytesDownloaded)]
    assert contents(found) == expected(folder)
    assert server.downloads() == sorted(NEEDED)
    # config.json has come before: it tells what else is needed.
    assert notice.text.startswith(f"Downloading 4 files of {NAME} (main, {repository.commit[:8]}), ")
    assert f"209,300 bytes, into {tmp_path / 'cache'}" in notice.text
    assert progress[-1] == BytesDownloaded(209_300, 209_300)
    assert [event.done for event in progress] == sorted(event.done for event in progress)
    assert events[-1] == BytesChecked(209_300, 209_300)


def test_nothing_is_shown_by_huggingface_hub_itself(repository, capfd):
    fetch()
    assert capfd.readouterr() == ("", "")


def test_a_second_run_downloads_nothing_and_says_nothing(repository, server):
    _, first = fetch()
    server.requests.clear()
    assert fetch() == ([], first)
    assert [request.path.partition("?")[0] for request in server.requests] == [
        f"/api/models/{NAME}/revision/main"
    ]


def test_a_file_that_is_missing_in_the_cache_is_fetched_alone(repository, server, folder):
    _, found = fetch()
    (found / "Wan2.1_VAE.pth").resolve().unlink()
    (found / "Wan2.1_VAE.pth").unlink()
    server.requests.clear()
    assert "Downloading 1 file of" in fetch()[0][0].text
    assert server.downloads() == ["Wan2.1_VAE.pth"]
    assert contents(found) == expected(folder)


def test_offline_the_cached_copy_serves_without_a_word(repository, monkeypatch, tmp_path):
    _, found = fetch()
    go_online(monkeypatch, None, tmp_path / "cache")
    assert fetch() == ([], found)
    assert fetch(revision=repository.commit) == ([], found)


def test_without_network_the_cached_copy_serves_and_is_named(repository, monkeypatch, tmp_path):
    _, found = fetch()
    go_online(monkeypatch, None, tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    (notice,), again = fetch()
    assert again == found
    assert notice.text.startswith(f"{NAME}: the Hub cannot be reached (")
    assert "cached copy" in notice.text


@pytest.fixture
def impatient(monkeypatch):
    """Waits for the next byte are short: an interruption ends with the wait that it meets."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 3)


def wait_for_stall(work):
    """Go on until all has come that comes: the small files, and the large one up to where it stalls."""
    small = sum(size for name, size in NEEDED.items() if name not in (WEIGHTS, "config.json"))
    whole = STALL_BYTES + small
    next(event for event in work if isinstance(event, BytesDownloaded) and event.done >= whole)


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_an_interrupted_download_goes_on_where_it_ended(repository, server, folder, tmp_path):
    repository.stalled = threading.Event()
    with closing(fetch_folder(Path(NAME), None, "convert")) as work:  # closed as by Ctrl-C
        wait_for_stall(work)
    (partial,) = (tmp_path / "cache").rglob("blobs/*.incomplete")
    begun = partial.stat().st_size
    assert 0 < begun < LARGE
    repository.stalled.set()
    server.requests.clear()
    (notice, *progress), found = fetch()
    assert "are here already" in notice.text
    assert progress[0].done >= begun
    assert server.parts(WEIGHTS) == [f"bytes={begun}-"]
    assert contents(found) == expected(folder)
    assert not list((tmp_path / "cache").rglob("*.incomplete"))


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_a_download_that_stalls_can_be_interrupted(repository, tmp_path):
    repository.stalled = threading.Event()
    with closing(fetch_folder(Path(NAME), None, "convert")) as work:
        wait_for_stall(work)
        begun = time.monotonic()
    assert time.monotonic() - begun < 20  # the server would send nothing for a minute
    repository.stalled.set()
    (partial,) = (tmp_path / "cache").rglob("blobs/*.incomplete")
    assert partial.stat().st_size > 0


def test_a_connection_that_never_comes_about_is_given_up(repository, server, monkeypatch):
    monkeypatch.setattr(hub_download, "_RETRY_SECONDS", 0)
    repository.cut_always = {WEIGHTS: 0}
    with pytest.raises(
        CheckpointError, match=rf"{NAME}: is not here, and downloading .*run the same command"
    ):
        fetch()
    assert len(server.parts(WEIGHTS)) == hub_download._TRIES


def test_a_server_that_always_begins_anew_is_understood(repository, folder, monkeypatch):
    monkeypatch.setattr(hub_download, "_RETRY_SECONDS", 0)
    repository.cut[WEIGHTS] = 100_000
    repository.ignores_ranges = True
    assert contents(fetch()[1]) == expected(folder)


def test_a_download_that_waits_for_another_process_can_be_interrupted(repository, folder, tmp_path):
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    held = tmp_path / "cache" / ".locks" / storage_folder(NAME).name / f"{digest}.lock"
    held.parent.mkdir(parents=True)
    lock = FileLock(held, thread_local=False)
    lock.acquire()
    end = threading.Timer(60, lock.release)  # so that a wait without end does not stop the suite
    end.start()
    with closing(fetch_folder(Path(NAME), None, "convert")) as work:
        next(event for event in work if isinstance(event, BytesDownloaded) and event.done == 9300)
        begun = time.monotonic()
    assert time.monotonic() - begun < 20  # the other would keep it for a minute
    end.cancel()
    lock.release()
    assert contents(fetch()[1]) == expected(folder)


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_an_interrupted_download_is_not_taken_for_a_whole_one_offline(repository, monkeypatch, tmp_path):
    repository.stalled = threading.Event()
    with closing(fetch_folder(Path(NAME), None, "convert")) as work:
        wait_for_stall(work)
    repository.stalled.set()
    go_online(monkeypatch, None, tmp_path / "cache")
    with pytest.raises(CheckpointError, match="not whole in the cache"):
        fetch()


def test_a_broken_connection_is_taken_up_again_in_the_same_run(repository, server, folder, monkeypatch):
    monkeypatch.setattr(hub_download, "_RETRY_SECONDS", 0)
    repository.cut[WEIGHTS] = 100_000
    _, found = fetch()
    assert contents(found) == expected(folder)
    first, second = server.parts(WEIGHTS)
    assert first is None
    assert 0 < int(second.removeprefix("bytes=").rstrip("-")) <= 100_000


def test_a_damaged_beginning_of_an_earlier_run_is_found_and_removed(repository, folder, tmp_path):
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    partial = storage_folder(NAME) / "blobs" / f"{digest}.incomplete"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(bytes(5000))
    with pytest.raises(CheckpointError, match=rf"{NAME}: {WEIGHTS} came in damaged .*was removed\. Run"):
        fetch()
    assert contents(fetch()[1]) == expected(folder)


def test_a_disk_without_room_is_refused_before_the_download(repository, server, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=100_000)
    monkeypatch.setattr("mlx_video.layouts.staging.shutil.disk_usage", lambda place: usage)
    with pytest.raises(CheckpointError, match=r"needs 211,393 bytes, 100,000 bytes free on .*HF_HOME"):
        fetch()
    assert server.downloads() == ["config.json"]


def test_a_disk_that_fills_up_meanwhile_is_told_as_such(repository, monkeypatch):
    def write(self, data):
        raise OSError(errno.ENOSPC, "No space left on device", "weights")

    monkeypatch.setattr("mlx_video.hub.download._StoppableFile.write", write)
    with pytest.raises(OSError, match="No space left") as caught:
        fetch()
    assert caught.value.errno == errno.ENOSPC


def test_the_token_is_sent_to_the_hub_but_not_to_the_store_that_it_points_to(repository, server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_test")
    fetch()
    tokens = {(request.path.startswith("/store/"), request.token) for request in server.requests}
    assert tokens == {(False, "Bearer hf_of_the_test"), (True, None)}


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_repository_says_what_its_owner_asks(repository, status):
    repository.file_error = (status, "GatedRepo")
    with pytest.raises(CheckpointError, match=rf"{NAME}: is gated \(HTTP {status}\)\. Accept .*HF_TOKEN"):
        fetch()


def test_a_token_without_the_right_is_told_from_a_gate(repository):
    repository.error = (403, "")
    with pytest.raises(
        CheckpointError, match=r"the Hub refuses access \(HTTP 403\)\. Check that your token may read it"
    ):
        fetch()


@pytest.mark.parametrize(("status", "code"), [(401, ""), (401, "RepoNotFound"), (404, "RepoNotFound")])
def test_a_mistyped_path_is_told_in_both_its_readings(repository, server, status, code):
    server.repositories["models/wan"] = Repository(repository.folder, error=(status, code))
    both = rf"models/wan: is neither here nor a repository on the Hub .*\(HTTP {status}\)"
    with pytest.raises(CheckpointError, match=rf"{both}\. Check the path, or the spelling of owner/name"):
        fetch("models/wan")


def test_an_unknown_revision_is_named(repository):
    with pytest.raises(CheckpointError, match=rf"{NAME}: has no revision v9 \(HTTP 404\).*--revision"):
        fetch(revision="v9")


def test_a_commit_may_be_named(repository, folder):
    assert contents(fetch(revision=repository.commit)[1]) == expected(folder)


def test_a_hub_in_trouble_is_told_with_its_status(repository):
    repository.error = (500, "")
    with pytest.raises(CheckpointError, match=rf"{NAME}: is not here, and downloading .*500.*run the same"):
        fetch()


def test_without_network_and_cache_both_readings_and_the_reason_are_named(repository, monkeypatch, tmp_path):
    go_online(monkeypatch, None, tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(CheckpointError, match=rf"{NAME}: is not here, .*ConnectError.*path or the network"):
        fetch()


def test_offline_without_cache_both_readings_and_the_setting_are_named(repository, monkeypatch, tmp_path):
    go_online(monkeypatch, None, tmp_path / "cache")
    with pytest.raises(CheckpointError, match=rf"{NAME}: is not here, .*HF_HUB_OFFLINE is set.*online once"):
        fetch()


@pytest.mark.parametrize("text", ["/a/b", "./a/b", "a", "a/b/c", "../b", "~/b", "a/.b", "a b/c"])
def test_a_path_is_not_taken_for_a_repository(text):
    assert not is_repository(path_or_repository(text))


def test_a_folder_that_exists_is_never_looked_up(repository, server, tmp_path):
    (tmp_path / NAME).mkdir(parents=True)
    assert fetch() == ([], Path(NAME))
    assert server.requests == []


def test_a_revision_of_a_folder_is_refused(tmp_path):
    with pytest.raises(RequestError, match="is a path, not a repository on the Hub") as caught:
        fetch(tmp_path, revision="v1")
    assert caught.value.field == "revision"


def test_the_tokenizer_is_fetched_once(repository, server, tmp_path):
    write_tokenizer(tmp_path / "umt5")
    (tmp_path / "umt5" / "model.safetensors").write_bytes(bytes(50_000))
    server.repositories["google/umt5-xxl"] = Repository(tmp_path / "umt5")
    events = list(fetch_tokenizer())
    assert isinstance(events[0], Notice)
    assert server.downloads() == ["special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"]
    server.requests.clear()
    assert list(fetch_tokenizer()) == []
    assert server.requests == []
