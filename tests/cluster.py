"""A private Slurm on the local machine, for tests: its own munge, ports and folders; nothing is left when they end."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from roundhouse.schedulers.base import Output

COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol")
OF_SLURM = ("sbatch", "srun", "salloc", "squeue", "sacct", "scancel", "sinfo", "sacctmgr", "sattach")
OF_TORQUE = ("qsub", "qstat", "qdel", "qhold", "qrls", "qrerun", "qalter")
CPUS = 8  # more than the machine may have: jobs of tests mostly wait, and must not wait for one another

CONFIGURATION = """\
ClusterName={name}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,batch_sched_delay=0,defer,bf_interval=1
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
JobAcctGatherType=jobacct_gather/none
SlurmdParameters=config_overrides
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmdSpoolDir={folder}/spool
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
MessageTimeout={message_timeout}
SlurmctldTimeout=300
SlurmdTimeout=300
KillWait=30
MinJobAge={min_job_age}
MaxArraySize=50001
MaxJobCount=100000
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory_mb} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName=short Nodes=ALL MaxTime=5 State=UP
"""


class CannotStart(Exception):
    """Why no private cluster can run on the local machine."""


def run_command(argv: Sequence[str], env: dict[str, str], timeout: float = 60) -> Output:
    """One command, as the scheduler classes want it to be run."""
    try:
        done = subprocess.run(
            list(argv), check=False, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            errors="replace", timeout=timeout,
        )  # fmt: skip
    except FileNotFoundError:
        return Output(tuple(argv), None, "", "cannot be started: No such file or directory")
    except subprocess.TimeoutExpired:
        return Output(tuple(argv), None, "", f"no answer within {timeout:g} s")
    return Output(tuple(argv), done.returncode, done.stdout, done.stderr)


def wait_until(happened: Callable[[], object], what: str, seconds: float = 30) -> None:
    """Poll until `happened` is true; fail with `what` when it takes too long."""
    deadline = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(0.1)


@dataclass
class SlurmCluster:
    """A running cluster. `env` is the environment for commands and for runner.py."""

    folder: Path
    env: dict[str, str]
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)  # IDs of jobs that keep running while other tests start and end

    def run(self, argv: Sequence[str]) -> Output:
        return run_command(argv, self.env)

    def start(self, daemon: str, *options: str) -> None:
        with open(self.folder / f"{daemon}.out", "ab") as out:
            self.daemons[daemon] = subprocess.Popen(
                [daemon, *options], env=self.env, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )

    def stop(self, daemon: str) -> None:
        process = self.daemons.pop(daemon, None)
        if process is None:
            return
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def start_controller(self) -> None:
        self.start("slurmctld", "-D")
        self.wait_for(lambda: self.run(["scontrol", "ping"]).code == 0, "slurmctld")

    def stop_controller(self) -> None:
        """As in an outage: commands fail, jobs run on."""
        self.stop("slurmctld")

    def wait_for(self, happened: Callable[[], object], daemon: str) -> None:
        deadline = time.monotonic() + 30
        while not happened():
            if self.daemons[daemon].poll() is not None or time.monotonic() > deadline:
                raise CannotStart(f"{daemon} does not come up: {self.last_words(daemon)}")
            time.sleep(0.1)

    def last_words(self, daemon: str) -> str:
        logs = [self.folder / f"{daemon}.log", self.folder / f"{daemon}.out"]
        lines = [line for log in logs if log.exists() for line in log.read_text(errors="replace").splitlines()]
        return " | ".join(lines[-5:]) or "no log"

    def job_states(self) -> dict[str, str]:
        """Job ID -> state, of all that the controller still remembers."""
        listed = self.run(["squeue", "-h", "-r", "-t", "all", "-o", "%i %T"])
        return dict(line.split() for line in listed.stdout.splitlines())

    def clear(self) -> None:
        """Cancel every job that is not kept, and wait until none of them is left."""
        if jobs := self.unkept():
            self.run(["scancel", "--full", "--signal=KILL", *jobs])
            self.run(["scancel", *jobs])
        wait_until(lambda: not self.unkept(), "the queue is empty", 20)

    def unkept(self) -> set[str]:
        return {*self.run(["squeue", "-h", "-o", "%F"]).stdout.split()} - self.kept

    def shut_down(self) -> None:
        try:
            if "slurmctld" in self.daemons:
                self.kept.clear()
                self.clear()
        finally:
            for daemon in reversed(list(self.daemons)):
                self.stop(daemon)
            shutil.rmtree(self.folder, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def start_slurm(min_job_age: int = 300, message_timeout: int = 5, settings: Sequence[str] = ()) -> SlurmCluster:
    """Start munge, controller and node; return once the node takes jobs. Raises CannotStart with the reason.

    `min_job_age`: seconds for which the controller remembers a job that has ended. `message_timeout`: seconds after
    which a command gives up on a controller that does not answer; about as long on one that is down. `settings`:
    lines of slurm.conf that take the place of its own.
    """
    missing = [command for command in COMMANDS if shutil.which(command) is None]
    if missing:
        raise CannotStart(f"{', '.join(missing)} not installed (Debian: slurm-wlm, munge)")
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    os.chmod(folder, 0o755)
    for name in ("spool", "state"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.touch(0o600)
    key.write_bytes(os.urandom(128))
    megabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    configuration = folder / "slurm.conf"
    given = {line.partition("=")[0] for line in settings}
    lines = [line for line in CONFIGURATION.splitlines() if line.partition("=")[0] not in given]
    configuration.write_text(
        "\n".join([*lines, *settings, ""]).format(
            name=folder.name,
            host=socket.gethostname().split(".")[0],
            controller_port=free_port(),
            node_port=free_port(),
            user=getpass.getuser(),
            folder=folder,
            min_job_age=min_job_age,
            message_timeout=message_timeout,
            cpus=CPUS,
            memory_mb=megabytes,
        )
    )
    outside = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SBATCH_"))}
    cluster = SlurmCluster(folder, {**outside, "SLURM_CONF": str(configuration)})
    try:
        cluster.start(
            "munged", "--foreground", "--force", f"--socket={folder}/munge.socket", f"--key-file={key}",
            f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged.log", f"--seed-file={folder}/munged.seed",
        )  # fmt: skip
        cluster.wait_for((folder / "munge.socket").exists, "munged")
        cluster.start_controller()
        cluster.start("slurmd", "-D")
        cluster.wait_for(lambda: cluster.run(["sinfo", "-h", "-o", "%T"]).stdout.startswith("idle"), "slurmd")
    except BaseException:
        cluster.shut_down()
        raise
    return cluster


def torque_environment(cluster: SlurmCluster, folder: Path) -> dict[str, str]:
    """The cluster as it looks where jobs go through qsub: a PATH with every command but Slurm's own.

    scontrol stays, for it alone knows what the cluster is called.
    """
    for directory in ("/usr/bin", "/bin"):
        for command in sorted(os.listdir(directory)):
            link = folder / command
            if command not in OF_SLURM and command not in OF_TORQUE and not link.is_symlink():
                link.symlink_to(f"{directory}/{command}")
    for command in OF_TORQUE:
        # Not a link: Debian's qsub looks for sbatch next to the name by which it was called.
        wrapper = folder / command
        wrapper.write_text(f'#!/bin/sh\nexec {shutil.which(command)} "$@"\n')
        wrapper.chmod(0o755)
    elsewhere = [part for part in cluster.env["PATH"].split(":") if not (Path(part) / "sbatch").exists()]
    return {**cluster.env, "PATH": ":".join([*elsewhere, str(folder)])}


def skip_or_fail(reason: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(f"no private Slurm: {reason}")
    pytest.skip(f"no private Slurm: {reason}")


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[SlurmCluster]:
    """The private Slurm, one for all tests of a session."""
    try:
        cluster = start_slurm()
    except CannotStart as problem:
        skip_or_fail(str(problem))
        return
    try:
        yield cluster
    finally:
        cluster.shut_down()


@pytest.fixture(scope="session")
def torque_cluster(slurm_cluster: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> SlurmCluster:
    """The same cluster behind qsub, qstat and qdel with Torque's manners, and no sbatch."""
    if shutil.which("qsub") is None:
        skip_or_fail("qsub not installed (Debian: slurm-wlm-torque)")
    env = torque_environment(slurm_cluster, tmp_path_factory.mktemp("torque"))
    return SlurmCluster(slurm_cluster.folder, env)
