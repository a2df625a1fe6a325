"""Addresses are read as what they name, or refused with words."""

from pathlib import Path

import numpy as np
import pytest

from mlx_video import WanPipeline, convert_checkpoint
from mlx_video.addresses import AddressError, HubPath, find_page, local_path, local_path_or_page
from mlx_video.api import build_request
from mlx_video.errors import MediaError, RequestError
from mlx_video.media.clip import Video
from mlx_video.request import ConvertRequest, GenerateRequest, LoraChoice, path_or_repository

NAME = "Wan-AI/Wan2.1-T2V-1.3B"
HUB = f"https://huggingface.co/{NAME}"
COMMIT = "37ec512624d61f7aa208f7ea8140a131f93afc9a"
PAGES = {
    HUB: HubPath(NAME),
    f"{HUB}/": HubPath(NAME),
    f"{HUB}#readme": HubPath(NAME),
    f"{HUB}.git": HubPath(NAME),
    f"  {HUB}\n": HubPath(NAME),
    f"http://www.huggingface.co/{NAME}?not-for-all-audiences=true": HubPath(NAME),
    f"HTTPS://HuggingFace.co/{NAME}": HubPath(NAME),
    f"https://hf.co/{NAME}/tree/main": HubPath(NAME, "", "main"),
    f"hf.co/{NAME}": HubPath(NAME),
    f"huggingface.co/{NAME}/tree/main/vae": HubPath(NAME, "vae", "main"),
    f"{HUB}/tree/{COMMIT}/google/umt5-xxl": HubPath(NAME, "google/umt5-xxl", COMMIT),
    f"{HUB}/tree/main/": HubPath(NAME, "", "main"),
    f"{HUB}/tree/refs%2Fpr%2F1/vae": HubPath(NAME, "vae", "refs/pr/1"),
    f"{HUB}/tree/refs/pr/1/vae": HubPath(NAME, "vae", "refs/pr/1"),
    f"{HUB}/blob/main/Wan2.1_VAE.pth": HubPath(NAME, "Wan2.1_VAE.pth", "main"),
    f"{HUB}/raw/main/config.json": HubPath(NAME, "config.json", "main"),
    f"{HUB}/resolve/v1.0/a/b.safetensors?download=true": HubPath(NAME, "a/b.safetensors", "v1.0"),
    f"{HUB}/resolve/main/my%20style%20%2B1.safetensors": HubPath(NAME, "my style +1.safetensors", "main"),
    f"https://user@huggingface.co/{NAME}": HubPath(NAME),
    f"hf://{NAME}": HubPath(NAME),
    f"hf://{NAME}/vae/a.safetensors": HubPath(NAME, "vae/a.safetensors"),
    f"hf://{NAME}@main/vae": HubPath(NAME, "vae", "main"),
    f"hf://{NAME}@refs/pr/1/vae": HubPath(NAME, "vae", "refs/pr/1"),
    f"hf://{NAME}@refs%2Fpr%2F1": HubPath(NAME, "", "refs/pr/1"),
}
OTHER = {
    "https://example.com/cat.png": "addresses are not read. Download it first",
    "http://civitai.com/api/download/models/12": "addresses are not read. Download it first",
    "https://huggingface.co.example.com/a/b": "addresses are not read. Download it first",
    "https://modelscope.cn/models/Wan-AI/Wan2.1-T2V-1.3B": "addresses are not read. Download it first",
    "https://github.com/Wan-Video/Wan2.1": "addresses are not read. Download it first",
    "ftp://example.com/a.safetensors": "addresses are not read. Download it first",
    "s3://bucket/a.safetensors": "addresses are not read. Download it first",
    "https://[broken/a": "addresses are not read. Download it first",
}
OTHER_PAGES = (
    "https://huggingface.co",
    "https://huggingface.co/Wan-AI",
    "https://huggingface.co/models",
    "https://huggingface.co/datasets/a/b",
    "https://huggingface.co/spaces/Wan-AI/Wan2.1",
    "https://huggingface.co/docs/hub/index",
    "https://huggingface.co/collections/Wan-AI",
    "https://huggingface.co/spaces/Wan-AI",
    f"{HUB}/discussions/3",
    f"{HUB}/commits/main",
    f"{HUB}/tree",
    f"{HUB}/blob/main/../../../../etc/passwd",
    f"{HUB}/blob/main/%2E%2E/%2E%2E/evil",
    f"{HUB}/blob/main/%2Fetc%2Fpasswd",
    f"{HUB}/blob/main/a%5C..%5Cevil",
    f"{HUB}/blob/main/C:evil",
    f"{HUB}/blob/main/a%00b",
    f"{HUB}/tree/..%2F..%2Fevil",
    f"{HUB}/tree/%2Fetc/vae",
    "https://huggingface.co/../etc",
    "https://huggingface.co/a%2F..%2F../b",
    "hf://Wan-AI",
    "hf://datasets/a/b",
    f"hf://{NAME}@../x",
)


@pytest.mark.parametrize("text", PAGES)
def test_a_page_of_the_hub_is_read_as_text_and_as_a_path(text):
    assert find_page(text) == find_page(Path(text)) == PAGES[text]
    assert find_page(path_or_repository(text)) == find_page(local_path_or_page(text)) == PAGES[text]


def test_the_host_of_the_endpoint_is_the_hubs(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:81/mirror/")
    assert find_page(f"http://127.0.0.1:81/mirror/{NAME}/tree/main") == HubPath(NAME, "", "main")
    assert find_page(HUB) == HubPath(NAME)
    with pytest.raises(AddressError, match="addresses are not read"):
        find_page(f"http://127.0.0.1:82/{NAME}")


@pytest.mark.parametrize("text", OTHER)
def test_another_address_is_refused_as_it_was_written(text):
    for form in (text, Path(text)):
        with pytest.raises(AddressError) as caught:
            find_page(form)
        assert str(caught.value).startswith(f"{text}: {OTHER[text]}")


@pytest.mark.parametrize("text", OTHER_PAGES)
def test_another_page_of_the_hub_is_refused(text):
    for form in (text, Path(text)):
        with pytest.raises(
            AddressError, match=r"is no address of a model or its files on the Hub\. Give owner"
        ):
            find_page(form)


@pytest.mark.parametrize(
    "text", ["a/b", "/a/b", "./a/b", "../x", "a", "", "~/x", "C:/x", "https", "hf.co", "a/hf.co/b", "a:/b/c"]
)
def test_a_path_is_no_page(text):
    assert find_page(text) is None
    assert find_page(Path(text)) is None


def test_a_folder_of_the_hosts_name_is_a_path(tmp_path, monkeypatch):
    (tmp_path / "hf.co").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_page("hf.co/a/b") is None


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("file:///photos/a%20cat.png", "/photos/a cat.png"),
        ("file://localhost/photos/a.png", "/photos/a.png"),
        ("file:/photos/a.png", "/photos/a.png"),
        ("FILE:///a.png", "/a.png"),
        ("file:///caf%C3%A9.png", "/café.png"),
        ("photos/a.png", "photos/a.png"),
        ("/photos/100%.png", "/photos/100%.png"),
    ],
)
def test_the_address_of_a_file_here_is_its_path(text, path):
    assert local_path(text) == local_path(Path(text)) == Path(path)


def test_the_home_folder_is_found_in_texts_and_paths(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert local_path("~/a.png") == local_path(Path("~/a.png")) == Path("/home/me/a.png")
    with pytest.raises(AddressError, match="home of an unknown user"):
        local_path("~nobody-of-this-name/a.png")


def test_an_address_with_a_zero_byte_is_refused():
    with pytest.raises(AddressError, match="holds a zero byte, which no path can"):
        local_path("file:///photos/a%00b.png")


def test_a_file_of_another_machine_is_refused():
    with pytest.raises(AddressError, match=r"file://server/a\.png: is a file of the host server\. Copy it"):
        local_path("file://server/a.png")


WRITTEN = ("output_path", "save_frames", "save_latents", "profile")
HERE = ("image", "decode_only", *WRITTEN)
MODEL = {"output_dir": Path("out"), "checkpoint_dir": Path("m")}
ON_HUB = (
    "checkpoint_dir",
    "transformer",
    "high_noise",
    "low_noise",
    "text_encoder",
    "vae",
    "clip",
    "tokenizer",
)


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("text", [HUB, *list(OTHER)[:2]])
def test_a_request_refuses_addresses_where_a_file_here_is_meant(name, text):
    told = "nothing is written to an address" if name in WRITTEN else "addresses are not read"
    with pytest.raises(RequestError, match=f"{text}: {told}") as caught:
        GenerateRequest("a", **{name: Path(text)})
    assert caught.value.field == name


def test_a_last_frame_is_no_address():
    with pytest.raises(RequestError, match="addresses are not read") as caught:
        GenerateRequest("a", image=Path("a.png"), end_image=Path("https://example.com/b.png"))
    assert caught.value.field == "end_image"


@pytest.mark.parametrize("name", HERE)
def test_a_request_takes_the_address_of_a_file_here(name, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert getattr(GenerateRequest("a", **{name: Path("file:///x/a%20b.png")}), name) == Path("/x/a b.png")
    assert getattr(GenerateRequest("a", **{name: Path("~/a.png")}), name) == Path("/home/me/a.png")


@pytest.mark.parametrize("name", ON_HUB)
def test_a_conversion_takes_pages_and_files_and_refuses_the_rest(name):
    def ask(place):
        return getattr(ConvertRequest(**MODEL | {name: path_or_repository(place)}), name)

    assert find_page(ask(HUB)) == HubPath(NAME)
    assert ask("file:///x/a%20b") == Path("/x/a b")
    with pytest.raises(RequestError, match=r"https://example\.com/a: addresses are not read") as caught:
        ask("https://example.com/a")
    assert caught.value.field == name


def test_a_conversion_writes_to_no_address():
    with pytest.raises(RequestError, match=f"{HUB}: nothing is written to an address") as caught:
        ConvertRequest(Path("m"), Path(HUB))
    assert caught.value.field == "output_dir"


@pytest.mark.parametrize("name", ["loras", "loras_high", "loras_low"])
@pytest.mark.parametrize("request_", [GenerateRequest, ConvertRequest])
def test_adapters_are_addressed_like_components(name, request_):
    first = "a" if request_ is GenerateRequest else Path("m")

    def ask(place):
        (choice,) = getattr(request_(first, **{name: (LoraChoice(Path(place), 0.5, place),)}), name)
        return choice

    assert find_page(ask(f"{HUB}/blob/main/a.safetensors").path) == HubPath(NAME, "a.safetensors", "main")
    assert ask("file:///x/a%20b.sft").path == Path("/x/a b.sft")
    assert str(ask("file:///x/a%20b.sft")) == "file:///x/a%20b.sft 0.5"
    with pytest.raises(RequestError, match="addresses are not read") as caught:
        ask("https://civitai.com/api/download/models/1")
    assert caught.value.field == name


NOBODY = "~nobody-of-this-name/a"
UNUSABLE = {NOBODY: "home of an unknown user", "a\0b": "holds a zero byte"}


@pytest.mark.parametrize("text", UNUSABLE)
@pytest.mark.parametrize("name", [*HERE, "end_image", "loras", "loras_high", "loras_low"])
def test_a_call_refuses_what_is_no_path_of_this_system(name, text):
    options = {"image": "a.png"} if name == "end_image" else {}
    with pytest.raises(RequestError, match=UNUSABLE[text]) as caught:
        build_request("a", options | {name: text})
    assert caught.value.field == name
    with pytest.raises(RequestError, match=UNUSABLE[text]):
        build_request("a", options | {name: [(text, 0.5)] if "lora" in name else Path(text)})


@pytest.mark.parametrize("name", ["output_path", "save_frames", "save_latents", "profile", "decode_only"])
def test_a_call_refuses_what_is_no_path_at_all(name):
    with pytest.raises(RequestError, match="7: must be a path") as caught:
        build_request("a", {name: 7})
    assert caught.value.field == name


@pytest.mark.parametrize("text", UNUSABLE)
@pytest.mark.parametrize("name", ["checkpoint_dir", "output_dir", "loras", *ON_HUB[1:]])
def test_a_conversion_refuses_what_is_no_path_of_this_system(name, text):
    with pytest.raises(RequestError, match=UNUSABLE[text]) as caught:
        convert_checkpoint(**{"checkpoint_dir": "m", name: text})
    assert caught.value.field == name


@pytest.mark.parametrize("text", UNUSABLE)
@pytest.mark.parametrize("name", ["folder", "vae", "text_encoder", "tokenizer"])
def test_a_pipeline_refuses_what_is_no_path_of_this_system(name, text):
    with pytest.raises(RequestError, match=UNUSABLE[text]) as caught:
        WanPipeline.from_pretrained(**{"folder": "m", name: text})
    assert caught.value.field == name


def test_a_video_is_saved_to_no_home_of_an_unknown_user():
    video = Video(np.zeros((1, 4, 4, 3), np.uint8), 16, None, {})
    with pytest.raises(MediaError, match="home of an unknown user"):
        video.save(f"{NOBODY}.mp4")


def test_without_a_file_nothing_is_decoded_and_no_video_is_made_in_its_place():
    pipeline = object.__new__(WanPipeline)  # without a model: the file is judged before it is needed
    for file in (None, 7, b"latents.safetensors"):
        with pytest.raises(RequestError, match="must be a path") as caught:
            pipeline.decode(file)
        assert caught.value.field == "decode_only"


def test_an_empty_text_is_no_path():
    with pytest.raises(AddressError, match="the path is empty"):
        local_path("")
    with pytest.raises(RequestError, match="output_dir"):
        convert_checkpoint("somewhere", "")
