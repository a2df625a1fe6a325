"""Which networks may stay in memory between their uses: those that fit beside the work of every stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace

from mlx_video.layouts.components import TINY_VAE
from mlx_video.planning.choices import (
    NETWORK_TITLES,
    TEXT_ENCODER,
    VAE_DECODER,
    VAE_ENCODER,
    KeptNetwork,
)
from mlx_video.planning.memory_plan import MemoryPlan, StagePlan
from mlx_video.planning.memory_task import MemoryTask
from mlx_video.planning.stage_peaks import weight_bytes_in_use
from mlx_video.planning.stage_plans import plan_text
from mlx_video.planning.step_plans import weigh_transformers
from mlx_video.weights.component_networks import find_network


@dataclass(frozen=True, slots=True)
class Candidate:
    """A network that may stay in memory.

    Attributes:
        network: what would stay.
        stage: the one that uses it; "" for a network of an earlier run that this one does not use.
        kept_stage: that stage, where it works otherwise with a network that stays.
    """

    network: KeptNetwork
    stage: str = ""
    kept_stage: StagePlan | None = None


def used_networks(task: MemoryTask) -> tuple[str, ...]:
    """Names of the networks that a run uses, those first whose keeping saves most."""
    decoders = (VAE_DECODER,) if task.decoder == "vae" else ()
    if task.only_decodes:
        return decoders
    # The tiny decoder is read again sooner than its place could be of use.
    parts = (
        name
        for name in task.sizes.parts
        if name != TINY_VAE.name and (task.num_images or find_network(name).stage != "image")
    )
    if task.blocks:  # both halves of the VAE work beside the transformer, which is what takes time to read
        return (*task.sizes.transformers, TEXT_ENCODER, *parts)
    encoders = (VAE_ENCODER,) if task.encodes_frames else ()
    if not task.takes_steps:
        return (*decoders, *encoders, *(name for name in parts if find_network(name).stage != "text"))
    return (*task.sizes.transformers, TEXT_ENCODER, *decoders, *encoders, *parts)


def keep_networks(
    plan: MemoryPlan, task: MemoryTask, held: Set[str], others: Sequence[KeptNetwork], occupied_bytes: int
) -> MemoryPlan:
    """Add to a plan which networks stay in memory; what it has chosen already stays as it is.

    A network stays if every stage of this run, and so of the next one like it, fits beside all that stay.

    Args:
        plan: of the run.
        task: the run.
        held: names of networks of this run that are in memory when it begins.
        others: networks of earlier runs that this one does not use, those that should stay first.
        occupied_bytes: of networks that other runs use, and this one does not.

    Returns:
        The plan, its stages with what stays beside them: in this run, that is what is held when it begins or
        was used before.
    """
    candidates = [*_own_candidates(plan, task), *(Candidate(network) for network in others)]
    beside = _Beside(plan, candidates, task.keeps_both, occupied_bytes)
    kept: list[Candidate] = []
    for candidate in candidates:
        if not beside.steady([*kept, candidate]).misfits:
            kept.append(candidate)
    networks = tuple(one.network for one in kept)
    return replace(
        beside.first(kept, held),
        choices=replace(plan.choices, kept=frozenset(network.ref for network in networks)),
        kept=networks,
        reused=tuple(NETWORK_TITLES.get(name, name) for name in used_networks(task) if name in held),
    )


def _own_candidates(plan: MemoryPlan, task: MemoryTask) -> Iterator[Candidate]:
    nbytes = {**_bytes_of_transformers(plan, task), **_bytes_of_encoders(task)}
    stages = {TEXT_ENCODER: "text", VAE_DECODER: "decode", VAE_ENCODER: "image"}
    stages |= {name: find_network(name).stage for name in task.sizes.parts}
    for name in used_networks(task):
        whole = plan_text(task, plan.host, is_whole=True) if name == TEXT_ENCODER else None
        yield Candidate(KeptNetwork(name, name, nbytes[name]), stages.get(name, "denoise"), whole)


def _bytes_of_transformers(plan: MemoryPlan, task: MemoryTask) -> Mapping[str, int]:
    blocks = plan.choices.resident_blocks
    return {
        name: weight_bytes_in_use(weights, blocks) + task.adapter_bytes
        for name, weights in weigh_transformers(task).items()
    }


def _bytes_of_encoders(task: MemoryTask) -> Mapping[str, int]:
    sizes = task.sizes
    return {
        TEXT_ENCODER: sizes.text_encoder.total,
        VAE_ENCODER: sizes.vae_bytes("encoder"),
        VAE_DECODER: sizes.vae_bytes("decoder"),
        **{name: weights.total for name, (weights, _) in sizes.parts.items()},
    }


@dataclass(frozen=True, slots=True)
class _Beside:
    """The stages of a plan beside networks that stay.

    Attributes:
        plan: without any.
        candidates: every network that may stay.
        is_together: whether the denoising stage counts all transformers already.
        occupied_bytes: that are in memory whatever stays.
    """

    plan: MemoryPlan
    candidates: Sequence[Candidate]
    is_together: bool
    occupied_bytes: int

    def steady(self, kept: Sequence[Candidate]) -> MemoryPlan:
        """The stages of a run that finds in memory whatever stays."""
        return self._with_beside(kept, [list(kept)] * len(self.plan.stages))

    def first(self, kept: Sequence[Candidate], held: Set[str]) -> MemoryPlan:
        """The stages of a run that finds some networks in memory, and leaves others there on its way."""
        present = [one for one in kept if not one.stage or one.network.name in held]
        by_stage = []
        for stage in self.plan.stages:
            by_stage.append(present := [one for one in kept if one in present or one.stage == stage.name])
        return self._with_beside(kept, by_stage)

    def _with_beside(self, kept: Sequence[Candidate], present: Sequence[Sequence[Candidate]]) -> MemoryPlan:
        stages = []
        for stage, there in zip(self.plan.stages, present, strict=True):
            own = next((one.kept_stage for one in kept if one.kept_stage and one.stage == stage.name), stage)
            peak = own.peak.beside(self.occupied_bytes + self._bytes_beside(stage, there))
            predicted = peak.within(self.plan.host.budget.nbytes)
            stages.append(replace(own, peak=peak, predicted_bytes=predicted))
        return replace(self.plan, stages=tuple(stages))

    def _bytes_beside(self, stage: StagePlan, present: Sequence[Candidate]) -> int:
        """Bytes of the networks that a stage's own peak does not count."""
        elsewhere = sum(one.network.nbytes for one in present if one.stage != stage.name)
        if stage.name == "denoise" and self.is_together:
            return elsewhere
        # Of several networks one works after the other, and the peak counts that one: the rest are beside.
        sizes = [
            one.network.nbytes if one in present else 0 for one in self.candidates if one.stage == stage.name
        ]
        return elsewhere + sum(sizes) - min(sizes, default=0)
