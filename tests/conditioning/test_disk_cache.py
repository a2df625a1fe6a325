"""Encoded prompts come back bit for bit; whatever is wrong with a file, the prompt is encoded anew."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_video.conditioning import disk_cache
from mlx_video.conditioning.disk_cache import PromptCache, describe_encoder, open_prompt_cache
from mlx_video.config import TextEncoderConfig
from mlx_video.errors import MediaError
from mlx_video.files.cache_folder import cache_folder
from mlx_video.models.elementwise import enable_compile

NUMBERS = [5, 3, 8, 1]
DIM = 16


def draw(seed: int = 0, tokens: int = len(NUMBERS), dtype: mx.Dtype = mx.float32) -> mx.array:
    return mx.random.normal((tokens, DIM), key=mx.random.key(seed)).astype(dtype)


@pytest.fixture
def cache(tmp_path: Path) -> PromptCache:
    return PromptCache(tmp_path / "prompts", "an encoder", DIM)


def files(cache: PromptCache) -> set[str]:
    return {path.name for path in cache.folder.iterdir()}


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
def test_features_come_back_as_they_were_stored(cache: PromptCache, dtype: mx.Dtype):
    features = draw(dtype=dtype)
    assert cache.load(NUMBERS) is None
    cache.store(NUMBERS, features)
    found = cache.load(NUMBERS)
    assert found.dtype == dtype
    assert mx.array_equal(found, features).item()
    assert files(cache) == {cache.path_of(NUMBERS).name}


def test_other_tokens_and_another_encoder_find_nothing(cache: PromptCache):
    cache.store(NUMBERS, draw())
    assert cache.load([*NUMBERS, 1]) is None
    assert cache.load([5, 38, 1]) is None
    assert replace(cache, encoder="another").load(NUMBERS) is None


def test_features_of_another_width_are_not_used(cache: PromptCache):
    cache.store(NUMBERS, draw())
    assert replace(cache, dim=DIM // 2).load(NUMBERS) is None


def cut(data: bytes) -> bytes:
    return data[:-40]


def test_the_cache_takes_what_the_readme_says(tmp_path: Path):
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    megabytes = re.search(r"at most (\d+) MB", readme)
    assert megabytes is not None
    assert PromptCache(tmp_path, "encoder", 8).max_bytes == int(megabytes[1]) * 10**6


def flip_a_bit(data: bytes) -> bytes:
    return data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]


@pytest.mark.parametrize("damage", [cut, flip_a_bit, lambda data: b"", lambda data: b"\0" * len(data)])
def test_a_damaged_file_counts_as_none_and_is_replaced(cache: PromptCache, damage):
    cache.store(NUMBERS, draw())
    path = cache.path_of(NUMBERS)
    path.write_bytes(damage(path.read_bytes()))
    assert cache.load(NUMBERS) is None
    cache.store(NUMBERS, draw(1))
    assert mx.array_equal(cache.load(NUMBERS), draw(1)).item()


def test_a_file_of_something_else_counts_as_none(cache: PromptCache):
    cache.folder.mkdir()
    mx.save_safetensors(str(cache.path_of(NUMBERS)), {"latents": draw()})
    assert cache.load(NUMBERS) is None


def test_a_folder_under_the_name_counts_as_none(cache: PromptCache):
    cache.path_of(NUMBERS).mkdir(parents=True)
    assert cache.load(NUMBERS) is None


def test_beyond_the_limit_the_files_not_used_for_longest_go(cache: PromptCache):
    for seed in range(4):
        cache.store([seed, 1], draw(seed, tokens=2))
        os.utime(cache.path_of([seed, 1]), (seed, seed))
    assert cache.load([0, 1]) is not None  # is now the one used last
    size = cache.path_of([0, 1]).stat().st_size
    replace(cache, max_bytes=3 * size).store([4, 1], draw(4, tokens=2))
    left = {seed for seed in range(5) if cache.load([seed, 1]) is not None}
    assert left == {0, 3, 4}


def test_what_a_killed_program_left_is_removed_later_and_what_another_writes_is_not(cache: PromptCache):
    cache.folder.mkdir()
    left, being_written = (cache.folder / f".partial-{name}.safetensors" for name in ("old", "new"))
    for path in (left, being_written):
        path.write_bytes(b"half")
    os.utime(left, (time.time() - 86_400,) * 2)
    cache.store(NUMBERS, draw())
    assert files(cache) == {cache.path_of(NUMBERS).name, being_written.name}


KILLED_WHILE_WRITING = """
import os, sys
from pathlib import Path
import mlx.core as mx
from mlx_video.conditioning import disk_cache
save = mx.save_safetensors
def save_and_die(*rest):
    save(*rest)
    os._exit(9)
mx.save_safetensors = save_and_die
disk_cache.PromptCache(Path(sys.argv[1]), "an encoder", 16).store([5, 3, 8, 1], mx.zeros((4, 16)))
"""


def test_a_program_killed_while_writing_leaves_no_file_under_the_final_name(cache: PromptCache):
    done = subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING, str(cache.folder)], check=False)
    assert done.returncode == 9
    assert [name[:9] for name in files(cache)] == [".partial-"]
    assert cache.load(NUMBERS) is None


STORES_AGAIN_AND_AGAIN = """
import sys
from pathlib import Path
import mlx.core as mx
from mlx_video.conditioning.disk_cache import PromptCache
cache = PromptCache(Path(sys.argv[1]), "an encoder", 16)
for _ in range(30):
    cache.store([5, 3, 8, 1], mx.ones((4, 16)))
"""


def test_programs_that_write_at_the_same_time_leave_one_whole_file(cache: PromptCache):
    command = [sys.executable, "-c", STORES_AGAIN_AND_AGAIN, str(cache.folder)]
    writers = [subprocess.Popen(command) for _ in range(2)]
    was_found = False
    while any(writer.poll() is None for writer in writers):
        is_found = cache.load(NUMBERS) is not None
        assert is_found or not was_found
        was_found = is_found
        time.sleep(0.001)
    assert [writer.returncode for writer in writers] == [0, 0]
    assert files(cache) == {cache.path_of(NUMBERS).name}
    assert mx.array_equal(cache.load(NUMBERS), mx.ones((4, DIM))).item()


def test_a_folder_that_takes_no_files_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    cache = PromptCache(tmp_path / "file" / "prompts", "an encoder", DIM)
    assert cache.load(NUMBERS) is None
    with pytest.raises(MediaError, match=r"prompts/\w+\.safetensors: cannot be written"):
        cache.store(NUMBERS, draw())


def test_a_full_disk_is_named(cache: PromptCache, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise RuntimeError("[save_safetensors] Failed to write")

    monkeypatch.setattr(disk_cache.mx, "save_safetensors", fail)
    with pytest.raises(MediaError, match="Check the free space"):
        cache.store(NUMBERS, draw())
    assert files(cache) == set()


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "encoder.safetensors"
    mx.save_safetensors(str(path), {"norm.weight": mx.ones(8), "token_embedding.weight": draw()})
    return path


CONFIG = TextEncoderConfig(vocab_size=8, dim=DIM, dim_attn=DIM, dim_ffn=DIM, num_heads=2, num_layers=1)


def test_an_encoder_is_known_by_its_weights(weights: Path):
    first = describe_encoder(weights, CONFIG)
    assert describe_encoder(weights, CONFIG) == first
    status = weights.stat()
    mx.save_safetensors(str(weights), {"norm.weight": 2 * mx.ones(8), "token_embedding.weight": draw()})
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert describe_encoder(weights, CONFIG) != first


def test_a_later_change_of_the_file_counts_even_where_no_sample_shows_it(weights: Path):
    first = describe_encoder(weights, CONFIG)
    os.utime(weights, (1, 1))
    assert describe_encoder(weights, CONFIG) != first


def test_an_encoder_is_known_by_its_sizes_and_by_how_the_device_computes(weights: Path, monkeypatch):
    found = {describe_encoder(weights, CONFIG), describe_encoder(weights, replace(CONFIG, num_heads=4))}
    enable_compile(True)
    found.add(describe_encoder(weights, CONFIG))
    enable_compile(None)
    monkeypatch.setattr(disk_cache, "on_gpu", lambda: True)
    found.add(describe_encoder(weights, CONFIG))
    monkeypatch.setattr(disk_cache, "__version__", "0.0.0")
    found.add(describe_encoder(weights, CONFIG))
    assert len(found) == 5


def test_the_cache_lies_in_the_users_cache_folder(weights: Path, monkeypatch, tmp_path: Path):
    monkeypatch.setenv("MLX_VIDEO_CACHE", str(tmp_path / "mine"))
    cache = open_prompt_cache(weights, CONFIG)
    cache.store(NUMBERS, draw())
    assert cache.path_of(NUMBERS).parent == tmp_path / "mine" / "prompts"
    assert open_prompt_cache(weights, CONFIG).load(NUMBERS) is not None


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {}, "~/.cache/mlx-video"),
        ("darwin", {}, "~/Library/Caches/mlx-video"),
        ("darwin", {"XDG_CACHE_HOME": "/var/cache"}, "/var/cache/mlx-video"),
        ("linux", {"XDG_CACHE_HOME": "/var/cache", "MLX_VIDEO_CACHE": "~/mine"}, "~/mine"),
    ],
)
def test_the_cache_folder_follows_system_and_variables(monkeypatch, platform, variables, expected):
    monkeypatch.setattr(sys, "platform", platform)
    for name in ("MLX_VIDEO_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(expected).expanduser()
