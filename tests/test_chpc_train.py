"""toolbox/chpc_train.sh: exactly one entry in the crontab, and runs that end, whatever fails on either side."""

from __future__ import annotations

import calendar
import getpass
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from cluster_helpers import dead
from hypothesis import given, settings
from hypothesis import strategies as st
from rounds_for_tests import MARK, REPOSITORY, Marked, wait_for
from ssh_server import SshServer, require_ssh

OK, TROUBLE, USAGE, OFF, BUSY, INTERRUPTED = 0, 1, 2, 3, 3, 130  # exit codes of chpc_train.sh
SCRIPTS = ("chpc_train.sh", "crontab.sh", "rsync.sh", "steps.sh", "util.sh")
ODD = 'my check\'out $(touch pwned) 100% "#1" & co'
LINE = r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ) (.*)"

# In place of analysis/*.py and the cluster's runner.py: records how it was called, and does what the test says.
PROGRAM = """\
import os, sys, time
from pathlib import Path
here = Path(__file__).resolve().parent
with open(here / "calls", "a") as file:
    file.write(" ".join([Path(__file__).name, *sys.argv[1:]]) + "\\n")
program = here / (Path(__file__).stem + ".does")
exec(program.read_text() if program.exists() else "print('Round done.')")
"""
SLEEPS = "Path(here / 'begun').write_text(str(os.getpid())); time.sleep(600)"


@dataclass
class Checkout(Marked):
    """A local checkout with the real toolbox, whose analysis only records its calls."""

    folder: Path = Path()
    variables: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("toolbox", "analysis", "experiments", ".venv/bin"):
            (self.folder / name).mkdir(parents=True)
        for name in SCRIPTS:
            shutil.copy(REPOSITORY / "toolbox" / name, self.folder / "toolbox")
        for name in ("plot_experiments.py", "report.py"):
            (self.folder / "analysis" / name).write_text(PROGRAM)
        (self.folder / ".venv/bin/python").symlink_to(sys.executable)

    @property
    def script(self) -> Path:
        return self.folder / "toolbox/chpc_train.sh"

    @property
    def log(self) -> Path:
        return self.folder / "toolbox/logs/chpc_train.log"

    @property
    def environment(self) -> dict[str, str]:
        """As poor as cron's."""
        poor = {
            "HOME": str(self.folder.parent),
            "SHELL": "/bin/sh",
            "PATH": "/usr/bin:/bin",
            "LOGNAME": getpass.getuser(),
        }
        return {**poor, MARK: self.mark, **self.variables}

    def change(self, **constants: int) -> None:
        """Give other values to the script's constants, so that no test takes half an hour."""
        text = self.script.read_text()
        for name, value in constants.items():
            text, count = re.subn(rf"(?m)^{name}=\d+", f"{name}={value}", text)
            assert count == 1, name
        self.script.write_text(text)

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        """One call, until it ends."""
        return subprocess.run(
            [self.script, *words], check=False, env=self.environment, cwd=self.folder.parent,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=60,
        )  # fmt: skip

    def start(self, *words: str) -> subprocess.Popen[str]:
        """A call that runs while the test continues."""
        return subprocess.Popen(
            [self.script, *words], env=self.environment, cwd=self.folder.parent, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def shell(self, program: str, given: bytes = b"") -> bytes:
        """The output of a program that has the script's functions."""
        done = subprocess.run(
            ["bash", "-c", f'. "$1"; {program}', "bash", self.script],
            check=False, env=self.environment, input=given, capture_output=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def logged(self) -> list[str]:
        """The log's lines without their times, and without the output of steps."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [match[2] for match in (re.fullmatch(LINE, line) for line in lines) if match]

    def steps(self) -> dict[str, str]:
        """Step -> outcome and text, of the last run, without durations."""
        lines = self.logged()
        lines = lines[max(index for index, line in enumerate(lines) if line.startswith("begin")) :]
        return {step: re.sub(r", \d+ s\b", "", text) for step, _, text in (one.partition(": ") for one in lines)}

    def calls(self) -> list[str]:
        return notes(self.folder / "analysis")

    def left(self) -> list[psutil.Process]:
        """Local processes that still run, except for ssh's shared connection."""
        found = []
        for one in self.processes():
            with suppress(psutil.NoSuchProcess):
                if not one.name().startswith("sshd"):
                    found.append(one)
        return found

    def lock_is_free(self) -> bool:
        lock = self.log.with_name("chpc_train.lock")
        return subprocess.run(["flock", "--nonblock", lock, "true"], check=False).returncode == 0


def notes(folder: Path) -> list[str]:
    """How the programs in this folder were called."""
    return (folder / "calls").read_text().splitlines() if (folder / "calls").exists() else []


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Checkout]:
    made = Checkout(folder=tmp_path / ODD)
    try:
        yield made
    finally:
        made.kill()


# ---------------------------------------------------------------------------------------------- the entry as text

PIECES = [
    "", "# a comment", "PATH=/usr/bin:/bin", "MAILTO=\"\"", "17 * * * * cd / && run-parts --report /etc/cron.hourly",
    "*/30 * * * * '/home/me/other/toolbox/chpc_train.sh' cron # roundhouse 0123456789abcdef",
    "  @daily echo 100\\% # roundhouse", "\t", "\u00e9\u00df", "0 1 * * * echo 'a # b'",
]  # fmt: skip


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """For tests that change nothing in it."""
    return Checkout(folder=tmp_path_factory.mktemp("home") / ODD)


def crontabs(entry: bytes) -> st.SearchStrategy[bytes]:
    """Crontabs without this entry; a comment made of it may be there, and it may lie within another line."""
    of_others = [piece.encode() for piece in PIECES] + [b"#" + entry, b"  # " + entry, entry + b" too", b"\xff\xfe"]
    free = st.binary(max_size=20).filter(lambda one: not {0, 10} & set(one))
    lines = st.lists(st.one_of(st.sampled_from(of_others), free), max_size=8)
    return st.builds(lambda parts, end: b"\n".join(parts) + end, lines, st.sampled_from([b"\n", b""]))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_off_removes_what_on_added_and_changes_no_other_byte(shared: Checkout, data: st.DataObject) -> None:
    entry = shared.shell("entry 30").rstrip(b"\n")
    before = data.draw(crontabs(entry))
    script = (
        'cat >"$HOME/before"; edited "$(entry 30)" <"$HOME/before" | tee "$HOME/on"; printf "\\0"; edited <"$HOME/on"'
    )
    on, off = shared.shell(script, before).split(b"\0")
    newline = b"" if not before or before.endswith(b"\n") else b"\n"
    assert on == before + newline + entry + b"\n"
    assert off == before + newline


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_on_again_replaces_the_entry_in_its_place(shared: Checkout, data: st.DataObject) -> None:
    entry, other = shared.shell("entry 30; entry 5").splitlines()
    above, below = data.draw(crontabs(entry)), data.draw(crontabs(entry))
    above = above + b"\n" if above and not above.endswith(b"\n") else above
    again, changed, twice = (
        shared.shell(f'edited "$(entry {minutes})"', above + entry + b"\n" + below + more)
        for minutes, more in ((30, b""), (5, b""), (5, b"\n" + entry))
    )
    newline = b"" if not below or below.endswith(b"\n") else b"\n"  # cron requires one at the end
    assert again == above + entry + b"\n" + below + newline
    assert changed == above + other + b"\n" + below + newline
    assert twice == above + other + b"\n" + below + b"\n"


def test_the_last_line_may_be_the_entry_without_a_newline(shared: Checkout) -> None:
    entry = shared.shell("entry 30")
    assert shared.shell("edited", b"a\n" + entry.rstrip(b"\n")) == b"a\n"
    assert shared.shell('edited "$(entry 30)"', b"a\n" + entry.rstrip(b"\n")) == b"a\n" + entry


def as_cron_would(entry: str) -> str:
    """The command of an entry, as /bin/sh gets it: what follows an unescaped % would be its input."""
    command = entry.split(" ", 5)[5]
    assert not re.search(r"(?<!\\)%", command)
    return command.replace("\\%", "%")


def test_an_entry_calls_this_checkout_whatever_its_path(checkout: Checkout) -> None:
    checkout.variables |= {"SSH_AUTH_SOCK": "/run/user/0/a b", "ROUNDHOUSE_CLUSTER_ENV": "my 50%.env", "OTHER": "1"}
    checkout.variables["PATH"] = "/usr/bin:.::/usr/bin:/nowhere:/bin"
    entry = checkout.shell("entry 30").decode()
    assert entry.startswith("*/30 * * * * ")
    checkout.script.write_text('#!/bin/sh\necho "$*|$PATH|$SSH_AUTH_SOCK|$ROUNDHOUSE_CLUSTER_ENV|$OTHER"\n')
    done = subprocess.run(["/bin/sh", "-c", as_cron_would(entry)], env={}, check=True, capture_output=True, text=True)
    assert done.stdout.split("|") == ["cron", "/usr/bin:/bin", "/run/user/0/a b", "my 50%.env", "\n"]
    assert not list(checkout.folder.parent.glob("**/pwned"))


def test_two_checkouts_have_entries_of_their_own(tmp_path: Path) -> None:
    first, second = Checkout(folder=tmp_path / "a"), Checkout(folder=tmp_path / "a b")
    both = first.shell('edited "$(entry 30)"', second.shell("entry 10"))
    assert first.shell("edited", both) == second.shell("entry 10")
    assert second.shell("edited", both) == first.shell("entry 30")


def test_a_link_to_the_checkout_leads_to_the_same_entry(checkout: Checkout) -> None:
    entry = checkout.shell("entry 30")
    link = checkout.folder.parent / "link"
    link.symlink_to(checkout.folder)
    checkout.folder = link
    assert checkout.shell("entry 30") == entry


@pytest.mark.parametrize(
    ("minutes", "fields"),
    [("1", "*/1 * * * *"), ("15", "*/15 * * * *"), ("60", "0 */1 * * *"), ("120", "0 */2 * * *")],
)
def test_an_interval_that_cron_can_keep_is_written_in_its_fields(shared: Checkout, minutes: str, fields: str) -> None:
    assert shared.shell(f"entry {minutes}").decode().startswith(f"{fields} '/usr/bin/env' ")
    assert shared.shell(f'interval "$(entry {minutes})"').decode() == f"{minutes}\n"


@pytest.mark.parametrize("minutes", ["0", "7", "45", "61", "90", "1440", "-5", "1.5", "", "1 2", "*", "030", "x"])
@pytest.mark.parametrize("command", ["on", "timer"])
def test_an_interval_that_cron_cannot_keep_is_refused(shared: Checkout, command: str, minutes: str) -> None:
    done = shared.call(command, "--every", minutes)
    assert done.returncode == USAGE
    assert done.stderr.startswith("chpc_train.sh: --every must be one of 1, 2, 3") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("start",),
        ("on", "--often"),
        ("on", "--every"),
        ("off", "now"),
        ("off", "--stale", "r"),
        ("now", "--every", "5"),
        ("ON",),
    ],
)
def test_wrong_usage_is_reported(shared: Checkout, words: tuple[str, ...]) -> None:
    done = shared.call(*words)
    assert (done.returncode, done.stdout) == (USAGE, "")
    assert "chpc_train.sh" in done.stderr


def test_the_help_names_all_exit_codes(shared: Checkout) -> None:
    done = shared.call("--help")
    assert done.returncode == 0 and max(map(len, done.stdout.splitlines())) <= 120
    assert re.findall(r"(?m)^  (\d+) ", done.stdout) == ["0", "1", "2", "3", "130"]


def test_the_timer_calls_this_checkout_at_equal_distances(checkout: Checkout) -> None:
    done = checkout.call("timer", "--every", "120")
    assert done.returncode == 0
    assert "OnCalendar=0/2:00\n" in done.stdout
    (start,) = re.findall(r"(?m)^ExecStart=(.*)$", done.stdout)
    escaped = ODD.replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    assert start.startswith('"/usr/bin/env" "PATH=/usr/bin:/bin" "') and start.endswith(
        f'/{escaped}/toolbox/chpc_train.sh" "cron"'
    )


# ---------------------------------------------------------------------------------------------- the crontab


def read_crontab() -> bytes | None:
    """This user's; None if there is none."""
    done = subprocess.run(["crontab", "-l"], check=False, capture_output=True)
    return done.stdout if done.returncode == 0 else None


def write_crontab(text: bytes | None) -> None:
    if text is not None:
        subprocess.run(["crontab", "-"], input=text, check=True)
    elif read_crontab() is not None:
        subprocess.run(["crontab", "-r"], check=True)


Crontab = Callable[[], bytes | None]


@contextmanager
def real_crontab() -> Iterator[Crontab]:
    """This user's, empty; it gets back what it had before, whatever the test does."""
    missing = [name for name in ("cron", "crontab") if shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin") is None]
    if missing or os.geteuid() != 0:
        reason = f"not installed: {', '.join(missing)} (Debian: cron)" if missing else "needs root, to start cron"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    before = read_crontab()
    with tempfile.NamedTemporaryFile(prefix="crontab-", delete=False) as copy:  # in case the host goes down meanwhile
        copy.write(before or b"")
    try:
        write_crontab(None)
        yield read_crontab
    finally:
        write_crontab(before)
        Path(copy.name).unlink()


@contextmanager
def running_cron(folder: Path) -> Iterator[None]:
    """The cron daemon of the host, or one that the test starts."""
    running = any(process.info["name"] in ("cron", "crond") for process in psutil.process_iter(["name"]))
    if running:
        yield
        return
    with open(folder / "cron.log", "wb") as log:
        process = subprocess.Popen(["/usr/sbin/cron", "-f"], stdout=log, stderr=log, start_new_session=True)
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def crontab() -> Iterator[Crontab]:
    with real_crontab() as made:
        yield made


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[None]:
    with running_cron(tmp_path):
        yield


def fill_in(checkout: Checkout, **values: str) -> None:
    """toolbox/cluster.env for a host that does not exist. Its readers need ssh and rsync too."""
    require_ssh()
    lines = {"HOST": "nowhere.invalid", "REMOTE": "roundhouse", "ROUNDS": "r", **values}
    (checkout.folder / "toolbox/cluster.env").write_text("".join(f'{key}="{value}"\n' for key, value in lines.items()))


@pytest.mark.cron
def test_on_and_off_in_the_real_crontab(checkout: Checkout, crontab: Crontab, daemon: None) -> None:
    fill_in(checkout)
    others = b'# mine\nMAILTO=""\n\n0 0 1 1 * true 100\\% # roundhouse\n'
    write_crontab(others)
    assert checkout.call("status").returncode == OFF
    for minutes in ("30", "30", "5"):
        done = checkout.call("on", "--every", minutes)
        assert done.returncode == OK, done.stderr
        text = crontab()
        assert text and text.startswith(others) and text.count(b"\n") == others.count(b"\n") + 1
        assert text.endswith(checkout.shell(f"entry {minutes}"))
    assert "on: every 5 minutes, next at 20" in checkout.call("status").stdout
    assert checkout.call("off").stdout == "off\n"
    assert crontab() == others
    assert checkout.call("off").stdout == "off: there was no entry\n"
    assert crontab() == others


@pytest.mark.cron
def test_without_a_crontab_before_there_is_none_afterwards(checkout: Checkout, crontab: Crontab, daemon: None) -> None:
    fill_in(checkout)
    assert crontab() is None
    assert checkout.call("on").returncode == OK
    assert crontab() == checkout.shell("entry 30")
    assert checkout.call("off").returncode == OK
    assert crontab() is None


@pytest.mark.cron
def test_checkouts_that_are_switched_on_and_off_at_once_lose_no_entry(
    tmp_path: Path, crontab: Crontab, daemon: None
) -> None:
    others = b"# mine\n0 0 1 1 * true\n"
    write_crontab(others)
    checkouts = [Checkout(folder=tmp_path / str(number) / "checkout") for number in range(6)]
    for one in checkouts:
        fill_in(one)
        one.variables["HOME"] = str(tmp_path)  # one user
    for command in ("on", "off"):
        started = [one.start(command) for one in checkouts]
        for process in started:
            out, _ = process.communicate(timeout=60)
            assert process.returncode == OK, out
        text = crontab() or b""
        assert text.startswith(others)
        entries = b"".join(sorted(one.shell("entry 30") for one in checkouts)) if command == "on" else b""
        assert b"".join(sorted(text.removeprefix(others).splitlines(keepends=True))) == entries


@pytest.mark.cron
def test_entries_whose_script_is_gone_are_named_and_removed_when_asked(
    tmp_path: Path, checkout: Checkout, crontab: Crontab, daemon: None
) -> None:
    fill_in(checkout)
    gone = [Checkout(folder=tmp_path / name / ODD) for name in ("first", "second")]
    other = Checkout(folder=tmp_path / "other's 100%")
    stale = [one.shell("entry 30") for one in gone]
    for one in gone:
        shutil.rmtree(one.folder)
    commented, strange = b"# " + stale[0], stale[0].replace(b"30 * * * *", b"30 9 * * *").replace(b"first", b"third")
    lines = [b"# mine\n", stale[0], commented, strange, other.shell("entry 10"), stale[1], b"0 0 1 1 * true \xff"]
    write_crontab(b"".join(lines) + b"\n")
    assert checkout.call("on").returncode == OK
    before = crontab()
    assert before is not None
    done = checkout.call("status")
    assert done.returncode == OK
    assert [line.strip() for line in done.stdout.splitlines() if "toolbox/chpc_train.sh" in line] == [
        str(one.script) for one in gone
    ]
    assert "chpc_train.sh off --stale removes them" in done.stdout
    assert checkout.call("off", "--stale").stdout == "".join(f"removed: {one.script}\n" for one in gone)
    kept = b"".join([lines[0], *lines[2:5], lines[6], b"\n", checkout.shell("entry 30")])
    assert crontab() == kept
    assert checkout.call("off", "--stale").stdout == "no stale entries\n"
    assert crontab() == kept and "stale" not in checkout.call("status").stdout
    assert not list(tmp_path.glob("**/pwned"))


@pytest.mark.cron
def test_an_entry_without_a_cron_daemon_is_reported(checkout: Checkout, crontab: Crontab) -> None:
    if any(process.info["name"] in ("cron", "crond") for process in psutil.process_iter(["name"])):
        pytest.skip("a cron daemon runs on this host")
    fill_in(checkout)
    done = checkout.call("on")
    assert done.returncode == TROUBLE
    assert "no cron daemon seems to run" in done.stderr and "timer" in done.stderr
    assert crontab() == checkout.shell("entry 30")


def put_before(checkout: Checkout, name: str, program: str) -> None:
    """A command written by the test, found before all others of that name."""
    commands = checkout.folder.parent / "commands"
    commands.mkdir(exist_ok=True)
    (commands / name).write_text(f"#!/bin/sh\n{program}\n")
    (commands / name).chmod(0o755)
    checkout.variables["PATH"] = f"{commands}:/usr/bin:/bin"


REFUSED = """\
echo "$*" >>"$HOME/crontab.calls"
[ "$1" != -l ] || {{ {listing}; }}
cat "$1" >"$HOME/installed" 2>/dev/null
{answer}
"""


@pytest.mark.parametrize(
    ("listing", "answer", "message"),
    [
        ("echo 'You (me) are not allowed to use this program (crontab)' >&2; exit 1", "exit 0", "are not allowed"),
        ("echo 'crontab: cannot read the spool' >&2; exit 1", "exit 0", "cannot read the spool"),
        ("echo '0 1 * * * true'; exit 0", "echo 'crontab: no space left' >&2; exit 1", "no space left"),
        ("echo '0 1 * * * true'; exit 0", "exit 0", "the crontab differs from what was installed"),
    ],
)
def test_where_cron_is_refused_the_error_says_what_to_do(
    checkout: Checkout, listing: str, answer: str, message: str
) -> None:
    fill_in(checkout)
    put_before(checkout, "crontab", REFUSED.format(listing=listing, answer=answer))
    done = checkout.call("on")
    assert done.returncode == TROUBLE
    assert message in done.stderr and "--watch" in done.stderr and "timer" in done.stderr
    if "exit 1" in listing:  # what cannot be read is not taken for empty
        assert not (checkout.folder.parent / "installed").exists()
    assert checkout.call("status").returncode == OFF


def test_a_missing_crontab_command_is_reported(checkout: Checkout) -> None:
    fill_in(checkout)
    commands = checkout.folder.parent / "all"
    commands.mkdir()
    for place in ("/usr/bin", "/bin"):
        for name in os.listdir(place):
            if name != "crontab" and not (commands / name).is_symlink():
                (commands / name).symlink_to(f"{place}/{name}")
    checkout.variables["PATH"] = str(commands)
    done = checkout.call("on")
    assert done.returncode == TROUBLE
    assert "the command crontab does not exist" in done.stderr


def test_on_checks_the_settings_first(checkout: Checkout) -> None:
    put_before(checkout, "crontab", 'echo "$*" >>"$HOME/crontab.calls"')
    done = checkout.call("on")
    assert done.returncode == USAGE
    assert "copy toolbox/cluster.env.example" in done.stderr
    assert not (checkout.folder.parent / "crontab.calls").exists()


@pytest.mark.parametrize(
    ("folder", "path", "message"),
    [("a\\b", "", "backslash"), ("a", ":".join(f"/usr/./{'./' * n}" for n in range(99)), "PATH")],
)
def test_a_command_that_cron_cannot_call_is_refused(tmp_path: Path, folder: str, path: str, message: str) -> None:
    checkout = Checkout(folder=tmp_path / folder)
    fill_in(checkout)
    checkout.variables["PATH"] = f"/usr/bin:/bin:{path}"
    done = checkout.call("on")
    assert done.returncode == USAGE
    assert message in done.stderr


# ---------------------------------------------------------------------------------------------- runs


@dataclass
class Cluster:
    """The host of sshd: a checkout whose runner.py only records its calls, and an account whose profile has sbatch."""

    folder: Path
    server: SshServer

    def __post_init__(self) -> None:
        for name in ("experiments", "bin", "home", "rounds"):
            (self.folder / name).mkdir(parents=True)
        for name in ("r", "later"):
            (self.folder / f"rounds/{name}.yaml").touch()
        (self.folder / "runner.py").write_text(PROGRAM)
        self.has_scheduler(True)

    def has_scheduler(self, yes: bool) -> None:
        """Whether a login shell finds a scheduler. It finds the other commands either way."""
        commands = self.folder / "bin"
        for name in ("bash", "sh", "env", "timeout", "rsync", "sleep", "cat"):
            found = shutil.which(name)
            if found and not (commands / name).exists():
                (commands / name).symlink_to(found)
        (commands / "sbatch").unlink(missing_ok=True)
        if yes:
            (commands / "sbatch").symlink_to("/bin/true")
        (self.folder / "home/.bash_profile").write_text(f"PATH={shlex.quote(str(commands))}\necho Welcome.\n")

    def does(self, program: str) -> None:
        """What runner.py does, in Python."""
        (self.folder / "runner.does").write_text(program)

    def calls(self) -> list[str]:
        return notes(self.folder)

    def runner(self) -> psutil.Process:
        """A runner.py that SLEEPS."""
        begun = self.folder / "begun"
        wait_for(lambda: begun.exists() and begun.read_text(), "runner.py has begun there")
        return psutil.Process(int(begun.read_text()))

    def record(self, name: str, text: str = "{}", of: str = "r") -> Path:
        file = self.folder / "experiments" / of / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file


@pytest.fixture
def cluster(tmp_path: Path, ssh_server: SshServer, checkout: Checkout) -> Cluster:
    return make_cluster(tmp_path, ssh_server, checkout)


def make_cluster(folder: Path, server: SshServer, checkout: Checkout) -> Cluster:
    """The cluster of the checkout, with a round that has begun."""
    # No double quotes here: sshd_config cannot have them in a value.
    made = Cluster(folder / "there's $(touch pwned) a clus;ter", server)
    server.environment["HOME"] = str(made.folder / "home")
    server.environment[MARK] = checkout.mark
    server.restart()
    made.record("it's $(touch pwned) #1/status.json")
    set_up(checkout, made)
    return made


def set_up(checkout: Checkout, cluster: Cluster, **values: str) -> None:
    settings = {"REMOTE": str(cluster.folder), "ROUNDS": "r", "PYTHON": sys.executable, **values}
    shutil.copy(cluster.server.set(**settings), checkout.folder / "toolbox/cluster.env")


@dataclass
class Minutely:
    """A checkout that cron calls every minute, the cluster that it reaches, and the crontab."""

    checkout: Checkout
    cluster: Cluster
    crontab: Crontab


@pytest.fixture(scope="module")
def minutely(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Minutely]:
    """The minute passes while other tests run; those of the crontab come earlier."""
    folder = tmp_path_factory.mktemp("minutely")
    require_ssh()
    checkout, server = Checkout(folder=folder / ODD), SshServer(folder / "sshd")
    try:
        server.start()
        cluster = make_cluster(folder, server, checkout)
        with real_crontab() as crontab:
            checkout.call("on", "--every", "1")
            with running_cron(folder):  # now, because cron does not see changes in the second in which it starts
                yield Minutely(checkout, cluster, crontab)
    finally:
        server.shut_down()
        checkout.kill()


@pytest.mark.cron
@pytest.mark.ssh
def test_an_entry_for_every_minute_is_on(minutely: Minutely) -> None:
    assert "on: every minute, next at 20" in minutely.checkout.call("status").stdout


@pytest.mark.ssh
def test_a_run_pulls_plots_and_queues(checkout: Checkout, cluster: Cluster) -> None:
    set_up(checkout, cluster, ROUNDS="r later")
    done = checkout.call("now")
    assert (done.returncode, done.stderr) == (OK, "")
    assert (checkout.folder / "experiments/r/it's $(touch pwned) #1/status.json").exists()
    assert checkout.calls() == ["plot_experiments.py --round r", "report.py --round r"]
    assert cluster.calls() == ["runner.py --scheduler cluster --round r", "runner.py --scheduler cluster --round later"]
    assert list(checkout.steps()) == ["begin", "pull", "queue r", "queue later", "plots", "report r", "end"]
    assert checkout.steps()["queue r"] == "ok: completed. Round done."
    assert done.stdout == checkout.log.read_text()
    assert len(done.stdout.splitlines()) == 7
    assert not list(checkout.folder.parent.glob("**/pwned")) and not checkout.left()


@pytest.mark.ssh
def test_cron_prints_a_line_only_if_the_outcome_differs(checkout: Checkout, cluster: Cluster) -> None:
    def printed(code: int, command: str = "cron") -> str:
        done = checkout.call(command)
        assert (done.returncode, done.stderr) == (code, "")
        return done.stdout

    (checkout.folder / "analysis/report.does").write_text("sys.exit('report.py: the disk is full')")
    cluster.does("print('1 of 4'); sys.exit(3)")
    first = printed(TROUBLE)
    assert first == (
        f"{checkout.folder}: 1 failed or need attention: queue r: work remains: 1 of 4; "
        f"report r: failed: exit code 1: the disk is full. See {checkout.log}\n"
    )
    cluster.does("print('2 of 4'); sys.exit(3)")
    (checkout.folder / "analysis/report.does").write_text("sys.exit('report.py: another disk is full')")
    assert printed(TROUBLE) == ""
    (checkout.folder / "analysis/report.does").unlink()
    assert printed(OK).startswith(f"{checkout.folder}: ok: queue r: work remains: 2 of 4. See ")
    assert printed(OK) == ""
    cluster.server.stop()
    assert "1 failed or need attention: pull: failed: cluster cannot be reached" in printed(TROUBLE)
    assert printed(TROUBLE) == ""
    cluster.server.start()
    cluster.does("print('4 of 4')")
    assert checkout.logged()[-1].startswith("end: 1 failed")
    assert "ok: queue r: completed: 4 of 4" in printed(OK)
    cluster.does("sys.exit(4)")
    assert printed(TROUBLE, "now") != ""
    assert printed(TROUBLE) == "", "it was on the terminal"
    assert checkout.log.read_text().count("begin") == 9


def test_cron_prints_wrong_settings_once(checkout: Checkout) -> None:
    assert "settings: failed: " in checkout.call("cron").stdout
    assert checkout.call("cron").stdout == ""


@pytest.mark.ssh
def test_work_is_queued_though_the_plots_take_all_the_time(checkout: Checkout, cluster: Cluster) -> None:
    set_up(checkout, cluster, ROUNDS="r s")
    checkout.change(DRAW_LIMIT=1, GRACE=1)
    (checkout.folder / "analysis/plot_experiments.does").write_text(
        f"(here / 'queued').write_text(Path({str(cluster.folder / 'calls')!r}).read_text()); {SLEEPS}"
    )
    assert checkout.call("now").returncode == TROUBLE
    assert checkout.steps()["plots"] == "failed: stopped at its time limit of 1 s"
    queued = (checkout.folder / "analysis/queued").read_text().splitlines()
    assert queued == cluster.calls() == [f"runner.py --scheduler cluster --round {name}" for name in ("r", "s")]


@pytest.mark.ssh
@pytest.mark.parametrize(
    ("program", "outcome", "code"),
    [
        ("print('3 of 4'); sys.exit(3)", "ok: work remains. 3 of 4", OK),
        ("print('3 of 4'); sys.exit(4)", "needs attention: experiments failed, are blocked or were cancelled. 3 of 4",
         TROUBLE),
        ("sys.exit('runner.py: no round')", "failed: exit code 1: no round", TROUBLE),
        ("print('runner.py: no round\\n', file=sys.stderr); sys.exit(2)", "failed: no round", TROUBLE),
        ("print('squeue: \\33[2Jdown', file=sys.stderr); sys.exit(5)",
         "failed: scheduler or disk failed there, nothing is lost: squeue: [2Jdown", TROUBLE),
        ("1 / 0", "failed: exit code 1: ZeroDivisionError: ", TROUBLE),
        ("print('runner.py: round r was archived: so', file=sys.stderr); sys.exit(2)",
         "ok: archived on the cluster: remove it from ROUNDS", OK),
        ("os.kill(os.getpid(), 9)", "failed: exit code 137", TROUBLE),
        ("sys.exit(255)", "failed: exit code 255", TROUBLE),
        ("print('module: command not found'); sys.exit(1)", "failed: exit code 1: module: command not found", TROUBLE),
    ],
)  # fmt: skip
def test_each_exit_of_the_runner_there_is_reported(
    checkout: Checkout, cluster: Cluster, program: str, outcome: str, code: int
) -> None:
    cluster.does(program)
    done = checkout.call("now")
    assert checkout.steps()["queue r"].startswith(outcome)
    assert done.returncode == code
    assert checkout.call("status").returncode == OFF


@pytest.mark.ssh
def test_a_failed_step_does_not_stop_the_others_and_its_output_is_kept(checkout: Checkout, cluster: Cluster) -> None:
    analysis = checkout.folder / "analysis"
    (analysis / "plot_experiments.does").write_text(
        "print('r: 1 drawn'); print('r: e is passed over', file=sys.stderr); sys.exit(1)"
    )
    (analysis / "report.does").write_text("sys.exit('report.py: the disk is full')")
    done = checkout.call("now")
    assert done.returncode == TROUBLE
    assert checkout.steps()["plots"] == "failed: exit code 1: r: e is passed over"
    assert checkout.steps()["report r"] == "failed: exit code 1: the disk is full"
    assert checkout.steps()["queue r"].startswith("ok")
    assert checkout.steps()["end"] == "2 failed or need attention"
    assert "\n    r: 1 drawn\n    r: e is passed over\n" in checkout.log.read_text() == done.stdout


def test_of_a_progress_bar_the_end_counts_and_of_a_long_message_the_beginning(checkout: Checkout) -> None:
    fill_in(checkout)
    (checkout.folder / "experiments/r").mkdir()
    analysis = checkout.folder / "analysis"
    bar = "''.join(f'\\r{number} %' for number in range(101)).encode() + b' r\\xe9sum\\xe9'"
    (analysis / "plot_experiments.does").write_text(f"sys.stderr.buffer.write({bar}); sys.exit(1)")
    (analysis / "report.does").write_text("sys.exit('long ' * 1000)")
    checkout.call("now")
    lines = checkout.log.read_bytes().splitlines()
    assert [line.partition(b" s: ")[2] for line in lines if b" plots: " in line] == [b"exit code 1: 100 % r\xe9sum\xe9"]
    (report,) = (line for line in lines if b" report r: " in line)
    assert b"exit code 1: long long" in report and len(report) < 600


@pytest.mark.ssh
def test_a_local_record_that_was_kept_needs_attention(checkout: Checkout, cluster: Cluster) -> None:
    assert checkout.call("now").returncode == OK
    mine = checkout.folder / "experiments/r/it's $(touch pwned) #1/status.json"
    mine.write_text("mine")
    assert checkout.call("now").returncode == TROUBLE
    assert checkout.steps()["pull"].startswith("needs attention: r: local files kept")
    assert checkout.steps()["queue r"].startswith("ok")
    assert mine.read_text() == "mine"


UNREACHABLE = {
    "away": ("stop", "cannot be reached"),
    "another host key": ("new_host_key", "has another host key than before"),
    "an unknown host key": ("forget_host", "has an unknown host key"),
    "a key that is not accepted": ("deny", "does not accept your key"),
}


@pytest.mark.ssh
@pytest.mark.parametrize("why", UNREACHABLE)
def test_a_host_that_cannot_be_reached_is_one_line_and_plots_of_local_records_are_drawn(
    checkout: Checkout, cluster: Cluster, why: str
) -> None:
    (checkout.folder / "experiments/r").mkdir()
    fault, message = UNREACHABLE[why]
    getattr(cluster.server, fault)()
    done = checkout.call("now")
    assert done.returncode == TROUBLE
    steps = checkout.steps()
    assert steps["pull"].startswith(f"failed: cluster {message}")
    assert steps["plots"].startswith("ok") and steps["report r"].startswith("ok")
    assert steps["queue r"] == "skipped, the host cannot be reached"
    assert len(done.stdout.splitlines()) == 6 and done.stderr == ""
    assert cluster.calls() == []


@pytest.mark.ssh
def test_a_host_that_asks_for_a_second_factor_is_one_line(checkout: Checkout, cluster: Cluster) -> None:
    cluster.server.ask_for("publickey,password")
    assert checkout.call("now").returncode == TROUBLE
    assert "asks for a password or a second factor" in checkout.steps()["pull"]
    assert checkout.steps()["queue r"] == "skipped, the host cannot be reached"


@pytest.mark.ssh
def test_a_connection_that_is_cut_during_a_pass_stops_only_what_needs_it(checkout: Checkout, cluster: Cluster) -> None:
    set_up(checkout, cluster, ROUNDS="r s t")
    cluster.does(SLEEPS)
    run = checkout.start("now")
    there = cluster.runner()
    assert cluster.server.cut() > 0
    out, _ = run.communicate(timeout=60)
    assert run.returncode == TROUBLE, out
    steps = checkout.steps()
    assert steps["queue r"].startswith("failed: cluster ")
    assert steps["queue s t"] == "skipped, the host cannot be reached"
    there.kill()


@pytest.mark.ssh
def test_the_runner_is_not_called_where_it_would_train_on_the_login_node(checkout: Checkout, cluster: Cluster) -> None:
    cluster.has_scheduler(False)
    assert checkout.call("now").returncode == TROUBLE
    assert checkout.steps()["queue r"].startswith("failed: no sbatch and no qsub in a login shell there")
    assert cluster.calls() == []


@pytest.mark.ssh
def test_a_missing_folder_or_interpreter_is_reported(checkout: Checkout, cluster: Cluster) -> None:
    set_up(checkout, cluster, PYTHON="no such/python")
    assert checkout.call("now").returncode == TROUBLE
    assert (
        checkout.steps()["queue r"]
        == f"failed: PYTHON does not exist on the cluster: no such/python in {cluster.folder}"
    )
    set_up(checkout, cluster, REMOTE=f"{cluster.folder}/no where")
    assert checkout.call("now").returncode == TROUBLE
    assert checkout.steps()["pull"].startswith("failed: cluster has no accessible directory")
    assert checkout.steps()["queue r"].startswith("failed: REMOTE cannot be entered on the cluster")


@pytest.mark.ssh
def test_what_a_login_shell_prints_does_not_change_how_a_pass_is_reported(checkout: Checkout, cluster: Cluster) -> None:
    profile = cluster.folder / "home/.bash_profile"
    profile.write_text(f"{profile.read_text()}printf 'Quota 99 %%'; printf 'Maintenance' >&2\n")
    assert checkout.call("now").returncode == OK
    assert checkout.steps()["queue r"] == "ok: completed. Round done."


@pytest.mark.ssh
@pytest.mark.parametrize(
    ("file", "program", "message"),
    [
        (".bash_profile", "exit 0", "its shell ended before, with exit code 0. Look for exit or exec in the file "
         "~/.bash_profile there"),
        (".bash_login", "exec true", "with exit code 0. Look for exit or exec in the file ~/.bash_login there"),
        (".profile", "echo All done.; exit 3", "with exit code 3. Look for exit or exec in the file ~/.profile there"),
        (".bashrc", "exit 0", "with exit code 0. Look for exit or exec in the file ~/.bashrc there"),
        (".bash_profile", "exec /no/such/shell", "exit code 127, a program was not found there. Look for exit or exec"),
        (".bash_profile", "exit 255", "its shell ended before, with exit code 255. Look for exit or exec in the file "
         "~/.bash_profile there"),
        (".bash_profile", "kill -9 $$", "its shell ended before, with exit code 255"),
        (".bash_profile", "ulimit -t 1; while :; do :; done", "its shell ended before, with exit code"),
    ],
)  # fmt: skip
def test_a_startup_file_that_ends_the_shell_is_named_and_no_success(
    checkout: Checkout, cluster: Cluster, file: str, program: str, message: str
) -> None:
    (cluster.folder / "home/.bash_profile").unlink()
    (cluster.folder / "home" / file).write_text(f"{program}\n")
    set_up(checkout, cluster, ROUNDS="r s")
    assert checkout.call("now").returncode == TROUBLE
    if file == ".bashrc":  # the pull fails too, and names it
        assert message in checkout.steps()["pull"]
        return
    for name in ("r", "s"):
        step = checkout.steps()[f"queue {name}"]
        assert step.startswith("failed: cluster ") and message in step
    assert cluster.calls() == []


@pytest.mark.ssh
@pytest.mark.parametrize("code", [0, 3, 4, 5])
def test_what_follows_the_runner_there_changes_neither_its_code_nor_its_words(
    checkout: Checkout, cluster: Cluster, code: int
) -> None:
    profile = cluster.folder / "home/.bash_profile"
    noise = "trap 'echo Goodbye; echo Goodbye >&2; exit 255' EXIT; set -eu; cd() { builtin cd \"$@\" && echo cd; }"
    profile.write_text(f"{profile.read_text()}{noise}\n")
    (cluster.folder / "home/.bash_logout").write_text("echo Bye; exit 1\n")
    cluster.does(f"print('3 of 4'); print('squeue: down', file=sys.stderr); sys.exit({code})")
    checkout.call("now")
    outcome = checkout.steps()["queue r"]
    assert outcome.endswith("nothing is lost: squeue: down" if code == 5 else ". 3 of 4"), outcome
    assert outcome.startswith({0: "ok: completed", 3: "ok: work", 4: "needs attention", 5: "failed"}[code])


@pytest.mark.ssh
def test_a_runner_whose_shells_are_killed_there_is_no_success(checkout: Checkout, cluster: Cluster) -> None:
    set_up(checkout, cluster, ROUNDS="r s")
    below_sshd = "itertools.takewhile(lambda one: not one.name().startswith('sshd'), psutil.Process().parents())"
    outermost_first = f"reversed(list({below_sshd}))"  # so that none lives on to report the death of the one it started
    cluster.does(f"import itertools, psutil; print('3 of 4', flush=True)\nfor one in {outermost_first}: one.kill()")
    assert checkout.call("now").returncode == TROUBLE
    for name in ("r", "s"):
        assert checkout.steps()[f"queue {name}"].startswith("failed: cluster did not report how the command ended")
    assert cluster.calls() == [f"runner.py --scheduler cluster --round {name}" for name in ("r", "s")]


@pytest.mark.ssh
def test_a_runner_that_has_ended_counts_though_something_keeps_the_connection(
    checkout: Checkout, cluster: Cluster
) -> None:
    checkout.change(QUEUE_LIMIT=2, GRACE=1)
    profile = cluster.folder / "home/.bash_profile"
    profile.write_text(f"{profile.read_text()}sleep 60 &\n")
    assert checkout.call("now").returncode == OK
    assert checkout.steps()["queue r"] == "ok: completed. Round done."


@pytest.mark.ssh
def test_an_interpreter_that_cannot_start_there_is_reported(checkout: Checkout, cluster: Cluster) -> None:
    python = cluster.folder / "python"
    python.write_text("#!/no/such/python\n")
    python.chmod(0o755)
    set_up(checkout, cluster, PYTHON="./python")
    assert checkout.call("now").returncode == TROUBLE
    assert checkout.steps()["queue r"].startswith("failed: PYTHON cannot be started on the cluster: exit code 12")


@pytest.mark.ssh
def test_a_round_that_is_archived_locally_is_skipped(checkout: Checkout, cluster: Cluster) -> None:
    set_up(checkout, cluster, ROUNDS="r old")
    cluster.record("e/status.json", of="old")
    (checkout.folder / "analysis/experiment_old/experiments").mkdir(parents=True)
    assert checkout.call("now").returncode == OK
    assert checkout.steps()["round old"].startswith("skipped, it is archived locally")
    assert not (checkout.folder / "experiments/old").exists()
    assert cluster.calls() == ["runner.py --scheduler cluster --round r"]
    set_up(checkout, cluster, ROUNDS="old")
    assert checkout.call("now").returncode == OK
    assert list(checkout.steps()) == ["begin", "round old", "end"]


@pytest.mark.parametrize("settings", [None, "HOST=cluster\nREMOTE=$(touch pwned)\n", "HOST=-oProxyCommand=x\n"])
def test_wrong_settings_are_reported_and_nothing_is_done(checkout: Checkout, settings: str | None) -> None:
    if settings is not None:
        (checkout.folder / "toolbox/cluster.env").write_text(settings)
    for mode in ("now", "cron"):
        done = checkout.call(mode)
        assert done.returncode == USAGE
        assert "cluster.env" in checkout.steps()["settings"]
        assert list(checkout.steps()) == ["begin", "settings", "end"]
    assert not list(checkout.folder.parent.glob("**/pwned"))


def test_without_a_local_interpreter_the_other_steps_run(checkout: Checkout) -> None:
    (checkout.folder / ".venv/bin/python").unlink()
    (checkout.folder / "experiments/r").mkdir()
    fill_in(checkout)
    assert checkout.call("now").returncode == TROUBLE
    assert "make install" in checkout.steps()["plots"]
    assert checkout.steps()["queue r"] == "skipped, the host cannot be reached"


# ------------------------------------------------------------------------------------------ one at a time, and an end


@pytest.mark.ssh
def test_two_runs_never_overlap(checkout: Checkout, cluster: Cluster) -> None:
    cluster.does(SLEEPS)
    first = checkout.start("cron")
    there = cluster.runner()
    by_cron, by_hand = checkout.call("cron"), checkout.call("now")
    assert (by_cron.returncode, by_cron.stdout) == (OK, "")
    assert by_hand.returncode == BUSY and "busy: another run is in progress" in by_hand.stdout
    assert checkout.logged().count("busy: another run is in progress") == 2
    assert "a run is in progress" in checkout.call("status").stdout
    assert cluster.calls() == ["runner.py --scheduler cluster --round r"]
    there.kill()
    first.wait(30)
    assert checkout.lock_is_free()


@pytest.mark.ssh
def test_a_runner_that_hangs_there_is_stopped_there_too(checkout: Checkout, cluster: Cluster) -> None:
    set_up(checkout, cluster, ROUNDS="r s")
    checkout.change(QUEUE_LIMIT=2, GRACE=5)
    cluster.does(f"if sys.argv[-1] == 'r': {SLEEPS}")
    run = checkout.start("now")
    there = cluster.runner()
    out, _ = run.communicate(timeout=60)
    assert checkout.steps()["queue r"] == "failed: stopped at its time limit of 2 s", out
    assert checkout.steps()["queue s"].startswith("ok")
    assert dead(there)
    assert checkout.lock_is_free() and not checkout.left()


@pytest.mark.ssh
def test_a_host_that_hangs_is_given_up_and_no_process_is_left(checkout: Checkout, cluster: Cluster) -> None:
    checkout.change(QUEUE_LIMIT=1, GRACE=1)
    (cluster.folder / "home/.bash_profile").write_text("trap '' TERM HUP\nwhile :; do sleep 1; done\n")
    assert checkout.call("now").returncode == TROUBLE
    outcome = checkout.steps()["queue r"]
    assert "within its time limit: look for a command that waits in the file ~/.bash_profile there" in outcome
    assert checkout.lock_is_free()
    wait_for(lambda: not [one for one in checkout.left() if one.name() in ("ssh", "timeout", "rsync")], "ssh is gone")


@pytest.mark.parametrize("stubborn", [True, False], ids=["it ignores SIGTERM", "only its child does"])
def test_a_local_step_that_hangs_is_stopped_with_its_children(checkout: Checkout, stubborn: bool) -> None:
    checkout.change(RUN_LIMIT=2, GRACE=1)
    fill_in(checkout)
    (checkout.folder / "experiments/r").mkdir()
    child = ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"]
    ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN)" if stubborn else ""
    (checkout.folder / "analysis/plot_experiments.does").write_text(
        f"import signal, subprocess\n{ignore}\nsubprocess.run({child})"
    )
    assert checkout.call("cron").returncode == TROUBLE
    steps = checkout.steps()
    assert steps["plots"].startswith("failed: stopped at its time limit of ")
    assert steps["report r"] == "failed: not started: the run has reached its time limit of 2 s"
    assert checkout.lock_is_free() and not checkout.left()


@pytest.mark.ssh
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_an_interrupted_run_stops_its_children(checkout: Checkout, cluster: Cluster, number: signal.Signals) -> None:
    cluster.does(SLEEPS)
    run = checkout.start("now")
    there = cluster.runner()
    run.send_signal(number)
    out, _ = run.communicate(timeout=30)
    assert run.returncode == INTERRUPTED, out
    assert checkout.logged()[-1].startswith("end: interrupted")
    assert checkout.lock_is_free()
    there.kill()
    wait_for(lambda: not checkout.left(), "all have ended")


@pytest.mark.ssh
def test_a_shared_connection_stays_and_does_not_hold_the_lock(checkout: Checkout, cluster: Cluster) -> None:
    cluster.server.share()
    assert checkout.call("now").returncode == OK
    master = cluster.server.ssh("-O", "check", host="cluster")
    assert "Master running" in master.stderr
    assert checkout.lock_is_free()
    assert checkout.call("now").returncode == OK
    assert cluster.server.ssh("-O", "check", host="cluster").stderr == master.stderr


def test_a_killed_run_leaves_no_lock_and_status_reports_it(checkout: Checkout) -> None:
    fill_in(checkout)
    (checkout.folder / "experiments/r").mkdir()
    (checkout.folder / "analysis/plot_experiments.does").write_text(SLEEPS)
    run = checkout.start("cron")
    wait_for((checkout.folder / "analysis/begun").exists, "plots are drawn")
    run.kill()
    run.wait()
    assert checkout.lock_is_free()
    assert "the last run did not finish" in checkout.call("status").stdout


# ---------------------------------------------------------------------------------------------- log and status


def test_a_large_log_is_rotated_and_few_are_kept(checkout: Checkout) -> None:
    checkout.change(LOG_SIZE=300, OLD_LOGS=2)
    for _ in range(8):
        assert checkout.call("cron").returncode == USAGE
    names = sorted(path.name for path in checkout.log.parent.glob("*.log*"))
    assert names == ["chpc_train.log", "chpc_train.log.1", "chpc_train.log.2"]
    assert checkout.log.read_text().count("begin") == checkout.log.read_text().count("end:") > 0


@dataclass
class Journal:
    """A checkout with an entry, and a log written by the test."""

    checkout: Checkout

    def write(self, *lines: tuple[float, str]) -> None:
        """Lines, each with its age in minutes."""
        self.checkout.log.parent.mkdir(exist_ok=True)
        form = "%Y-%m-%dT%H:%M:%SZ"
        text = [f"{time.strftime(form, time.gmtime(time.time() - 60 * ago))} {line}\n" for ago, line in lines]
        self.checkout.log.write_text("".join(text))

    def status(self) -> tuple[int, str]:
        done = self.checkout.call("status")
        assert done.stderr == ""
        return done.returncode, done.stdout


@pytest.fixture
def journal(checkout: Checkout) -> Journal:
    (checkout.folder.parent / "entry").write_bytes(b"# others\n" + checkout.shell("entry 30"))
    put_before(checkout, "crontab", '[ "$1" = -l ] && cat "$HOME/entry"')
    return Journal(checkout)


def test_status_says_that_nothing_has_run_yet(journal: Journal) -> None:
    journal.write((1, "on: every 30 minutes"))
    code, out = journal.status()
    assert code == OK and "last run: none yet" in out and str(journal.checkout.log) in out


def test_status_shows_each_step_of_the_last_run(journal: Journal) -> None:
    old = [(60, "begin: cron"), (60, "pull: failed, 1 s: away"), (60, "end: 1 failed")]
    journal.write(*old, (9, "begin: cron"), (8, "pull: ok, 3 s"), (7, "busy: another run"), (7, "end: ok, 4 s"))
    code, out = journal.status()
    assert code == OK
    assert [line.split("Z ")[1] for line in out.splitlines() if line.startswith("  ")] == [
        "begin: cron", "pull: ok, 3 s", "end: ok, 4 s",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("ago", "end", "message"),
    [
        (5, "end: 1 failed or need attention, 4 s", "1 failed"),
        (5, "pull: ok, 1 s", "the last run did not finish"),
        (200, "end: ok, 4 s", "no run since"),
    ],
)
def test_status_has_a_code_for_a_last_run_that_did_not_succeed(
    journal: Journal, ago: float, end: str, message: str
) -> None:
    journal.write((ago, "begin: cron"), (ago, end))
    code, out = journal.status()
    assert code == TROUBLE and message in out


def test_status_recognises_an_entry_that_was_edited_or_commented_out(journal: Journal) -> None:
    file = journal.checkout.folder.parent / "entry"
    entry = file.read_text()
    file.write_text(entry.replace("*/30 * * * *", "3 4 * * 1-5"))
    assert "the schedule was edited" in journal.status()[1]
    file.write_text(entry.replace("*/30", "#*/30"))
    assert journal.status()[0] == OFF


def test_the_next_run_is_at_the_next_half_hour(shared: Checkout) -> None:
    before = time.time()
    text = shared.shell("next_run 30").decode().strip()
    moment = calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ"))
    assert moment % 1800 == 0 and before < moment <= time.time() + 1800


# ---------------------------------------------------------------------------------------------- fired by cron


@pytest.mark.cron
@pytest.mark.ssh
def test_cron_fires_the_entry(minutely: Minutely) -> None:
    checkout = minutely.checkout
    wait_for(lambda: any(line.startswith("end:") for line in checkout.logged()), "cron has called it", 90)
    assert checkout.call("off").returncode == OK
    wait_for(checkout.lock_is_free, "what cron has called ends")
    assert checkout.steps()["begin"] == "cron"
    assert checkout.steps()["end"] == "ok", checkout.log.read_text()
    assert checkout.calls()[:2] == ["plot_experiments.py --round r", "report.py --round r"]
    assert set(minutely.cluster.calls()) == {"runner.py --scheduler cluster --round r"}
    assert minutely.crontab() is None
    assert not list(checkout.folder.parent.glob("**/pwned"))
