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

SENTENCE = (
    f"a {{{', '.join(COLOURS)}}} {{{', '.join(SHAPES)}}} moving {{left, right, up, down}} or standing still "
    f"on a {{{', '.join(BACKGROUNDS)}}} background"
)


def remark_on_demo_prompt(prompt: str) -> str:
    """What to tell the user of a prompt unlike those the demo models were trained on; "" for nothing."""
    text = " ".join(prompt.casefold().split())
    unknown = [f'"{word}"' for word in dict.fromkeys(re.findall(r"\w+", text)) if word not in KNOWN_WORDS]
    wrong = [name for name, part in PARTS.items() if len(part.findall(text)) != 1]
    if unknown:
        fault = f"The demo model was not trained on {', '.join(unknown)}"
    elif wrong:
        fault = f"The demo model was trained on prompts with exactly one {', one '.join(wrong)}"
    else:
        return ""
    return f"{fault}; expect a muddle. It draws: {SENTENCE}."
