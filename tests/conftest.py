"""What the tests share: where helper modules lie, and fixtures that several files use."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

pytest_plugins = ["cluster", "fake_pbs", "rounds_for_tests", "ssh_server", "cluster_helpers"]


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several workers, a file is one worker's: its fixtures are made once. There is but one crontab."""
    for item in items:
        alone = "crontab" if item.get_closest_marker("cron") else item.path.name
        item.add_marker(pytest.mark.xdist_group(alone))
