"""Folders that Diffusers and transformers save themselves convert to the tensors of the original layout."""

import json

import mlx.core as mx
import pytest
from safetensors import safe_open

from mlx_video import convert_checkpoint
from tests.fixtures.diffusers_checkpoint import diffusers_arrays
from tests.fixtures.tiny_variants import write_tiny_variant
from tests.parity.diffusers_pipeline import save_with_diffusers

pytest.importorskip("torch")
pytestmark = pytest.mark.parity

CASES = {
    "wan2.1-t2v-1.3b": {},
    "wan2.1-i2v-14b": {},
    "wan2.1-flf2v-14b": {"projects_images": True},
    "wan2.2-t2v-a14b": {"max_shard_size": "1MB"},
    "wan2.2-ti2v-5b": {},
    "wan2.1-vace-1.3b": {},
    "wan2.2-vace-fun-a14b": {"max_shard_size": "1MB"},
}


@pytest.mark.parametrize(("name", "options"), CASES.items(), ids=CASES)
def test_a_saved_pipeline_converts_to_the_tensors_of_the_original_folder(tmp_path, name, options):
    write_tiny_variant(tmp_path / "original", name)
    save_with_diffusers(tmp_path / "saved", name, **options)
    shards = list((tmp_path / "saved" / "transformer").glob("*-of-*.safetensors"))
    assert (len(shards) > 1) == ("max_shard_size" in options)
    expected = convert_checkpoint(tmp_path / "original", tmp_path / "a", dtype="float32")
    found = convert_checkpoint(tmp_path / "saved", tmp_path / "b", dtype="float32")
    files = sorted(path.name for path in expected.glob("*.safetensors"))
    assert sorted(path.name for path in found.glob("*.safetensors")) == files
    for file in files:
        ours, theirs = mx.load(str(found / file)), mx.load(str(expected / file))
        assert ours.keys() == theirs.keys()
        assert all(mx.array_equal(ours[tensor], theirs[tensor]) for tensor in theirs)
    assert json.loads((found / "config.json").read_text())["sample_shift"] == 7.0


@pytest.mark.parametrize("name", ["wan2.1-i2v-14b", "wan2.2-ti2v-5b", "wan2.1-vace-1.3b"])
def test_the_names_of_the_torch_free_fixture_are_those_that_are_saved(tmp_path, name):
    save_with_diffusers(tmp_path, name, projects_images=True)
    arrays = diffusers_arrays(name)
    for folder, expected in {
        **arrays.transformers,
        "text_encoder": arrays.text_encoder,
        "vae": arrays.vae,
    }.items():
        (file,) = (tmp_path / folder).glob("*.safetensors")
        with safe_open(str(file), "numpy") as saved:
            assert set(saved.keys()) == set(expected)
    if arrays.image_encoder:
        with safe_open(str(tmp_path / "image_encoder" / "model.safetensors"), "numpy") as saved:
            spelled = {tensor.removeprefix("vision_model.") for tensor in saved.keys()}  # noqa: SIM118
        assert spelled == {tensor.removeprefix("vision_model.") for tensor in arrays.image_encoder}
