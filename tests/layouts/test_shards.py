import json

import pytest

from mlx_video.errors import CheckpointError
from mlx_video.formats.tensor_source import open_tensors
from mlx_video.layouts.shards import FoundWeights, find_weights
from tests.layouts.fake_folders import INDEX, shard_name, touch, write_json, write_shards, write_weights


def weight_files(folder, stem="diffusion_pytorch_model"):
    return find_weights(folder, stem).paths


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


# Copies whose names end behind the number, as ModelScope has them of Wan2.2, beside others or alone.

BF16 = [f"diffusion_pytorch_model-{n:05}-of-00003-bf16.safetensors" for n in (1, 2, 3)]
PLAIN = [shard_name(n, 3) for n in (1, 2, 3)]


def write_copy(folder, names):
    return tuple(write_weights(folder / name, f"t{number}") for number, name in enumerate(names, 1))


def write_index(folder, names, file=INDEX, total_size=3):
    weight_map = {f"t{number}": name for number, name in enumerate(names, 1)}
    return write_json(folder / file, {"metadata": {"total_size": total_size}, "weight_map": weight_map})


@pytest.mark.parametrize("named", [None, BF16, PLAIN], ids=["no_index", "own_index", "plain_index"])
@pytest.mark.parametrize("stem", ["diffusion_pytorch_model", "model"])
@pytest.mark.parametrize("ending", ["-bf16", ".fp16", "_fp8_e4m3fn", "-fp8-scaled"])
def test_an_ending_behind_the_number_is_of_one_copy(tmp_path, named, stem, ending):
    def rename(name):
        return name.replace("diffusion_pytorch_model", stem).replace("-bf16", ending)

    files = write_copy(tmp_path, map(rename, BF16))
    if named:
        # The index of the plain copy counts float32.
        size = 3 if named == BF16 else 12
        write_index(tmp_path, list(map(rename, named)), f"{stem}.safetensors.index.json", size)
    assert find_weights(tmp_path, stem) == FoundWeights(files)
    files[1].unlink()
    with pytest.raises(CheckpointError, match=r"[Ss]hard 2 of 3 .*is absent") as caught:
        weight_files(tmp_path, stem)
    assert files[1].name in str(caught.value)


def test_an_ending_behind_the_number_may_have_an_index_of_its_own(tmp_path):
    files = write_copy(tmp_path, BF16)
    write_index(tmp_path, PLAIN, total_size=12)
    index = write_index(tmp_path, BF16, "diffusion_pytorch_model.safetensors.index-bf16.json")
    assert weight_files(tmp_path) == files
    write_index(tmp_path, BF16, index.name, total_size=6)
    assert "index-bf16.json: total_size is 6, the shards hold 3 bytes" in refused(tmp_path)


@pytest.mark.parametrize(
    ("named", "taken"), [(None, PLAIN), (PLAIN, PLAIN), (BF16, BF16)], ids=["none", "plain", "bf16"]
)
def test_of_two_whole_copies_the_one_of_the_index_is_taken_and_that_is_said(tmp_path, named, taken):
    write_copy(tmp_path, BF16)
    write_copy(tmp_path, PLAIN)
    if named:
        write_index(tmp_path, named)
    found = find_weights(tmp_path)
    assert [path.name for path in found.paths] == taken
    first, other = ("plain", "bf16") if taken == PLAIN else ("bf16", "plain")
    reason = " as the index names them," if named else ""
    assert found.notices == (
        f"{tmp_path}: of the transformer, the {first} files are taken,{reason} not the others ({other}).",
    )


@pytest.mark.parametrize("named", [None, BF16, PLAIN], ids=["no_index", "bf16_index", "plain_index"])
@pytest.mark.parametrize("whole", [BF16, PLAIN], ids=["bf16", "plain"])
def test_a_whole_copy_is_taken_before_one_that_lacks_a_shard(tmp_path, named, whole):
    broken = PLAIN if whole == BF16 else BF16
    files = write_copy(tmp_path, whole)
    write_copy(tmp_path, broken)
    (tmp_path / broken[1]).unlink()
    if named:
        write_index(tmp_path, named)
    found = find_weights(tmp_path)
    assert found.paths == files
    assert f"which lacks {broken[1]}" in found.notices[0]


def test_where_no_copy_is_whole_the_one_of_the_index_is_asked_for(tmp_path):
    for names in (BF16, PLAIN):
        write_copy(tmp_path, names)
        (tmp_path / names[2]).unlink()
    assert f"{PLAIN[2]}: shard 3 of 3 is absent" in refused(tmp_path)
    write_index(tmp_path, BF16)
    assert f"Shard 3 of 3 ({BF16[2]}) is absent" in refused(tmp_path)


def test_the_index_of_another_copy_lists_what_must_be_there(tmp_path):
    files = write_copy(tmp_path, BF16)
    listed = dict.fromkeys(("t1", "t2", "t3", "u"), PLAIN[0])
    write_json(tmp_path / INDEX, {"weight_map": listed})
    assert f"lack 1 tensors that {INDEX} lists, first u" in refused(tmp_path)
    # A copy of narrower numbers may hold their scales besides.
    write_json(tmp_path / INDEX, {"weight_map": {"t1": PLAIN[0]}})
    assert weight_files(tmp_path) == files


@pytest.mark.parametrize("names", [BF16, PLAIN], ids=["bf16", "plain"])
@pytest.mark.parametrize("has_index", [True, False])
def test_a_shard_that_is_a_link_to_a_disk_that_is_away_is_called_one(tmp_path, names, has_index):
    away = tmp_path / "Volumes" / "SSD" / names[1]
    file = write_copy(tmp_path, names)[1]
    file.unlink()
    file.symlink_to(away)
    if has_index:
        write_index(tmp_path, names)
    with pytest.raises(CheckpointError) as caught:
        open_tensors(weight_files(tmp_path))
    assert str(caught.value).startswith(f"{file}: is a link to {away}, which is not there. Mount the disk")


# What indexes say of sizes.


@pytest.mark.parametrize(
    "state",
    [
        lambda data, files: data,
        lambda data, files: float(data),
        lambda data, files: files,
        lambda data, files: round(data, -6),
        lambda data, files: round(data / 2**20) * 2**20,
        lambda data, files: f"{data / 1e9:.1f} GB",
        lambda data, files: None,
    ],
    ids=["data", "float", "files", "megabytes", "mebibytes", "text", "null"],
)
def test_a_total_size_that_counts_in_another_way_is_no_difference(tmp_path, state):
    files, data = write_sized_shards(tmp_path, "BF16")
    write_sized_index(tmp_path, files, state(data, sum(file.stat().st_size for file in files)))
    assert weight_files(tmp_path) == files


@pytest.mark.parametrize(
    "state",
    [
        lambda data: 2 * data,
        lambda data: data // 2,
        lambda data: round(2 * data, -6),
        lambda data: data + 4,
        lambda data: 0,
        lambda data: float("inf"),
    ],
)
def test_a_total_size_of_another_precision_is_one(tmp_path, state):
    files, data = write_sized_shards(tmp_path, "BF16")
    write_sized_index(tmp_path, files, state(data))
    assert f"the shards hold {data} bytes" in refused(tmp_path)


def test_a_round_total_size_is_another_from_a_hundredth_on(tmp_path):
    files, data = write_sized_shards(tmp_path, "BF16", 246_250_000)  # a gigabyte less 1.5 %
    write_sized_index(tmp_path, files, 10**9)
    assert f"the shards hold {data} bytes" in refused(tmp_path)


def write_sized_shards(folder, dtype, numbers=120_123_456):
    """Two shards of some hundred megabytes that take no room on the disk."""
    files = tuple(folder / shard_name(number, 2) for number in (1, 2))
    for number, file in enumerate(files):
        nbytes = 2 * (numbers + number)
        header = json.dumps(
            {f"t{number}": {"dtype": dtype, "shape": [nbytes // 2], "data_offsets": [0, nbytes]}}
        ).encode()
        file.write_bytes(len(header).to_bytes(8, "little") + header)
        with file.open("r+b") as opened:
            opened.truncate(8 + len(header) + nbytes)
    return files, 2 * (2 * numbers + 1)


def write_sized_index(folder, files, total_size):
    weight_map = {f"t{number}": file.name for number, file in enumerate(files)}
    write_json(folder / INDEX, {"metadata": {"total_size": total_size}, "weight_map": weight_map})
