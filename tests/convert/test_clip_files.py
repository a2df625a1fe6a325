"""The CLIP file in every form it is published in: the visual tower is read, whatever else lies beside it."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from mlx_video.convert.convert import convert
from mlx_video.convert.plan import plan_conversion
from mlx_video.errors import MLXVideoError, RequestError
from mlx_video.inspect.path import inspect_path
from mlx_video.request import ConvertRequest
from tests.fixtures.comfy_files import (
    CLIP,
    SIZES,
    Words,
    as_codes,
    comfy_image_encoder,
    write_comfy_tree,
    write_words,
)
from tests.fixtures.diffusers_checkpoint import image_encoder_arrays
from tests.fixtures.tiny_checkpoint import (
    IMAGE_ENCODER_FILE,
    TOKENIZER_FOLDER,
    Arrays,
    TinyCheckpoint,
    write_tiny_checkpoint,
)
from tests.fixtures.tiny_variants import write_pickle
from tests.fixtures.weight_files import encode, round_to

pytestmark = pytest.mark.slow

CONVERTED = "clip_vision.safetensors"


def whole(arrays: Arrays, dtype: str = "F32", prefix: str = "") -> dict[str, Words]:
    """Both towers, as tools store them again in fewer bits."""
    return {prefix + name: Words(dtype, encode(values, dtype)) for name, values in arrays.items()}


def visual(arrays: Arrays, prefix: str) -> dict[str, Words]:
    """The visual tower alone."""
    found = whole({name: values for name, values in arrays.items() if name.startswith("visual.")}, "F16")
    return {prefix + name.removeprefix("visual."): words for name, words in found.items()}


def eight_bits(arrays: Arrays) -> dict[str, Words]:
    """Both towers in float8 with a scale for each row, as LightX2V stores them."""
    stored = whole(arrays, "BF16")
    for name, values in arrays.items():
        if is_matrix(name):
            codes, scale, _ = as_codes(values)
            stored[name] = Words("F8_E4M3", codes)
            scales = np.full((len(values), 1), scale, np.float32)
            stored[f"{name}_scale"] = Words("F32", scales)
    return stored


def is_matrix(name: str) -> bool:
    return name.endswith(".weight") and (".attn." in name or ".mlp." in name or ".ffn." in name)


def huggingface(arrays: Arrays, prefix: str = "vision_model.") -> dict[str, Words]:
    """The visual tower in the words of transformers, with the projection behind it."""
    return whole(image_encoder_arrays(arrays, prefix), "F16")


def both_of_huggingface(arrays: Arrays) -> dict[str, Words]:
    """A whole CLIPModel: of the text tower, names that the visual one has too."""
    text = {
        "text_model.embeddings.token_embedding.weight": np.ones((12, 8), np.float32),
        "text_model.encoder.layers.0.self_attn.q_proj.weight": np.ones((8, 8), np.float32),
        "text_projection.weight": np.ones((24, 8), np.float32),
        "logit_scale": np.ones((), np.float32),
    }
    return whole(text, "F16") | huggingface(arrays)


# What the file is called where it is published → its tensors.
FORMS = {
    "open-clip-xlm-roberta-large-vit-huge-14_fp16.safetensors": lambda arrays: whole(arrays, "F16"),
    "open-clip-xlm-roberta-large-vit-huge-14-bf16.safetensors": lambda arrays: whole(arrays, "BF16"),
    "open-clip-xlm-roberta-large-vit-huge-14_visual_fp16.safetensors": lambda arrays: visual(
        arrays, "visual."
    ),
    "models_clip_open-clip-xlm-roberta-large-vit-huge-14-fp8.safetensors": eight_bits,
    "tower.safetensors": lambda arrays: visual(arrays, ""),
    "wrapped.safetensors": lambda arrays: whole(arrays, "F16", "clip.model."),
    "clip_vision_h.safetensors": lambda arrays: comfy_image_encoder(arrays, "F16"),
    "clip_vision_h_without_positions.safetensors": lambda arrays: huggingface(arrays),
    "without_prefix.safetensors": lambda arrays: huggingface(arrays, ""),
    "image_encoder.safetensors": lambda arrays: {
        name: words for name, words in huggingface(arrays).items() if name.startswith("vision_model.")
    },
    "clip_model.safetensors": both_of_huggingface,
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyCheckpoint:
    """A checkpoint whose CLIP file holds numbers that every form can store."""
    made = write_tiny_checkpoint(tmp_path_factory.mktemp("clip") / "Wan2.1-I2V", SIZES.reading_images())
    for name, values in made.image_encoder.items():
        made.image_encoder[name] = (
            as_codes(values)[2] if is_matrix(name) else round_to(round_to(values, "BF16"), "F16")
        )
    write_pickle(made.path / IMAGE_ENCODER_FILE, made.image_encoder)
    return made


@pytest.fixture(scope="module")
def expected(tiny: TinyCheckpoint) -> bytes:
    """The tower as it arrives from the published file."""
    out = tiny.path.parent / "expected"
    list(convert(ConvertRequest(tiny.path, out, dtype="float32")))
    return (out / CONVERTED).read_bytes()


def convert_with(source: Path, out: Path, **options: Path) -> bytes:
    list(convert(ConvertRequest(source, out, dtype="float32", **options)))
    return (out / CONVERTED).read_bytes()


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_the_file_gives_the_same_tower(
    tiny: TinyCheckpoint, expected: bytes, tmp_path: Path, name: str
):
    file = write_words(tmp_path / name, FORMS[name](tiny.image_encoder))
    assert convert_with(tiny.path, tmp_path / "out", clip=file) == expected
    found = inspect_path(file)
    assert (found.problems, [part.component for part in found.parts]) == ((), ["image_encoder"])
    assert "--clip" in found.command


@pytest.mark.parametrize("name", [IMAGE_ENCODER_FILE, *FORMS])
def test_it_lies_in_a_comfyui_tree_in_any_form(tiny: TinyCheckpoint, tmp_path: Path, name: str):
    tree = write_comfy_tree(tmp_path / "models", tiny)
    (tree / CLIP).unlink()
    place = tree / "clip_vision" / name
    if name in FORMS:
        write_words(place, FORMS[name](tiny.image_encoder))
    else:
        write_pickle(place, tiny.image_encoder)
    with ExitStack() as opened:
        plan = plan_conversion(ConvertRequest(tree, tmp_path / "out"), opened)
        assert CONVERTED in [component.file_name for component in plan.components]
    found = inspect_path(tree)
    assert (found.problems, found.missing) == ((), ())


def test_the_published_file_is_taken_by_its_option_and_inspected_alone(
    tiny: TinyCheckpoint, expected: bytes, tmp_path: Path
):
    tree = write_comfy_tree(tmp_path / "models", tiny)
    (tree / CLIP).unlink()
    file = tiny.path / IMAGE_ENCODER_FILE
    assert convert_with(tree, tmp_path / "out", clip=file) == expected
    found = inspect_path(file)
    assert (found.problems, [part.component for part in found.parts]) == ((), ["image_encoder"])
    assert inspect_path(tiny.path).problems == ()


def test_it_may_lie_at_the_root_of_an_all_in_one_file(tiny: TinyCheckpoint, expected: bytes, tmp_path: Path):
    together = whole(tiny.transformer, prefix="model.diffusion_model.") | whole(tiny.image_encoder)
    file = write_words(tmp_path / "all.safetensors", together | whole(tiny.vae, prefix="vae."))
    others = {"text_encoder": tiny.text_encoder_file, "tokenizer": tiny.path / TOKENIZER_FOLDER}
    assert convert_with(file, tmp_path / "out", **others) == expected
    assert [part.component for part in inspect_path(file).parts] == ["transformer", "image_encoder", "vae"]


def test_its_text_tower_alone_is_no_part_of_a_model(tiny: TinyCheckpoint, tmp_path: Path):
    text = {n: v for n, v in tiny.image_encoder.items() if n.startswith("textual.")}
    file = write_words(tmp_path / "textual.safetensors", whole(text, "F16"))
    for option in ("clip", "text_encoder"):
        with pytest.raises(RequestError, match="holds no part of a Wan model"):
            convert_with(tiny.path, tmp_path / "out", **{option: file})
    assert any("of another model" in text for text in inspect_path(file).problems)


def test_a_tensor_that_no_rule_names_is_still_refused(tiny: TinyCheckpoint, tmp_path: Path):
    file = write_words(tmp_path / "clip.safetensors", whole(tiny.image_encoder | {"strange": np.ones(3)}))
    with pytest.raises(MLXVideoError, match=r"1 tensor unknown, first strange \[3\] in clip.safetensors"):
        convert_with(tiny.path, tmp_path / "out", clip=file)
