"""A tokenizer spelled out in GGUF metadata becomes the SentencePiece model that it was."""

from __future__ import annotations

import io
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from mlx_video.formats.gguf_header import read_gguf_header
from mlx_video.formats.tensor_source import open_tensors
from tests.fixtures.sentencepiece_fields import precompiled_charsmap
from tests.fixtures.tiny_checkpoint import CORPUS
from tests.formats.gguf_writer import tokenizer_metadata, write_gguf

pytestmark = pytest.mark.slow

PROMPTS = [
    "",
    "a red circle moves left",
    "  two   spaces ",
    "ﬁne ² ½ ㎞ Ⅳ ＡＢＣ",
    "unknown: ∑ Ω ж 猫 \U0001f408",
    "a <extra_id_3> b </s> c <pad> d <0x41>",
]
TABLE = {"w": ("F32", np.zeros((2, 4), np.float32))}


def train(**options: object) -> bytes:
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 5), model_writer=model, hard_vocab_limit=False, pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, num_threads=1, minloglevel=5, **options,
    )  # fmt: skip
    return model.getvalue()


MODELS = {
    "plain": train(vocab_size=100),
    "bytes for unknown letters": train(vocab_size=400, byte_fallback=True),
    "another normalization": train(vocab_size=100, normalization_rule_name="nfkc"),
    "control tokens": train(vocab_size=110, control_symbols=["<s>", "<mask>"]),
}


def rebuild(folder: Path, model: bytes, **changes: object) -> bytes:
    metadata = tokenizer_metadata(model, precompiled_charsmap(model)) | changes
    return read_gguf_header(write_gguf(folder / "x.gguf", TABLE, metadata)).build_tokenizer()


@pytest.fixture(scope="module", params=list(MODELS))
def both(request, tmp_path_factory) -> tuple[SentencePieceProcessor, SentencePieceProcessor]:
    """The trained tokenizer and the one that came through a GGUF file."""
    model = MODELS[request.param]
    rebuilt = rebuild(tmp_path_factory.mktemp("gguf"), model)
    return SentencePieceProcessor(model_proto=model), SentencePieceProcessor(model_proto=rebuilt)


@pytest.mark.sample(6)
@pytest.mark.parametrize("text", PROMPTS)
def test_it_numbers_prompts_as_before(both, text: str):
    trained, rebuilt = both
    assert rebuilt.encode(text) == trained.encode(text)


@settings(deadline=None, max_examples=100)
@given(st.text(st.characters(codec="utf-8") | st.sampled_from("abcdefgh ▁"), max_size=40))
def test_it_numbers_any_text_as_before(both, text: str):
    trained, rebuilt = both
    assert rebuilt.encode(text) == trained.encode(text)


def test_its_special_tokens_are_the_same(both):
    trained, rebuilt = both
    for name in ("pad_id", "eos_id", "unk_id", "bos_id", "get_piece_size"):
        assert getattr(rebuilt, name)() == getattr(trained, name)(), name


def test_spaces_are_treated_as_the_file_says(tmp_path: Path):
    settings = {"tokenizer.ggml.add_space_prefix": False, "tokenizer.ggml.remove_extra_whitespaces": False}
    kept = SentencePieceProcessor(model_proto=rebuild(tmp_path, MODELS["plain"], **settings))
    usual = SentencePieceProcessor(model_proto=rebuild(tmp_path, MODELS["plain"]))
    assert "".join(kept.encode("a  b", out_type=str)) == "a▁▁b"
    assert "".join(usual.encode("a  b", out_type=str)) == "▁a▁b"


def test_it_is_read_as_the_tensor_of_comfyui_files(tmp_path: Path):
    model = rebuild(tmp_path, MODELS["plain"])
    with open_tensors(tmp_path / "x.gguf") as source:
        assert source.infos["spiece_model"].shape == (len(model),)
        assert source.file_of("spiece_model") == tmp_path / "x.gguf"
        whole, rows = source.read("spiece_model"), source.read("spiece_model", slice(2, 9))
    assert whole.dtype == mx.uint8
    assert np.array(whole).tobytes() == model
    assert np.array(rows).tobytes() == model[2:9]


def test_lists_of_another_tokenizer_are_skipped(tmp_path: Path):
    lists = {
        "tokenizer.ggml.merges": ["a b", "b c"],
        "other.numbers": list(range(99)),
        "other.scales": [0.5, 0.25],
    }
    metadata = {"tokenizer.ggml.model": "gpt2", **lists}
    header = read_gguf_header(write_gguf(tmp_path / "x.gguf", TABLE, metadata))
    assert header.build_tokenizer() == b""
    assert {header.metadata[key] for key in lists} == {()}
    assert [tensor.name for tensor in header.tensors] == ["w"]


@pytest.mark.parametrize("family", ["gpt2", "llama", ""])
def test_another_kind_of_tokenizer_is_left_alone(tmp_path: Path, family: str):
    assert rebuild(tmp_path, MODELS["plain"], **{"tokenizer.ggml.model": family}) == b""
    with open_tensors(tmp_path / "x.gguf") as source:
        assert list(source.infos) == ["w"]


@pytest.mark.sample(4)
@pytest.mark.parametrize("name", ["tokens", "scores", "token_type", "precompiled_charsmap"])
@pytest.mark.parametrize("values", [[], ["x"], [0.5]])
def test_a_tokenizer_that_is_not_whole_is_none(tmp_path: Path, name: str, values: list[object]):
    """Another one takes its place; the weights beside it are as good as ever."""
    assert rebuild(tmp_path, MODELS["plain"], **{f"tokenizer.ggml.{name}": values}) == b""


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("name", "value"), [("tokens", 1), ("scores", "x"), ("token_type", "x"), ("token_type", 0.5)]
)
def test_a_tokenizer_of_other_types_is_none(tmp_path: Path, name: str, value: object):
    size = SentencePieceProcessor(model_proto=MODELS["plain"]).get_piece_size()
    assert rebuild(tmp_path, MODELS["plain"], **{f"tokenizer.ggml.{name}": [value] * size}) == b""
