"""Token numbers and cleaning against the official wrapper around the transformers tokenizer."""

from __future__ import annotations

import io
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_video.conditioning.text import clean_prompt, load_tokenizer
from mlx_video.config import DEFAULT_NEGATIVE_PROMPT
from tests.fixtures.sentencepiece_fields import precompiled_charsmap
from tests.parity.official import wan_module

pytestmark = pytest.mark.parity

PROMPTS = [
    "",
    " \n ",
    "a red circle moves left",
    "Two anthropomorphic cats in comfy boxing gear fight intensely on a spotlighted stage.",
    "  “Hello”&amp;amp; world\n\tＡＢＣ　x  ",
    DEFAULT_NEGATIVE_PROMPT,
    "unknown: ∑ Ω ж 猫 \U0001f408",
    "ﬁne ² ½ ㎞ Ⅳ",
    "a <extra_id_3> b </s> c <pad> d",
    "left " * 40,
]
CORPUS = [
    *PROMPTS[2:6],
    "the blue square stays still on a green background",
    "a ring moves up and to the right",
] * 4


@pytest.fixture(scope="module")
def official() -> ModuleType:
    pytest.importorskip("transformers")
    return wan_module("tokenizers")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same trained vocabulary as tokenizer.json and as spiece.model, each in its folder."""
    from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
    from transformers import T5TokenizerFast

    trained = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=trained, vocab_size=200, hard_vocab_limit=False,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, num_threads=1, minloglevel=5,
    )  # fmt: skip
    as_json, as_model = tmp_path_factory.mktemp("json"), tmp_path_factory.mktemp("model")
    (as_model / "spiece.model").write_bytes(trained.getvalue())
    pieces = SentencePieceProcessor(model_proto=trained.getvalue())
    scores = [(pieces.id_to_piece(number), pieces.get_score(number)) for number in range(len(pieces))]
    table = precompiled_charsmap(trained.getvalue())
    T5TokenizerFast(scores, extra_ids=10, _spm_precompiled_charsmap=table).save_pretrained(as_json)
    return as_json, as_model


def official_numbers(official: ModuleType, folder: Path, text: str, max_tokens: int) -> list[int]:
    """Numbers of the real tokens, from the call that the official text encoder makes."""
    tokenizer = official.HuggingfaceTokenizer(name=str(folder), seq_len=max_tokens, clean="whitespace")
    numbers, mask = tokenizer([text], return_mask=True, add_special_tokens=True)
    return numbers[0][: int(mask[0].sum())].tolist()


@pytest.mark.parametrize("max_tokens", [512, 8, 2, 1])
@pytest.mark.parametrize("text", PROMPTS)
def test_tokenizer_json_gives_the_official_numbers(
    official: ModuleType, folders: tuple[Path, Path], text: str, max_tokens: int
) -> None:
    ours = load_tokenizer(folders[0]).encode(clean_prompt(text), max_tokens)
    assert ours == official_numbers(official, folders[0], text, max_tokens)


@pytest.mark.parametrize("text", [prompt for prompt in PROMPTS if "</s>" not in prompt])
def test_spiece_model_gives_the_official_numbers(
    official: ModuleType, folders: tuple[Path, Path], text: str
) -> None:
    ours = load_tokenizer(folders[1]).encode(clean_prompt(text), 16)
    assert ours == official_numbers(official, folders[0], text, 16)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters() | st.sampled_from(" \t\r\n\x0b\x1c\x1f\x85\u2028\u3000&#;，“<"), max_size=30))
def test_cleaning_equals_the_official_cleaning(official: ModuleType, text: str) -> None:
    assert clean_prompt(text) == official.whitespace_clean(official.basic_clean(text))


@pytest.mark.parametrize(
    "text", ["&#28;a&#x1d;b", "&amp;#31;x", "a\x1c b\x1f", "&nbsp;a&amp;nbsp;", "\x0b\x85&#133;"]
)
def test_separators_behind_entities_are_cleaned_alike(official: ModuleType, text: str) -> None:
    assert clean_prompt(text) == official.whitespace_clean(official.basic_clean(text))
