"""`toolbox/setup.sh` without --data: an account is set up and checked, and a check changes nothing."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from cluster import SlurmCluster
from rounds_for_tests import REPOSITORY, fake_command, small_disk, snapshot

from roundhouse.doctor import filesystem, gpus
from roundhouse.doctor.account import Account, Finding
from roundhouse.doctor.cluster import check_partition, check_pbs_queue
from roundhouse.doctor.environment import check_packages
from roundhouse.doctor.gpus import check_driver, check_models
from roundhouse.gpu_kernels import has_kernels
from roundhouse.schedulers.base import Output, Run

NEW = gpus.Build("2.15.0", "13.2", ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"))
OLD = gpus.Build("2.6.0", "12.6", ("sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90", "compute_90"))
CPU = gpus.Build("2.15.0", None, ())


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository in a folder with a space, with one small round and a site that needs no scheduler."""
    copy = tmp_path / "a copy"
    copy.mkdir()
    for name in ("roundhouse", "studies", "templates", "toolbox"):
        shutil.copytree(REPOSITORY / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.env", "logs"))
    for name in ("setup.cfg", "Makefile"):
        shutil.copy(REPOSITORY / name, copy)
    for name in ("rounds", "sites", "experiments"):
        (copy / name).mkdir()
    shutil.copy(REPOSITORY / "rounds/quickstart.yaml", copy / "rounds")
    (copy / "sites/here.yaml").write_text('hosts: ["*"]\nscheduler: local\n')
    return copy


def run_setup(
    repository: Path, *options: str, path: str = "", own: bool = True, **more: str
) -> subprocess.CompletedProcess[str]:
    """The script as a user calls it; `own`: with $PYTHON. Never with a traceback."""
    outside = {key: value for key, value in os.environ.items() if key not in ("PYTHON", "PYTHONDONTWRITEBYTECODE")}
    env = {**outside, **({"PYTHON": sys.executable} if own else {}), **({"PATH": path} if path else {}), **more}
    done = subprocess.run(
        [repository / "toolbox/setup.sh", *options],
        cwd=repository.parent, env=env, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return done


def lines(done: subprocess.CompletedProcess[str], what: str) -> list[str]:
    """The lines about one thing: `ok ...`, `missing ...`."""
    split = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    return [f"{level} {rest.removeprefix(f'{what}: ')}" for level, rest in split if rest.startswith(f"{what}: ")]


# ---------------------------------------------------------------------------------------------- the script


def test_help_names_options_and_exit_codes(repository: Path) -> None:
    done = run_setup(repository, "--help")
    assert done.returncode == 0
    for reported in ("--check", "--site NAME", "--data NAME", "\n  0  ", "\n  1  ", "\n  2  "):
        assert reported in done.stdout


@pytest.mark.parametrize(
    ("options", "reported"),
    [
        (["--chek"], "unknown option --chek"),
        (["here"], "unknown option here"),
        (["--site"], "--site needs a name"),
        (["--to", "x"], "--to requires --data"),
        (["--check", "--site", ""], "--site needs a name"),
    ],
)
def test_wrong_options_are_refused(repository: Path, options: list[str], reported: str) -> None:
    done = run_setup(repository, *options)
    assert done.returncode == 2
    assert reported in done.stderr
    assert done.stdout == ""


def test_a_good_account_is_reported_line_by_line_and_nothing_is_changed(repository: Path) -> None:
    before = snapshot(repository), sorted(map(str, repository.rglob("*")))
    done = run_setup(repository, "--check")
    assert (done.returncode, done.stderr) == (0, "")
    assert {line.split()[0] for line in done.stdout.splitlines()} <= {"ok", "warning"}
    assert lines(done, "site")[0].startswith("ok here, for ")
    assert lines(done, "scheduler") == ["warning none found: rounds run on the local machine"]
    assert lines(done, "experiments") == ["ok can be written; files are created exclusively, by hard links"]
    assert lines(done, "locks") == ["ok a lock in experiments/ excludes other processes of this host"]
    assert lines(done, "rounds") == ["ok all experiments can start in quickstart; their data sets were found"]
    assert lines(done, "packages")[0].startswith("ok ")
    assert (snapshot(repository), sorted(map(str, repository.rglob("*")))) == before


def test_pytorch_is_reported_but_not_loaded() -> None:
    code = "import sys; from roundhouse.doctor import checks; checks.main([]); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
    assert " PyTorch: 2" in done.stdout


def test_without_an_environment_only_checks_without_packages_run(repository: Path, tmp_path: Path) -> None:
    path = fake_command(tmp_path, "python3", f'exec {sys.executable} -SE "$@"')
    done = run_setup(repository, "--check", own=False, path=path)
    assert (done.returncode, done.stderr) == (1, "")
    assert lines(done, "environment")[0].startswith(f"missing there is no {repository}/.venv: run toolbox/setup.sh")
    assert "torch is not installed" in lines(done, "packages")[0]
    assert lines(done, "experiments")[0].startswith("ok ")
    assert lines(done, "site")[0].startswith("warning not checked, since packages are missing")
    assert not (repository / ".venv").exists()


def test_a_python_that_is_too_old_is_reported_first(repository: Path, tmp_path: Path) -> None:
    path = fake_command(tmp_path, "python3", "exit 1")
    done = run_setup(repository, "--check", own=False, path=path)
    assert done.returncode == 1
    assert done.stdout.startswith("missing  Python: python3 does not exist or is older than 3.10")
    assert len(done.stdout.splitlines()) == 1


def test_a_missing_environment_is_created_and_an_existing_one_is_left(repository: Path, tmp_path: Path) -> None:
    packages = sysconfig.get_paths()["purelib"]
    make = (
        f'echo "$@" >> "{tmp_path}/made"\n{sys.executable} -m venv --without-pip .venv\n'
        f'for place in .venv/lib/python*/site-packages; do echo {packages} > "$place/real.pth"; done'
    )
    path = fake_command(tmp_path, "make", make)
    for _ in range(2):
        done = run_setup(repository, own=False, path=path)
        assert (done.returncode, done.stderr) == (0, "")
        assert lines(done, "environment") == [f"ok {repository}/.venv"]
    assert (tmp_path / "made").read_text() == "install\n"


def test_an_environment_that_cannot_be_made_is_reported(repository: Path, tmp_path: Path) -> None:
    done = run_setup(repository, own=False, path=fake_command(tmp_path, "make", "echo no network >&2; exit 2"))
    assert done.returncode == 2
    assert done.stderr.endswith("make install failed: see above, fix it, and call this again\n")


def test_a_folder_that_cannot_be_written_is_reported(repository: Path) -> None:
    with read_only(repository / "experiments"):
        done = run_setup(repository, "--check")
    assert done.returncode == 1
    (reported,) = lines(done, "experiments")
    assert reported.startswith(f"missing {repository}/experiments cannot be written: ")


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """By its permissions; for root, who ignores them, by a disk that is mounted read-only."""
    if os.geteuid() != 0:
        folder.chmod(0o555)
        try:
            yield
        finally:
            folder.chmod(0o755)
        return
    with small_disk(folder, "1m"):
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        yield


def test_a_folder_that_is_not_there_is_reported_and_not_made(repository: Path) -> None:
    (repository / "experiments").rmdir()
    done = run_setup(repository, "--check")
    assert done.returncode == 1
    assert lines(done, "experiments")[0].startswith(f"missing {repository}/experiments does not exist")
    (repository / "experiments").symlink_to("/nowhere")
    assert "is a link to nothing" in lines(run_setup(repository, "--check"), "experiments")[0]


def test_a_site_may_be_named_and_one_that_is_not_there_is_reported_once(repository: Path) -> None:
    (repository / "sites/other.yaml").write_text("scheduler: local\npython: /nowhere/python\n")
    done = run_setup(repository, "--check", "--site", "other")
    assert done.returncode == 0
    assert lines(done, "site")[1].startswith("warning its python /nowhere/python is not on this host")
    done = run_setup(repository, "--check", "--site", "othr")
    assert done.returncode == 1
    assert lines(done, "site")[0].startswith("missing no site 'othr' in ")
    assert done.stdout.count("no site 'othr'") == 1


def test_a_site_that_is_named_gives_the_data_folder(repository: Path, tmp_path: Path) -> None:
    (repository / "sites/other.yaml").write_text(f"data: {tmp_path}/elsewhere\n")
    done = run_setup(repository, "--data", "svhn", "--check", "--site", "other")
    assert done.returncode == 1
    assert f"{tmp_path}/elsewhere/train_32x32.mat is missing" in done.stderr


def test_a_data_set_that_a_round_needs_is_named_with_the_rounds_that_need_it(repository: Path) -> None:
    for name in ("charlie", "control"):
        shutil.copy(REPOSITORY / f"rounds/{name}.yaml", repository / "rounds")
    done = run_setup(repository, "--check")
    assert done.returncode == 0, "other rounds can run"
    reported = lines(done, "rounds")
    assert reported[0].startswith("ok all experiments can start in quickstart")
    (svhn,) = [line for line in reported if "'svhn'" in line]
    assert svhn.startswith("warning in charlie, control: ") and "toolbox/setup.sh --data svhn" in svhn


def test_a_round_file_with_a_mistake_is_reported(repository: Path) -> None:
    (repository / "rounds/wrong.yaml").write_text("round: other\n")
    (reported,) = [line for line in lines(run_setup(repository, "--check"), "rounds") if "in wrong: " in line]
    assert reported.startswith("warning ")


# ---------------------------------------------------------------------------------------------- schedulers


@pytest.mark.cluster
def test_a_cluster_that_answers_and_its_partition_are_reported(repository: Path, slurm_cluster: SlurmCluster) -> None:
    env = {"SLURM_CONF": slurm_cluster.env["SLURM_CONF"]}
    site = repository / "sites/here.yaml"
    site.write_text('hosts: ["*"]\nscheduler: slurm\nqueue: main\n')
    done = run_setup(repository, "--check", **env)
    assert done.returncode == 0
    name = slurm_cluster.folder.name
    assert lines(done, "scheduler")[0].startswith(f"ok slurm on {name} answers; you have ")
    assert lines(done, "queue") == ["ok partition main is up"]
    assert lines(done, "GPUs") == ["warning sinfo lists none for main: a job that requests one is refused"]

    site.write_text('hosts: ["*"]\nqueue: mian\n')
    done = run_setup(repository, "--check", **env)
    assert done.returncode == 1
    assert lines(done, "queue")[0].startswith("missing there is no partition 'mian'; change `queue`")

    site.write_text('hosts: ["*"]\n')
    assert lines(run_setup(repository, "--check", **env), "queue") == ["ok partition main is up"]


@pytest.mark.cluster
def test_a_partition_that_is_down_is_reported(repository: Path, slurm_cluster: SlurmCluster) -> None:
    (repository / "sites/here.yaml").write_text('hosts: ["*"]\nqueue: short\n')
    assert slurm_cluster.run(["scontrol", "update", "PartitionName=short", "State=DOWN"]).code == 0
    try:
        done = run_setup(repository, "--check", SLURM_CONF=slurm_cluster.env["SLURM_CONF"])
    finally:
        slurm_cluster.run(["scontrol", "update", "PartitionName=short", "State=UP"])
    assert done.returncode == 0
    assert lines(done, "queue") == ["warning partition short is down: jobs will wait until it is up"]


@pytest.mark.cluster
def test_a_cluster_that_does_not_answer_is_reported(
    repository: Path, slurm_cluster: SlurmCluster, tmp_path: Path
) -> None:
    (repository / "sites/here.yaml").write_text('hosts: ["*"]\nscheduler: slurm\n')
    text = Path(slurm_cluster.env["SLURM_CONF"]).read_text().replace("SlurmctldPort=", "SlurmctldPort=1 #")
    text = text.replace("MessageTimeout=5", "MessageTimeout=2")
    (tmp_path / "slurm.conf").write_text(text)
    done = run_setup(repository, "--check", SLURM_CONF=str(tmp_path / "slurm.conf"))
    assert done.returncode == 1
    assert lines(done, "scheduler")[0].startswith("missing slurm does not answer: ")


def test_a_scheduler_that_the_site_names_and_is_not_here_is_reported(repository: Path, tmp_path: Path) -> None:
    (repository / "sites/here.yaml").write_text('hosts: ["*"]\nscheduler: pbs\n')
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "dirname", "env"):
        (tools / name).symlink_to(str(shutil.which(name)))
    done = run_setup(repository, "--check", path=str(tools))
    assert done.returncode == 1
    assert lines(done, "scheduler")[0].startswith("missing no pbs on this host: there is no command 'qsub'")


def test_setup_lines_of_the_site_are_run_as_in_a_job(repository: Path) -> None:
    site = repository / "sites/here.yaml"
    site.write_text('hosts: ["*"]\nscheduler: local\nsetup: [echo printed, "test -d roundhouse"]\n')
    assert lines(run_setup(repository, "--check"), "setup") == [
        "ok the modules and setup lines of site here succeed on this host"
    ]
    site.write_text('hosts: ["*"]\nscheduler: local\nsetup: ["true", "set -e", "conda activate no_such"]\n')
    (found,) = lines(run_setup(repository, "--check"), "setup")
    assert found.startswith("warning on this host, setup line 3 failed with exit code 127: conda activate no_such. ")
    assert found.endswith("see sites/here.yaml")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("exit 0", "setup line 2 ended the job script: exit 0."),
        ("exec true", "a setup line ended or replaced bash, with exit code 0."),
        ("kill -9 $$", "a setup line ended or replaced bash, with exit code -9."),
    ],
)
def test_a_setup_line_that_ends_the_shell_is_no_success(repository: Path, line: str, why: str) -> None:
    (repository / "sites/here.yaml").write_text(f'hosts: ["*"]\nscheduler: local\nsetup: ["true", "{line}", "true"]\n')
    (found,) = lines(run_setup(repository, "--check"), "setup")
    assert found.startswith(f"warning on this host, {why} On a compute node, it would end each job")


def slurm_that_prints(folder: Path, sinfo: str) -> str:
    """A PATH with a Slurm whose sinfo prints this."""
    fake_command(folder, "sbatch", "echo slurm 23.02.6")
    fake_command(folder, "scontrol", "echo 'ClusterName             = far'")
    for name in ("squeue", "scancel"):
        fake_command(folder, name, ":")
    return fake_command(folder, "sinfo", f"cat <<'END'\n{sinfo}\nEND")


def test_gpus_of_the_partition_are_compared_with_pytorch(repository: Path, tmp_path: Path) -> None:
    (repository / "sites/here.yaml").write_text('hosts: ["*"]\nscheduler: slurm\nqueue: gpu\n')
    package = tmp_path / "packages/torch"
    (package / "lib").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('loaded')")
    (package / "version.py").write_text("__version__ = '2.15.0+cu132'\ncuda: str | None = '13.2'\nhip = None\n")
    (package / "lib/libtorch_python.so").write_bytes(b"\x7fELF\0sm_75 sm_80 sm_90\0more")
    reported = "cpu*|up|idle|(null)\ngpu|up|mix|gpu:v100:4(S:0-1)\ngpu|up|alloc|gpu:a100:2,nvme:1\ngpu|up|down*|gpu:2"
    path = slurm_that_prints(tmp_path, reported)
    done = run_setup(repository, "--check", path=path, PYTHONPATH=str(package.parent))
    assert done.returncode == 0, done.stdout
    assert lines(done, "PyTorch") == ["ok 2.15.0+cu132, for CUDA 13.2, with code for sm_75 sm_80 sm_90"]
    assert lines(done, "queue") == ["ok partition gpu is up"]
    unnamed, a100, v100 = sorted(lines(done, "GPUs"), key=lambda line: ("not known" not in line, "v100" in line))
    assert unnamed.startswith("warning it is not known whether PyTorch supports GPUs without a model name in gpu.")
    assert a100 == "ok gpu offers a100, which this PyTorch has code for"
    assert v100.startswith("warning PyTorch 2.15.0+cu132 has no code for v100 (compute capability 7.0)")


def test_a_partition_without_a_node_in_service_is_reported() -> None:
    found = check_partition(says("gpu*|up|drain|gpu:4\ngpu*|up|down*|gpu:4\n"), None)
    assert (found.level, found.text) == ("warning", "no node of partition gpu is in service now")


def test_a_sinfo_that_fails_is_reported() -> None:
    assert check_partition(says("", 1), "gpu").level == "warning"


def says(stdout: str, code: int = 0, stderr: str = "") -> Run:
    """A scheduler's command that answers this."""

    def run(argv: Sequence[str]) -> Output:
        return Output(tuple(argv), code, stdout, stderr)

    return run


@pytest.mark.parametrize(
    ("answer", "level", "text"),
    [
        (says("Queue: gpu\n    enabled = True\n    started = True\n"), "ok", "gpu is enabled and started"),
        (says("Queue: gpu\n    enabled = True\n    started = False\n"), "warning", "started is False"),
        (says("", 170, "qstat: Unknown queue gpu"), "missing", "there is no queue 'gpu'"),
        (says("", 255, "cannot connect"), "warning", "is not known: qstat (exit 255): cannot connect"),
    ],
)
def test_a_pbs_queue_is_reported(answer: Run, level: str, text: str) -> None:
    found = check_pbs_queue(answer, "gpu")
    assert found.level == level
    assert text in found.text


# ---------------------------------------------------------------------------------------------- GPUs and PyTorch


@pytest.mark.parametrize(
    ("model", "capability"),
    [
        ("v100", (7, 0)), ("tesla_v100-sxm2-32gb", (7, 0)), ("NVIDIA A100-SXM4-80GB", (8, 0)), ("a10", (8, 6)),
        ("a100_1g.5gb", (8, 0)), ("Tesla T4", (7, 5)), ("gtx1080ti", (6, 1)), ("rtx3090", (8, 6)), ("l40s", (8, 9)),
        ("NVIDIA GeForce RTX 2080 Ti", (7, 5)), ("rtx_a6000", (8, 6)), ("NVIDIA H100 80GB HBM3", (9, 0)),
        ("gh200", (9, 0)), ("nvidia_gb200", (10, 0)), ("1g.5gb", None), ("small4", None), ("rtx_6000_ada", None),
        ("", None),
    ],
)  # fmt: skip
def test_a_model_s_compute_capability_is_known_by_its_name(model: str, capability: tuple[int, int] | None) -> None:
    assert gpus.capability_of(model) == capability


@pytest.mark.parametrize(
    ("gres", "models"),
    [
        ("gpu:v100:4(S:0-1)", ["v100"]),
        ("gpu:4", [""]),
        ("gpu", [""]),
        ("gpu:a100:2,nvme:1,gpu:v100:2(S:0)", ["a100", "v100"]),
        ("gpu:1g.5gb:7", ["1g.5gb"]),
        ("(null)", []),
        ("nvme:1,craynetwork:4", []),
    ],
)
def test_models_are_read_from_generic_resources(gres: str, models: list[str]) -> None:
    assert gpus.models_in(gres) == models


@pytest.mark.parametrize(
    ("architectures", "capability", "runs"),
    [
        (NEW.architectures, (7, 0), False),
        (OLD.architectures, (7, 0), True),
        (NEW.architectures, (8, 9), True),
        (("sm_86",), (8, 0), False),
        (("sm_80",), (9, 0), False),
        (("sm_90a",), (9, 0), True),
        (OLD.architectures, (10, 0), True),
        (NEW.architectures, (12, 0), True),
    ],
)
def test_code_runs_on_gpus_of_its_own_generation_and_later_within_it(
    architectures: tuple[str, ...], capability: tuple[int, int], runs: bool
) -> None:
    assert has_kernels(capability, architectures) is runs


def test_what_is_not_known_is_no_misfit() -> None:
    assert gpus.misfit(NEW, "v100")
    for build, model in ((OLD, "v100"), (NEW, "some_gpu"), (CPU, "v100"), (gpus.Build("2.5", "12.1", ()), "v100")):
        assert gpus.misfit(build, model) == ""


@pytest.mark.parametrize(
    ("build", "driver", "old"),
    [(NEW, "570.86.15", True), (NEW, "580.65.06", False), (OLD, "535.161.08", False), (OLD, "470.57", True),
     (CPU, "390.1", False), (NEW, "[N/A]", False)],
)  # fmt: skip
def test_a_driver_is_too_old_where_its_newest_cuda_is_of_an_earlier_major_version(
    build: gpus.Build, driver: str, old: bool
) -> None:
    assert bool(gpus.driver_too_old(build, driver)) is old


def test_the_installed_build_is_what_pytorch_itself_says() -> None:
    torch = pytest.importorskip("torch")
    build = gpus.read_build(Path(torch.__file__).parent)
    assert (build.version, build.cuda) == (torch.version.__version__, torch.version.cuda)
    if build.cuda is not None:
        assert " ".join(build.architectures) == torch._C._cuda_getArchFlags()


def test_gpus_of_this_host_are_compared_with_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", fake_command(tmp_path, "nvidia-smi", ":"))
    smi = says("Tesla V100-SXM2-32GB, 535.1\nTesla V100-SXM2-32GB, 535.1\n")
    (reported,) = check_driver(smi, NEW)
    assert (reported.level, "needs driver 580 or later, not 535.1" in reported.text) == ("warning", True)
    (reported,) = check_driver(smi, OLD)
    assert (reported.level, reported.text) == ("ok", "Tesla V100-SXM2-32GB, driver 535.1")
    (reported,) = check_driver(says("", 9, "couldn't communicate with the NVIDIA driver"), NEW)
    assert (reported.level, "communicate" in reported.text) == ("warning", True)


def test_unknown_models_are_reported() -> None:
    (reported,) = check_models(NEW, [], "")
    assert reported.level == "warning"
    assert "not known whether PyTorch supports those of the nodes" in reported.text and "sm_75" in reported.text


# ---------------------------------------------------------------------------------------------- packages, files, room


def test_a_package_that_is_too_old_or_missing_is_named(tmp_path: Path) -> None:
    wanted = "[options]\ninstall_requires =\n    numpy>=99.1\n    no-such-package>=1.0\n    pyyaml>=6.0\n"
    (tmp_path / "setup.cfg").write_text(wanted)
    (reported,) = check_packages(Account(tmp_path, None))
    assert reported.level == "missing"
    assert "numpy is " in reported.text and "and must be 99.1 or later" in reported.text
    assert "no-such-package is not installed" in reported.text
    assert "yaml" not in reported.text.lower()


def account(tmp_path: Path) -> Account:
    (tmp_path / "experiments").mkdir()
    return Account(tmp_path, None)


def levels(found: Iterator[Finding]) -> dict[str, str]:
    return {one.what: one.level for one in found}


def test_without_hard_links_files_are_still_created_exclusively(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*arguments: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    found = list(filesystem.check_files(account(tmp_path)))
    assert (found[0].level, "O_EXCL, which is enough" in found[0].text) == ("warning", True)
    assert os.listdir(tmp_path / "experiments") == []


def test_a_file_system_on_which_two_can_create_one_file_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filesystem, "create_exclusive", lambda path, value: True)
    assert levels(filesystem.check_files(account(tmp_path)))["experiments"] == "missing"


def test_a_lock_that_excludes_no_process_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filesystem, "SECOND", "pass")
    assert levels(filesystem.check_files(account(tmp_path)))["locks"] == "warning"


@pytest.mark.parametrize(
    ("gigabytes", "files", "inodes", "level"),
    [(100, 10**6, 10**6, "ok"), (2, 10**6, 10**6, "warning"), (100, 10**6, 500, "warning"), (100, 0, 0, "ok")],
)
def test_little_space_or_few_inodes_are_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gigabytes: int, files: int, inodes: int, level: str
) -> None:
    disk = SimpleNamespace(f_bavail=gigabytes * 2**18, f_frsize=4096, f_files=files, f_favail=inodes)
    monkeypatch.setattr(os, "statvfs", lambda place: disk)
    assert levels(filesystem.check_space(account(tmp_path))) == {"space": level}
