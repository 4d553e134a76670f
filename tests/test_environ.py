"""Variables of the user's shell: which of them scheduler commands and jobs see, and who the user is."""

from __future__ import annotations

import os
import pwd
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import SlurmCluster, wait_until
from cluster_helpers import ClusterRounds, pbs_rounds
from fake_pbs import FakePBS
from hypothesis import given
from hypothesis import strategies as st
from rounds_for_tests import REPOSITORY, Bench, Rounds

from roundhouse.config.site import Site
from roundhouse.engine import job_script
from roundhouse.environ import for_git, for_local_jobs
from roundhouse.model.answers import Jobs, Submitted
from roundhouse.model.experiment import Resources
from roundhouse.schedulers.command import runner
from roundhouse.schedulers.environment import changes_commands, for_scheduler, without_effect
from roundhouse.schedulers.slurm import Slurm
from roundhouse.schedulers.user import user_name
from roundhouse.store import history, record

# Variables that select a cluster or an installation, or authenticate the user, for Slurm, PBS and Torque.
SELECT = [
    "SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_JWT", "SLURM_SACK_SOCKET", "PBS_CONF_FILE",
    "PBS_DEFAULT", "PBS_SERVER", "PBS_EXEC", "PBS_HOME", "PBS_PRIMARY", "PBS_SECONDARY", "PBS_LEAF_NAME",
    "PBS_LEAF_ROUTERS", "PBS_BATCH_SERVICE_PORT", "PBS_BATCH_SERVICE_PORT_DIS", "PBS_AUTH_METHOD", "PBS_TMPDIR",
    "PBS_PUBLIC_HOST_NAME", "PBS_ENCRYPT_METHOD", "PBSAPITIMEOUT", "KRB5CCNAME", "MUNGE_SOCKET",
    "PATH", "HOME", "LD_LIBRARY_PATH", "TZ", "FAKE_PBS", "ROUNDHOUSE_DATA",
]  # fmt: skip
STEER = [
    "SBATCH_TIMELIMIT", "SBATCH_CLUSTERS", "SBATCH_EXPORT", "SALLOC_PARTITION", "SQUEUE_STATES", "SACCT_FORMAT",
    "SCANCEL_STATE", "SCONTROL_FEDERATION", "SINFO_FORMAT", "SLURM_JOB_ID", "SLURM_JOBID", "SLURM_MEM_PER_CPU",
    "SLURM_NTASKS", "SLURM_CPU_BIND", "SLURM_TIMELIMIT", "SLURM_PARTITION", "SLURM_EXPORT_ENV", "SLURM_UMASK",
    "SLURM_BITSTR_LEN", "SLURM_TIME_FORMAT", "SLURM_HINT", "SLURM_DEBUG_FLAGS", "SLURM_EXIT_ERROR", "SLURMD_DEBUG",
    "SLURM_WORKING_CLUSTER", "PBS_DPREFIX", "PBS_O_WORKDIR", "PBS_JOBID", "PBS_JOBNAME", "PBS_JOBCOOKIE",
    "PBS_ARRAY_INDEX", "PBS_ARRAY_ID", "PBS_ARRAYID", "PBS_NODEFILE", "PBS_QUEUE", "PBS_ENVIRONMENT", "PBSDEBUG",
]  # fmt: skip


@pytest.mark.parametrize("name", SELECT)
def test_variables_that_select_the_cluster_are_kept(name: str) -> None:
    assert for_scheduler({name: "x"})[name] == "x"


@pytest.mark.parametrize("name", STEER)
def test_variables_that_change_a_command_are_removed(name: str) -> None:
    assert name not in for_scheduler({name: "x"})


NAMES = st.one_of(
    st.sampled_from([*SELECT, *STEER, "LANG", "LC_ALL", "LC_CTYPE", "LC_TIME", "LANGUAGE"]),
    st.builds(
        "{}_{}".format, st.sampled_from(["SBATCH", "SLURM", "SQUEUE", "SACCT", "PBS", "PBS_O"]), st.text("ABCDE_")
    ),
    st.text("ABCDE_", min_size=1),
)


@given(st.dictionaries(NAMES, st.text(min_size=1)))
def test_the_remaining_variables_are_unchanged_and_change_no_command(environ: dict[str, str]) -> None:
    cleaned = for_scheduler(environ)
    assert not [name for name in cleaned if changes_commands(name)]
    language = {"LANGUAGE", "LC_ALL", "LC_CTYPE", "LC_MESSAGES", "LC_TIME", "LC_NUMERIC"}
    kept = {name: value for name, value in environ.items() if not changes_commands(name) and name not in language}
    assert {name: value for name, value in cleaned.items() if name not in language} == kept
    assert for_scheduler(cleaned) == cleaned


@pytest.mark.parametrize("shell", [{"LC_ALL": "fr_FR.UTF-8"}, {"LANG": "fr_FR.UTF-8"}, {"LC_CTYPE": "fr_FR.UTF-8"}])
def test_messages_are_english_and_the_character_set_is_kept(shell: dict[str, str]) -> None:
    cleaned = for_scheduler({**shell, "LANGUAGE": "fr"})
    assert (cleaned["LC_MESSAGES"], cleaned["LC_TIME"], cleaned["LC_CTYPE"]) == ("C", "C", "fr_FR.UTF-8")
    assert not cleaned.keys() & {"LC_ALL", "LANGUAGE"}


def test_each_command_gets_the_cleaned_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SBATCH_TIMELIMIT", "1")
    monkeypatch.setenv("SLURM_CONF", "/etc/x é")
    variables = runner(60)(["env"]).stdout
    assert "SLURM_CONF=/etc/x é\n" in variables
    assert "SBATCH" not in variables


def test_a_removed_variable_is_reported_unless_the_site_file_sets_its_key() -> None:
    shell = {"SBATCH_ACCOUNT": "lab", "SBATCH_QOS": "long", "SBATCH_WAIT": "1"}
    (message,) = without_effect(shell, {"directives"})
    assert "SBATCH_ACCOUNT is set in this shell, but has no effect" in message
    assert "set 'project'" in message
    assert without_effect(shell, {"directives", "project"}) == []


# ------------------------------------------------------------------------------------------- git and jobs of this host


def test_the_variables_by_which_git_selects_a_repository_are_removed() -> None:
    asked = subprocess.run(["git", "rev-parse", "--local-env-vars"], check=True, capture_output=True, text=True)
    of_git = {*asked.stdout.split(), "GIT_NAMESPACE", "GIT_QUARANTINE_PATH"} - {"GIT_CONFIG_COUNT"}
    assert len(of_git) > 10
    kept = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_GLOBAL": "/x", "GIT_SSH_COMMAND": "ssh", "HOME": "/home/me"}
    assert for_git(dict.fromkeys(of_git, "x") | kept) == {**kept, "LC_ALL": "C"}
    assert for_local_jobs(dict.fromkeys(of_git, "x") | kept) == kept


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("PYTHONPATH", "src", True),
        ("PYTHONHOME", "/opt/python", True),
        ("PYTHONUSERBASE", "/x", True),
        ("PYTHONNOUSERSITE", "1", True),
        ("PYTHONHASHSEED", "0", True),
        ("PYTHON", "/usr/bin/python3", True),
        ("PYTHON_GIL", "0", True),
        ("PYTHONINSPECT", "1", False),
        ("PYTHONWARNINGS", "error", False),
        ("PYTHONOPTIMIZE", "2", False),
        ("PYTHONSTARTUP", "x.py", False),
        ("PYTHONIOENCODING", "ascii", False),
        ("PYTHONSAFEPATH", "1", False),
        ("PYTHONDEVMODE", "1", False),
        ("PYTHONFAULTHANDLER", "1", True),
        ("PYTHONPROFILEIMPORTTIME", "1", True),
        ("MPLBACKEND", "agg", True),
        ("MPLBACKEND", "module://matplotlib_inline.backend_inline", False),
        ("ROUNDHOUSE_DATA", "/data", True),
        ("ROUNDHOUSE_PAUSE_AT", "3", False),
        ("ROUNDHOUSE_TIME_LEFT", "60", False),
        ("ROUNDHOUSE_GRACE", "60", True),
        ("ROUNDHOUSE_NONCE", "x", False),
        ("ROUNDHOUSE_INPUT_TEACHER", "/x", False),
        ("ROUNDHOUSE_MISSING_TEACHER", "a", False),
    ],
)
def test_which_variables_of_the_shell_reach_local_jobs(name: str, value: str, kept: bool) -> None:
    assert (name in for_local_jobs({name: value})) == kept


def test_a_program_that_fails_is_failed_whatever_options_of_python_the_shell_has(rounds: Rounds) -> None:
    """PYTHONINSPECT would end it with exit code 0; PYTHONOPTIMIZE would skip what it asserts."""
    rounds.extra = {
        "PYTHONINSPECT": "1", "PYTHONWARNINGS": "error", "PYTHONOPTIMIZE": "2", "OMP_NUM_THREADS": "77",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline", "ROUNDHOUSE_PAUSE_AT": "3",
    }  # fmt: skip
    leaking = rounds.extra.keys() - {"OMP_NUM_THREADS"}
    program = (
        "import os, sys, warnings; warnings.warn('x')\n"
        "print('leaked', sorted(os.environ.keys() & sys.argv[1:]), os.environ['OMP_NUM_THREADS'] == '77')\n"
        "assert False"
    )
    rounds.write({"all": {"path": "a", "command": [sys.executable, "-c", program, *leaking]}})
    subprocess.run(rounds.argv("--round", "r"), env={**rounds.env, **rounds.extra}, stdin=subprocess.DEVNULL,
                   capture_output=True, timeout=60, check=False)  # fmt: skip
    rounds.extra.clear()
    assert rounds.causes("a") == ["error", "error"]
    log = (record.attempt_directory(rounds.directory("a"), 1) / record.LOG).read_text()
    assert "leaked [] False\n" in log
    assert "UserWarning: x" in log and log.count("AssertionError") == 1


def repository_with(folder: Path, **contents: str) -> str:
    """A git repository with these files; returns its commit."""
    folder.mkdir()
    git = ["git", "-c", "user.name=nobody", "-c", "user.email=nobody@example.org", "-C", str(folder)]
    for name, content in contents.items():
        (folder / name).write_text(content)
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "--allow-empty", "-m", "state"]):
        subprocess.run([*git, *words], check=True)
    return subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_of_a_command_is_that_of_its_program_also_when_called_from_a_git_hook(rounds: Rounds) -> None:
    mine, script = rounds.folder / "mine", "import subprocess; subprocess.run(['git', 'rev-parse', 'HEAD'], check=True)"
    head = repository_with(mine, my_train=script)
    new = mine / "new"
    edited_head = repository_with(rounds.folder / "other", train="")
    (rounds.folder / "other/train").write_text("1")
    new.write_text("")
    python = sys.executable
    rounds.write(
        {
            "clean": {"path": "clean", "command": [python, "-u", f"{mine}/my_train"]},
            "edited": {"path": "edited", "command": [python, f"{rounds.folder}/other/train"]},
            "new": {"path": "new", "command": [python, str(new)]},
            "none": {"path": "none", "command": ["sh", "-c", f"cd {mine} && true"]},
        }
    )
    hooked = rounds.folder / "hooked"
    other = repository_with(hooked)
    hook = hooked / ".git/hooks/post-commit"
    hook.parent.mkdir(exist_ok=True)
    words = " ".join(map(shlex.quote, rounds.argv("--round", "r")))
    hook.write_text(f"#!/bin/sh\nexport GIT_DIR=$PWD/.git GIT_WORK_TREE=$PWD\n{words} </dev/null\n")
    hook.chmod(0o755)
    commit = ["git", "-c", "user.name=n", "-c", "user.email=n@example.org", "commit", "--allow-empty", "-qm", "next"]
    subprocess.run(commit, cwd=hooked, env=rounds.env, check=True, capture_output=True, timeout=60)
    assert set(rounds.states().values()) == {"completed"}
    asked = subprocess.run(["git", "-C", REPOSITORY, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    own = asked.stdout.strip()
    found = {path: history.environments(rounds.directory(path))[1] for path in ("clean", "edited", "new", "none")}
    seen = {path: (one.get("repository"), one["commit"], one["edited"]) for path, one in found.items()}
    assert seen["clean"] == (str(mine), head, False)
    assert seen["edited"] == (str(rounds.folder / "other"), edited_head, True)
    assert seen["new"] == (str(mine), head, True), "git does not know the program yet"
    assert seen["none"][:2] == (None, own), "that of the directory in which it starts"
    log = (record.attempt_directory(rounds.directory("clean"), 1) / record.LOG).read_text()
    assert f"\n{own}\n" in log and other not in log, "git calls of the program are not misled either"


# ------------------------------------------------------------------------------------------------------------ the user


def test_the_user_is_that_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "another_user")
    assert user_name() == pwd.getpwuid(os.getuid()).pw_name


def test_a_user_without_an_entry_in_passwd_is_a_number() -> None:
    if os.getuid() != 0:
        pytest.skip("only root can run a process as another user")
    code = "import os; from roundhouse.schedulers.user import user_name; os.setuid(54321); print(user_name())"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    assert done.stdout == "54321\n"


def test_a_round_runs_for_a_user_without_an_entry_in_passwd(rounds: Rounds) -> None:
    """Every process of the round finds no entry for its user."""
    (rounds.folder / "sitecustomize.py").write_text(
        "import pwd\n\ndef getpwuid(uid):\n    raise KeyError(uid)\n\npwd.getpwuid = getpwuid\n"
    )
    rounds.extra = {"PYTHONPATH": str(rounds.folder), "USER": "another_user", "LOGNAME": "another_user"}
    rounds.write({"all": {"path": "a", "command": ["true"]}})
    done = rounds.call()
    assert (done.returncode, done.stderr) == (0, "")
    assert rounds.record("a").attempts[0].opened.scheduler["user"] == str(os.getuid())


def test_no_module_reads_the_user_from_the_environment() -> None:
    sources = [path for folder in ("roundhouse", "toolbox") for path in (REPOSITORY / folder).rglob("*.py")]
    assert not [path for path in sources if re.search(r"\bgetpass\.getuser\b|\bgetlogin\b|LOGNAME", path.read_text())
                and path.name != "environ.py"]  # fmt: skip


# ------------------------------------------------------------------------------------------------- with a real Slurm

USER = user_name()


@pytest.fixture
def shell(slurm_cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment of a shell on the private cluster; a test sets wrong variables in it."""
    for name in os.environ.keys() - slurm_cluster.env.keys():
        monkeypatch.delenv(name)
    for name, value in slurm_cluster.env.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.fixture
def job(slurm_cluster: SlurmCluster, tmp_path: Path) -> Iterator[Path]:
    """A script with the header of Roundhouse that writes its environment to its own folder."""
    templates = tmp_path / "templates"
    templates.mkdir()
    shutil.copy(REPOSITORY / "templates" / "slurm.sh.j2", templates)
    (templates / "body.sh.j2").write_text(
        f"env > {tmp_path}/env.new; mv {tmp_path}/env.new {tmp_path}/env; sleep 600\n"
    )
    script = tmp_path / "job.sh"
    script.write_text(
        job_script.render(
            job_script.environment(templates), "slurm", name="rhenviron", log=f"{tmp_path}/log", site=Site(),
            resources=Resources(mem_mb=100, walltime_s=600),
        )
    )  # fmt: skip
    yield script
    slurm_cluster.clear()


def submitted(script: Path) -> str:
    answer = Slurm(USER).submit(runner(60), script, "rhenviron")
    assert isinstance(answer, Submitted), answer
    return answer.job_id


@pytest.mark.cluster
def test_sbatch_variables_do_not_override_the_header(
    slurm_cluster: SlurmCluster, shell: pytest.MonkeyPatch, job: Path, tmp_path: Path
) -> None:
    wrong = {
        "TIMELIMIT": "3", "PARTITION": "short", "ARRAY_INX": "0-3", "JOB_NAME": "mine", "WAIT": "1", "EXPORT": "ALL",
        "OUTPUT": f"{tmp_path}/elsewhere", "MEM_PER_CPU": "50", "OPEN_MODE": "truncate", "SIGNAL": "KILL@10",
    }  # fmt: skip
    for name, value in wrong.items():
        shell.setenv(f"SBATCH_{name}", value)
    shell.setenv("OF_THE_SHELL", "x")
    began = time.monotonic()
    job_id = submitted(job)
    assert time.monotonic() - began < 60, "it does not wait for the job"
    shown = slurm_cluster.run(["scontrol", "show", "job", job_id]).stdout
    for expected in (
        "JobName=rhenviron",
        "TimeLimit=00:10:00",
        "Partition=main",
        f"StdOut={tmp_path}/log",
        "MinMemoryNode=100M",
    ):
        assert expected in shown
    assert "ArrayJobId" not in shown
    wait_until((tmp_path / "env").exists, "the job has begun")
    assert "OF_THE_SHELL" not in (tmp_path / "env").read_text()


@pytest.mark.cluster
def test_squeue_variables_do_not_hide_jobs(shell: pytest.MonkeyPatch, job: Path) -> None:
    wrong = {
        "STATES": "SUSPENDED", "PARTITION": "short", "USERS": "nobody", "FORMAT": "%j", "FORMAT2": "JobID", "SORT": "i",
        "NAMES": "other", "ACCOUNT": "other", "QOS": "other", "LICENSES": "other",
    }  # fmt: skip
    for name, value in wrong.items():
        shell.setenv(f"SQUEUE_{name}", value)
    shell.setenv("SLURM_TIME_FORMAT", "relative")
    shell.setenv("SLURM_BITSTR_LEN", "1")
    job_id = submitted(job)
    answer = Slurm(USER).query(runner(60), {job_id}, {"rhenviron"})
    assert isinstance(answer, Jobs)
    assert [one.state for one in answer.jobs if one.id == job_id and one.name == "rhenviron"]


@pytest.mark.cluster
def test_scancel_variables_do_not_prevent_cancelling(
    slurm_cluster: SlurmCluster, shell: pytest.MonkeyPatch, job: Path
) -> None:
    for name, value in {"STATE": "SUSPENDED", "PARTITION": "short", "NAME": "other", "INTERACTIVE": "1"}.items():
        shell.setenv(f"SCANCEL_{name}", value)
    job_id = submitted(job)
    assert Slurm(USER).cancel(runner(60), [job_id]) == []
    wait_until(lambda: slurm_cluster.job_states().get(job_id) in ("CANCELLED", "COMPLETING"), "the job is deleted")


@pytest.mark.cluster
def test_a_job_does_not_inherit_variables_of_the_job_in_which_the_runner_runs(
    slurm_cluster: SlurmCluster, shell: pytest.MonkeyPatch, job: Path, tmp_path: Path
) -> None:
    """`sbatch` passes on all SLURM_* of its environment, even with --export=NONE."""
    outer = {
        "SLURM_JOB_ID": "999999", "SLURM_JOBID": "999999", "SLURM_NTASKS": "64", "SLURM_NPROCS": "64",
        "SLURM_CPUS_PER_TASK": "9", "SLURM_MEM_PER_CPU": "50", "SLURM_MEM_PER_GPU": "50",
        "SLURM_CPU_BIND": "mask_cpu:0x8",
        "SLURM_NTASKS_PER_NODE": "8", "SLURM_TIMELIMIT": "1", "SLURM_PARTITION": "short", "SLURM_ARRAY_TASK_ID": "7",
        "SLURM_EXPORT_ENV": "NONE", "SLURM_STEP_ID": "3", "SLURM_PROCID": "5", "SLURM_HINT": "nomultithread",
    }  # fmt: skip
    for name, value in outer.items():
        shell.setenv(name, value)
    job_id = submitted(job)
    wait_until((tmp_path / "env").exists, "the job has begun")
    seen = dict(line.partition("=")[::2] for line in (tmp_path / "env").read_text().splitlines())
    expected = {"SLURM_JOB_ID": job_id, "SLURM_NTASKS": "1", "SLURM_CPUS_PER_TASK": "1", "SLURM_MEM_PER_NODE": "100"}
    assert {name: seen.get(name) for name in expected} == expected
    gone = {"SLURM_MEM_PER_CPU", "SLURM_MEM_PER_GPU", "SLURM_CPU_BIND", "SLURM_NTASKS_PER_NODE", "SLURM_ARRAY_TASK_ID"}
    assert not seen.keys() & {*gone, "SLURM_TIMELIMIT", "SLURM_PARTITION", "SLURM_STEP_ID", "SLURM_HINT"}


@pytest.mark.cluster
def test_an_inner_srun_works_if_the_runner_itself_runs_in_a_job(
    slurm_cluster: SlurmCluster, slurm: ClusterRounds
) -> None:
    """Experiments on the local machine inherit the job's variables, and their record is not confused by them."""
    slurm.write({"all": {"path": "a", "command": ["bash", "-c", f"srun --overlap -n1 env > {slurm.notes}/env"]}})
    words = " ".join(map(shlex.quote, slurm.argv("--round", "r", "--scheduler", "local")))
    script = slurm.folder / "outer.sh"
    script.write_text(
        f"#!/bin/bash\n#SBATCH --array=3\n#SBATCH --mem=200\n#SBATCH --output={slurm.folder}/outer.log\n"
        "export SLURM_MEM_PER_CPU=50 SLURM_CPU_BIND=mask_cpu:0x800000 SLURM_EXPORT_ENV=NONE\n"
        f"{words}\n"
    )
    env = {**slurm.env, **slurm_cluster.env, **slurm.extra}
    subprocess.run(["sbatch", script], env=env, check=True, capture_output=True)
    log = slurm.folder / "outer.log"
    wait_until(lambda: log.exists() and "1 experiment" in log.read_text(), "the round ends", 60)
    newest = slurm.record("a").newest
    assert newest is not None
    assert newest.job_id == newest.opened.token, "the job is a local one, whatever SLURM_JOB_ID says"
    seen = dict(line.partition("=")[::2] for line in slurm.lines("env"))
    assert seen["SLURM_ARRAY_TASK_ID"] == "3"
    assert seen["ROUNDHOUSE_ATTEMPT"] == "1"
    assert "SLURM_MEM_PER_CPU" not in seen


# ------------------------------------------------------------------------------------------------ PBS and Torque


def test_another_directive_prefix_in_the_shell_does_not_change_jobs(fake_pbs: FakePBS, tmp_path: Path) -> None:
    with pbs_rounds(fake_pbs, tmp_path) as rounds:
        rounds.extra |= {"PBS_DPREFIX": "#LAB", "PBS_JOBID": "9.outer", "PBS_ARRAY_INDEX": "7"}
        rounds.write({"all": {"path": "a", "command": ["true"]}})
        rounds.pass_until_done()
        (job,) = fake_pbs.jobs().values()
        newest = rounds.record("a").newest
        assert newest is not None
        assert job["Job_Name"] == newest.opened.token


@pytest.mark.cluster
def test_sbatch_variables_do_not_reach_a_job_through_qsub(slurm_cluster: SlurmCluster, torque: ClusterRounds) -> None:
    torque.extra |= {"SBATCH_TIMELIMIT": "3", "SBATCH_JOB_NAME": "mine", "SLURM_MEM_PER_CPU": "50"}
    torque.write_steps("a")
    torque.call()
    torque.wait_for_step_3("a")
    newest = torque.record("a").newest
    assert newest is not None
    shown = slurm_cluster.run(["scontrol", "show", "job", str(newest.job_id)]).stdout
    assert "TimeLimit=01:00:00" in shown
    assert f"JobName={newest.opened.token}" in shown


# ----------------------------------------------------------------------------------------------- inside a job


def test_a_job_script_removes_variables_that_an_inner_srun_would_read_as_options(bench: Bench) -> None:
    bench.train("env")
    bench.open()
    bench.extra |= {
        "SLURM_JOB_ID": "7", "SLURM_CPU_BIND": "x", "SLURM_CPU_BIND_LIST": "x", "SLURM_MEM_BIND_TYPE": "x",
        "SLURM_MEM_PER_NODE": "100", "SLURM_MEM_PER_CPU": "50", "SLURM_MEM_PER_GPU": "50", "SLURM_EXPORT_ENV": "NONE",
        "SLURM_NTASKS": "4", "SLURM_JOB_NODELIST": "n[1-2]",
    }  # fmt: skip
    assert bench.run()[0] == 0
    seen = dict(line.partition("=")[::2] for line in bench.log().splitlines() if line.startswith("SLURM_"))
    assert seen == {
        "SLURM_JOB_ID": "7", "SLURM_MEM_PER_NODE": "100", "SLURM_EXPORT_ENV": "ALL", "SLURM_NTASKS": "4",
        "SLURM_JOB_NODELIST": "n[1-2]",
    }  # fmt: skip


def test_the_memory_per_core_of_a_job_is_kept(bench: Bench) -> None:
    bench.train("env")
    bench.open()
    bench.extra |= {"SLURM_JOB_ID": "7", "SLURM_MEM_PER_CPU": "50"}
    assert bench.run()[0] == 0
    assert "SLURM_MEM_PER_CPU=50\n" in bench.log()
