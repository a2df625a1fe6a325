"""Models whose transformers have the tensors of one that is run, and that are not run themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mlx_video.variants.longcat import LONGCAT
from mlx_video.variants.t2v import T2V_1_3B
from mlx_video.variants.variant import CheckpointFacts, Evidence


@dataclass(frozen=True, slots=True)
class Lookalike:
    """A model that is not run, although its tensors are those of one that is.

    Attributes:
        title: for people.
        fits: whether a transformer has its kind of tensors.
        why: what would go wrong, and what to use instead.
        class_name: of its config.json; "" where that is no mark.
        word: in the names of tensors of its own; "" where it has none.
    """

    title: str
    fits: Callable[[CheckpointFacts], bool]
    why: str
    class_name: str = ""
    word: str = ""

    def find_mark(self, facts: CheckpointFacts, evidence: Evidence) -> str:
        """What tells that a transformer is of this model; "" where nothing does."""
        if not self.fits(facts):
            return ""
        if self.class_name and evidence.class_name == self.class_name:
            return f"config.json says {self.class_name}"
        if self.word and (name := next((each for each in sorted(facts.names) if self.word in each), None)):
            return f"it has the tensor {name}"
        return ""


LOOKALIKES = (
    Lookalike(
        title="a 1.3B model that makes videos block by block (Self-Forcing)",
        fits=T2V_1_3B.traits.fit,
        why=(
            "Its blocks follow another schedule than those of krea-realtime; run as Wan2.1 T2V, which has "
            "the same tensors, it would make poor videos. Use Wan2.1 T2V, or a distilled version of it such "
            "as LightX2V's."
        ),
        class_name="CausalWanModel",
    ),
    Lookalike(
        title="LongCat-Video-Avatar",
        fits=LONGCAT.traits.are_in,
        why="It speaks to a sound, which this version does not give it. Use LongCat-Video.",
        word="audio",
    ),
)


def name_lookalike(facts: CheckpointFacts, evidence: Evidence) -> tuple[str, str] | None:
    """Recognise a model that only looks like one that is run.

    Args:
        facts: sizes and names of its tensors.
        evidence: what else is known.

    Returns:
        What it is with what tells it, and what to do; None where nothing says that it is another model.
    """
    for model in LOOKALIKES:
        if mark := model.find_mark(facts, evidence):
            return f"{model.title} ({mark})", model.why
    return None
