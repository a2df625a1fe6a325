"""What a message quotes is fit for a terminal."""

from __future__ import annotations

from mlx_video.errors import CheckpointError, RequestError
from mlx_video.events import Notice, TextResult
from mlx_video.limits import LONGEST_LINE, LONGEST_MESSAGE, LONGEST_WORD
from mlx_video.quoting import escaped, printable


def test_control_codes_are_written_out():
    assert printable("a \x1b[31mred\x07 name\x9b") == "a \\x1b[31mred\\x07 name\\x9b"
    assert printable("right to left \u202e") == "right to left \\u202e"
    assert printable("half \udcff") == "half \\udcff"


def test_what_people_write_stays():
    for text in ("一只猫", "a\tb\nc", "👩‍👩‍👧 ❤️", "naïve café"):
        assert printable(text) == text


def test_long_words_and_messages_lose_their_middle():
    word = printable("x" * 10**6)
    assert len(word) < LONGEST_WORD
    assert "(1,000,000 characters)" in word
    assert len(printable("two words " * 10**5)) <= LONGEST_LINE
    assert len(printable("two words\n" * 10**5)) <= LONGEST_MESSAGE
    listed = "\n".join(["a line " * 20] * 30)
    assert printable(listed) == listed
    assert printable("y" * (LONGEST_WORD - 1)) == "y" * (LONGEST_WORD - 1)


def test_errors_notices_and_results_quote_nothing_raw():
    evil = "\x1b]0;owned\x07"
    assert "\x1b" not in str(CheckpointError(f"{evil}: damaged."))
    error = RequestError("prompt", evil)
    assert "\x1b" not in error.message
    assert "\x1b" not in str(error)
    assert "\x1b" not in Notice(evil).text
    table = TextResult("x" * 10**5 + evil)
    assert len(table.text) > 10**5
    assert "\x1b" not in table.text
    assert escaped(evil) == "\\x1b]0;owned\\x07"
