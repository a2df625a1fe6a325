"""A prompt that is encoded once: the same video, no text encoder, and no other model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import EncodedPrompt, MemoryBudgetError, RequestError, Video, WanPipeline, convert_checkpoint
from mlx_video.events import BlocksRead, StageFinished
from tests.fixtures.tiny_checkpoint import write_tiny_checkpoint
from tests.fixtures.tiny_variants import write_tiny_variant

SMALL = {"width": 16, "height": 16, "num_frames": 1, "steps": 2, "seed": 1, "progress": False}
SMALL |= {"prompt_cache": False}


def assert_same(video: Video, expected: Video) -> None:
    assert mx.array_equal(video.latents, expected.latents)
    assert np.array_equal(video.frames, expected.frames)
    assert video.settings == expected.settings


def encode(pipe: WanPipeline, prompt: str = "a cat", **options) -> EncodedPrompt:
    return pipe.encode(prompt, progress=False, prompt_cache=False, **options)


@pytest.mark.parametrize(
    "change",
    [{}, {"seed": 5}, {"guide_scale": 1.0}, {"guide_scale": 1.0, "nag": 5.0}],
    ids=str,
)
def test_an_encoded_prompt_makes_the_video_of_its_text_and_reads_no_text_encoder(pipe, change: dict):
    encoded, told, events = encode(pipe), [], []
    plain = pipe("a cat", on_event=told.append, **(SMALL | change))
    video = pipe(encoded, on_event=events.append, **(SMALL | change))
    assert_same(video, plain)
    assert any(isinstance(event, BlocksRead) for event in told)
    assert not any(isinstance(event, BlocksRead) for event in events)


def test_a_negative_prompt_of_its_own_counts(pipe):
    encoded = encode(pipe, negative_prompt="dogs")
    video = pipe(encoded, **SMALL)
    assert_same(video, pipe("a cat", negative_prompt="dogs", **SMALL))
    assert not mx.array_equal(video.latents, pipe(encode(pipe), **SMALL).latents)


def test_the_file_of_the_text_encoder_is_not_opened_for_its_weights(pipe, monkeypatch):
    encoded = encode(pipe)

    def refuse(*arguments):
        raise AssertionError("the text encoder is opened")

    monkeypatch.setattr("mlx_video.runs.inputs.open_text_encoder", refuse)
    monkeypatch.setattr("mlx_video.runs.networks.load_text_encoder", refuse)
    pipe(encoded, **SMALL)
    with pytest.raises(AssertionError, match="the text encoder is opened"):
        pipe("a cat", **SMALL)


def test_a_text_encoder_that_is_in_memory_encodes_and_networks_stay(tiny_folder: Path):
    with WanPipeline.from_pretrained(tiny_folder) as pipe:
        plain = pipe("two dogs", **SMALL)
        events: list = []
        encoded = pipe.encode("two dogs", prompt_cache=False, on_event=events.append)
        assert [event.stage for event in events if isinstance(event, StageFinished)] == ["text"]
        assert {key.name for key in pipe._session.idle()} == {"model", "text_encoder", "vae_decoder"}
        assert_same(pipe(encoded, **SMALL), plain)


def test_an_image_model_encodes_without_an_image(tmp_path: Path):
    write_tiny_variant(tmp_path / "original", "wan2.1-i2v-14b")
    folder = convert_checkpoint(tmp_path / "original", tmp_path / "i2v", dtype="float32", progress=False)
    pipe = WanPipeline.from_pretrained(folder, keep_networks=False)
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    options = SMALL | {"num_frames": 5}
    assert_same(pipe(encode(pipe), image=image, **options), pipe("a cat", image=image, **options))


def test_another_text_encoder_refuses_it_by_name(pipe, tmp_path: Path):
    checkpoint = write_tiny_checkpoint(tmp_path / "original", seed=7).path
    other = convert_checkpoint(checkpoint, tmp_path / "other", dtype="float32", progress=False)
    with pytest.raises(RequestError) as caught:
        WanPipeline.from_pretrained(other)(encode(pipe), **SMALL)
    assert caught.value.field == "prompt"
    assert f"was encoded by the text encoder of {pipe.folder.path}; that of {other} is another" in str(
        caught.value
    )
    assert "pipe.encode('a cat')" in str(caught.value)


def test_a_copy_of_the_model_takes_it(pipe, tmp_path: Path):
    copy = shutil.copytree(pipe.folder.path, tmp_path / "copy")
    video = WanPipeline.from_pretrained(copy, keep_networks=False)(encode(pipe), **SMALL)
    assert mx.array_equal(video.latents, pipe("a cat", **SMALL).latents)


def test_a_quantized_conversion_of_the_checkpoint_takes_it(tmp_path: Path):
    checkpoint = write_tiny_checkpoint(tmp_path / "original").path
    dense = convert_checkpoint(checkpoint, tmp_path / "dense", progress=False)
    quantized = convert_checkpoint(checkpoint, tmp_path / "quantized", quantize=True, progress=False)
    encoded = encode(WanPipeline.from_pretrained(dense))
    pipe = WanPipeline.from_pretrained(quantized, keep_networks=False)
    assert_same(pipe(encoded, **SMALL), pipe("a cat", **SMALL))


def test_another_tokenizer_refuses_it_by_name(pipe, tmp_path: Path):
    copy = shutil.copytree(pipe.folder.path, tmp_path / "copy")
    path = copy / "tokenizer" / "tokenizer.json"
    data = json.loads(path.read_text())
    pieces = data["model"]["vocab"]
    by_text = {piece[0]: index for index, piece in enumerate(pieces)}
    one, two = by_text["c"], by_text["d"]
    pieces[one], pieces[two] = pieces[two], pieces[one]
    path.write_text(json.dumps(data))
    with pytest.raises(
        RequestError, match="was encoded with the tokenizer of .*is other tokens than for that of"
    ):
        WanPipeline.from_pretrained(copy)(encode(pipe), **SMALL)


def test_another_negative_prompt_is_refused(pipe):
    with pytest.raises(RequestError, match="negative_prompt: 'dogs' is not among the texts") as caught:
        pipe(encode(pipe), negative_prompt="dogs", **SMALL)
    assert "Give it to pipe.encode as negative_prompt too." in str(caught.value)


def test_a_list_takes_texts_alone(pipe):
    with pytest.raises(RequestError, match="video 2 of the list is an encoded prompt"):
        pipe.batch(["a cat", encode(pipe)], **SMALL)


def test_the_memory_of_the_text_encoder_is_planned(pipe):
    with pytest.raises(MemoryBudgetError, match=r"text needs .* the budget is 1e-06 GB"):
        encode(pipe, memory_limit=1e-6)


def test_it_says_what_it_is(pipe):
    encoded = encode(pipe, "<b>a cat</b>", negative_prompt="")
    assert repr(encoded).startswith("EncodedPrompt('<b>a cat</b>', ")
    assert repr(encoded).endswith(f"MB, of {pipe.folder.path.name})")
    assert "<b>" not in encoded._repr_html_()
    assert "a cat" in encoded._repr_html_()


def test_a_plan_takes_it(pipe):
    options = {"width": 16, "height": 16, "num_frames": 1, "memory_limit": 1.0}
    assert str(pipe.plan(encode(pipe), **options)) == str(pipe.plan("a cat", **options))
