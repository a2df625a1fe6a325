"""The stage that finds the colours of latents, which only some previews need."""

from __future__ import annotations

from mlx_video.events import Work
from mlx_video.latents.colours import LatentColours
from mlx_video.runs.latent_colours import find_colours, fit_and_keep
from mlx_video.runs.run import Run
from mlx_video.runs.sampling.previews import takes_tiny_decoder
from mlx_video.runs.stages.stage import Stage


def takes_colours(run: Run) -> bool:
    """Whether a run shows previews by the colours of its latents."""
    return run.request.preview is not None and not takes_tiny_decoder(run)


def fits_colours(run: Run) -> bool:
    """Whether a run has to fit them first."""
    return takes_colours(run) and find_colours(run) is None


def known_colours(run: Run) -> LatentColours | None:
    """The colours that a run begins with; None where it needs none, or fits them."""
    return find_colours(run) if takes_colours(run) else None


def give_colours(run: Run, colours: LatentColours | None) -> Work[LatentColours]:
    """Fit the colours that are not known."""
    return fit_and_keep(run)


COLOURS = Stage(
    "preview",
    give_colours,
    takes=("colours",),
    gives="colours",
    is_needed=lambda run, colours: takes_colours(run) and colours is None,
)
