"""What the tests share: where helper modules lie, and fixtures that several files use."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

pytest_plugins = ["cluster", "fake_pbs", "rounds_for_tests", "ssh_server", "cluster_helpers"]
