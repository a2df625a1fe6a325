"""Of a repository on the Hub only what one component or adapter needs is chosen."""

import pytest

from mlx_video.errors import CheckpointError
from mlx_video.hub.parts import choose_part

TOKENIZER = ("special_tokens_map.json", "spiece.model", "tokenizer.json", "tokenizer_config.json")
STEM = "diffusion_pytorch_model"
PEFT, DIFFUSERS = "adapter_model.safetensors", "pytorch_lora_weights.safetensors"
CONFIG = "adapter_config.json"


def shards(folder, count, stem=STEM):
    return [f"{folder}{stem}-{n:05}-of-{count:05}.safetensors" for n in range(1, count + 1)]


def choose(place, names, jsons=None, **kind):
    contents = jsons or {}
    return choose_part("owner/name", place, names, lambda name: contents.get(name, {}), **kind)


def test_of_a_named_file_nothing_but_it_is_chosen():
    assert choose("unet/a-Q8_0.gguf", ["unet/a-Q8_0.gguf", "unet/config.json"]) == ["unet/a-Q8_0.gguf"]


@pytest.mark.parametrize("folder", ["", "high_noise_model/"])
def test_with_a_named_shard_its_siblings_are_chosen(folder):
    siblings = shards(folder, 6, "wan")
    others = [
        *shards(folder, 3, "wan"),
        *shards("other/", 6, "wan"),
        *shards(folder, 6),
        f"{folder}wan.safetensors",
    ]
    assert choose(siblings[2], [*others, *siblings]) == siblings


@pytest.mark.parametrize("folder", ["", "high_noise_model/"])
@pytest.mark.parametrize("stem", [STEM, "model"])
def test_of_a_named_folder_the_plain_shards_are_chosen_with_index_and_config(folder, stem):
    index = f"{folder}{stem}.safetensors.index.json"
    needed = [f"{folder}config.json", index, *shards(folder, 2, stem)]
    others = [
        f"{folder}{stem}.fp16.safetensors", f"{folder}sub/{stem}.safetensors", "other/config.json",
        f"{folder}tokenizer.json",
    ]  # fmt: skip
    weight_map = {f"w{n}": name for n, name in enumerate(shards("", 2, stem))}
    chosen = choose(folder.rstrip("/"), [*needed, *others], {index: {"weight_map": weight_map}})
    assert chosen == sorted(needed)


@pytest.mark.parametrize("folder", ["", "google/umt5-xxl/"])
def test_of_a_named_tokenizer_nothing_but_its_files_is_chosen(folder):
    own = [f"{folder}{name}" for name in TOKENIZER]
    others = [
        f"{folder}config.json",
        f"{folder}model.safetensors",
        *shards(folder, 2, "model"),
        "t/tokenizer.json",
    ]
    assert choose(folder.rstrip("/"), [*others, *own], part="tokenizer") == own


@pytest.mark.parametrize("name", [PEFT, DIFFUSERS])
@pytest.mark.parametrize("folder", ["", "style/"])
def test_with_an_adapter_of_peft_its_description_is_chosen(folder, name):
    names = [f"{folder}{name}", f"{folder}{CONFIG}", f"{folder}README.md", f"other/{CONFIG}", "a.png"]
    needed = sorted(names[:2])
    assert choose(names[0], names, part="adapter") == needed
    assert choose(folder.rstrip("/"), names, part="adapter") == needed


def test_an_adapter_by_another_name_is_chosen_alone():
    names = ["a.safetensors", CONFIG, "config.json", "style/b.safetensors"]
    assert choose("a.safetensors", names, part="adapter") == ["a.safetensors"]
    assert choose("", names, part="adapter") == ["a.safetensors"]


def test_of_several_adapters_none_is_chosen():
    with pytest.raises(
        CheckpointError, match=r"several adapters \(s/a\.safe.*, s/b\.safe.*\)\. Name one: owner/name/s/a"
    ):
        choose("s", ["s/b.safetensors", "s/a.safetensors"], part="adapter")


@pytest.mark.parametrize(
    ("place", "part", "message"),
    [
        ("", "tokenizer", r"has no tokenizer outside of folders\. Is it tokenizer\?"),
        ("text_encoder", "tokenizer", r"has no tokenizer in text_encoder\. Is it tokenizer\?"),
        (
            "tokenizer/tokenizer.json",
            "tokenizer",
            r"has no tokenizer in tokenizer/.*json\. Is it tokenizer\?",
        ),
        ("tokenizer", "component", r"has no weights in tokenizer\. Is it text_encoder/model\.safetensors\?"),
        ("text", "component", r"has no text\. Is it text_encoder/model\.safetensors\?"),
        ("tokenizer", "adapter", r"has no adapter in tokenizer\. Is it text_encoder/model\.safetensors\?"),
    ],
)
def test_what_is_absent_is_named_with_what_may_be_meant(place, part, message):
    names = ["text_encoder/config.json", "text_encoder/model.safetensors", "tokenizer/tokenizer.json"]
    with pytest.raises(CheckpointError, match=rf"^owner/name: {message}$"):
        choose(place, names, part=part)


def test_a_shard_with_its_precision_behind_the_number_brings_those_of_the_same_precision():
    plain = shards("", 3)
    own = [name.replace(".safetensors", "-bf16.safetensors") for name in plain]
    assert choose(own[1], [*own, *plain]) == own
    assert choose(plain[1], [*own, *plain]) == plain
    assert choose("", [*own, *plain[1:], "config.json"]) == sorted([*own, "config.json"])


def test_the_folder_of_a_split_transformer_brings_its_blocks_and_no_other_part():
    own = [f"distill_fp8/{name}" for name in ("block_0.safetensors", "config.json", "non_block.safetensors")]
    others = ["distill_fp8/clip-fp8.pth", "distill_fp8/Wan2.1_VAE.pth", "distill_int8/block_1.safetensors"]
    assert choose("distill_fp8", [*own, *others]) == own
