"""A graph of ComfyUI as our options: what its samplers, prompts, sizes and adapters say.

Source: ComfyUI nodes.py (KSampler, KSamplerAdvanced, CLIPTextEncode, LoraLoader), comfy_extras/nodes_wan.py,
nodes_hunyuan.py, nodes_model_advanced.py; ComfyUI-WanVideoWrapper nodes_sampler.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

_SOLVERS = {
    "uni_pc": "unipc",
    "uni_pc_bh2": "unipc",
    "dpmpp_2m_sde_gpu": "dpmpp_2m_sde",
    "dpmpp_sde_gpu": "dpmpp_sde",
}
_SAMPLERS = ("KSampler", "KSamplerAdvanced", "WanVideoSampler")
# Inputs of nodes that stand for a value which another node takes.
_VALUES = ("value", "text", "string", "int", "float", "seed", "number", "positive_prompt")
_DEPTH = 8


def is_graph(settings: Mapping[str, Any]) -> bool:
    """Whether an object is a graph as ComfyUI runs it, or holds one as `prompt`."""
    graph = _unpack(settings)
    return bool(graph) and all(isinstance(node, dict) and "class_type" in node for node in graph.values())


def read_graph(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Read what a graph says under the names of our options; of what it does not say nothing."""
    graph = _Graph(_unpack(settings))
    taken: dict[str, Any] = {}
    samplers = [*graph.nodes(*_SAMPLERS)]
    samplers.sort(key=lambda inputs: graph.number(inputs, "start_at_step") or 0)
    if samplers:
        taken |= _read_samplers(graph, samplers)
    for inputs in graph.all_inputs():
        sizes = {"width": "width", "height": "height", "length": "num_frames", "num_frames": "num_frames"}
        if {"width", "height"} <= inputs.keys() and inputs.keys() & {"length", "num_frames"}:
            taken |= {ours: graph.value(inputs[name]) for name, ours in sizes.items() if name in inputs}
    for inputs in graph.nodes("ModelSamplingSD3"):
        taken["shift"] = graph.value(inputs.get("shift"))
    for inputs in graph.nodes("WanVideoTextEncode"):
        taken["prompt"] = graph.value(inputs.get("positive_prompt"))
        taken["negative_prompt"] = graph.value(inputs.get("negative_prompt"))
    adapters = [
        (name, graph.number(inputs, "strength_model") or 1.0)
        for inputs in graph.nodes("LoraLoader", "LoraLoaderModelOnly")
        if isinstance(name := inputs.get("lora_name"), str)
    ]
    if adapters:
        taken["loras"] = adapters
    images = [inputs.get("image") for inputs in graph.nodes("LoadImage")]
    if len(images) == 1:
        taken["image"] = images[0]
    return {name: value for name, value in taken.items() if value is not None}


def _read_samplers(graph: _Graph, samplers: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Seed, steps and guidance of one sampler; of two that take turns, the first serves high noise."""
    first, last = samplers[0], samplers[-1]
    seed = graph.number(first, "noise_seed")
    taken = {
        "seed": graph.number(first, "seed") if seed is None else seed,
        "steps": graph.number(first, "steps"),
        "guide_scale": graph.number(first, "cfg"),
        "shift": graph.number(first, "shift"),
        "prompt": graph.text(first.get("positive")),
        "negative_prompt": graph.text(first.get("negative")),
    }
    solver = graph.value(first.get("sampler_name", first.get("scheduler")))
    taken["scheduler"] = _SOLVERS.get(str(solver), solver)
    if "sampler_name" in first:
        taken["noise_levels"] = graph.value(first.get("scheduler"))
    if len(samplers) == 2:
        taken["guide_scale"] = [graph.number(last, "cfg"), graph.number(first, "cfg")]
        taken["expert_steps"] = graph.number(last, "start_at_step") or graph.number(first, "end_at_step")
        if None in taken["guide_scale"]:
            taken["guide_scale"] = None
    return taken


def _unpack(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    graph = settings.get("prompt", settings)
    if isinstance(graph, str):
        with suppress(ValueError, RecursionError):
            graph = json.loads(graph)
    return graph if isinstance(graph, dict) else {}


class _Graph:
    """Nodes of a graph, and what their inputs lead to.

    Args:
        nodes: number → class and inputs; an input is a value, or the number of a node and one of its outputs.
    """

    def __init__(self, nodes: Mapping[str, Any]) -> None:
        self._nodes = nodes

    def all_inputs(self) -> Iterator[Mapping[str, Any]]:
        """Inputs of every node."""
        return (node.get("inputs", {}) for node in self._nodes.values())

    def nodes(self, *classes: str) -> Iterator[Mapping[str, Any]]:
        """Inputs of the nodes of these classes."""
        return (node.get("inputs", {}) for node in self._nodes.values() if node["class_type"] in classes)

    def value(self, given: Any, depth: int = 0) -> Any:
        """What an input holds, or the node that it comes from; None where that is computed."""
        if not isinstance(given, list):
            return given
        inputs = self._behind(given)
        for name in _VALUES if depth < _DEPTH else ():
            if name in inputs:
                return self.value(inputs[name], depth + 1)
        return None

    def number(self, inputs: Mapping[str, Any], name: str) -> Any:
        """A number among inputs; None for anything else."""
        found = self.value(inputs.get(name))
        return found if isinstance(found, int | float) and not isinstance(found, bool) else None

    def text(self, given: Any, depth: int = 0) -> str | None:
        """The prompt from which conditioning is made, through the nodes that add to it."""
        inputs = self._behind(given)
        if "text" in inputs:
            found = self.value(inputs["text"])
            return found if isinstance(found, str) else None
        # A node with both passes them through in this order.
        behind = {0: ("positive", "conditioning"), 1: ("negative",)}
        for name in behind.get(given[1], ()) if inputs and depth < _DEPTH else ():
            if name in inputs:
                return self.text(inputs[name], depth + 1)
        return None

    def _behind(self, link: Any) -> Mapping[str, Any]:
        """Inputs of the node to which an input leads; none where it leads nowhere."""
        if not isinstance(link, list) or len(link) != 2:
            return {}
        inputs: Mapping[str, Any] = self._nodes.get(str(link[0]), {}).get("inputs", {})
        return inputs
