import json

import pytest

from mlx_video.checkpoint.shards import weight_files
from mlx_video.errors import CheckpointError
from tests.checkpoint.fake_folders import INDEX, shard_name, touch, write_json, write_shards, write_weights


def test_a_single_file_is_the_transformer(tmp_path):
    path = write_weights(tmp_path / "diffusion_pytorch_model.safetensors", "x")
    assert weight_files(tmp_path) == (path,)


def test_the_index_names_the_files_and_nothing_else_counts(tmp_path):
    write_shards(tmp_path, ("a", "b"), ("c",))
    for stray in (
        "lora.safetensors",
        "diffusion_pytorch_model.safetensors",
        "._" + shard_name(1, 2),
        ".DS_Store",
    ):
        touch(tmp_path / stray)
    assert [path.name for path in weight_files(tmp_path)] == [shard_name(1, 2), shard_name(2, 2)]


def test_shards_without_an_index_are_complete_by_their_numbers(tmp_path):
    for number in (2, 1, 3):
        write_weights(tmp_path / shard_name(number, 3), f"t{number}")
    touch(tmp_path / "lora.safetensors")
    touch(tmp_path / ("._" + shard_name(1, 3)))
    assert [path.name for path in weight_files(tmp_path)] == [shard_name(n, 3) for n in (1, 2, 3)]


def refused(folder):
    with pytest.raises(CheckpointError) as refused:
        weight_files(folder)
    assert str(folder) in str(refused.value)
    return str(refused.value)


def test_an_absent_shard_without_index_is_named_by_its_number(tmp_path):
    write_weights(tmp_path / shard_name(1, 3), "a")
    write_weights(tmp_path / shard_name(3, 3), "c")
    assert "shard 2 of 3 is absent (2 of 3 found). Fetch it again." in refused(tmp_path)


def test_an_absent_shard_of_the_index_is_named_with_the_tensors_it_takes_along(tmp_path):
    write_shards(tmp_path, ("a",), ("blocks.39.ffn.2.weight", "z"))
    (tmp_path / shard_name(2, 2)).unlink()
    message = refused(tmp_path)
    assert "2 tensors missing, first blocks.39.ffn.2.weight. Shard 2 of 2" in message
    assert shard_name(2, 2) in message


def test_a_tensor_missing_from_its_shard_is_named(tmp_path):
    write_shards(tmp_path, ("a", "b"), ("c",))
    write_weights(tmp_path / shard_name(1, 2), "a")
    assert f"{shard_name(1, 2)}: lacks 1 tensors that {INDEX} maps to it, first b" in refused(tmp_path)


def test_a_tensor_that_the_index_maps_elsewhere_is_named(tmp_path):
    write_shards(tmp_path, ("a", "b"), ("c",))
    write_weights(tmp_path / shard_name(1, 2), "a", "b", "c")
    assert f"holds c, which {INDEX} maps to {shard_name(2, 2)}" in refused(tmp_path)


def test_a_tensor_unknown_to_the_index_is_named(tmp_path):
    write_shards(tmp_path, ("a", "b"), ("c",))
    write_weights(tmp_path / shard_name(1, 2), "a", "b", "d")
    assert f"holds d, which {INDEX} maps to no file" in refused(tmp_path)


def test_a_wrong_total_size_shows_both_numbers(tmp_path):
    write_shards(tmp_path, ("a", "b"), ("c",), total_size=12)
    assert "total_size is 12, the shards hold 3 bytes" in refused(tmp_path)


def test_an_index_without_total_size_is_accepted(tmp_path):
    write_shards(tmp_path, ("a", "b"), ("c",))
    content = json.loads((tmp_path / INDEX).read_text())
    write_json(tmp_path / INDEX, {"weight_map": content["weight_map"]})
    assert len(weight_files(tmp_path)) == 2


def test_a_truncated_shard_is_named(tmp_path):
    write_shards(tmp_path, ("a", "b"), ("c",))
    shard = tmp_path / shard_name(2, 2)
    shard.write_bytes(shard.read_bytes()[:-1])
    assert f"{shard}:" in refused(tmp_path)


@pytest.mark.parametrize("weight_map", [None, {}, [], {"a": 3}, {"a": "../outside.safetensors"}])
def test_an_index_without_a_usable_map_is_refused(tmp_path, weight_map):
    write_json(tmp_path / INDEX, {"weight_map": weight_map})
    assert "has no weight_map from tensors to files" in refused(tmp_path)


def test_an_index_that_is_a_git_lfs_pointer_is_called_one(tmp_path):
    (tmp_path / INDEX).write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "Git LFS pointer" in refused(tmp_path)


def test_a_damaged_index_is_refused(tmp_path):
    (tmp_path / INDEX).write_text('{"weight_map": {')
    assert "is no valid JSON" in refused(tmp_path)
    (tmp_path / INDEX).write_text("[1]")
    assert "holds a JSON list, an object is expected" in refused(tmp_path)


def test_files_that_are_not_shards_of_one_another_are_refused(tmp_path):
    write_weights(tmp_path / "diffusion_pytorch_model.safetensors", "a")
    write_weights(tmp_path / shard_name(1, 1), "a")
    assert "2 transformer files that are not shards of one another" in refused(tmp_path)


def test_shards_of_two_downloads_are_refused(tmp_path):
    write_weights(tmp_path / shard_name(1, 2), "a")
    write_weights(tmp_path / shard_name(2, 3), "b")
    assert "shards of different sets (of 2, of 3)" in refused(tmp_path)


def test_a_folder_without_weights_says_what_was_expected(tmp_path):
    touch(tmp_path / "lora.safetensors")
    assert "no transformer found, expected diffusion_pytorch_model.safetensors" in refused(tmp_path)


def test_of_several_variants_the_plain_one_is_taken(tmp_path):
    plain = write_weights(tmp_path / "diffusion_pytorch_model.safetensors", "a")
    write_weights(tmp_path / "diffusion_pytorch_model.fp16.safetensors", "a")
    write_weights(tmp_path / "diffusion_pytorch_model.bf16-00001-of-00002.safetensors", "a")
    assert weight_files(tmp_path) == (plain,)


def test_a_variant_alone_is_taken_with_its_index(tmp_path):
    names = [f"model.fp16-0000{number}-of-00002.safetensors" for number in (1, 2)]
    files = [write_weights(tmp_path / name, f"t{name}") for name in names]
    weight_map = {f"t{name}": name for name in names}
    write_json(tmp_path / "model.safetensors.index.fp16.json", {"weight_map": weight_map})
    assert weight_files(tmp_path, "model") == tuple(files)
    files[1].unlink()
    with pytest.raises(CheckpointError, match=r"Shard 2 of 2 \(model\.fp16-00002-of-00002"):
        weight_files(tmp_path, "model")


def test_two_variants_without_a_plain_one_are_refused(tmp_path):
    for variant in ("fp16", "bf16"):
        write_weights(tmp_path / f"diffusion_pytorch_model.{variant}.safetensors", "a")
    assert "holds the transformer in several variants (bf16, fp16)" in refused(tmp_path)


def test_a_plain_set_that_lacks_a_shard_is_not_completed_from_a_variant(tmp_path):
    write_weights(tmp_path / shard_name(1, 2), "a")
    write_weights(tmp_path / "diffusion_pytorch_model.fp16-00002-of-00002.safetensors", "b")
    assert "shard 2 of 2 is absent" in refused(tmp_path)


def test_an_index_that_mixes_variants_is_refused(tmp_path):
    other = "diffusion_pytorch_model.fp16-00002-of-00002.safetensors"
    write_weights(tmp_path / shard_name(1, 2), "a")
    write_weights(tmp_path / other, "b")
    write_json(tmp_path / INDEX, {"weight_map": {"a": shard_name(1, 2), "b": other}})
    assert f"names {other}, which is of another variant" in refused(tmp_path)
