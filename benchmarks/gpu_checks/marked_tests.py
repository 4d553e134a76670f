"""Part `tests`: the tests that are marked `gpu`, exact resume with and without graphs among them."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from tempfile import TemporaryDirectory

from gpu_checks.report import FAILED, OK, SKIPPED, Context, shortened

REPOSITORY = Path(__file__).resolve().parent.parent.parent
STOPPING = 8.0  # seconds in which pytest ends when it is interrupted
RESUME = "test_exact_resume_on_a_gpu"


def run(context: Context) -> None:
    """A row for the tests that kill and resume trainings, one for all others, and one for each test that failed."""
    with TemporaryDirectory(prefix="roundhouse-gpu-check-") as folder:
        report = Path(folder) / "report.xml"
        process = subprocess.Popen([*command(context), f"--junitxml={report}"], cwd=REPOSITORY)
        try:
            process.wait(max(1.0, context.left - STOPPING))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # it reports the tests that have ended
            process.wait(STOPPING)
            context.row("all tests", SKIPPED, "no time left for some of them")
        cases = outcomes(report) if report.exists() else []
    if not cases:
        context.row("pytest -m gpu", FAILED, f"exit code {process.returncode}, no report")
    for name, wanted in (("killed by SIGKILL and resumed, with and without graphs", True), ("other tests", False)):
        chosen = [outcome for case, outcome, _ in cases if case.startswith(RESUME) == wanted]
        counts = {outcome: chosen.count(outcome) for outcome in (OK, FAILED, SKIPPED)}
        result = FAILED if counts[FAILED] else OK if counts[OK] else SKIPPED
        context.row(name, result, ", ".join(f"{number} {outcome}" for outcome, number in counts.items()), **counts)
    for case, outcome, why in cases:
        if outcome == FAILED:
            context.row(case, FAILED, why)


def command(context: Context) -> list[str]:
    """pytest on the files that have such tests, in several processes on a GPU."""
    files = sorted(path for path in (REPOSITORY / "tests").glob("test_*.py") if "mark.gpu" in path.read_text())
    words = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    if importlib.util.find_spec("xdist") and not context.small:
        words += ["-n", str(max(1, min(8, (os.cpu_count() or 1) // 2))), "--dist", "load"]
    return [*words, *(str(path) for path in files)]


def outcomes(report: Path) -> list[tuple[str, str, str]]:
    """(test, outcome, why) of each test in a report of pytest."""
    found = []
    for case in ElementTree.parse(report).iter("testcase"):
        problem = next((one for one in case if one.tag in ("failure", "error")), None)
        skipped = case.find("skipped") is not None
        outcome = FAILED if problem is not None else SKIPPED if skipped else OK
        why = "" if problem is None else shortened(problem.get("message", ""))
        found.append((case.get("name", ""), outcome, why))
    return found
