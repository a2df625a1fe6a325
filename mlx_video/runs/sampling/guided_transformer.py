"""A transformer under guidance: its passes, over the whole video or window by window."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import mlx.core as mx

from mlx_video.conditioning.types import Conditioning
from mlx_video.models.block_context import (
    CrossAttentionCache,
    Pass,
    PromptTokens,
    Step,
    StepCache,
    TimePath,
    attend_plainly,
)
from mlx_video.models.forward import BlockSource
from mlx_video.models.remembered_keys import RememberedKeys
from mlx_video.models.token_layout import TokenLayout, layout_around_given
from mlx_video.models.video_transformer import Part, VideoTransformer
from mlx_video.runs.sharing import WHOLE, StepPart
from mlx_video.sampling.context_windows import ContextWindows, Window
from mlx_video.sampling.guidance import Branch, Guidance, PromptName
from mlx_video.sampling.sampler_state import KeptArrays, SamplerState
from mlx_video.sampling.step_caches.step_cache import CachePlan, PredictionCache
from mlx_video.sampling.windowed_predictions import (
    Own,
    Predict,
    PredictTogether,
    SeenFrames,
    WindowedPredictions,
)


@dataclass(frozen=True, slots=True)
class CachesOf:
    """The step caches of one transformer."""

    plan: CachePlan
    transformer: str

    def new_cache(self, branch: Branch, time_path: TimePath) -> StepCache | None:
        """The cache of a branch's forwards; None for none."""
        return self.plan.new_cache and self.plan.new_cache(self.transformer, branch, time_path)

    def new_prediction_cache(self) -> PredictionCache | None:
        """The cache of predictions; None for none."""
        return self.plan.new_prediction_cache and self.plan.new_prediction_cache(self.transformer)


@dataclass(eq=False)
class FramePredictions:
    """The passes of one transformer over some frames.

    Attributes:
        transformer: loaded.
        conditioning: of these frames.
        layout: of their tokens.
        prompts: of the run, as the transformer sees them.
        memory: keeps what step caches remember.
        caches: the step caches of this transformer; None for none.
        blocks: where its blocks are read from; None where all are in memory.
        step_part: what of the predictions this process computes.
    """

    transformer: VideoTransformer
    conditioning: Conditioning
    layout: TokenLayout
    prompts: Mapping[PromptName, PromptTokens]
    memory: SamplerState
    caches: CachesOf | None
    blocks: BlockSource | None
    step_part: StepPart = WHOLE
    _passes: dict[str, Pass] = field(default_factory=dict, init=False)

    def __call__(self, latents: mx.array, step: Step, branches: Sequence[Branch]) -> list[mx.array]:
        """Velocities [C, T, H, W] of latents [C, T, H, W] under some branches."""
        return self.transformer.predict(
            latents,
            step,
            [self._pass_of(branch) for branch in branches],
            concat_latents=self.conditioning.concat_latents,
            layout=self.layout,
            block_source=self.blocks,
        )

    def part(self, latents: mx.array, branches: Sequence[Branch]) -> Part:
        """What the transformer is asked to predict of latents [C, T, H, W] under some branches."""
        passes = [self._pass_of(branch) for branch in branches]
        return Part(latents, passes, self.conditioning.concat_latents, self.layout)

    def _pass_of(self, branch: Branch) -> Pass:
        """The pass of a branch, the same in every step: its hooks and its cache remember."""
        if branch.name not in self._passes:
            self._passes[branch.name] = self._build_pass(branch)
        return self._passes[branch.name]

    def _build_pass(self, branch: Branch) -> Pass:
        time_path = partial(self.transformer.embed_time, layout=self.layout)
        cache = self.caches.new_cache(branch, time_path) if self.caches else None
        one = Pass(
            self.prompts[branch.prompt],
            cache=cache,
            skip_layers=branch.skip_layers,
            attention=branch.make_attention(self.prompts) if branch.make_attention else attend_plainly,
            is_negative=branch.prompt == "negative",
            sees=branch.sees,
        )
        for add in self.conditioning.add_ons:
            one = add(self.transformer, one)
        one = self.step_part.share_pass(one)
        if one.cache:
            self.memory.add(f"cache.{branch.name}", one.cache)
        return one


@dataclass(eq=False)
class RememberingPredictions(FramePredictions):
    """Passes over the noisy frames alone, for a transformer whose clean frames see nothing but each other.

    Keys and values of the clean frames are then the same in every step and under every prompt, so that a
    forward of these alone, before the first step, gives them for all.
    """

    _keys: RememberedKeys | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        clean, *noisy = self.layout.segments
        self._clean_layout = TokenLayout((clean,))
        self.layout = TokenLayout(tuple(noisy))

    def __call__(self, latents: mx.array, step: Step, branches: Sequence[Branch]) -> list[mx.array]:
        """Velocities [C, T, H, W] of latents [C, T, H, W]; those of clean frames are 0."""
        count = self.conditioning.num_first_frames
        if self._keys is None:
            self._keys = self._remember(step)
        still = mx.zeros_like(latents[:, :count])
        found = super().__call__(latents[:, count:], step, branches)
        return [mx.concatenate([still, velocity], axis=1) for velocity in found]

    def _remember(self, step: Step) -> RememberedKeys:
        """Keys and values of the clean frames."""
        keys, latents = RememberedKeys(), self.conditioning.first_frames
        assert latents is not None
        text = next(iter(self.prompts.values()))  # which no clean frame reads
        self.transformer.predict(
            latents,
            step,
            [Pass(text, attention=keys.recording(attend_plainly))],
            layout=self._clean_layout,
            block_source=self.blocks,
        )
        keys.evaluate()
        return keys

    def _build_pass(self, branch: Branch) -> Pass:
        one = super()._build_pass(branch)
        assert self._keys is not None
        return replace(one, attention=self._keys.before(one.attention))


class GuidedTransformer:
    """The velocity function of one transformer under guidance.

    Args:
        transformer: loaded.
        guidance: asks for predictions and joins them.
        conditioning: of the run.
        layout: of the video's tokens.
        memory: keeps what step caches and guidance remember; None for a memory that ends with this object.
        caches: the step caches of this transformer; None for none.
        blocks: where its blocks are read from; None where all are in memory.
        windows: in which it sees the video; None for the video as a whole.
        windows_at_once: how many of them go through the blocks together.
        part: what of the predictions this process computes.
    """

    def __init__(
        self,
        transformer: VideoTransformer,
        guidance: Guidance,
        conditioning: Conditioning,
        layout: TokenLayout,
        *,
        memory: SamplerState | None = None,
        caches: CachesOf | None = None,
        blocks: BlockSource | None = None,
        windows: ContextWindows | None = None,
        windows_at_once: int = 1,
        part: StepPart = WHOLE,
    ) -> None:
        self._guidance = guidance
        memory = memory or SamplerState()

        def open_predictions() -> Predict:
            prompts = project_prompts(transformer, conditioning, guidance.prompts)

            def predictions(own: Conditioning, layout: TokenLayout, memory: SamplerState) -> FramePredictions:
                kind = RememberingPredictions if own.remembers_first_frames else FramePredictions
                return kind(transformer, own, layout, prompts, memory, caches, blocks, part)

            if windows is None:
                return predictions(conditioning, layout, memory)
            together = partial(predict_together, transformer, blocks)
            return predict_in_windows(
                windows, conditioning, layout, memory, predictions, together, windows_at_once
            )

        self._open_predictions = open_predictions
        self._part = part
        self._predict = part.share(open_predictions())
        self._kept = memory.add("guidance", KeptArrays())
        cache = caches.new_prediction_cache() if caches else None
        self._prediction_cache = cache and memory.add("prediction_cache", cache)

    def renew(self) -> None:
        """Compute anew what is computed once for all steps, as the transformer's adapters have changed."""
        self._predict = self._part.share(self._open_predictions())

    def predict(self, latents: mx.array, step: Step, names: Collection[str]) -> list[mx.array]:
        """Velocities [C, T, H, W] of the branches of some names, in the order of a step that needs all."""
        branches = [branch for branch in self._guidance.all_branches if branch.name in names]
        return self._predict(latents, step, branches)

    def __call__(self, latents: mx.array, step: Step) -> mx.array:
        """Predict the velocity [C, T, H, W] of latents [C, T, H, W]; no forward is made without need."""
        branches = self._guidance.branches(step)
        compute = partial(self._predict, latents, step)
        if self._prediction_cache:
            velocities = self._prediction_cache.predict(latents, step, branches, compute)
        else:
            velocities = compute(branches)
        return self._guidance.combine(step, latents, velocities, self._kept)


def predict_together(
    transformer: VideoTransformer,
    blocks: BlockSource | None,
    windows: Sequence[tuple[FramePredictions, mx.array]],
    step: Step,
    branches: Sequence[Branch],
) -> list[list[mx.array]]:
    """Predict windows, each with its latents, of which streamed blocks are read once for all."""
    parts = [own.part(latents, branches) for own, latents in windows]
    return transformer.predict_parts(parts, step, block_source=blocks)


def predict_in_windows(
    windows: ContextWindows,
    conditioning: Conditioning,
    layout: TokenLayout,
    memory: SamplerState,
    predictions: Callable[[Conditioning, TokenLayout, SamplerState], Own],
    predict: PredictTogether[Own],
    at_once: int = 1,
) -> WindowedPredictions[Own]:
    """Predictions of all sampled frames, window by window.

    A window that lacks the first frame of a video of which some frames are given sees that frame, with what
    is told of it, before its own: what the images show would be lost to it else.

    Args:
        windows: of the run.
        conditioning: of all frames.
        layout: of all tokens.
        memory: has a folder for each window.
        predictions: of some frames, from what is told of them, their layout and their memory.
        predict, at_once: as for :class:`WindowedPredictions`.
    """
    frames, rows, columns = conditioning.frames, len(layout.segments[0].rows), len(layout.segments[0].columns)
    count = layout.num_tokens // (rows * columns) - frames.leading

    def see(window: Window, weights: Sequence[float]) -> SeenFrames:
        numbers = frames.window(window, is_anchored=conditioning.has_given_frames)
        before = len(numbers) - len(window)
        # Leading frames are sampled too, and each window predicts them anew; a first frame before it is not.
        front = [float(number < frames.leading) for number in numbers[:before]]
        return SeenFrames(numbers, (*front, *weights))

    def open_window(seen: SeenFrames) -> Own:
        own = conditioning.take_frames(seen.numbers)
        first = conditioning.num_first_frames
        given = [place for place, number in enumerate(seen.numbers) if number < first]
        around = layout_around_given((len(seen.numbers), rows, columns), given)
        return predictions(own, around, memory.within(f"window to {seen.numbers[-1]}"))

    return WindowedPredictions(windows, count, see, open_window, predict, at_once)


def project_prompts(
    transformer: VideoTransformer, conditioning: Conditioning, names: Collection[PromptName]
) -> dict[PromptName, PromptTokens]:
    """Prompts as one transformer sees them; they share the image tokens.

    Raises:
        ValueError: a prompt is asked for that the conditioning does not hold.
    """
    contexts = {"positive": conditioning.context, "negative": conditioning.negative_context}
    image: mx.array | CrossAttentionCache | None = conditioning.image_tokens
    prompts: dict[PromptName, PromptTokens] = {}
    for name in sorted(names, reverse=True):  # the positive one first
        context = contexts[name]
        if context is None:
            raise ValueError(f"guidance asks for the {name} prompt, which was not encoded")
        prompts[name] = transformer.project_text(context, image)
        image = prompts[name].image
    return prompts
