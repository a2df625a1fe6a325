"""Models whose transformers have the tensors of one that is run: told by names and config."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlx_video.variants.longcat import LONGCAT
from mlx_video.variants.other_models import PUBLISHED, digest_shapes
from mlx_video.variants.t2v import T2V_OTHER
from mlx_video.variants.variant import CheckpointFacts, Shapes


@dataclass(frozen=True, slots=True)
class Evidence:
    """What tells transformers apart besides their tensors.

    Attributes:
        names: what their publisher calls them: folder or repository, files.
        stored: the tensors under the names of the file.
        config: what a config.json beside them says.
    """

    names: tuple[str, ...] = ()
    stored: Shapes = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Lookalike:
    """A model that is not run, although its tensors are those of one that is.

    Attributes:
        title: for people.
        fits: whether a transformer has its kind of tensors.
        why: what would go wrong, and what to use instead.
        names: what its publishers call it; None where no name tells.
        published: its title in PUBLISHED; "" where it has none of its own.
        class_name: of its config.json; "" where that is Wan's.
        word: in the names of tensors of its own; "" where it has none.
    """

    title: str
    fits: Callable[[CheckpointFacts], bool]
    why: str
    names: re.Pattern[str] | None = None
    published: str = ""
    class_name: str = ""
    word: str = ""

    def find_mark(self, facts: CheckpointFacts, evidence: Evidence) -> str:
        """What tells that a transformer is of this model; "" where nothing does."""
        if not self.fits(facts):
            return ""
        if self.names and (name := next(filter(self.names.search, evidence.names), None)):
            return f"it is called {name}"
        if self.class_name and evidence.config.get("_class_name") == self.class_name:
            return f"config.json says {self.class_name}"
        if self.word and (name := next((each for each in sorted(facts.names) if self.word in each), None)):
            return f"it has the tensor {name}"
        if self.published and PUBLISHED.get(digest_shapes(evidence.stored)) == self.published:
            return f"its tensors are named as that file's, first {next(iter(evidence.stored))}"
        return ""


_BLOCKWISE = (
    "It makes videos block by block from cached keys and values; run as Wan2.1 T2V, which has the same "
    "tensors, it would make poor ones. Use Wan2.1 T2V, or a distilled version of it such as LightX2V's."
)
LOOKALIKES = (
    Lookalike(
        title="krea-realtime 14B",
        fits=T2V_OTHER.traits.fit,
        why=_BLOCKWISE,
        names=re.compile(r"krea.{0,12}real.?time|real.?time.{0,12}krea", re.IGNORECASE),
        published="krea-realtime 14B",
    ),
    Lookalike(
        title="a model that makes videos block by block (krea-realtime, Self-Forcing)",
        fits=T2V_OTHER.traits.fit,
        why=_BLOCKWISE,
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
