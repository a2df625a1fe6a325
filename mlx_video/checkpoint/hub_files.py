"""Which files of a repository on the Hub a model needs, told by their names and its small JSON files."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mlx_video.checkpoint.diffusers_folder import ENCODER_STEM, MODEL_INDEX
from mlx_video.checkpoint.fastvideo_folder import FASTVIDEO_WEIGHTS
from mlx_video.checkpoint.folder_layout import (
    CONFIG_FILE,
    EXPERT_FOLDERS,
    FASTVIDEO_MANIFEST,
    ORIGINAL_STEM,
    TOKENIZER_FILES,
    Layout,
)
from mlx_video.checkpoint.folder_layout import TOKENIZER_FOLDER as CONVERTED_TOKENIZER
from mlx_video.checkpoint.loose_files import is_weight_name
from mlx_video.checkpoint.original_folder import (
    IMAGE_ENCODER_FILE,
    TOKENIZER_FOLDER,
    VAE_FILES,
)
from mlx_video.checkpoint.original_folder import TEXT_ENCODER_FILE as ORIGINAL_TEXT_ENCODER
from mlx_video.checkpoint.shards import match_weight_file, read_weight_map
from mlx_video.errors import CheckpointError

Use = Literal["convert", "run"]
ReadJson = Callable[[str], Mapping[str, Any]]

_CONVERT = "python -m mlx_video.convert_wan --checkpoint-dir"
_GENERATE = "python -m mlx_video.generate_wan --model-dir"
# Folder of a Diffusers repository → how the names of its weight files begin.
_DIFFUSERS_STEMS = {
    "transformer": ORIGINAL_STEM,
    "transformer_2": ORIGINAL_STEM,
    "vae": ORIGINAL_STEM,
    "text_encoder": ENCODER_STEM,
    "image_encoder": ENCODER_STEM,
}
_SCHEDULER_FILE = "scheduler/scheduler_config.json"
# A transformer's file may be called as those of any model; text encoders and VAEs of MLX folders may not.
_CONVERTED_NAME = re.compile(r"(t5_encoder\w*|vae|vae_(encoder|decoder))\.safetensors")
_COMFY_NAME = re.compile(r"(^|/)(diffusion_models|unet|text_encoders)/[^/]+$|\.gguf$")
# What single files are by their names, the first that fits; the folders are ComfyUI's.
_PURPOSES = (
    ("--vae", re.compile(r"(^|/)vae/|(^|[\W_])(vae|tae\w*)([\W_]|\d|$)", re.IGNORECASE)),
    ("--lora", re.compile(r"(^|/)loras?/|lora|lycoris", re.IGNORECASE)),
    ("--clip", re.compile(r"clip", re.IGNORECASE)),
    ("--text-encoder", re.compile(r"(^|/)text_encoders?/|umt5|t5|text.?enc", re.IGNORECASE)),
    (
        "",
        re.compile(
            r"(^|/)(non_block|block_\d+)\.|controlnet|vace.module|ip.?adapter|preview|upscale", re.IGNORECASE
        ),
    ),
    ("--transformer", re.compile(r"(^|/)(diffusion_models|unet)/|\.gguf$|wan|distill_", re.IGNORECASE)),
)
_COMPONENT_FLAGS = ("--transformer", "--text-encoder", "--vae", "--clip")
# Component by its option → how the names of its files begin, where it can be left out.
_STARTS = {
    "transformer": (ORIGINAL_STEM, "high_noise_model/", "low_noise_model/", "transformer/", "transformer_2/"),
    "high_noise": ("high_noise_model/",),
    "low_noise": ("low_noise_model/", "transformer_2/"),
    "text_encoder": (ORIGINAL_TEXT_ENCODER, "text_encoder/"),
    "vae": (*VAE_FILES.values(), "vae/"),
    "clip": (IMAGE_ENCODER_FILE, "image_encoder/"),
    "tokenizer": (f"{TOKENIZER_FOLDER}/", "tokenizer/"),
}
# Wan's image encoder serves the first generation's image-to-video models alone.
_WITHOUT_IMAGE_ENCODER = ("t2v", "ti2v")
_MOST_NAMED = 3


def choose_files(
    repository: str,
    names: Collection[str],
    read_json: ReadJson,
    *,
    use: Use,
    given: Collection[str] = (),
) -> list[str]:
    """Choose what a model needs of its repository.

    Args:
        repository: for messages.
        names: of all its files, folders with a slash.
        read_json: reads one of them that holds a JSON object.
        use: "convert" for a checkpoint of another layout, "run" for a converted folder.
        given: components that are had elsewhere, by the names of their options.

    Returns:
        Sorted names. Videos, pictures, copies in other formats and other precisions are not among them.

    Raises:
        CheckpointError: the repository holds no model, or one that is not for this use.
    """
    layout = recognise_names(names)
    _check_use(repository, layout, names, use)
    choosers = {
        "converted": _choose_converted,
        "diffusers": _choose_diffusers,
        "fastvideo": _choose_fastvideo,
    }
    choose = choosers.get(layout, _choose_original)
    left_out = tuple(start for part in given for start in _STARTS.get(part, ()))
    return sorted(name for name in set(choose(frozenset(names), read_json)) if not name.startswith(left_out))


def recognise_names(names: Collection[str]) -> Layout:
    """Tell what layout a repository has from the names of its files; the first rule that fits wins."""
    folders = {name.partition("/")[0] for name in names if "/" in name}
    if any(_CONVERTED_NAME.fullmatch(name) for name in names):
        return "converted"
    if FASTVIDEO_MANIFEST in names:
        return "fastvideo"
    if MODEL_INDEX in names or "transformer" in folders:
        return "diffusers"
    if not folders.isdisjoint(EXPERT_FOLDERS.values()):
        return "original_dual"
    if "non_block.safetensors" in names:
        return "lightx2v"
    if any(_is_weight_file(name, ORIGINAL_STEM) for name in names):
        return "original"
    return "comfy" if any(is_weight_name(name) and _COMFY_NAME.search(name) for name in names) else "unknown"


def _check_use(repository: str, layout: Layout, names: Collection[str], use: Use) -> None:
    is_convertible = layout in ("original", "original_dual", "diffusers")
    if layout == "converted":
        if use == "convert":
            raise CheckpointError(
                f"{repository}: is already an MLX folder. Give it to --model-dir; to quantize it use "
                "--quantize-only."
            )
    elif layout == "fastvideo":
        if use == "convert":
            raise CheckpointError(
                f"{repository}: is a FastVideo MLX folder, which is not converted but run as it is: "
                f"{_GENERATE} {repository}"
            )
    elif not is_convertible:
        raise CheckpointError(f"{repository}: {_describe_other(repository, layout, names)}")
    elif use == "run":
        raise CheckpointError(
            f"{repository}: is a checkpoint that is not converted. Convert it first: {_CONVERT} {repository}"
        )


def _describe_other(repository: str, layout: Layout, names: Collection[str]) -> str:
    weights = [name for name in sorted(names) if is_weight_name(name)]
    shown = _shorten(weights)
    files = _by_purpose(weights)
    if layout == "comfy" or files.keys() & {"--transformer", "--text-encoder", "--lora"}:
        what = f"holds {len(weights)} single files ({shown}), and no name says which belong together."
        return f"{what} {_advise_single_files(repository, files)}"
    return (
        f"holds no Wan checkpoint in the original, Diffusers' or the MLX layout ({len(weights)} weight "
        f"files{f': {shown}' if shown else ''}). Is it the right repository?"
    )


def _by_purpose(weights: Sequence[str]) -> dict[str, list[str]]:
    """Option → the files that it takes, as far as names tell."""
    found: dict[str, list[str]] = {}
    for name in weights:
        purpose = next((flag for flag, pattern in _PURPOSES if pattern.search(name)), "")
        found.setdefault(purpose, []).append(name)
    return found


def _advise_single_files(repository: str, files: Mapping[str, Sequence[str]]) -> str:
    """How to name single files as options, the transformers that would fit among them."""
    flags = [flag for flag in _COMPONENT_FLAGS if flag in files]
    if not flags and "--lora" in files:
        return f"They are adapters; name one for a model: --lora {repository}/{files['--lora'][0]}"
    if not flags:
        return "Name those of one model by --transformer, --text-encoder and --vae."
    fitting = "; ".join(f"{flag} {_shorten(files[flag])}" for flag in flags)
    return (
        f"Name those of one model: {flags[0]} {repository}/{files[flags[0]][0]}, and the others by "
        "--transformer, --text-encoder and --vae in the same way, to python -m mlx_video.convert_wan. Only "
        f"they are downloaded. By their names would fit: {fitting}."
    )


def _shorten(names: Sequence[str]) -> str:
    """The first few of many names."""
    return ", ".join(names[:_MOST_NAMED]) + (" ..." if len(names) > _MOST_NAMED else "")


def _choose_converted(names: frozenset[str], read_json: ReadJson) -> Iterator[str]:
    yield from (name for name in names if "/" not in name and name.endswith((".safetensors", ".json")))
    yield from present_names(names, (*TOKENIZER_FILES, *names_in(CONVERTED_TOKENIZER, TOKENIZER_FILES)))


def _choose_fastvideo(names: frozenset[str], read_json: ReadJson) -> Iterator[str]:
    """The packed transformer of the folder itself, and what lies beside it as in a Diffusers folder."""
    yield from present_names(names, [FASTVIDEO_MANIFEST, FASTVIDEO_WEIGHTS])
    yield from present_names(names, names_in(CONVERTED_TOKENIZER, TOKENIZER_FILES))
    for folder in ("text_encoder", "vae"):
        yield from present_names(names, names_in(folder, [CONFIG_FILE]))
        yield from choose_weights(names, folder, _DIFFUSERS_STEMS[folder], read_json)


def _choose_original(names: frozenset[str], read_json: ReadJson) -> Iterator[str]:
    experts = [folder for folder in EXPERT_FOLDERS.values() if any(n.startswith(f"{folder}/") for n in names)]
    for folder in experts or [""]:
        yield from choose_weights(names, folder, ORIGINAL_STEM, read_json)
        yield from present_names(names, names_in(folder, [CONFIG_FILE]))
    config = read_json(CONFIG_FILE) if CONFIG_FILE in names and not experts else {}
    yield from present_names(names, [ORIGINAL_TEXT_ENCODER, *names_in(TOKENIZER_FOLDER, TOKENIZER_FILES)])
    yield from _choose_vae(names, config)
    if not experts and config.get("model_type") not in _WITHOUT_IMAGE_ENCODER:
        yield from present_names(names, [IMAGE_ENCODER_FILE])


def _choose_vae(names: frozenset[str], config: Mapping[str, Any]) -> list[str]:
    """The VAE; where both lie there, the one of as many channels as the transformer makes."""
    present = present_names(names, VAE_FILES.values())
    if len(present) < 2:
        return present
    return [VAE_FILES["2.2" if config.get("out_dim") == 48 else "2.1"]]


def _choose_diffusers(names: frozenset[str], read_json: ReadJson) -> Iterator[str]:
    index = read_json(MODEL_INDEX) if MODEL_INDEX in names else {}
    absent = {part for part, entry in index.items() if isinstance(entry, list) and not any(entry)}
    yield from present_names(names, [MODEL_INDEX, _SCHEDULER_FILE, *names_in("tokenizer", TOKENIZER_FILES)])
    for folder, stem in _DIFFUSERS_STEMS.items():
        if folder not in absent:
            yield from present_names(names, names_in(folder, [CONFIG_FILE]))
            yield from choose_weights(names, folder, stem, read_json)


def choose_weights(names: frozenset[str], folder: str, stem: str, read_json: ReadJson) -> Iterator[str]:
    """Choose one component's weights.

    Args:
        names: of all files of the repository.
        folder: in which the weights lie; "" for none.
        stem: how the files' names begin.
        read_json: reads one of them that holds a JSON object.

    Yields:
        Of the plain variant, or else the first, the index and the files that it names; without index all.
    """
    found = [name for name in names if Path(name).parent == Path(folder) and _is_weight_file(name, stem)]
    variants = {_variant_of(name, stem) for name in found}
    indexes = {
        variant: names_in(folder, [f"{stem}.safetensors.index{variant}.json"])[0]
        for variant in variants | {""}
    }
    variant = "" if indexes[""] in names or not variants else min(variants)
    if indexes[variant] in names:
        yield indexes[variant]
        files = set(read_weight_map(read_json(indexes[variant])).values())
        yield from present_names(names, names_in(folder, files))
    else:
        yield from (name for name in found if _variant_of(name, stem) == variant)


def _is_weight_file(name: str, stem: str) -> bool:
    return match_weight_file(Path(name).name, stem) is not None


def _variant_of(name: str, stem: str) -> str:
    """What stands behind the stem, such as ".fp16"; "" for the plain files."""
    match = match_weight_file(Path(name).name, stem)
    return (match["variant"] or "") if match else ""


def names_in(folder: str, names: Collection[str]) -> list[str]:
    """Names with a folder before them; "" for none."""
    return [f"{folder}/{name}" if folder else name for name in names]


def present_names(names: frozenset[str], wanted: Collection[str]) -> list[str]:
    """Those of the wanted names that a repository has, in their order."""
    return [name for name in wanted if name in names]
