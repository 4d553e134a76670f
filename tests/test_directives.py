"""Directives of a site file: which options only Roundhouse sets, in every spelling."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from cluster import SlurmCluster
from hypothesis import given
from hypothesis import strategies as st
from rounds_for_tests import fake_command

from roundhouse.config import directives
from roundhouse.config.site import load_site
from roundhouse.errors import RoundhouseError

# One line each, and a word that the message must contain.
RESERVED_IN_SLURM = {
    "--time=1:00:00": "walltime", "--time 10": "walltime", "-t 10": "walltime", "-t10": "walltime",
    "--tim=5": "walltime",
    "--time-min=5": "walltime", "--array=0-3": "array", "-a 0-3": "array", "--job-name=mine": "by name",
    "-Jmine": "by name", "--output=/tmp/x": "log", "-o x": "log", "--err=x": "log", "--open-mode=truncate": "log",
    "--clusters=other": "SLURM_CLUSTERS", "-M other": "SLURM_CLUSTERS", "--cluster=x": "SLURM_CLUSTERS",
    "--wait": "--watch", "-W": "--watch", "--hold": "held", "-H": "held", "--ho": "held",
    "--signal=B:TERM@60": "2 minutes", "--sig=TERM": "2 minutes", "--dependency=singleton": "completed",
    "-d afterok:1": "completed", "--comment=a#b -t 5": "walltime", "--partition=gpu": "queue",
    "-pgpu": "queue", "--test-only": "submitted",
    "--constraint=a100 --time=5": "walltime", "-C a100 -t 5": "walltime", "'--time=5'": "walltime",
    '-t "5"': "walltime", "--uid=other": "your user", "--wrap=true": "submitted", "hetjob": "one job",
}  # fmt: skip
FREE_IN_SLURM = [
    "--constraint=a100", "-C a100", "--gres=gpu:a100:1", "--qos=long", "-q long", "--mail-type=NONE", "--export=ALL",
    "--no-requeue", "--requeue", "--mem-per-cpu=4G", "--nodelist=node1", "-w time", "--exclude=n1", "-x n1",
    "--account=lab", "-A lab", "--reservation=x", "--begin=now+1hour", "--comment='-t 5 --time'", "-k", "-koff -s",
    "--nice -5", "--wait-all-nodes=1", "--exclusive", "-C a100 # --time=5", "-C a100 # it's",
    "--tmp=10G", "--cpus-per-gpu=4",
 "--threads-per-core=1",
]  # fmt: skip
RESERVED_IN_PBS = {
    "-N mine": "by name", "-Nmine": "by name", "-J 0-3": "array", "-t 0-3": "array", "-o /tmp/x": "log",
    "-e x": "log", "-j n": "log", "-k oe": "log", "-q gpu": "queue", "-h": "held", "-r n": "restarts",
    "-S /bin/sh": "bash",
    "-z": "submitted", "-I": "submitted", "-l walltime=1:00:00": "walltime", "-lwalltime=5": "walltime",
    "-l place=excl,walltime=5": "walltime", "-W depend=afterok:1": "completed", "-Wdepend=afterok:1": "completed",
    "-W block=true": "--watch", "-W umask=077": "umask", "-W group_list=lab,depend=after:1": "completed",
    "-m n -N mine": "by name", "-Vh": "held", "-u other": "your user", "-R oe": "log",
}  # fmt: skip
FREE_IN_PBS = [
    "-m n", "-M me@x.org", "-l place=excl", "-l select=1:ncpus=4:gpu_type=a100", "-l mem=4gb,pmem=1gb", "-p 10",
    "-P lab", "-A lab", "-W group_list=lab", "-V", "-v A=1", "-a 1200", "-c n", "-W x=walltime", "-l software=walltime",
    "-m n # -N mine",
]  # fmt: skip


@pytest.mark.parametrize("line", RESERVED_IN_SLURM)
def test_a_reserved_option_of_slurm_is_refused(line: str) -> None:
    (why,) = directives.refused(line, "slurm", False)
    assert "only Roundhouse sets" in why
    assert RESERVED_IN_SLURM[line] in why


@pytest.mark.parametrize("line", RESERVED_IN_PBS)
def test_a_reserved_option_of_pbs_is_refused(line: str) -> None:
    (why,) = directives.refused(line, "pbs", False)
    assert "only Roundhouse sets" in why
    assert RESERVED_IN_PBS[line] in why


@pytest.mark.parametrize(
    ("kind", "line"), [*(("slurm", one) for one in FREE_IN_SLURM), *(("pbs", one) for one in FREE_IN_PBS)]
)
def test_a_site_can_set_all_other_options(kind: str, line: str) -> None:
    assert not [*directives.refused(line, kind, False)]


@pytest.mark.parametrize(("kind", "line"), [("slurm", "-A lab"), ("slurm", "--account=lab"), ("pbs", "-P lab")])
def test_the_project_is_set_in_one_place(kind: str, line: str) -> None:
    assert not [*directives.refused(line, kind, False)]
    (why,) = directives.refused(line, kind, True)
    assert "write `project`" in why


def test_combined_flags_are_read_one_by_one() -> None:
    assert len([*directives.refused("-Ht5", "slurm", False)]) == 2
    assert len([*directives.refused("-Qt5", "slurm", False)]) == 1


def test_a_line_with_an_unclosed_quote_is_refused() -> None:
    assert [*directives.refused("--comment='it", "slurm", False)] == [
        '"--comment=\'it" has an opening quote without a closing one'
    ]


@given(
    before=st.lists(st.sampled_from(FREE_IN_SLURM[:12])),
    reserved=st.sampled_from([*RESERVED_IN_SLURM]),
    after=st.lists(st.sampled_from(FREE_IN_SLURM[:12])),
)
def test_other_options_in_a_line_do_not_hide_a_reserved_one(before: list[str], reserved: str, after: list[str]) -> None:
    line = " ".join([*before, reserved, *after])
    assert len([*directives.refused(line, "slurm", False)]) == 1


@given(st.text(), st.sampled_from(["slurm", "pbs"]), st.booleans())
def test_any_text_is_accepted_or_refused_without_an_exception(line: str, kind: str, project: bool) -> None:
    assert all(isinstance(why, str) for why in directives.refused(line, kind, project))


def write(folder: Path, text: str) -> None:
    (folder / "x.yaml").write_text(textwrap.dedent(text))


def test_each_is_an_error_with_its_line_and_the_key_to_use(tmp_path: Path) -> None:
    write(
        tmp_path,
        """\
        scheduler: slurm
        project: lab
        directives:
          - --constraint=a100
          - --time=1:00:00 -J mine
          - -A other
        """,
    )
    with pytest.raises(RoundhouseError) as raised:
        load_site("x", tmp_path, "h")
    messages = str(raised.value).splitlines()
    assert [line.split(": ")[0].rpartition(":")[2] for line in messages] == ["5", "5", "6"]
    assert "'--time=1:00:00' sets --time, which only Roundhouse sets: write `walltime` under `resources`" in messages[0]
    assert "'-J mine' sets --job-name" in messages[1]
    assert "'-A other' sets --account, which only Roundhouse sets: write `project` in the site file" in messages[2]


@pytest.mark.parametrize(
    ("installed", "line", "refused"),
    [
        ("sbatch", "-N 2", False),
        ("qsub", "-N x", True),
        ("qsub", "-p 5", False),
        ("sbatch", "-p gpu", True),
        ("", "-N x", False),
    ],
)
def test_without_a_scheduler_in_the_file_the_options_are_those_of_the_one_that_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: str, line: str, refused: bool
) -> None:
    monkeypatch.setenv("PATH", fake_command(tmp_path, installed, "exit 0").split(":")[0] if installed else "")
    write(tmp_path, f"directives: ['{line}']\n")
    if refused:
        with pytest.raises(RoundhouseError, match="only Roundhouse sets"):
            load_site("x", tmp_path, "h")
    else:
        assert load_site("x", tmp_path, "h").directives == [line]


@pytest.mark.cluster
@pytest.mark.parametrize(
    "line", ["--tim=7", "--time=7", "--time 7", "-t 7", "-t7", "-Ht7", "'--time=7'", '-t "7"', "-C '' -t 7"]
)
def test_a_real_sbatch_reads_each_spelling_as_its_time_limit(
    slurm_cluster: SlurmCluster, tmp_path: Path, line: str
) -> None:
    """So each must be refused; a line that `sbatch` itself refuses is harmless."""
    script = tmp_path / "job.sh"
    script.write_text(f"#!/bin/bash\n#SBATCH --time=3\n#SBATCH --output=/dev/null\n#SBATCH {line}\ntrue\n")
    done = slurm_cluster.run(["sbatch", "--parsable", str(script)])
    if done.code == 0:
        shown = slurm_cluster.run(["scontrol", "show", "job", done.stdout.strip()]).stdout
        slurm_cluster.run(["scancel", done.stdout.strip()])
        assert "TimeLimit=00:07:00" in shown
    assert [*directives.refused(line, "slurm", False)]
