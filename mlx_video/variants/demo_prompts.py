"""Prompts that the demo models were trained on, and what to tell the user of any other."""

from __future__ import annotations

import re

COLOURS = ("red", "green", "blue", "yellow", "purple", "cyan")
SHAPES = ("circle", "square", "triangle", "cross")
MOTIONS = ("left", "right", "up", "down", "still")
BACKGROUNDS = ("black", "white", "gray")
OTHER_WORDS = ("a", "on", "background", "is", "moving", "moves", "standing", "stands")
KNOWN_WORDS = frozenset((*COLOURS, *SHAPES, *MOTIONS, *BACKGROUNDS, *OTHER_WORDS))

PARTS = {
    "coloured shape": re.compile(rf"\b({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})\b"),
    "motion": re.compile(r"\b(mov(ing|es) (left|right|up|down)|stand(ing|s) still)\b"),
    "background": re.compile(rf"\b({'|'.join(BACKGROUNDS)}) background\b"),
}
"""What every training prompt has once → how it is written."""

_SHAPE = f"a {{{', '.join(COLOURS)}}} {{{', '.join(SHAPES)}}}"
_BACKGROUND = f"on a {{{', '.join(BACKGROUNDS)}}} background"
SENTENCE = f"{_SHAPE} moving {{left, right, up, down}} or standing still {_BACKGROUND}"
GUIDED_SENTENCE = f"{_SHAPE} {_BACKGROUND}"


def remark_on_demo_prompt(prompt: str) -> str:
    """What to tell the user of a prompt unlike those the demo models were trained on; "" for nothing."""
    return _remark(prompt, tuple(PARTS), SENTENCE)


def remark_on_guided_prompt(prompt: str) -> str:
    """The same for the model whose control video says how the shape moves, so that the prompt need not."""
    return _remark(prompt, ("coloured shape", "background"), GUIDED_SENTENCE)


def _remark(prompt: str, parts: tuple[str, ...], sentence: str) -> str:
    text = " ".join(prompt.casefold().split())
    unknown = [f'"{word}"' for word in dict.fromkeys(re.findall(r"\w+", text)) if word not in KNOWN_WORDS]
    wrong = [name for name in parts if len(PARTS[name].findall(text)) != 1]
    if unknown:
        fault = f"The demo model was not trained on {', '.join(unknown)}"
    elif wrong:
        fault = f"The demo model was trained on prompts with exactly one {', one '.join(wrong)}"
    else:
        return ""
    return f"{fault}; expect a muddle. It draws: {sentence}."
