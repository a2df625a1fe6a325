"""What every test gets: a cache folder of the test run's own, never the user's."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True, scope="session")
def _own_cache_folder(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLX_VIDEO_CACHE", str(tmp_path_factory.mktemp("user-cache")))
        yield
