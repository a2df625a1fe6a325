"""Prompts: cleaned as in training, numbered by the model's tokenizer, refused when that is another's."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from mlx_video.conditioning.text import (
    PromptTokenizer,
    clean_prompt,
    count_tokens,
    load_tokenizer,
    number_prompt,
)
from mlx_video.config import DEFAULT_NEGATIVE_PROMPT
from mlx_video.errors import CheckpointError

WORDS = ["▁a", "▁red", "▁cat", "▁", "s"]
VOCAB = ["<pad>", "</s>", "<unk>", *WORDS]


def write_tokenizer_json(folder: Path, vocab: list[str] = VOCAB) -> Path:
    """A T5-style tokenizer with one number for each entry of `vocab`."""
    tokenizer = Tokenizer(models.Unigram([(piece, -1.0) for piece in vocab], unk_id=vocab.index("<unk>")))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def write_sentencepiece(folder: Path, **options: int) -> Path:
    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    special = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "minloglevel": 5} | options
    sentences = iter(["a red cat moves left", "two blue cats stay", "a green ring moves up"] * 5)
    SentencePieceTrainer.train(
        sentence_iterator=sentences, model_writer=model, vocab_size=60, hard_vocab_limit=False, **special
    )
    folder.mkdir(exist_ok=True)
    (folder / "spiece.model").write_bytes(model.getvalue())
    return folder


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("  “Hello”&amp;amp; world\n\tＡＢＣ　x  ", '"Hello"& world ABC x'),
        ("", ""),
        (" \n\t ", ""),
        ("Ｗｉｄｅ，ｃｏｍｍａｓ", "Wide,commas"),
        ("A Cat, NOT lower-cased!", "A Cat, NOT lower-cased!"),
        ("&amp;lt;b&amp;gt;", "<b>"),
        ("line 1\r\nline 2\u2028line\u00a03", "line 1 line 2 line 3"),
        ("schÃ¶n", "schön"),
    ],
)
def test_prompts_are_cleaned_as_in_training(text: str, clean: str) -> None:
    assert clean_prompt(text) == clean


def test_the_default_negative_prompt_gets_ascii_commas_and_keeps_its_length() -> None:
    clean = clean_prompt(DEFAULT_NEGATIVE_PROMPT)
    assert len(clean) == len(DEFAULT_NEGATIVE_PROMPT) == 137
    assert clean == DEFAULT_NEGATIVE_PROMPT.replace("，", ",")


def test_a_prompt_ends_with_the_end_token_and_has_no_padding(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_tokenizer_json(tmp_path))
    assert tokenizer.encode("a red cat", 512) == [3, 4, 5, 1]
    assert tokenizer.encode("", 512) == [1]


def test_a_long_prompt_is_cut_before_the_end_token(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_tokenizer_json(tmp_path))
    assert tokenizer.encode("a red cat", 4) == [3, 4, 5, 1]
    assert tokenizer.encode("a red cat", 3) == [3, 4, 1]
    assert tokenizer.encode("a red cat", 1) == [1]
    with pytest.raises(ValueError, match="end token must fit"):
        tokenizer.encode("a red cat", 0)


def test_truncation_and_padding_stored_in_the_file_change_nothing(tmp_path: Path) -> None:
    path = write_tokenizer_json(tmp_path) / "tokenizer.json"
    stored = Tokenizer.from_file(str(path))
    stored.enable_truncation(2)
    stored.enable_padding(length=8)
    stored.save(str(path))
    assert load_tokenizer(tmp_path).encode("a red cat", 512) == [3, 4, 5, 1]


def test_a_folder_with_sentencepiece_only_works_too(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_sentencepiece(tmp_path))
    numbers = tokenizer.encode("two red cats", 512)
    assert numbers[-1] == tokenizer.end_id == 1
    assert len(numbers) > 3
    assert max(numbers) < tokenizer.vocab_size
    assert tokenizer.encode("two red cats", 3) == [*numbers[:2], 1]
    assert tokenizer.encode("", 512) == [1]


def test_a_folder_without_tokenizer_says_where_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"neither tokenizer\.json nor spiece\.model.*google/umt5-xxl"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "spiece.model"])
def test_a_damaged_tokenizer_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(CheckpointError, match=rf"{name}: cannot be read"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_without_end_token_is_refused(tmp_path: Path) -> None:
    write_tokenizer_json(tmp_path / "json", ["<pad>", "<unk>", *WORDS])
    with pytest.raises(CheckpointError, match="has no token </s>"):
        load_tokenizer(tmp_path / "json")
    write_sentencepiece(tmp_path / "spm", eos_id=-1, unk_id=1)
    with pytest.raises(CheckpointError, match="has no end token"):
        load_tokenizer(tmp_path / "spm")


def test_a_tokenizer_larger_than_the_table_is_refused(tmp_path: Path) -> None:
    write_tokenizer_json(tmp_path)
    assert load_tokenizer(tmp_path, vocab_size=len(VOCAB)).vocab_size == len(VOCAB)
    with pytest.raises(CheckpointError, match="numbers 8 tokens, the text encoder's table has 7 rows"):
        load_tokenizer(tmp_path, vocab_size=len(VOCAB) - 1)


def test_added_tokens_count_against_the_table(tmp_path: Path) -> None:
    path = write_tokenizer_json(tmp_path) / "tokenizer.json"
    content = json.loads(path.read_text())
    extra = {"id": 20, "content": "<extra_id_0>", "special": True}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    content["added_tokens"].append(extra | flags)
    path.write_text(json.dumps(content))
    highest = max(load_tokenizer(tmp_path).encode("a <extra_id_0>", 512))
    assert load_tokenizer(tmp_path, vocab_size=highest + 1).vocab_size == highest + 1
    with pytest.raises(CheckpointError, match="different models"):
        load_tokenizer(tmp_path, vocab_size=highest)


def test_a_small_tokenizer_is_refused_for_the_full_umt5_table(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="numbers 8 tokens, the text encoder's table has 256384 rows"):
        load_tokenizer(write_tokenizer_json(tmp_path), vocab_size=256_384)


def test_a_prompt_is_cleaned_before_its_tokens_are_numbered_and_cut() -> None:
    tokenizer = PromptTokenizer(lambda text: [ord(letter) for letter in text], 1, 128)
    assert number_prompt(tokenizer, "  ａb\n", 512) == [97, 98, 1]
    assert number_prompt(tokenizer, "  ａb\n", 2) == [97, 1]


def test_the_count_of_a_prompt_is_what_encoding_gives_without_a_limit(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_tokenizer_json(tmp_path / "tokenizer"))
    text = "a  red cat\ta red"
    assert count_tokens(tokenizer, text) == len(tokenizer.encode(clean_prompt(text), 100)) == 6
