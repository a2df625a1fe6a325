"""What a folder in the cache of huggingface_hub is called."""

from pathlib import Path

from mlx_video.files.hub_cache import published_name


def test_a_folder_in_the_cache_is_called_by_its_repository(tmp_path):
    snapshot = tmp_path / "models--FastVideo--FastWan2.2--mlx" / "snapshots" / "38ec498"
    snapshot.mkdir(parents=True)
    assert published_name(snapshot) == "FastVideo/FastWan2.2--mlx"
    (tmp_path / "link").symlink_to(snapshot)
    assert published_name(tmp_path / "link") == "FastVideo/FastWan2.2--mlx"


def test_a_folder_in_a_repository_is_called_by_both(tmp_path):
    folder = tmp_path / "models--lightx2v--Wan2.2-Lightning" / "snapshots" / "38ec498" / "i2v" / "high"
    folder.mkdir(parents=True)
    assert published_name(folder) == "lightx2v/Wan2.2-Lightning/i2v/high"
    other = tmp_path / "snapshots" / "38ec498" / "high"
    other.mkdir(parents=True)
    assert published_name(other) == "high"


def test_a_file_in_the_cache_keeps_its_own_name(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "0a1b").write_bytes(b"")
    link = tmp_path / "models--a--b" / "snapshots" / "38ec498" / "style.safetensors"
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "blobs" / "0a1b")
    assert published_name(link) == "style.safetensors"


def test_another_folder_is_called_by_its_own_name(tmp_path, monkeypatch):
    (tmp_path / "FastWan").mkdir()
    monkeypatch.chdir(tmp_path / "FastWan")
    assert published_name(tmp_path / "FastWan") == published_name(Path(".")) == "FastWan"
