"""A plugin that writes how long each test took, with its set-up."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest


class _Seconds:
    def __init__(self) -> None:
        self.by_test: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.passed:
            self.by_test[report.nodeid] += report.duration

    def pytest_sessionfinish(self) -> None:
        Path(os.environ["SECONDS_FILE"]).write_text(json.dumps(self.by_test))


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # the process that hears of all tests
        config.pluginmanager.register(_Seconds())
