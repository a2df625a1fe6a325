import os
from pathlib import Path

import pytest

from mlx_video.errors import CheckpointError
from mlx_video.layouts import staging
from mlx_video.layouts.model_folder import open_model_folder
from mlx_video.layouts.staging import (
    check_free_space,
    check_replaceable,
    find_unfinished,
    lies_in,
    staged_folder,
)
from tests.layouts.fake_folders import converted, touch


def names(folder):
    return sorted(os.listdir(folder))


def refused(output):
    with pytest.raises(CheckpointError) as refused, staged_folder(output):
        pytest.fail("the block must not run")
    assert str(output) in str(refused.value)
    return str(refused.value)


def test_the_folder_appears_whole_at_the_end(tmp_path):
    output = tmp_path / "models" / "wan"
    with staged_folder(output) as stage:
        touch(stage / "file")
        assert stage.parent == output.parent
        assert stage.name == ".wan.unfinished"
        assert not output.exists()
    assert names(output.parent) == ["wan"]
    assert names(output) == ["file"]


def fill(output, error=None):
    """Stage a folder with one file, and fail after that if told to."""
    with staged_folder(output) as stage:
        touch(stage / "deep" / "file")
        if error:
            raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_nothing(tmp_path, error):
    with pytest.raises(error):
        fill(tmp_path / "wan", error)
    assert names(tmp_path) == []


def test_ctrl_c_while_the_folder_is_made_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(staging.fcntl, "flock", interrupted)
    with pytest.raises(KeyboardInterrupt), staging.staged_folder(tmp_path / "out"):
        pass
    assert not list(tmp_path.iterdir())


def test_an_exception_leaves_the_older_model_as_it_was(tmp_path):
    output = converted(tmp_path / "wan")
    with pytest.raises(RuntimeError):
        fill(output, RuntimeError)
    assert names(tmp_path) == ["wan"]
    open_model_folder(output)


def test_an_older_model_is_usable_until_the_last_moment_and_then_replaced(tmp_path):
    output = converted(tmp_path / "wan")
    with staged_folder(output) as stage:
        touch(stage / "new")
        open_model_folder(output)
    assert names(output) == ["new"]
    assert names(tmp_path) == ["wan"]


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "wan").mkdir()
    touch(tmp_path / "wan" / ".DS_Store")
    with staged_folder(tmp_path / "wan") as stage:
        touch(stage / "file")
    assert names(tmp_path / "wan") == ["file"]


def test_a_leftover_of_an_interrupted_run_is_found_and_removed(tmp_path):
    output = tmp_path / "wan"
    touch(tmp_path / ".wan.unfinished" / "stale")
    assert find_unfinished(output) == tmp_path / ".wan.unfinished"
    with staged_folder(output) as stage:
        assert names(stage) == []
    assert find_unfinished(output) is None
    assert names(tmp_path) == ["wan"]


@pytest.mark.parametrize(
    "typed", ["absent/../photos", "photos/", "link", "absent/a/../../photos", "photos/."]
)
def test_whatever_name_leads_to_a_folder_of_the_users_it_is_kept(tmp_path, monkeypatch, typed):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path / "photos" / "cat.png")
    (tmp_path / "link").symlink_to("photos")
    with pytest.raises(CheckpointError, match=r"photos: is not empty and no converted model"):
        check_replaceable(Path(typed))
    with pytest.raises(CheckpointError, match=r"photos: is not empty"), staged_folder(Path(typed)):
        pytest.fail("the block must not run")
    assert names(tmp_path) == ["link", "photos"]
    assert names(tmp_path / "photos") == ["cat.png"]


@pytest.mark.parametrize("typed", ["absent/../wan", "wan/", "link"])
def test_whatever_name_leads_to_an_older_model_it_is_replaced(tmp_path, monkeypatch, typed):
    monkeypatch.chdir(tmp_path)
    converted(tmp_path / "wan")
    (tmp_path / "link").symlink_to("wan")
    fill(Path(typed))
    assert names(tmp_path) == ["link", "wan"]
    assert names(tmp_path / "wan") == ["deep"]


def test_what_the_user_puts_into_an_older_model_during_the_run_is_kept(tmp_path):
    output = converted(tmp_path / "wan")

    def write_both() -> None:
        with staged_folder(output) as stage:
            touch(stage / "new")
            touch(output / "notes.txt")

    with pytest.raises(CheckpointError, match=r"would be replaced, but holds notes\.txt"):
        write_both()
    assert "notes.txt" in names(output)
    assert names(tmp_path) == ["wan"]


@pytest.mark.parametrize(
    ("place", "named"),
    [
        ("tokenizer/notes.txt", "tokenizer/notes.txt"),
        ("tokenizer/more/tokenizer.json", "tokenizer/more"),
        ("vae_encoder.safetensors/cat.png", "vae_encoder.safetensors"),
    ],
)
def test_what_the_user_put_deeper_into_a_model_is_kept(tmp_path, place, named):
    touch(converted(tmp_path / "wan") / place)
    assert f"would be replaced, but holds {named}, which is no part" in refused(tmp_path / "wan")
    assert (tmp_path / "wan" / place).exists()


def test_a_model_with_an_image_encoder_is_replaced_like_any_other(tmp_path):
    touch(converted(tmp_path / "wan") / "clip_vision.safetensors")
    touch(tmp_path / "wan" / "tokenizer" / "spiece.model")
    fill(tmp_path / "wan")
    assert names(tmp_path / "wan") == ["deep"]


def test_a_path_lies_in_a_folder_by_its_name_or_by_a_link(tmp_path):
    folder, other = tmp_path / "wan", tmp_path / "other"
    touch(folder / "vae.safetensors")
    touch(other / "file")
    (tmp_path / "in").symlink_to(folder / "vae.safetensors")
    (folder / "out").symlink_to(other / "file")
    (tmp_path / "folder").symlink_to(folder)
    for path in (folder, folder / "vae.safetensors", tmp_path / "in", folder / "out", other / ".." / "wan"):
        assert lies_in(path, folder), path
        assert lies_in(path, tmp_path / "folder"), path
    for path in (other / "file", tmp_path, tmp_path / "absent"):
        assert not lies_in(path, folder), path
    assert not lies_in(folder, tmp_path / "absent")


def test_a_folder_with_other_files_is_refused(tmp_path):
    touch(tmp_path / "photos" / "cat.png")
    assert "is not empty and no converted model (first: cat.png)" in refused(tmp_path / "photos")
    assert names(tmp_path / "photos") == ["cat.png"]


@pytest.mark.parametrize("name", [".git", ".env"])
def test_hidden_files_of_the_user_are_files_too(tmp_path, name):
    touch(tmp_path / "project" / name)
    assert f"is not empty and no converted model (first: {name})" in refused(tmp_path / "project")
    touch(converted(tmp_path / "wan") / name)
    assert f"would be replaced, but holds {name}" in refused(tmp_path / "wan")
    assert name in names(tmp_path / "wan")


def test_what_the_system_hides_in_folders_is_replaced_with_the_model(tmp_path):
    for name in (".DS_Store", "._config.json"):
        touch(converted(tmp_path / "wan") / name)
    fill(tmp_path / "wan")
    assert names(tmp_path / "wan") == ["deep"]


def test_a_disk_is_no_name_for_a_folder():
    root = Path("/")
    with pytest.raises(CheckpointError, match="/: is the root of a disk"):
        find_unfinished(root)


def test_a_model_with_files_of_the_user_is_not_replaced(tmp_path):
    touch(converted(tmp_path / "wan") / "my_lora.safetensors")
    assert "would be replaced, but holds my_lora.safetensors" in refused(tmp_path / "wan")


def test_a_file_under_the_name_is_refused(tmp_path):
    assert "is a file, a folder is to be made there" in refused(touch(tmp_path / "wan"))


def test_a_second_run_into_the_same_folder_is_refused_and_disturbs_nothing(tmp_path):
    with staged_folder(tmp_path / "wan") as stage:
        touch(stage / "file")
        assert "another run is writing this folder" in refused(tmp_path / "wan")
        assert names(stage) == ["file"]
    assert names(tmp_path / "wan") == ["file"]


def test_a_link_is_followed_so_that_the_model_lands_on_the_disk_it_names(tmp_path):
    (tmp_path / "disk" / "wan").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "wan")
    with staged_folder(tmp_path / "link") as stage:
        assert stage.parent == tmp_path / "disk"
        touch(stage / "file")
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path / "disk" / "wan") == ["file"]


def test_the_older_model_comes_back_when_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    output = converted(tmp_path / "wan")

    def rename(self, target, real=Path.rename):
        if self.name.endswith(".unfinished"):
            raise OSError(16, "Device or resource busy")
        return real(self, target)

    monkeypatch.setattr(staging.Path, "rename", rename)
    with pytest.raises(CheckpointError, match="cannot be put in place"):
        fill(output)
    assert names(tmp_path) == ["wan"]
    open_model_folder(output)


def test_a_model_set_aside_by_a_run_that_died_comes_back(tmp_path):
    converted(tmp_path / ".wan.replaced")
    with pytest.raises(RuntimeError):
        fill(tmp_path / "wan", RuntimeError)
    assert names(tmp_path) == ["wan"]
    open_model_folder(tmp_path / "wan")


def test_a_model_already_replaced_by_a_run_that_died_is_removed(tmp_path):
    converted(tmp_path / "wan")
    touch(tmp_path / ".wan.replaced" / "older")
    with staged_folder(tmp_path / "wan") as stage:
        touch(stage / "new")
    assert names(tmp_path) == ["wan"]


def test_a_folder_that_may_not_be_made_is_reported(tmp_path):
    touch(tmp_path / "file")
    assert "cannot be made (File exists)" in refused(tmp_path / "file" / "wan")


def test_too_little_room_shows_both_numbers_and_the_advice(tmp_path):
    with pytest.raises(CheckpointError) as refused:
        check_free_space(
            tmp_path / "not" / "yet",
            69_000_000_000,
            free_bytes=lambda folder: 41_200_000_000 if folder == tmp_path else 0,
            advice="--quantize --bits 4 needs 28.6 GB.",
        )
    assert str(refused.value) == (
        f"{tmp_path}/not/yet: needs 69.69 GB, 41.20 GB free on {tmp_path}. --quantize --bits 4 needs 28.6 GB."
    )


def test_room_for_the_plan_and_one_percent_is_enough(tmp_path):
    check_free_space(tmp_path, 1000, free_bytes=lambda _: 1010)
    with pytest.raises(CheckpointError, match=r"needs 1,010 bytes, 1,009 bytes free"):
        check_free_space(tmp_path, 1000, free_bytes=lambda _: 1009)


def test_the_room_of_the_real_disk_is_asked_for(tmp_path):
    check_free_space(tmp_path, 1)
    with pytest.raises(CheckpointError, match="GB free on"):
        check_free_space(tmp_path, 10**18)
