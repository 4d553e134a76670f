"""What reaches a terminal: nothing that controls it, and no error, whatever names, logs and schedulers contain."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rounds_for_tests import REPOSITORY, Bench, Rounds

from roundhouse.model.causes import Cause
from roundhouse.model.exit_codes import with_signal_name
from roundhouse.store import logs, record
from roundhouse.terminal import escape

RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# Erases the screen, rings the bell, starts at the left, C1 sequence, right-to-left override, not UTF-8.
PRINTS_CONTROL_CODES = r"printf 'a\033[2J\a\b\rb\302\233m\342\200\256\351\342\202\254\n' >&2; exit 3"
ASCII = {"PYTHONIOENCODING": "ascii"}


def on_a_terminal(rounds: Rounds, *options: str) -> str:
    """What a call prints to a terminal."""
    child, terminal = pty.fork()
    if child == 0:
        env = {**rounds.env, **rounds.extra, "TERM": "xterm-256color"}
        os.execve(sys.executable, rounds.argv("--round", "r", *options), env)
    printed = b""
    try:
        while part := os.read(terminal, 1 << 16):
            printed += part
    except OSError:  # the terminal is closed
        pass
    os.close(terminal)
    os.waitpid(child, 0)
    return printed.decode(errors="surrogateescape").replace("\r\n", "\n")


def printed_by(rounds: Rounds, *options: str, encoding: str = "utf-8", **env: str) -> str:
    """What a call prints to a pipe; a byte that is not valid in this encoding is a surrogate."""
    words = rounds.argv("--round", "r", *options)
    done = subprocess.run(words, check=False, env={**rounds.env, **rounds.extra, **env}, capture_output=True)
    assert b"Traceback" not in done.stderr, done.stderr.decode(errors="replace")
    return (done.stdout + done.stderr).decode(encoding, errors="surrogateescape")


def write_hostile(rounds: Rounds) -> None:
    """One experiment that fails with a hostile last log line, and one that completes. Their names hold markup."""
    rounds.write({
        "e": {"path": "e[relu]/ü", "command": ["bash", "-c", PRINTS_CONTROL_CODES], "config": {"note": "x\x1b[2J\ny"}},
        "f": {"path": "f[bold]", "command": ["true", "{directory}"]},
    })  # fmt: skip


@pytest.fixture
def hostile(tmp_path: Path) -> Rounds:
    """A round in a folder whose name is not UTF-8, with failed and completed experiments."""
    rounds = Rounds(folder=Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")))
    write_hostile(rounds)
    return rounds


# ----------------------------------------------------------------------------------------------------- whole calls


@pytest.mark.parametrize(
    ("encoding", "env"),
    [
        ("utf-8", {}),
        ("ascii", ASCII),
        ("latin-1", {"PYTHONIOENCODING": "latin-1"}),
        ("utf-8", {"LC_ALL": "C", "LANG": "C"}),
    ],
)
def test_nothing_raw_and_no_error_in_any_encoding(hostile: Rounds, encoding: str, env: dict[str, str]) -> None:
    def call(*options: str) -> str:
        printed = printed_by(hostile, *options, encoding=encoding, **env)
        assert not RAW.search(printed)
        return printed

    assert "2 single jobs would be submitted" in call("--dry-run")
    printed, status, why, rows = call(), call("--status"), call("--why", "e[relu]/ü"), call("--status", "--json")
    for output in (printed, status, why):
        assert "Last log line: b\\x9bm\\u202e\\xe9" in output
        assert "e[relu]/" in output
    assert "f[bold]" in status
    assert "note=x\\x1b[2J\\ny" in why
    assert f"directory {escape(str(hostile.experiments))}/r/e[relu]/" in why
    assert [(row["path"], row["state"]) for row in json.loads(rows)] == [
        ("e[relu]/ü", "failed"),
        ("f[bold]", "completed"),
    ]
    assert "\x9b" in json.loads(rows)[0]["reason"]


def test_on_a_terminal_only_rich_sends_control_codes(hostile: Rounds) -> None:
    colours = re.compile(r"\x1b\[[\d;]*m|\x1b\[\?25[lh]|\x1b\[1A|\x1b\[2K|\r")
    for options in ([], ["--status"], ["--why", "e[relu]/ü"]):
        printed = on_a_terminal(hostile, *options)
        assert "\\x9bm\\u202e\\xe9" in printed.replace("\n", "").replace(" ", "")
        assert "e[relu]/ü" in printed
        assert not RAW.findall(colours.sub("", printed))
        assert "\x1b[2J" not in printed


def test_the_record_of_names_that_are_not_utf8_can_be_read_again(hostile: Rounds) -> None:
    hostile.call()
    for name in ("e[relu]/ü", "f[bold]"):
        assert record.read_config(hostile.directory(name))["path"] == name
        status = record.read_status(hostile.directory(name))
        assert status is not None
        assert status["path"] == name
    assert hostile.causes("e[relu]/ü") == ["error"] * 2


def test_an_archived_round_with_such_names_is_shown(hostile: Rounds) -> None:
    hostile.call()
    assert "Round r is archived" in printed_by(hostile, "--archive", "--force", **ASCII)
    assert "1 completed, 1 cancelled" in printed_by(hostile, "--status", **ASCII)


@pytest.mark.parametrize("script", ["report.py", "tables.py"])
def test_an_analysis_script_prints_such_names(hostile: Rounds, script: str) -> None:
    hostile.call("--only", "f*")
    words = [sys.executable, str(REPOSITORY / "analysis" / script), "--round", "r", "--rounds", str(hostile.rounds)]
    words += ["--experiments", str(hostile.experiments), "--analysis", str(hostile.analysis)]
    done = subprocess.run(words, check=False, env={**hostile.env, **ASCII}, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert (done.returncode, "caf\\udce9" in done.stdout) == (0, True), done.stderr


def test_errors_show_hostile_arguments_as_escapes(rounds: Rounds) -> None:
    rounds.write({"e": {"path": "e", "command": "true"}})
    assert "x\\x1b[2J" in printed_by(rounds, "--only", "x\x1b[2J")
    assert "unrecognized arguments: x\\x1b\\udce9" in printed_by(rounds, os.fsdecode(b"x\x1b\xe9"))


def test_a_path_that_this_locale_cannot_encode_is_refused(rounds: Rounds) -> None:
    """Otherwise, the same experiment would have two directories, and could run twice at once."""
    rounds.write({"e": {"path": "ü", "command": "true"}})
    rounds.extra = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = rounds.call("--status")
    assert done.returncode == 2
    assert "this locale encodes file names as ascii, not UTF-8: set PYTHONUTF8=1" in done.stderr


# ------------------------------------------------------------------------------------------------------------ text


@given(st.text(st.characters()))
def test_an_escaped_text_has_no_control_characters_and_stays_as_it_is(text: str) -> None:
    escaped = escape(text)
    assert not RAW.search(escaped)
    assert escape(escaped) == escaped
    assert escaped.count("\n") == text.count("\n")
    if not RAW.search(text):
        assert escaped == text


# ------------------------------------------------------------------------------------------------------------ logs


def log_of(directory: Path, content: bytes) -> Path:
    log = record.attempt_directory(directory, 1) / record.LOG
    log.parent.mkdir(parents=True)
    log.write_bytes(content)
    return log


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"10%\r20%\r100%\n", "100%"),
        (b"working 10%\rdone\n", "doneing 10%"),
        (b"working 10%\r\x1b[Kdone\n", "done"),
        (b"working 10%\x1b[2K\rdone", "done       "),
        (b"a line\r\n", "a line"),
        (b"\x1b[1;31mred\x1b[0m \x1b]0;title\x07text\x1b(B", "red text"),
        (b"12\b\b345", "345"),
        (b"one\ntwo", "one\ntwo"),
        (b"one\x0btwo\xc2\x85three", "one\x0btwo\x85three"),
        (b"\xff", "\\xff"),
        (b"", ""),
        (b"\n", ""),
        (b"one\n\n", "one\n"),
    ],
)
def test_a_log_is_shown_as_a_terminal_would_show_it(tmp_path: Path, content: bytes, expected: str) -> None:
    log_of(tmp_path, content)
    assert logs.tail(tmp_path, 1) == expected


@given(st.text(st.characters(exclude_characters="\n", exclude_categories=("Cs",))))
def test_no_log_line_keeps_a_carriage_return_or_an_escape_sequence(line: str) -> None:
    shown = logs.as_displayed(line)
    assert "\r" not in shown
    assert "\b" not in shown
    assert not re.search(r"\x1b[\[\]@-_]", shown)


def test_the_end_of_a_huge_log_is_read_without_the_rest(bench: Bench) -> None:
    bench.open()
    log = bench.place() / record.LOG
    with log.open("wb") as file:
        file.seek(1 << 36)  # 64 GiB of zeros, which take no space
        file.write(b"\n" + b"\n".join(b"line %d" % number for number in range(30)) + b"\n\n")
    assert record.close(bench.directory, 1, Cause.ERROR, "exit code 1")
    assert logs.tail(bench.directory, 1, 2) == "line 29\n"
    assert logs.last_line(record.read(bench.directory)) == ". Last log line: line 29"


def test_a_huge_log_without_a_newline_shows_its_end(bench: Bench) -> None:
    bench.open()
    with (bench.place() / record.LOG).open("wb") as file:
        file.seek(1 << 36)
        file.write(b"\r 99%\r100%")
    assert logs.tail(bench.directory, 1).startswith("100%")
    (bench.place() / record.LOG).write_text("a" + "x" * 10**6 + "z")
    shown = logs.tail(bench.directory, 1)
    assert re.fullmatch("x+ [.]{3} x+z", shown)
    assert len(shown) < 2100


# ------------------------------------------------------------------------------------------------------ exit codes


@pytest.mark.parametrize(
    ("code", "shown"),
    [(139, "exit code 139 (SIGSEGV)"), (134, "exit code 134 (SIGABRT)"), (135, "exit code 135 (SIGBUS)"),
     (136, "exit code 136 (SIGFPE)"), (132, "exit code 132 (SIGILL)"), (159, "exit code 159 (SIGSYS)"),
     (1, "exit code 1"), (11, "exit code 11"), (128, "exit code 128"), (145, "exit code 145"),
     (160, "exit code 160"), (200, "exit code 200"), (255, "exit code 255"), (None, "exit code None")],
)  # fmt: skip
def test_an_exit_code_names_only_a_signal_that_may_have_caused_it(code: int | None, shown: str) -> None:
    assert with_signal_name(f"exit code {code}", code) == shown
    assert with_signal_name("the copy of the code is missing", code) == "the copy of the code is missing"


@pytest.mark.parametrize(("name", "code"), [("SEGV", 139), ("ABRT", 134), ("BUS", 135), ("FPE", 136), ("ILL", 132)])
def test_a_run_that_a_signal_kills_is_shown_with_the_name_of_the_signal(bench: Bench, name: str, code: int) -> None:
    bench.use_the_real_train("bash", "-c", f"ulimit -c 0; kill -{name} $$")
    bench.run()
    assert bench.result().exit_code == code
    assert bench.attempt().why == f"exit code {code} (SIG{name})"
