"""From a round file to local results, plots and a report by chpc_train.sh alone: sshd, rsync, Slurm."""

from __future__ import annotations

import getpass
import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from cluster import SlurmCluster
from rounds_for_tests import MARK, REPOSITORY, Marked, fill, small_disk, wait_for
from ssh_server import SshServer, require_ssh

pytestmark = [pytest.mark.cluster, pytest.mark.ssh]

CODE = ("runner.py", "train.py", "roundhouse", "studies", "templates", "analysis", "toolbox")

# Two epochs of training. With "in two", the first attempt is preempted after one epoch, and asks to be started again.
PROGRAM = """\
import json, os, sys
place, whole = os.environ["ROUNDHOUSE_DIRECTORY"], sys.argv[1] == "whole" or bool(os.environ["ROUNDHOUSE_EARLIER"])
epochs = [{"epoch": n, "stage": "train", "val_accuracy": 0.2 * n} for n in (1, 2)][: 2 if whole else 1]
metrics = {"metric": "val_accuracy", "best": {"epoch": epochs[-1]["epoch"], "val_accuracy": epochs[-1]["val_accuracy"]},
           "epochs": epochs, "final": {"test_accuracy": 0.4}}
json.dump(metrics, open(place + "/metrics.json", "w"))
open(place + "/best.pth", "w").write("weights")
sys.exit(0 if whole else 75)
"""


class Both(Marked):
    """A local checkout and one on the cluster, with the same round."""

    def __init__(self, folder: Path, server: SshServer) -> None:
        super().__init__()
        self.home, self.there = folder / "at home", folder / "on the cluster"
        for place in (self.home, self.there):
            check_out(place)
        self.write_round()
        words = {"scheduler": "slurm", "hosts": [socket.gethostname()], "environment": {MARK: self.mark}}
        (self.there / "sites/test.yaml").write_text(yaml.safe_dump(words))
        settings = server.set(REMOTE=str(self.there), ROUNDS="r", CHECKPOINTS="best", PYTHON=sys.executable)
        shutil.copy(settings, self.home / "toolbox/cluster.env")

    def write_round(self) -> None:
        (self.there / "learn.py").write_text(PROGRAM)
        command = [sys.executable, "-SE", str(self.there / "learn.py")]
        first = {"path": "first $(touch pwned)/it's", "command": [*command, "in two"]}
        second = {"path": "second", "command": [*command, "whole"], "after": ["first"]}
        text = yaml.safe_dump({"round": "r", "experiments": {"first": first, "second": second}}, sort_keys=False)
        for place in (self.home, self.there):
            (place / "rounds/r.yaml").write_text(text)

    @property
    def experiments(self) -> Path:
        return self.home / "experiments/r"

    def call(self, command: str) -> subprocess.CompletedProcess[str]:
        """chpc_train.sh in cron's poor environment."""
        poor = {"HOME": str(self.home.parent), "PATH": "/usr/bin:/bin", "LOGNAME": getpass.getuser()}
        return subprocess.run(
            [self.home / "toolbox/chpc_train.sh", command], check=False, env=poor,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    def states(self) -> dict[str, str]:
        """The states in the local records."""
        files = self.experiments.glob("**/status.json")
        return {str(file.parent.relative_to(self.experiments)): json.loads(file.read_text())["state"] for file in files}


def check_out(folder: Path) -> None:
    """The repository's code, without anything that was run in it."""
    for name in ("rounds", "sites", "experiments"):
        (folder / name).mkdir(parents=True)
    skipped = shutil.ignore_patterns("experiment_*", "logs", "cluster.env")  # compiled code is copied, to save time
    for name in CODE:
        if (REPOSITORY / name).is_dir():
            shutil.copytree(REPOSITORY / name, folder / name, ignore=skipped)
        else:
            shutil.copy(REPOSITORY / name, folder)
    (folder / ".venv").symlink_to(sys.prefix)


@pytest.fixture
def both(slurm_cluster: SlurmCluster, tmp_path: Path) -> Iterator[Both]:
    require_ssh()
    # A login shell there has the cluster's settings, and no variable of the environment of the tests.
    server = SshServer(tmp_path / "sshd", environment={"SLURM_CONF": slurm_cluster.env["SLURM_CONF"]})
    made = Both(tmp_path, server)
    try:
        server.start()
        yield made
    finally:
        server.shut_down()
        slurm_cluster.clear()
        made.kill()


def test_a_round_is_queued_resumed_completed_and_reported_by_chpc_train_alone(
    both: Both, slurm_cluster: SlurmCluster
) -> None:
    runs: list[str] = []

    def run_once() -> bool:
        wait_for(lambda: not slurm_cluster.run(["squeue", "-h"]).stdout.strip(), "no job is left in the queue")
        done = both.call("now")
        runs.append(done.stdout + done.stderr)
        assert done.returncode == 0, done.stdout + done.stderr
        return "queue r: ok" in done.stdout and "completed. " in done.stdout

    wait_for(run_once, "the round is completed", 120)
    last = both.call("cron")
    assert (last.returncode, last.stdout, last.stderr) == (0, "", ""), "its outcome is that of the last run"

    first = "first $(touch pwned)/it's"
    assert both.states() == {first: "completed", "second": "completed"}
    assert "work remains" in runs[0] and "plots: ok" in runs[0]
    for path, causes in ((first, ["preempted", "completed"]), ("second", ["completed"])):
        assert json.loads((both.experiments / path / "metrics.json").read_text())["final"] == {"test_accuracy": 0.4}
        assert (both.experiments / path / "best.pth").read_text() == "weights"
        attempts = json.loads((both.experiments / path / "history.json").read_text())["attempts"]
        assert [one["result"]["cause"] for one in attempts] == causes
    results = both.home / "analysis/experiment_r"
    assert len(list(results.glob("plots/curves/*.png"))) == 2
    page = (results / "report/index.html").read_text()
    assert "second" in page and "completed" in page
    log = (both.home / "toolbox/logs/chpc_train.log").read_text()
    assert len(re.findall(r"(?m) end: ok, ", log)) == len(runs) + 1
    assert not list(both.home.parent.glob("**/pwned"))


def test_a_full_disk_on_the_cluster_is_reported_and_loses_nothing(both: Both, slurm_cluster: SlurmCluster) -> None:
    with small_disk(both.there / "experiments", "2m"):
        ballast = fill(both.there / "experiments")
        full = both.call("now")
        assert full.returncode == 1, full.stdout + full.stderr
        assert "queue r: failed" in full.stdout and "nothing is lost" in full.stdout
        assert not slurm_cluster.run(["squeue", "-h"]).stdout.strip()
        ballast.unlink()

        def run_once() -> bool:
            wait_for(lambda: not slurm_cluster.run(["squeue", "-h"]).stdout.strip(), "no job is left in the queue")
            return both.call("now").returncode == 0 and set(both.states().values()) == {"completed"}

        wait_for(run_once, "the round is completed", 120)
        assert len(both.states()) == 2
