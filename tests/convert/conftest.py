"""What tests of the demo models share: the grammar and the scorers, and a cache folder of their own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

DEMO_EXAMPLES = Path(__file__).parents[2] / "examples" / "demo_model"


@pytest.fixture(scope="module")
def demo_examples():
    """The folder of the training scripts, whose modules can be imported meanwhile."""
    sys.path.insert(0, str(DEMO_EXAMPLES))
    yield DEMO_EXAMPLES
    sys.path.remove(str(DEMO_EXAMPLES))


@pytest.fixture(scope="module")
def demo_tools(demo_examples: Path):
    """The drawing grammar and the scorer of the training scripts."""
    import grammar
    import score

    return grammar, score


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory):
    """Where demo models are converted to."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLX_VIDEO_CACHE", str(folder))
        yield folder
