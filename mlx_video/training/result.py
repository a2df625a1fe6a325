"""The trained file: names that other tools read, scales, and what it was made of."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_video.config import ModelConfig, config_to_json
from mlx_video.files.whole_file import written_whole
from mlx_video.layouts.adapter_folder import ADAPTER_CONFIG, ADAPTER_FILES
from mlx_video.layouts.folder_layout import CONFIG_FILE
from mlx_video.layouts.model_folder import ModelFolder
from mlx_video.layouts.staging import staged_folder
from mlx_video.loading.open_parts import open_transformer
from mlx_video.request.train import ExportName
from mlx_video.training.adapter import AdapterPlan
from mlx_video.training.factors import KINDS
from mlx_video.training.trainable import Values
from mlx_video.weights.network import TransformerNetwork
from mlx_video.weights.rules import find_sources

FILE_DTYPE = mx.float16
"""Of an adapter's file: more digits than bfloat16, and no trained factor comes near its ends."""

Metadata = Mapping[str, str]


def official_path(path: str, network: TransformerNetwork) -> str:
    """The official code's name of a layer of ours."""
    return find_sources(f"{path}.weight", network.rules)[0].removesuffix(".weight")


def _diffusers_path(path: str, network: TransformerNetwork) -> str:
    official = f"{official_path(path, network)}.weight"
    return find_sources(official, network.diffusers_rules)[0].removesuffix(".weight")


class AdapterNames:
    """How one tool names an adapter's tensors.

    Args:
        plan: of the adapter.
        network: that it is for.
    """

    def __init__(self, plan: AdapterPlan, network: TransformerNetwork) -> None:
        self.plan = plan
        self.network = network

    def tensors(self, values: Values, export: ExportName) -> Values:
        """The file's tensors.

        Args:
            values: path of the layer and name of the factor → trained numbers.
            export: the tool.
        """
        spell, roles, has_alpha = self._spellings()[export]
        named: Values = {}
        for path in self.plan.layers:
            spelled = spell(path)
            for leaf, comfy in KINDS[self.plan.kind].trained.items():
                value = values[f"{path}.{leaf}"].astype(mx.float32)
                if not has_alpha and leaf == "up":
                    # Without a tensor for alpha the scale is in the factor.
                    value = value * (self.plan.alpha / self.plan.rank)
                named[f"{spelled}.{roles.get(comfy, comfy)}"] = value.astype(FILE_DTYPE)
            if has_alpha:
                named[f"{spelled}.alpha"] = mx.array(self.plan.alpha, FILE_DTYPE)
        mx.eval(named)
        return named

    def _spellings(self) -> Mapping[ExportName, tuple[Callable[[str], str], Mapping[str, str], bool]]:
        """Tool → how it spells a layer and its factors, and whether it has tensors for alpha."""
        network = self.network
        kohya = {"lora_A.weight": "lora_down.weight", "lora_B.weight": "lora_up.weight"}
        return {
            "comfyui": (lambda path: f"diffusion_model.{official_path(path, network)}", {}, True),
            "kohya": (
                lambda path: "lora_unet_" + official_path(path, network).replace(".", "_"),
                kohya,
                True,
            ),
            "peft": (lambda path: f"base_model.model.{official_path(path, network)}", {}, False),
            "diffusers": (lambda path: f"transformer.{_diffusers_path(path, network)}", {}, False),
        }


def write_adapter(
    path: Path, names: AdapterNames, values: Values, export: ExportName, metadata: Metadata
) -> Path:
    """Write an adapter; a folder for PEFT.

    Args:
        path: of the file, or without its ending of the folder.
        names: of its tensors.
        values: trained.
        export: the tool that is to read it.
        metadata: texts for the header.

    Returns:
        What was written.

    Raises:
        MediaError: the system refuses to write.
    """
    tensors = names.tensors(values, export)
    if export != "peft":
        with written_whole(path) as temporary:
            mx.save_safetensors(str(temporary), tensors, dict(metadata))
        return path
    folder = path.with_suffix("")
    with written_whole(folder / ADAPTER_CONFIG) as temporary:
        temporary.write_text(json.dumps(_peft_config(names), indent=2) + "\n", encoding="utf-8")
    with written_whole(folder / ADAPTER_FILES[0]) as temporary:
        mx.save_safetensors(str(temporary), tensors, dict(metadata))
    return folder


def _peft_config(names: AdapterNames) -> dict[str, Any]:
    plan = names.plan
    return {
        "peft_type": "LORA",
        "r": plan.rank,
        "lora_alpha": plan.rank,  # the scale is in the factors
        "target_modules": [official_path(path, names.network) for path in plan.layers],
        "bias": "none",
        "task_type": None,
    }


def write_model(
    folder: Path, model: ModelFolder, transformer: str, values: Values, config: ModelConfig | None = None
) -> Path:
    """Write a model folder with trained weights in a transformer; all else is linked, or copied.

    Args:
        folder: to make; an older model of this name is replaced.
        model: that was trained.
        transformer: name of its role.
        values: of the trained parameters; each is rounded to the type that the model's file has.
        config: what config.json is to say; None for what the model's says.

    Raises:
        CheckpointError: the folder is taken by something else, or the disk fails.
    """
    with staged_folder(folder) as stage:
        for file in sorted(path for path in model.path.rglob("*") if path.is_file()):
            place = stage / file.relative_to(model.path)
            place.parent.mkdir(parents=True, exist_ok=True)
            if file.resolve() != model.transformers[transformer].resolve():
                _link_or_copy(file, place)
                continue
            with open_transformer(file) as source:
                tensors = {name: source.read(name) for name in source.infos}
            tensors |= {name: value.astype(tensors[name].dtype) for name, value in values.items()}
            mx.save_safetensors(str(place), tensors, {"format": "mlx"})
        if config is not None:
            _update_config(stage / CONFIG_FILE, config)
    return folder


def _update_config(path: Path, config: ModelConfig) -> None:
    """Have a config.json say what a config does; what else stands there stays."""
    said: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    told = config_to_json(config)
    told["mlx_video"] = {**said.get("mlx_video", {}), **told["mlx_video"]}
    path.unlink(missing_ok=True)  # a link to the model's own
    path.write_text(json.dumps({**said, **told}, indent=2) + "\n", encoding="utf-8")


def _link_or_copy(file: Path, place: Path) -> None:
    try:
        os.link(file.resolve(), place)
    except OSError:  # another disk, or one without links
        shutil.copyfile(file, place)
