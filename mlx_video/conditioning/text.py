"""A prompt becomes clean text, token numbers, and text features."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mlx_video.errors import CheckpointError
from mlx_video.files.file_bytes import read_text_file
from mlx_video.formats.tokenizer_json import check_tokenizer_json

END_TOKEN = "</s>"

# Rows of the real UMT5 table and pieces of its vocabulary; fewer pieces with that table: another tokenizer.
_UMT5_ROWS = 256_384
_UMT5_PIECES = 256_000

_COPY_AGAIN = "Copy it again from the checkpoint."
_GIVE_ANOTHER = "Give google/umt5-xxl of a Wan-AI repository as --tokenizer."


@dataclass(frozen=True, slots=True)
class PromptTokenizer:
    """Splits text into the numbers a text encoder knows.

    Attributes:
        split: text → numbers of all its tokens, without an end token.
        end_id: number of the token that closes every prompt.
        vocab_size: numbers are below this.
    """

    split: Callable[[str], list[int]]
    end_id: int
    vocab_size: int

    def encode(self, text: str, max_tokens: int) -> list[int]:
        """Number the tokens of a prompt, without padding.

        Args:
            text: cleaned text; may be empty.
            max_tokens: the result's greatest length; text beyond it is cut, the end token stays.

        Returns:
            1 to `max_tokens` numbers, the last of them `end_id`.

        Raises:
            ValueError: `max_tokens` leaves no room for the end token.

        Source: Wan2.1 wan/modules/tokenizers.py, HuggingfaceTokenizer.__call__.
        """
        if max_tokens < 1:
            raise ValueError(f"max_tokens is {max_tokens}, at least the end token must fit.")
        return [*self.split(text)[: max_tokens - 1], self.end_id]


def clean_prompt(text: str) -> str:
    """Repair and normalise a prompt as the models' training captions were.

    ftfy mends broken encodings, straightens quotes and turns full-width forms into ASCII, the commas of the
    Chinese default negative prompt among them; without it the token numbers differ.

    Source: Wan2.1 wan/modules/tokenizers.py, basic_clean and whitespace_clean.
    """
    import ftfy

    # Twice, for text that was escaped twice.
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", text.strip()).strip()


def load_tokenizer(folder: Path, vocab_size: int | None = None) -> PromptTokenizer:
    """Open the tokenizer of a model: `tokenizer.json`, else `spiece.model`.

    Args:
        folder: holds one of the two files.
        vocab_size: rows of the text encoder's token table; None leaves the comparison out.

    Returns:
        A tokenizer whose numbers all lie inside the table.

    Raises:
        CheckpointError: neither file is there, the file is damaged, or it belongs to another text encoder.
    """
    if (folder / "tokenizer.json").is_file():
        tokenizer = _read_tokenizer_json(folder / "tokenizer.json")
    elif (folder / "spiece.model").is_file():
        tokenizer = _read_sentencepiece(folder / "spiece.model")
    else:
        raise CheckpointError(
            f"{folder}: holds neither tokenizer.json nor spiece.model. Copy them from the checkpoint's "
            "google/umt5-xxl folder, or convert the checkpoint again."
        )
    if vocab_size is not None:
        _check_fits(folder, tokenizer, vocab_size)
    return tokenizer


def read_tokenizer_model(model: bytes, label: str, vocab_size: int | None = None) -> PromptTokenizer:
    """Open a SentencePiece tokenizer that is already in memory.

    Args:
        model: what spiece.model holds.
        label: where it comes from, for messages.
        vocab_size: as for :func:`load_tokenizer`.

    Raises:
        CheckpointError: it is empty or damaged, or belongs to another text encoder.
    """
    if not model:
        raise CheckpointError(
            f"{label}: should be the tokenizer, byte by byte, but is empty or of another type. "
            f"{_GIVE_ANOTHER}"
        )
    tokenizer = _read_sentencepiece(Path(label), model)
    if vocab_size is not None:
        _check_fits(Path(label), tokenizer, vocab_size)
    return tokenizer


def count_tokens(tokenizer: PromptTokenizer, text: str) -> int:
    """How many tokens a prompt has, the end token included, if nothing is cut.

    Args:
        tokenizer: of the model.
        text: as the user wrote it.
    """
    return len(tokenizer.split(clean_prompt(text))) + 1


def most_tokens(text: str) -> int:
    """More tokens than any tokenizer makes of a text; needs none.

    A token stands for a byte at least, once the text is cleaned and its ligatures are taken apart. One more
    may stand before the text, and one ends it.
    """
    return len(unicodedata.normalize("NFKC", clean_prompt(text)).encode()) + 2


def number_prompt(tokenizer: PromptTokenizer, text: str, max_tokens: int) -> list[int]:
    """Clean a prompt and number its tokens, for the text encoder.

    Real tokens only. Padding would change nothing: the official encoder masks it and cuts its rows off again.

    Args:
        tokenizer: of the model.
        text: as the user wrote it.
        max_tokens: the model's text_len.

    Returns:
        1 to `max_tokens` numbers, the end token's last.

    Source: Wan2.1 wan/modules/t5.py, T5EncoderModel.__call__.
    """
    return tokenizer.encode(clean_prompt(text), max_tokens)


def _read_tokenizer_json(path: Path) -> PromptTokenizer:
    from tokenizers import Tokenizer

    text = read_text_file(path)
    check_tokenizer_json(path, text)
    with _panics_told(path):
        tokenizer = Tokenizer.from_str(text.decode("utf-8"))
    # Both may be stored in the file, and both are done by `encode`.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    end_id = tokenizer.token_to_id(END_TOKEN)
    if end_id is None:
        raise CheckpointError(
            f"{path}: has no token {END_TOKEN}, so it is no T5 tokenizer. Use the checkpoint's own."
        )
    numbers = tokenizer.get_vocab(with_added_tokens=True).values()

    def split(text: str) -> list[int]:
        with _panics_told(path):
            return list(tokenizer.encode(text, add_special_tokens=False).ids)

    return PromptTokenizer(split, end_id, max(numbers) + 1)


@contextmanager
def _panics_told(path: Path) -> Iterator[None]:
    """Turn whatever the library raises into an error of ours: its panics are no `Exception`.

    Raises:
        CheckpointError: the file is damaged, or cannot be used for this text.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
        raise
    except BaseException as error:
        raise _damaged(path, error) from error


def _read_sentencepiece(path: Path, model: bytes | None = None) -> PromptTokenizer:
    from sentencepiece import SentencePieceProcessor

    try:
        place = {"model_file": str(path)} if model is None else {"model_proto": model}
        processor = SentencePieceProcessor(**place)
    except (OSError, RuntimeError) as error:
        raise _damaged(path, error, _COPY_AGAIN if model is None else _GIVE_ANOTHER) from error
    if processor.eos_id() < 0:
        raise CheckpointError(
            f"{path}: has no end token, so it is no T5 tokenizer. Use the checkpoint's own."
        )
    return PromptTokenizer(
        lambda text: list(processor.encode(text)), processor.eos_id(), processor.get_piece_size()
    )


def _check_fits(folder: Path, tokenizer: PromptTokenizer, vocab_size: int) -> None:
    is_too_large = tokenizer.vocab_size > vocab_size
    if is_too_large or (vocab_size == _UMT5_ROWS and tokenizer.vocab_size < _UMT5_PIECES):
        raise CheckpointError(
            f"{folder}: the tokenizer numbers {tokenizer.vocab_size} tokens, the text encoder's table has "
            f"{vocab_size} rows. They belong to different models; use the checkpoint's own tokenizer folder."
        )


def _damaged(path: Path, error: BaseException, cure: str = _COPY_AGAIN) -> CheckpointError:
    return CheckpointError(f"{path}: cannot be read ({error}). {cure}")
