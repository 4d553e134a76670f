"""Whether this account is ready for rounds: environment, site, scheduler, GPUs, files, data. `toolbox/setup.sh` asks.

It changes nothing. Only to try locks and links it makes a folder in experiments/, which it removes again. Without the
packages of the environment it looks at what needs none of them.
"""

from __future__ import annotations

import argparse
import configparser
import importlib.metadata
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from roundhouse.doctor.gpu_support import Build, capability_of, driver_too_old, misfit, models_in, read_build
from roundhouse.errors import RoundhouseError
from roundhouse.files import create_exclusive
from roundhouse.model.answers import Jobs, QueryFailed
from roundhouse.names import named_files, nearest
from roundhouse.schedulers.base import Run, Scheduler
from roundhouse.schedulers.command import runner as command_runner
from roundhouse.schedulers.detect import detect
from roundhouse.schedulers.user import user_name

if TYPE_CHECKING:
    from roundhouse.config.site import Site

REPOSITORY = Path(__file__).resolve().parents[2]
COMMANDS = {
    "slurm": ("sbatch", "squeue", "scancel", "scontrol", "sinfo"),
    "pbs": ("qsub", "qstat", "qdel", "qselect"),
    "torque": ("qsub", "qstat", "qdel"),
}
LITTLE_SPACE, FEW_INODES = 10 * 2**30, 20_000  # a round of charlie's size needs about as much

# A second process that wants a lock: it exits with 9 if the lock is held.
SECOND = """\
import filelock, sys
try:
    filelock.FileLock(sys.argv[1]).acquire(timeout=0)
except filelock.Timeout:
    sys.exit(9)
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """A line of the look. `missing`: rounds cannot run without it."""

    verdict: str  # ok, missing, warning
    what: str
    text: str


def ok(what: str, text: str) -> Finding:
    return Finding("ok", what, text)


def missing(what: str, text: str) -> Finding:
    return Finding("missing", what, text)


def warning(what: str, text: str) -> Finding:
    return Finding("warning", what, text)


@dataclass
class Account:
    """What is looked at. Site and scheduler are those that runner.py would take."""

    repository: Path
    site_name: str | None

    @cached_property
    def site(self) -> Site:
        from roundhouse.config.site import load_site

        return load_site(self.site_name, self.repository / "sites", socket.gethostname())

    @cached_property
    def run(self) -> Run:
        return command_runner(self.site.command_limit)

    @cached_property
    def detected(self) -> tuple[Scheduler | None, str]:
        return detect(self.site.scheduler, user_name(), self.run)

    @cached_property
    def build(self) -> Build | None:
        found = importlib.util.find_spec("torch")  # does not load it
        return read_build(Path(found.origin).parent) if found and found.origin else None

    @property
    def experiments(self) -> Path:
        return self.repository / "experiments"


# ---------------------------------------------------------------------------------------------- the environment


def look_at_python(account: Account) -> Iterator[Finding]:
    yield ok("Python", f"{sys.version.split()[0]}, {sys.executable}")  # setup.sh has seen that it is new enough
    own = account.repository / ".venv"
    if "PYTHON" in os.environ:
        yield ok("environment", f"{sys.prefix}, as $PYTHON says")
    elif own.is_dir() and own.samefile(sys.prefix):
        yield ok("environment", str(own))
    else:
        yield missing("environment", f"there is no {own}: run toolbox/setup.sh, or make install")


def look_at_packages(account: Account) -> Iterator[Finding]:
    """Those of setup.cfg, by what is written of them: none is loaded."""
    setup = configparser.ConfigParser()
    setup.read(account.repository / "setup.cfg")
    wanted = re.findall(r"([\w-]+)>=([\d.]+)", setup.get("options", "install_requires", fallback=""))
    wrong = []
    for name, least in wanted:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{name} is not installed")
            continue
        if _numbers(version) < _numbers(least):
            wrong.append(f"{name} is {version}, and must be {least} or later")
    if wrong:
        yield missing("packages", f"{'; '.join(wrong)}: run make install")
    else:
        yield ok("packages", f"{len(wanted)} that setup.cfg names")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


def look_at_pytorch(account: Account) -> Iterator[Finding]:
    build = account.build
    if build is None:
        return  # look_at_packages says so
    if build.cuda is None:
        yield warning("PyTorch", f"{build.version} is built without CUDA: jobs will train on CPUs")
    else:
        codes = " ".join(build.architectures) or "architectures that cannot be told without loading it"
        yield ok("PyTorch", f"{build.version}, for CUDA {build.cuda}, with code for {codes}")


# ---------------------------------------------------------------------------------------------- the cluster


def look_at_site(account: Account) -> Iterator[Finding]:
    site, host = account.site, socket.gethostname()
    if account.site_name is None and site.name == "default":
        yield warning(
            "site",
            f"no site has hosts that match {host}: copy one of sites/example_*.yaml, and name its queue, project, "
            "modules and data folder. Without it jobs go to the default queue",
        )
    else:
        yield ok("site", f"{site.name}, for {host}")
    if site.python and "/" in site.python and not os.access(site.python, os.X_OK):
        yield warning("site", f"its python {site.python} is not on this host: is it on the nodes?")


def look_at_scheduler(account: Account) -> Iterator[Finding]:
    scheduler, remark = account.detected
    if scheduler is None:
        yield warning("scheduler", f"{remark or 'none here'}: rounds run on this machine itself")
        return
    absent = [command for command in COMMANDS[scheduler.kind] if shutil.which(command) is None]
    if absent:
        yield missing("scheduler", f"{scheduler.kind} has no command {', '.join(absent)} here: load its module")
        return
    identity, jobs = scheduler.identity(account.run), scheduler.query(account.run, (), ())
    for answer in (identity, jobs):
        if isinstance(answer, QueryFailed):
            yield missing("scheduler", f"{scheduler.kind} does not answer: {answer.why}")
            return
    assert isinstance(jobs, Jobs) and not isinstance(identity, QueryFailed)
    yield ok("scheduler", f"{scheduler.kind} on {identity.server} answers; you have {len(jobs.jobs)} jobs")


def look_at_queue(account: Account) -> Iterator[Finding]:
    scheduler, _ = account.detected
    if scheduler is None:
        return
    if scheduler.kind == "slurm":
        yield from look_at_partition(account.run, account.site.queue)
    elif account.site.queue is None:
        yield ok("queue", "the default one: the site names none")
    else:
        yield look_at_pbs_queue(account.run, account.site.queue)


def look_at_partition(run: Run, name: str | None) -> Iterator[Finding]:
    rows = _partitions(run)
    if rows is None:
        yield warning("queue", "sinfo does not tell which partitions there are")
        return
    mine = [row for row in rows if (row[0].rstrip("*") == name if name else row[0].endswith("*"))]
    if not mine and name:
        known = {row[0].rstrip("*") for row in rows}
        yield missing("queue", f"there is no partition {name!r}: {nearest(name, known)} Change queue in the site file")
    elif not mine:
        yield warning("queue", "the site names none, and this cluster has no default partition")
    elif all(row[1] != "up" for row in mine):
        yield warning("queue", f"partition {mine[0][0].rstrip('*')} is {mine[0][1]}: jobs will wait until it is up")
    elif all(re.match(r"down|drain|drng|fail|maint|unk", row[2]) for row in mine):
        yield warning("queue", f"no node of partition {mine[0][0].rstrip('*')} is in service now")
    else:
        yield ok("queue", f"partition {mine[0][0].rstrip('*')} is up")


def _partitions(run: Run) -> list[list[str]] | None:
    """Partition (the default one with a *), availability, state of nodes, generic resources; None: no answer."""
    answer = run(["sinfo", "-h", "-o", "%P|%a|%t|%G"])
    rows = [line.split("|") for line in answer.stdout.splitlines() if line.count("|") == 3]
    return rows if answer.code == 0 and rows else None


def look_at_pbs_queue(run: Run, name: str) -> Finding:
    answer = run(["qstat", "-Q", "-f", name])
    state = dict(re.findall(r"^\s+(enabled|started)\s*=\s*(\w+)", answer.stdout, re.MULTILINE))
    if re.search(r"unknown queue", answer.stderr, re.IGNORECASE):
        return missing("queue", f"there is no queue {name!r}: qstat -Q lists them. Change queue in the site file")
    if answer.code != 0 or not state:
        return warning("queue", f"whether there is a queue {name!r} cannot be told: {answer.complaint}")
    if set(state.values()) != {"True"}:
        told = ", ".join(f"{key} is {value}" for key, value in state.items())
        return warning("queue", f"{name}: {told}: jobs will be refused or will wait")
    return ok("queue", f"{name} is enabled and started")


def look_at_gpus(account: Account) -> Iterator[Finding]:
    """What the cluster offers, against what PyTorch is built for."""
    build = account.build
    if build is None or build.cuda is None:
        return
    yield from look_at_driver(account.run, build)
    scheduler, _ = account.detected
    if scheduler is None:
        return
    rows = (_partitions(account.run) or []) if scheduler.kind == "slurm" else []
    name = account.site.queue
    offered = [row[3] for row in rows if (row[0].rstrip("*") == name if name else row[0].endswith("*"))]
    models = sorted({model for gres in offered for model in models_in(gres)})
    yield from look_at_models(build, models, name or "the default partition" if rows else "")


def look_at_models(build: Build, models: Sequence[str], where: str) -> Iterator[Finding]:
    """`where` is the partition whose models these are ("" for a model without a name); empty: nobody tells them."""
    if where and not models:
        yield warning("GPUs", f"{where} offers none, as sinfo tells it: a job that asks for one is refused")
    for model in models:
        if problem := misfit(build, model):
            yield warning("GPUs", problem)
        elif model and build.architectures and capability_of(model):
            yield ok("GPUs", f"{where} offers {model}, which this PyTorch has code for")
    unknown = [model for model in models if not model or not build.architectures or capability_of(model) is None]
    if unknown or not where:
        named = ", ".join(model or "GPUs without a model's name" for model in unknown)
        yield warning(
            "GPUs",
            f"{f'of {named} in {where}' if named else 'which ones there are'} cannot be told from here. This PyTorch "
            f"has code for {' '.join(build.architectures) or 'an unknown list'}; in a job, compare nvidia-smi and "
            "python -c 'import torch; print(torch.cuda.get_arch_list())'",
        )


def look_at_driver(run: Run, build: Build) -> Iterator[Finding]:
    """The GPUs of this very host, where it has some."""
    if shutil.which("nvidia-smi") is None:
        return
    answer = run(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"])
    found = sorted({tuple(line.split(", ", 1)) for line in answer.stdout.splitlines() if ", " in line})
    if answer.code != 0 or not found:
        yield warning("GPUs of this host", f"cannot be told: {answer.complaint}")
        return
    for model, driver in found:
        problem = driver_too_old(build, driver) or misfit(build, model)
        yield warning("GPUs of this host", problem) if problem else ok("GPUs of this host", f"{model}, driver {driver}")


# ---------------------------------------------------------------------------------------------- files and data


def look_at_files(account: Account) -> Iterator[Finding]:
    """Tried in a folder of its own, which is removed."""
    place = account.experiments
    if not place.is_dir():
        what = "leads nowhere" if place.is_symlink() else "is not there"
        yield missing("experiments", f"{place} {what}: make the folder, or link it to one with room")
        return
    try:
        with tempfile.TemporaryDirectory(prefix=".check-", dir=place) as folder:
            yield from _try_links(Path(folder))
            yield _try_lock(Path(folder))
    except OSError as error:
        yield missing("experiments", f"{place} cannot be written: {error.strerror}")


def _try_links(folder: Path) -> Iterator[Finding]:
    first, second = (create_exclusive(folder / "one", {"nonce": nonce}) for nonce in "ab")
    if not first or second:
        yield missing("experiments", f"two could create one file in {folder.parent}: put it on another file system")
        return
    try:
        os.link(folder / "one", folder / "two")
        yield ok("experiments", "can be written; a file is created by one alone, through hard links")
    except OSError as error:
        yield warning(
            "experiments", f"no hard links ({error.strerror}): files are created exclusively by O_EXCL, which is enough"
        )


def _try_lock(folder: Path) -> Finding:
    import filelock

    words = [sys.executable, "-B", "-c", SECOND, str(folder / "lock")]
    harmless = "Passes may overlap; the record keeps order by itself"
    try:
        with filelock.FileLock(folder / "lock", timeout=5):
            held = subprocess.run(words, check=False, capture_output=True, timeout=60).returncode
    except (NotImplementedError, OSError, subprocess.TimeoutExpired) as error:
        return warning("locks", f"experiments/ has none ({error}). {harmless}")
    if held != 9:
        return warning("locks", f"a lock in experiments/ keeps no other process out. {harmless}")
    return ok("locks", "a lock in experiments/ keeps another process of this host out")


def look_at_space(account: Account) -> Iterator[Finding]:
    place = account.experiments if account.experiments.is_dir() else account.repository
    disk = os.statvfs(place)
    free = disk.f_bavail * disk.f_frsize
    told = f"{free / 2**30:.0f} GiB free for experiments/"
    if disk.f_files:
        told += f", {disk.f_favail} inodes"
    little = free < LITTLE_SPACE or (disk.f_files and disk.f_favail < FEW_INODES)
    hint = "as df says; a quota of your own may be tighter: ask quota -s"
    if little:
        yield warning("space", f"only {told}, {hint}. Link experiments/ to a folder with more room")
    else:
        yield ok("space", f"{told}, {hint}")


def look_at_data(account: Account) -> Iterator[Finding]:
    """What studies say of the configs of all rounds and their data sets: files and sizes, not every byte."""
    from roundhouse.config.round import load_round
    from roundhouse.engine.study_check import Readiness

    readiness = Readiness(account.repository, account.site)
    refused: dict[str, list[str]] = {}
    ready = []
    for file in named_files(account.repository / "rounds"):
        try:
            experiments = load_round(file.stem, file.parent).experiments
        except RoundhouseError as error:
            refused[str(error)] = [file.stem]
            continue
        refusals = dict.fromkeys(filter(None, map(readiness.refusal, experiments)))
        for refusal in refusals:
            refused.setdefault(refusal, []).append(file.stem)
        ready += [] if refusals else [file.stem]
    if ready:
        yield ok("rounds", f"all experiments can start in {', '.join(ready)}: their data sets are there")
    for refusal, names in refused.items():
        yield warning("rounds", f"in {', '.join(names)}: {refusal}")


# ---------------------------------------------------------------------------------------------- all of it

Check = Callable[[Account], Iterator[Finding]]
CHECKS: tuple[Check, ...] = (
    look_at_python, look_at_packages, look_at_pytorch, look_at_site, look_at_scheduler, look_at_queue, look_at_gpus,
    look_at_files, look_at_space, look_at_data,
)  # fmt: skip


def look(account: Account) -> Iterator[Finding]:
    """All findings. What cannot be looked at for want of a package, or for a mistake in a file, is one, told once."""
    told = set()
    for check in CHECKS:
        what = check.__name__.removeprefix("look_at_")
        try:
            yield from check(account)
        except ImportError as error:
            yield warning(what, f"cannot be looked at before the packages are there ({error})")
        except RoundhouseError as error:
            if str(error) not in told:
                yield missing(what, str(error))
            told.add(str(error))
        except OSError as error:
            yield warning(what, f"cannot be looked at: {error}")


def main(arguments: Sequence[str] | None = None) -> int:
    """0: nothing essential is missing; 1: something is."""
    parser = argparse.ArgumentParser(prog="python -m roundhouse.doctor.checks", description=str(__doc__))
    parser.add_argument("--site", metavar="NAME", help="sites/NAME.yaml; else the site whose hosts match this one")
    essential = True
    for finding in look(Account(REPOSITORY, parser.parse_args(arguments).site)):
        print(f"{finding.verdict:<8} {finding.what}: {' '.join(finding.text.split())}", flush=True)
        essential = essential and finding.verdict != "missing"
    return 0 if essential else 1


if __name__ == "__main__":
    sys.exit(main())
