"""Checks whether the experiments of all rounds could start: configs and data sets, by their studies."""

from __future__ import annotations

from collections.abc import Iterator

from roundhouse.config.named_files import named_files
from roundhouse.doctor.account import Account, Finding, ok, warning
from roundhouse.errors import RoundhouseError


def check_rounds(account: Account) -> Iterator[Finding]:
    """Of data sets, files and their sizes are checked, not every byte."""
    from roundhouse.config.round import load_round
    from roundhouse.engine.study_check import StudyChecks

    checks = StudyChecks(account.repository, account.site)
    problems: dict[str, list[str]] = {}  # the rounds that have each
    ready = []
    for file in named_files(account.repository / "rounds"):
        try:
            experiments = load_round(file.stem, file.parent).experiments
            found = set(filter(None, map(checks.refusal, experiments)))
        except RoundhouseError as error:
            found = {str(error)}
        for problem in sorted(found):
            problems.setdefault(problem, []).append(file.stem)
        ready += [] if found else [file.stem]
    if ready:
        yield ok("rounds", f"all experiments can start in {', '.join(ready)}; their data sets were found")
    for problem, names in problems.items():
        yield warning("rounds", f"in {', '.join(names)}: {problem}")
