"""One run: its model, request and settled settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_video.conditioning.continuation.part import WHOLE, EarlierVideo, Part
from mlx_video.conditioning.continuation.way import Length
from mlx_video.conditioning.disk_cache import TextStore
from mlx_video.config import ModelConfig
from mlx_video.files.hub_cache import published_name
from mlx_video.latents.run_state import RunState
from mlx_video.layouts.model_folder import ModelFolder
from mlx_video.loading.session import Session
from mlx_video.lora.read import AdapterSet
from mlx_video.media.sound import Sound
from mlx_video.media.sources.source_video import SourceVideo
from mlx_video.models.dispatch import Limits, current_limits
from mlx_video.planning.division import UNDIVIDED, Division
from mlx_video.planning.memory_plan import MemoryPlan
from mlx_video.request import GenerateRequest
from mlx_video.runs.profile import Profile
from mlx_video.runs.record import describe_run
from mlx_video.runs.settings import RunPlan
from mlx_video.runs.sharing import SharedWeights, StepSharing
from mlx_video.variants.variant import Variant


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that the stages need to know.

    Attributes:
        images: name of the input → uint8 [H, W, 3] as the user gave it; none for text alone.
        videos: name of the input → the video as the user gave it.
        pictures: name of an input that takes several → uint8 [H, W, 3] each, as the user gave them.
        adapters: name of a transformer → what is applied to it when it is loaded; without those that
            take none.
        earlier: the video that this one goes on from; None for none.
        shared_frames: that a segment takes of what is before it.
        part: where the run lies in a video of several parts.
        length: of that video, where its inputs tell; None for what the options say.
        state: of an earlier run, to go on from; None to begin at the first step.
        identity: what decides the latents, to be compared with a state's; empty where no state is kept.
        memory_plan: behind the choices in `plan`; None where memory was not planned.
        texts: encoded already, to be looked up first; None for none.
        conditioning: that is made already; None for what the stages make.
        limits: of single dispatches to the device.
        session: opens the networks.
        profile: notes when the run did what; None where nobody asks.
        kept_frames: file that the run's own frames are kept in besides; None for none.
        sharing: lets other machines take part in its steps; None for this one alone.
        weights: how machines share the weights of its transformers; None where each has all.
        division: what one of them has in memory of a transformer's work.
        whole_video: settings of the video of which this run makes a segment; None where it makes all of it.
    """

    model: ModelFolder
    config: ModelConfig
    variant: Variant
    request: GenerateRequest
    plan: RunPlan
    images: Mapping[str, np.ndarray] = field(default_factory=dict)
    videos: Mapping[str, SourceVideo] = field(default_factory=dict)
    pictures: Mapping[str, tuple[np.ndarray, ...]] = field(default_factory=dict)
    adapters: Mapping[str, AdapterSet] = field(default_factory=dict)
    earlier: EarlierVideo | None = None
    shared_frames: int = 1
    part: Part = WHOLE
    length: Length | None = None
    state: RunState | None = None
    identity: Mapping[str, str] = field(default_factory=dict)
    memory_plan: MemoryPlan | None = None
    texts: TextStore | None = None
    conditioning: Mapping[str, object] | None = None
    limits: Limits = field(default_factory=current_limits)
    session: Session = field(default_factory=Session)
    profile: Profile | None = None
    kept_frames: Path | None = None
    whole_video: Mapping[str, str] | None = None
    sharing: StepSharing | None = None
    weights: SharedWeights | None = None
    division: Division = UNDIVIDED

    @property
    def sound(self) -> Sound | None:
        """The sound of the whole video; None where none is given."""
        return self.length.sound if self.length else None

    @property
    def finished_latents(self) -> mx.array | None:
        """Latents [C, T, H, W] of an earlier run that only wait to be decoded."""
        return self.state.latents if self.state and self.state.is_finished else None

    def settings(self) -> dict[str, str]:
        """Everything that made this video, as text; of a video in segments what the user asked for."""
        return dict(self.whole_video) if self.whole_video is not None else self.own_settings()

    def own_settings(self) -> dict[str, str]:
        """Everything that this run makes its latents and frames with, as text."""
        if self.request.decode_only and self.state:
            made = {**self.state.settings, "trim_first_frames": str(self.request.trim_first_frames)}
            made.pop("decoder", None)  # of the run that made the latents
            return made if self.request.decoder == "vae" else {**made, "decoder": self.request.decoder}
        return describe_run(self.request, self.plan, self.config.variant or published_name(self.model.path))
