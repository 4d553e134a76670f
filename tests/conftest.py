"""What the tests share: the folder of helper modules, and fixtures that several files use."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from flood_tiny import Sets

sys.path.insert(0, str(Path(__file__).parent))

pytest_plugins = ["cluster", "fake_pbs", "rounds_for_tests", "ssh_server", "cluster_helpers"]

# They take half a minute. A file is one worker's: one that began such a file last would end long after the others.
LONG = (
    "test_chaos.py",
    "test_chpc_train.py",
    "test_local_rounds.py",
    "test_allocations.py",
    "test_processes_rounds.py",
    "test_pbs_rounds.py",
    "test_charlie_suite.py",
    "test_cluster_rounds.py",
    "test_arrays.py",
    "test_exact_resume.py",
    "test_flow_exact_resume.py",
    "test_flood_exact_resume.py",
    "test_genegan_run.py",
    "test_flood_run.py",
    "test_flood_learning.py",
    "test_code_copy_rounds.py",
    "test_state_machine.py",
    "test_pull.py",
    "test_arrays_pbs.py",
    "test_distillation.py",
    "test_halving.py",
    "test_gpu_check.py",
    "test_chpc_train_whole.py",
    "test_run_resume.py",
    "test_many_runners.py",
    "test_preload.py",
    "test_charlie.py",
    "test_retry_rounds.py",
    "test_selection.py",
    "test_plots.py",
    "test_old_records.py",
)

# A background job of a shell ignores SIGINT and SIGQUIT, and one of nohup SIGHUP; so would all processes of the tests.
for number, handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long come first, the longest before all others."""
    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONG)))


@pytest.fixture(scope="session")
def flood_sets(tmp_path_factory: pytest.TempPathFactory) -> Sets:
    """Simulations and samples of both sets of the study flood, tiny. Tests only read them."""
    from flood_tiny import make_sets

    return make_sets(tmp_path_factory.mktemp("flood"))


@pytest.fixture(scope="session")
def flood_trained(flood_sets: Sets, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny training of the study flood on the small set. Tests only read it."""
    from flood_tiny import run

    place = tmp_path_factory.mktemp("flood_trained")
    assert run(place, "training", flood_sets.small).finished
    return place
