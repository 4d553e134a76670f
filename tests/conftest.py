"""What the tests share: where helper modules lie, and fixtures that several files use."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

pytest_plugins = ["cluster", "fake_pbs", "rounds_for_tests", "ssh_server", "cluster_helpers"]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With several workers, a file is one worker's: its fixtures are made once. There is but one crontab."""
    from xdist.scheduler import LoadFileScheduling

    return LoadFileScheduling(config, log)
