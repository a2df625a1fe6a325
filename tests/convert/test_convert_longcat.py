"""LongCat-Video converts to the same tensors from its authors' folder and from the files of other tools."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import convert_checkpoint
from mlx_video.errors import CheckpointError
from mlx_video.inspect.path import inspect_path
from tests.fixtures.comfy_files import write_gguf_transformer, write_plain
from tests.fixtures.longcat_checkpoint import longcat_arrays
from tests.fixtures.tiny_variants import LONGCAT, write_tiny_variant
from tests.fixtures.weight_files import round_to

FORMS = ("", "model.", "model.diffusion_model.", "GGUF")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("longcat") / "original"
    write_tiny_variant(path, "longcat-video")
    return path


def transformer_of(folder: Path) -> dict[str, np.ndarray]:
    return {name: np.array(values) for name, values in mx.load(str(folder / "model.safetensors")).items()}


@pytest.mark.parametrize("form", FORMS)
def test_a_single_file_converts_to_what_the_folder_does(form: str, folder: Path, tmp_path: Path):
    arrays = longcat_arrays(LONGCAT.transformer, 0)
    file = tmp_path / f"longcat.{'gguf' if form == 'GGUF' else 'safetensors'}"
    if form == "GGUF":
        write_gguf_transformer(file, arrays)
    else:
        write_plain(file, arrays, form)
    (part,) = inspect_path(file).parts
    assert (part.component, part.problem) == ("transformer", "")
    (texts,), (vae,) = ([*(folder / name).glob("*.safetensors")] for name in ("text_encoder", "vae"))
    found = convert_checkpoint(
        transformer=file, text_encoder=texts, vae=vae, tokenizer=folder / "tokenizer",
        output_dir=tmp_path / "found", dtype="float32",
    )  # fmt: skip
    expected = convert_checkpoint(folder, tmp_path / "expected", dtype="float32")
    ours, theirs = transformer_of(found), transformer_of(expected)
    assert ours.keys() == theirs.keys()
    for name, values in theirs.items():
        is_rounded = form == "GGUF" and values.ndim == 2 and name.startswith("blocks.")
        assert np.array_equal(ours[name], round_to(values, "F16") if is_rounded else values)


def test_a_tensor_that_lacks_is_named(folder: Path, tmp_path: Path):
    arrays = dict(longcat_arrays(LONGCAT.transformer, 0))
    del arrays["blocks.1.ffn.w3.weight"]
    write_plain(tmp_path / "a.safetensors", arrays, "")
    with pytest.raises(CheckpointError, match=r"1 tensor missing.*blocks\.1\.ffn"):
        convert_checkpoint(folder, tmp_path / "out", transformer=tmp_path / "a.safetensors")
