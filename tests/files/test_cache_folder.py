"""The folder of what can be made again is the one that the environment names."""

from pathlib import Path

import pytest

from mlx_video.errors import ConfigError
from mlx_video.files.cache_folder import cache_folder


def test_the_environment_names_the_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("XDG_CACHE_HOME", "~/kept")
    monkeypatch.delenv("MLX_VIDEO_CACHE", raising=False)
    assert cache_folder() == Path("/home/me/kept/mlx-video")
    monkeypatch.setenv("MLX_VIDEO_CACHE", "~/own")
    assert cache_folder() == Path("/home/me/own")


@pytest.mark.parametrize("variable", ["MLX_VIDEO_CACHE", "XDG_CACHE_HOME"])
def test_the_home_of_an_unknown_user_is_refused_by_the_variable(monkeypatch, variable):
    monkeypatch.delenv("MLX_VIDEO_CACHE", raising=False)
    monkeypatch.setenv(variable, "~nobody-of-this-name/cache")
    with pytest.raises(ConfigError, match=f"environment variable {variable}: ~nobody.* unknown user"):
        cache_folder()
